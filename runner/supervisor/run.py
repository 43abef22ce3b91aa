"""One run, from its first event to its last.

Wires the other modules together: model, attempts, files, telemetry, viewers. Every figure any view
shows comes from the events emitted here, and the supervisor itself reads them from the same reducer.
Decides what follows when ranks are lost, files cannot be written, somebody asks for an end. Knows no
torch and no terminal.
"""

import asyncio
import contextlib
import errno
import signal
import sys
import time
import traceback
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.inputs import models, quantization
from rankdeck.runner.inputs.frozen_prompts import PromptIndex
from rankdeck.runner.inputs.read_ahead import read_ahead
from rankdeck.runner.machine.telemetry import Telemetry
from rankdeck.runner.protocol import AnyEvent, OutputRecord
from rankdeck.runner.run_directory.resumption import Taken, take_up
from rankdeck.runner.run_directory.run_file import RunFile
from rankdeck.runner.run_directory.store import Store
from rankdeck.runner.scheduling.scheduler import Scheduler
from rankdeck.runner.state import Snapshot, apply, summarise
from rankdeck.runner.state.knobs import SOURCE as KNOBS
from rankdeck.runner.state.knobs import knob_words
from rankdeck.runner.state.loading_time import loading_line
from rankdeck.runner.supervisor import accelerate
from rankdeck.runner.supervisor.accelerate import LaunchCommand
from rankdeck.runner.supervisor.knobs import KnobControls
from rankdeck.runner.supervisor.launch import Loss, RankLaunch
from rankdeck.runner.supervisor.ranks import RankPool
from rankdeck.runner.supervisor.server import RankPeer, Server, Viewers
from rankdeck.runner.sweep.verdict import summarise_sweep

TICK_SECONDS = 0.25
JOURNAL_TICK_SECONDS = 1.0
SYNC_SECONDS = 1.0
TELEMETRY_SECONDS = 1.0
STOP_SECONDS = 2.0
TROUBLE_SECONDS = 1.0
VIEWERS_SECONDS = 3.0

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
GONE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EISDIR)
"""Errors of a path that no waiting will mend."""

EXIT_COMPLETE, EXIT_ERRORS, EXIT_BAD_INPUT, EXIT_DIED, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


class Ending(Exception):
    """The run is to end now, and this is how."""

    def __init__(self, status: protocol.RunStatus, exit_status: int, cause: str | None = None) -> None:
        super().__init__(cause or status)
        self.status, self.exit_status, self.cause = status, exit_status, cause


class Supervisor:
    """The run in `directory`, whose run.json and prompts.jsonl are there already."""

    def __init__(
        self, directory: Path, run: RunFile, launch_command: LaunchCommand = accelerate.accelerate_command
    ) -> None:
        self.directory, self.run_file, self.config = directory, run, run.config
        self._launch_command = launch_command
        self._prompts = PromptIndex.open(directory / run_directory.PROMPTS_FILE)
        self._taken = take_up(directory, self._prompts.count)
        self.state = self._taken.state
        self._scheduler = Scheduler(
            self._prompts.lengths,
            order=self.config.order,
            batch_size=self.config.batch_size or 1,
            active_ranks=self.config.ranks,
            done=self._taken.done,
            first_batch=self._taken.next_batch,
        )
        self._outputs = Store(directory / run_directory.OUTPUTS_FILE)
        self._journal = Store(directory / run_directory.EVENTS_FILE, may_drop=True)
        self._controls = KnobControls(
            self.config, self._scheduler, self._prompts.lengths, emit=self.emit, state=lambda: self.state
        )
        self._clock_offset = time.time() - time.monotonic()
        self._journal_tick_at = 0.0
        self._viewers = Viewers(lambda: protocol.encode_line(Snapshot(state=self.state)))
        self._server = Server(
            run_directory.socket_path(directory),
            viewers=self._viewers,
            on_rank=self._serve_rank,
            on_command=self._hear_command,
            log=lambda text: self.log("supervisor", text),
        )
        self._ending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._attempt: RankLaunch | None = None
        self._digests: dict[int, str] = {}
        self._samples: tuple[list[protocol.DeviceSample], list[protocol.ProcessSample]] | None = None
        self._stop_asked = self._give_up = False

    # --- events -------------------------------------------------------------------------------

    def emit(self, event: AnyEvent) -> None:
        """Stamp, apply, journal, show: in this order, so that no view knows more than the journal."""
        event = msgspec.structs.replace(event, at=round(time.monotonic() + self._clock_offset, 4))
        self.state = apply(self.state, event)
        line = protocol.encode_line(event)
        if not isinstance(event, protocol.Tick):
            self._journal.write(line)
        elif event.processes is not None or event.at - self._journal_tick_at >= JOURNAL_TICK_SECONDS * 1.1:
            # The ticks that carry telemetry come once a second: those, or others in their absence.
            self._journal_tick_at = event.at
            self._journal.write(line)
        self._viewers.offer(line)
        if (turned := knob_words(event)) is not None:
            self.log(KNOBS, turned)
        if isinstance(event, protocol.RanksReady):
            self.log("supervisor", f"all ranks are ready after {loading_line(self.state.loading)}")

    def log(self, source: str, text: str) -> None:
        """Lines for runner.log (this process's stderr) and for every view."""
        stamp = time.strftime("%H:%M:%S", time.localtime())
        for line in text.rstrip().split("\n"):
            try:
                sys.stderr.write(f"{stamp} {source}: {line}\n")
                sys.stderr.flush()
            except OSError:  # a full disk: the views still get it
                pass
            self.emit(protocol.LogLine(source=source, text=line))

    # --- life ---------------------------------------------------------------------------------

    async def run(self) -> int:
        """From the first event to the last. Returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.obey, protocol.Stop(now=True))
        await self._server.start()
        self._announce(self._taken)
        for work in (self._tick(), self._sample()):
            self._spawn(work)
        self._files = self._spawn(self._watch_files())
        flight = self._spawn(self._fly())
        try:
            await self._ending
        except Ending as ending:
            flight.cancel()
            return await self._end(ending)
        raise AssertionError("a run ends by an Ending")

    def _announce(self, taken: Taken) -> None:
        if not taken.state.name:
            self.emit(
                protocol.RunStarted(
                    name=self.run_file.name,
                    directory=str(self.directory),
                    config=self.config,
                    prompts=self._prompts.count,
                    asked_at=self.run_file.started_at,
                )
            )
        if taken.up:
            self.emit(
                protocol.RunTakenUp(
                    config=self.config,
                    completed=taken.completed,
                    failed=taken.failed,
                    prompt_tokens=taken.prompt_tokens,
                    output_tokens=taken.output_tokens,
                )
            )
            if taken.cut:
                self.log("supervisor", f"mended: {taken.cut} bytes of half-written lines were cut off")

    def obey(self, command: protocol.Command) -> None:
        """What a viewer, or a signal, asks for."""
        if isinstance(command, protocol.Stop):
            self._stop(now=command.now)
        elif not self._ending.done():
            self._controls.obey(command)
            if self._attempt is not None:
                self._attempt.pool.hand_out()

    def _stop(self, *, now: bool) -> None:
        self._give_up = self._give_up or now
        if self._ending.done():
            return
        self._stop_asked = True
        self.log("supervisor", "asked to stop now" if now else "asked to stop after the batches in flight")
        self.emit(protocol.Stopping(now=now))
        if self._attempt is None or not self._attempt.pool.ready:
            self._finish_with(Ending("stopped", EXIT_INTERRUPTED))
        elif now:
            self._attempt.pool.abandon()
            self._spawn(self._stop_now(self._attempt))
        else:
            self._attempt.pool.stopping = True
            self._attempt.pool.hand_out()

    async def _stop_now(self, attempt: RankLaunch) -> None:
        # A decode step is short, but a prefill, or a rank that hangs, need not be waited for.
        await attempt.wait(STOP_SECONDS)
        self._over()

    async def _fly(self) -> None:
        if not self._controls.work_left:
            self._over()
        model = await self._find_model()
        restarts_left = self.config.max_restarts
        while True:
            pool = RankPool(
                self.state.attempt + 1,
                self.config,
                self._prompts,
                self._scheduler,
                controls=self._controls,
                emit=self.emit,
                log=self.log,
                keep=self._keep_gathered,
                keep_error=self._keep,
            )
            self._digests = {}
            self._attempt = RankLaunch(pool, self.directory, self.config, model, self._launch_command, self.log)
            self.emit(
                protocol.RanksLaunched(attempt=pool.attempt, world_size=self.config.ranks, restarts_left=restarts_left)
            )
            await self._start(self._attempt)
            loss = await self._attempt.over()
            if loss is None:
                self._all_left(pool)
            await self._attempt.end()
            pool.close()
            cost_a_trial = self._take_back(pool, loss)
            if self._stop_asked or not self._controls.work_left:
                self._over()
            if loss.hopeless or (restarts_left == 0 and not cost_a_trial):
                tried = self.config.max_restarts - restarts_left
                raise Ending("failed", EXIT_DIED, f"{loss} (after {tried} restarts)" if tried else str(loss))
            # A sweep tries what may kill a rank: each loss ends a trial, so that there can be no more than trials.
            restarts_left -= not cost_a_trial
            self.log("supervisor", f"{loss}; launching the ranks afresh, {restarts_left} restarts left after this")

    async def _start(self, attempt: RankLaunch) -> None:
        while True:
            try:
                return await attempt.start()
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
                self._controls.set_trouble(f"the ranks cannot be launched: {error}")
                await asyncio.sleep(TROUBLE_SECONDS)

    def _take_back(self, pool: RankPool, loss: Loss) -> bool:
        """Ranks were lost: what they had in hand goes back to the queue. Whether that has cost a trial of a sweep."""
        if loss.rank is not None:
            self.emit(protocol.RankLost(rank=loss.rank, cause=loss.cause))
        for rank in range(self.config.ranks):
            for index in self._scheduler.lose(rank, culprit=rank == loss.rank):
                self._keep(pool.error_record(index, f"its rank died of it twice: {loss.cause}", rank))
        return self._controls.ranks_lost(loss.cause)

    async def _find_model(self) -> str:
        loop = asyncio.get_running_loop()
        said: protocol.ModelProgress | None = None

        def on_progress(phase: Any, done: int | None, total: int | None) -> None:
            nonlocal said
            progress = protocol.ModelProgress(phase=phase, done=done, total=total)
            if phase != "found" and progress != said:
                said = progress
                loop.call_soon_threadsafe(self.emit, progress)

        try:
            model = await asyncio.to_thread(models.resolve, self.config.model, on_progress)
        except models.ModelError as error:
            raise Ending("failed", EXIT_BAD_INPUT, str(error)) from None
        if not model.is_local:
            known = await asyncio.to_thread(quantization.hub_model_config, model.path_or_id)
            if problems := quantization.check(self.config.quantization, known):
                raise Ending("failed", EXIT_BAD_INPUT, "; ".join(str(problem) for problem in problems))
        self.emit(protocol.ModelProgress(phase="found", label=model.label))
        if model.is_local:
            loop.run_in_executor(None, read_ahead, Path(model.path_or_id))
        return model.path_or_id

    def _all_left(self, pool: RankPool) -> NoReturn:
        """Every rank left in peace: the run is complete, or was drained."""
        if self.config.dispatch == "split" and not pool.stopping:
            if not pool.gather_ended:
                raise Ending("failed", EXIT_DIED, "every prompt has its record, but gather_object did not finish")
            gathered = dict(pool.gathered)
            differing = sorted(
                index
                for index in self._digests.keys() | gathered.keys()
                if gathered.get(index) != self._digests.get(index)
            )
            self.emit(protocol.GatherChecked(records=len(pool.gathered), differing=differing))
            if differing:
                cause = f"gather_object brought other results than the socket for {len(differing)} prompts"
                raise Ending("failed", EXIT_DIED, cause)
        self._over()

    def _over(self) -> NoReturn:
        if self._controls.work_left:
            raise Ending("stopped", EXIT_INTERRUPTED)
        trials = self.state.sweep.records if self.state.sweep is not None else ()
        errors = self.state.failed or any(record.outcome == "failed" for record in trials)
        raise Ending("completed", EXIT_ERRORS if errors else EXIT_COMPLETE)

    async def _end(self, ending: Ending) -> int:
        if self._attempt is not None:
            await self._attempt.end()
        self._files.cancel()
        cause, exit_status = ending.cause, ending.exit_status
        if trouble := await self._put_away():
            exit_status = EXIT_DIED
            cause = f"{cause + '; ' if cause else ''}finished outputs are in {self.directory}, but: {trouble}"
        for task in self._tasks:
            task.cancel()
        summary = summarise(self.state)
        self.run_file = msgspec.structs.replace(
            self.run_file,
            status=ending.status,
            exit_status=exit_status,
            cause=cause,
            ended_at=self.state.now,
            summary=summary,
            sweep=summarise_sweep(self.state.sweep) if self.state.sweep is not None else None,
            costs=list(self.state.costs),
            lengths=list(self.state.lengths),
            loading=self.state.loading.phases,
        )
        try:
            run_directory.write_run_file(self.directory, self.run_file)
        except OSError as error:
            self.log("supervisor", f"run.json cannot be written: {error}")
        # The last event comes when everything else is done: who hears it may read the files.
        self.emit(protocol.RunEnded(status=ending.status, exit_status=exit_status, cause=cause, summary=summary))
        with contextlib.suppress(OSError):
            self._journal.close()
        await self._viewers.close(VIEWERS_SECONDS)
        self._server.close()
        return exit_status

    async def _put_away(self) -> str | None:
        """Outputs on disk, in order, copied; waits while that fails. Told to stop now, it says what is wrong."""
        while True:
            try:
                await asyncio.to_thread(self._order_and_copy)
            except OSError as error:
                trouble = f"outputs cannot be put away: {error}"
                if self._give_up or error.errno in GONE:
                    return trouble
                self._controls.set_trouble(trouble)
                await asyncio.sleep(TROUBLE_SECONDS)
            else:
                self._controls.set_trouble(None)
                return None

    def _order_and_copy(self) -> None:
        self._outputs.close()
        run_directory.order_outputs(self.directory, self._prompts.count)
        if self.config.output is not None:
            run_directory.copy_outputs(self.directory, Path(self.config.output))

    def _finish_with(self, ending: Ending) -> None:
        """End the run so; the first to say so decides."""
        if not self._ending.done():
            self._ending.set_exception(ending)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        async def guarded() -> None:
            try:
                await work
            except Ending as ending:
                self._finish_with(ending)
            except Exception as error:
                self._own_fault(error)

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- ranks --------------------------------------------------------------------------------

    async def _serve_rank(self, peer: RankPeer) -> None:
        if self._attempt is None:
            return
        try:
            await self._attempt.serve(peer)
        except Exception as error:
            self._own_fault(error)

    def _hear_command(self, command: protocol.Command) -> None:
        try:
            self.obey(command)
        except Exception as error:
            self._own_fault(error)

    def _own_fault(self, error: Exception) -> None:
        """A bug of ours, or files that went away under us, must end the run with its cause, not hang it."""
        self.log("supervisor", "".join(traceback.format_exception(error)))
        self._finish_with(Ending("failed", EXIT_DIED, f"supervisor: {type(error).__name__}: {error}"))

    def _keep(self, record: OutputRecord) -> None:
        """A finished prompt: handed to the system before anybody sees it, or kept until that is possible."""
        if self._scheduler.settle(record.index):
            self._outputs.write(protocol.encode_line(record))
            if self._outputs.trouble is not None:
                self._controls.set_trouble(self._outputs.trouble)
            self.emit(protocol.Output(record=record))

    def _keep_gathered(self, record: OutputRecord) -> None:
        """As `_keep`, for a record that its rank will bring to the final gather as well."""
        if self.config.dispatch == "split" and not self._scheduler.is_settled(record.index):
            self._digests[record.index] = protocol.record_digest(record)
        self._keep(record)

    # --- clock, files and sensors -------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            (devices, processes), self._samples = self._samples or (None, None), None
            steps = self._attempt.pool.steps if self._attempt is not None else []
            self.emit(protocol.Tick(steps=steps, devices=devices, processes=processes))
            if devices is not None:
                self._controls.sample(devices)
            self._viewers.catch_up()
            if self._attempt is not None:
                self._attempt.look_at_logs()

    async def _watch_files(self) -> None:
        """Sync about once a second; while a file cannot be written, pause and try again."""
        while True:
            await asyncio.sleep(SYNC_SECONDS)
            await asyncio.to_thread(self._outputs.sync)
            for store in (self._outputs, self._journal):
                if store.trouble is not None:
                    store.flush()
            trouble = self._outputs.trouble or self._journal.trouble
            self._controls.set_trouble(trouble)
            await self._server.restore()
            if trouble is None and self._attempt is not None:
                self._attempt.pool.hand_out()

    async def _sample(self) -> None:
        """Telemetry, in a thread of its own: a driver call that hangs holds up nothing else."""
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, "telemetry")
        telemetry = await loop.run_in_executor(thread, Telemetry.open)
        self.emit(protocol.TelemetryStarted(gpus=telemetry.gpus, reason=telemetry.reason))
        while True:
            devices = await loop.run_in_executor(thread, telemetry.sample_devices)
            pids = dict(self._attempt.pool.pids) if self._attempt is not None else {}
            processes = await loop.run_in_executor(thread, telemetry.sample_processes, pids)
            self._samples = devices, processes
            await asyncio.sleep(TELEMETRY_SECONDS)
