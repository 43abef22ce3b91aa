"""One run, from its first event to its last.

Wires the supervisor's modules together and decides what follows: when ranks are lost, when files cannot be written,
when a person asks for an end. Reads the run's figures from the same state as every view. Knows no torch and no
terminal.
"""

import asyncio
import contextlib
import errno
import os
import signal
import traceback
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.forecast.engine_record import engine_record
from rankdeck.runner.inputs.checkpoint import fingerprint
from rankdeck.runner.inputs.demo_model import ModelError
from rankdeck.runner.inputs.frozen_prompts import PromptError, PromptIndex
from rankdeck.runner.launching.accelerate import LaunchCommand, accelerate_command
from rankdeck.runner.launching.left_over import end_left_over
from rankdeck.runner.launching.parent import RankParent
from rankdeck.runner.protocol import OutputRecord
from rankdeck.runner.protocol.engines import EngineHint
from rankdeck.runner.run_directory.output_copy import Stamp
from rankdeck.runner.run_directory.resumption import find_resume_point
from rankdeck.runner.run_directory.run_file import RunFile
from rankdeck.runner.scheduling.scheduler import Scheduler
from rankdeck.runner.state import summarise
from rankdeck.runner.supervisor import engine_choice
from rankdeck.runner.supervisor.door.listening import Server
from rankdeck.runner.supervisor.door.peers import RankPeer
from rankdeck.runner.supervisor.event_stream import EventStream
from rankdeck.runner.supervisor.failures import Failures
from rankdeck.runner.supervisor.hung_ranks import HungRanks
from rankdeck.runner.supervisor.knobs import KnobControls
from rankdeck.runner.supervisor.launch import Loss, RankLaunch
from rankdeck.runner.supervisor.model import find_model
from rankdeck.runner.supervisor.outputs import RETRY_SECONDS, Finished, Outputs
from rankdeck.runner.supervisor.ranks import RankPool
from rankdeck.runner.supervisor.ticker import Ticker
from rankdeck.runner.sweep.verdict import summarise_sweep

SYNC_SECONDS = 1.0
STOP_SECONDS = 2.0
VIEWERS_SECONDS = 3.0

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
EXIT_COMPLETE, EXIT_ERRORS, EXIT_BAD_INPUT, EXIT_DIED, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


class Ending(Exception):
    """Raised to end the run: how, and with which exit status."""

    def __init__(self, status: protocol.RunStatus, exit_status: int, cause: str | None = None) -> None:
        super().__init__(cause or status)
        self.status, self.exit_status, self.cause = status, exit_status, cause


class Supervisor:
    """The run in `directory`, which holds run.json and prompts.jsonl already."""

    def __init__(
        self,
        directory: Path,
        run: RunFile,
        hold: run_directory.Hold,
        launch_command: LaunchCommand = accelerate_command,
    ) -> None:
        self._directory, self._run_file, self._config, self._hold = directory, run, run.config, hold
        self._launch_command = launch_command
        self._prompts = PromptIndex.open(directory / run_directory.PROMPTS_FILE, run.prompts_digest)
        self._resume_point = find_resume_point(directory, self._prompts)
        self._scheduler = Scheduler(
            self._prompts.lengths,
            order=self._config.order,
            batch_size=self._config.batch_size or 1,
            active_ranks=self._config.ranks,
            done=self._resume_point.ledger,
            first_batch=self._resume_point.next_batch,
        )
        self._events = EventStream(directory, self._resume_point.state)
        self._controls = KnobControls(self._config, self._scheduler, self._prompts.lengths, self._events)
        self._outputs = Outputs(
            directory, self._prompts, self._resume_point.ledger, self._scheduler, self._controls, self._events
        )
        self._failures = Failures(self._scheduler, self._controls, self._outputs, self._events)
        self._server = Server(
            run_directory.socket_path(directory),
            viewers=self._events.viewers,
            on_rank=self._serve_rank,
            on_command=self._hear_command,
            log=lambda text: self._events.log("supervisor", text),
            is_ours=self._is_ours,
        )
        self._ending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._launch: RankLaunch | None = None
        self._parent = RankParent(lambda line: self._events.log("launcher", line))
        self._stop_asked = self._hurry = self._removed = False

    async def run(self) -> int:
        """Run from the first event to the last. Returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.obey, protocol.Stop(now=True))
        await self._server.start()
        for event in self._resume_point.first_events(self._directory, self._run_file):
            self._events.emit(event)
        for said in self._resume_point.mended:
            self._events.log("supervisor", f"mended: {said}")
        for remark in [] if self._resume_point.resumed else self._run_file.remarks:
            self._events.log("supervisor", f"warning: {remark}")
        ticker = Ticker(self._events, self._controls, lambda: self._launch)
        hung_ranks = HungRanks(self._config.patience, lambda: self._launch, self._events)
        for work in (ticker.tick(), ticker.sample(), hung_ranks.watch()):
            self._spawn(work)
        self._files = self._spawn(self._watch_files())
        ranks = self._spawn(self._run_ranks())
        try:
            await self._ending
        except Ending as ending:
            ranks.cancel()
            return await self._end(ending)
        raise AssertionError("a run ends by an Ending")

    def _is_ours(self) -> bool:
        """Whether this run is still the one in its directory, and not a new one after that was removed. Blocks."""
        try:
            return run_directory.read_run_file(self._directory).started_at == self._run_file.started_at
        except run_directory.RunFileError:
            return True

    def obey(self, command: protocol.Command) -> None:
        """Do what a viewer or a signal asks for."""
        if isinstance(command, protocol.Stop):
            self._stop(now=command.now)
        elif not self._ending.done():
            self._controls.obey(command)
            if self._launch is not None:
                self._launch.pool.hand_out()

    def _stop(self, *, now: bool) -> None:
        self._hurry = self._hurry or now
        if self._ending.done():
            return
        self._stop_asked = True
        self._events.log("supervisor", "asked to stop now" if now else "asked to stop after the batches in flight")
        self._events.emit(protocol.Stopping(now=now))
        if self._launch is None or not self._launch.pool.ready:
            self._finish_with(Ending("stopped", EXIT_INTERRUPTED))
        elif now:
            self._launch.pool.abandon()
            self._spawn(self._stop_now(self._launch))
        else:
            self._launch.pool.stop()

    async def _stop_now(self, launch: RankLaunch) -> None:
        # A decode step is short, but a prefill, or a rank that hangs, is not worth waiting for.
        await launch.wait(STOP_SECONDS)
        self._over()

    async def _run_ranks(self) -> None:
        if self._resume_point.resumed:
            left = await asyncio.to_thread(end_left_over, run_directory.socket_path(self._directory))
            if left is not None:
                self._events.log("supervisor", left)
        if not self._controls.work_left:
            self._over()
        try:
            model = await find_model(self._config, self._events, self._prompts)
        except ModelError as error:
            raise Ending("failed", EXIT_BAD_INPUT, str(error)) from None
        restarts_left, ready_before = self._config.max_restarts, False
        while True:
            await self._compare_model(Path(model))
            hint = await self._hint_at_engine()
            pool = RankPool(
                self._events.state.attempt + 1,
                self._config,
                self._prompts,
                self._scheduler,
                controls=self._controls,
                outputs=self._outputs,
                failures=self._failures,
                events=self._events,
            )
            launch = RankLaunch(
                pool,
                self._directory,
                self._config,
                model,
                self._launch_command,
                self._parent,
                self._events,
                ready_before=ready_before,
                engine_hint=hint,
            )
            self._launch = launch
            self._events.emit(
                protocol.RanksLaunched(attempt=pool.attempt, world_size=self._config.ranks, restarts_left=restarts_left)
            )
            await self._start(launch)
            loss = await launch.over()
            ready_before = ready_before or pool.ready
            if loss is None:
                with contextlib.suppress(OSError):  # a full disk: at the end it is tried until it works
                    await self._outputs.put_right()
                if pool.stopping or not self._controls.work_left:
                    self._all_left(pool)
                lost = self._scheduler.unsettled
                loss = Loss(None, f"{lost:,} records were lost from {run_directory.OUTPUTS_FILE}", hopeless=False)
            await launch.end()
            pool.close()
            cost_a_trial = self._failures.ranks_lost(self._config.ranks, loss.rank, loss.cause)
            if self._stop_asked or not self._controls.work_left:
                self._over()
            if loss.hopeless or (restarts_left == 0 and not cost_a_trial):
                tried = self._config.max_restarts - restarts_left
                raise Ending("failed", EXIT_DIED, f"{loss} (after {tried} restarts)" if tried else str(loss))
            # A sweep tries what may kill a rank. Each loss ends a trial, so there are no more losses than trials.
            restarts_left -= not cost_a_trial
            self._events.log(
                "supervisor", f"{loss}; launching the ranks afresh, {restarts_left} restarts left after this"
            )

    async def _compare_model(self, model: Path) -> None:
        """End the run if it has answers, or trials, of a model that was another; else remember what its files are."""
        known = self._run_file.model_files
        if self._used and (said := await asyncio.to_thread(fingerprint.why_changed, model, known)):
            raise Ending("failed", EXIT_BAD_INPUT, said)
        files = await asyncio.to_thread(fingerprint.fingerprints, model)
        if files != known:
            self._remember(model_files=files)

    async def _hint_at_engine(self) -> EngineHint | None:
        """What `--engine auto` takes: found out before the first answer, and the same from then on."""
        if self._config.engine != "auto":
            return None
        hint = self._run_file.engine_hint
        if hint is None or (hint.engine == "vllm" and not self._used):
            hint = EngineHint()
            if not self._used:
                hint = await asyncio.to_thread(engine_choice.hint, self._run_file, self._prompts)
            self._remember(engine_hint=hint)
        if hint.engine == "vllm" and (why := await asyncio.to_thread(engine_choice.why_no_vllm, self._config)):
            said = f"this run used vLLM, chosen by --engine auto, and no longer can: {why}"
            raise Ending("failed", EXIT_BAD_INPUT, f"{said}; resume it with --engine static")
        return hint

    @property
    def _used(self) -> bool:
        """Whether the run has answers, or trials, of its model."""
        sweep = self._events.state.sweep
        return self._resume_point.ledger.count > 0 or (sweep is not None and len(sweep.records) > 0)

    def _remember(self, **facts: object) -> None:
        """Have these in run.json."""
        self._run_file = msgspec.structs.replace(self._run_file, **facts)
        with contextlib.suppress(OSError):  # a full disk: it is written with the end of the run
            run_directory.write_run_file(self._directory, self._run_file)

    async def _start(self, launch: RankLaunch) -> None:
        while True:
            try:
                return await launch.start()
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
                self._controls.set_trouble(f"the ranks cannot be launched: {error}")
                await asyncio.sleep(RETRY_SECONDS)

    def _all_left(self, pool: RankPool) -> NoReturn:
        """Every rank left as it was told: the run is complete, or was stopped after its batches."""
        if self._config.dispatch == "split" and not pool.stopping:
            if not pool.gather.ended:
                raise Ending("failed", EXIT_DIED, "every prompt has its record, but gather_object did not finish")
            differing = pool.gather.differing()
            self._events.emit(protocol.GatherChecked(records=pool.gather.records, differing=differing))
            if differing:
                cause = f"gather_object brought other results than the socket for {len(differing)} prompts"
                raise Ending("failed", EXIT_DIED, cause)
        self._over()

    def _over(self) -> NoReturn:
        if self._controls.work_left:
            raise Ending("stopped", EXIT_INTERRUPTED)
        state = self._events.state
        trials = state.sweep.records if state.sweep is not None else ()
        errors = state.failed or any(record.outcome == "failed" for record in trials)
        raise Ending("completed", EXIT_ERRORS if errors else EXIT_COMPLETE)

    async def _end(self, ending: Ending) -> int:
        try:
            ending = await self._put_away(ending)
        except Exception as error:
            ending = self._bug(error, ending.cause)
        status, cause, exit_status = ending.status, ending.cause, ending.exit_status
        for task in self._tasks:
            task.cancel()
        state = self._events.state
        unwritten = [msgspec.json.decode(line, type=OutputRecord) for line in self._outputs.store.in_memory()]
        summary = summarise(state, unwritten)
        self._run_file = msgspec.structs.replace(
            self._run_file,
            status=status,
            exit_status=exit_status,
            cause=cause,
            ended_at=state.now,
            summary=summary,
            sweep=summarise_sweep(state.sweep) if state.sweep is not None else None,
            costs=list(state.costs),
            lengths=list(state.lengths),
            engine_record=engine_record(state, engine_choice.mean_bytes(self._prompts)),
            loading=state.loading.phases,
        )
        if not self._removed:
            try:
                run_directory.write_last_run_file(self._directory, self._run_file)
            except OSError as error:
                self._events.log("supervisor", f"run.json cannot be written: {error}")
        # The last event comes after everything else: whoever sees it may read the files.
        self._events.emit(protocol.RunEnded(status=status, exit_status=exit_status, cause=cause, summary=summary))
        if not self._removed:
            with contextlib.suppress(OSError):
                self._events.journal.save()
        await self._events.viewers.close(VIEWERS_SECONDS)
        self._server.close()
        return exit_status

    async def _put_away(self, ending: Ending) -> Ending:
        """End the ranks, and leave the records as they are to stay. Returns the ending, which that may have changed."""
        if self._launch is not None:
            await self._launch.end()
        await self._parent.end()
        self._files.cancel()
        if (lost := self._hold.lost()) is not None:
            now_at = self._hold.now_at()
            self._removed = now_at is None  # by now there may be another run in its place
            self._directory = now_at or self._directory
            return Ending("failed", EXIT_DIED, lost)
        finished = await self._outputs.finish(self._copy(), in_a_hurry=lambda: self._hurry)
        if finished.copied is not None:
            self._run_file = msgspec.structs.replace(self._run_file, output_stamp=finished.copied)
        if ending.status == "completed" and finished.trouble is None:
            finished = replace(finished, trouble=await asyncio.to_thread(self._wrong_prompts))
        return self._with_files(ending, finished)

    def _copy(self) -> Callable[[], Stamp] | None:
        """What copies the outputs to where the user asked for them; None if they did not, or if there are none: what
        an earlier run has left there is worth more than an empty file.
        """
        if self._config.output is None or not self._resume_point.ledger.count:
            return None
        target, own, force = Path(self._config.output), self._run_file.output_stamp, self._run_file.output_force
        return lambda: run_directory.copy_outputs(self._directory, target, own=own, force=force)

    def _wrong_prompts(self) -> str | None:
        """What somebody has done to the prompts since they were last read."""
        try:
            self._prompts.check()
        except PromptError as error:
            return str(error)
        return None

    def _with_files(self, ending: Ending, finished: Finished) -> Ending:
        """The ending, made worse by what is wrong with the files: a run whose records are not there is not complete."""
        whole = finished.whole and not (ending.status == "completed" and self._controls.work_left)
        if whole and finished.trouble is None:
            return ending
        wrong = finished.trouble or f"records were lost from {run_directory.OUTPUTS_FILE} as the run ended"
        cause = f"finished outputs are in {self._directory}, but: {wrong}"
        if not whole and ending.status == "completed":
            cause += f"; `rankdeck resume {self._run_file.name}` continues with what is there"
        return Ending(
            ending.status if whole or ending.status != "completed" else "failed",
            EXIT_DIED,
            f"{ending.cause}; {cause}" if ending.cause else cause,
        )

    def _finish_with(self, ending: Ending) -> None:
        """End the run this way, unless it is ending already."""
        if not self._ending.done():
            self._ending.set_exception(ending)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        async def guarded() -> None:
            with self._guarded():
                await work

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """End the run on an Ending, and on any other error: after a bug, or without its files, it must not hang."""
        try:
            yield
        except Ending as ending:
            self._finish_with(ending)
        except PromptError as error:
            self._finish_with(Ending("failed", EXIT_DIED, str(error)))
        except Exception as error:
            self._finish_with(self._bug(error))

    def _bug(self, error: Exception, before: str | None = None) -> Ending:
        """The ending after an error that nobody expects, and `before`, the cause of the ending that it came in."""
        self._events.log("supervisor", "".join(traceback.format_exception(error)))
        said = f"supervisor: {type(error).__name__}: {error}"
        return Ending("failed", EXIT_DIED, f"{before}; {said}" if before else said)

    async def _serve_rank(self, peer: RankPeer) -> None:
        if self._launch is not None:
            with self._guarded():
                await self._launch.serve(peer)

    def _hear_command(self, command: protocol.Command) -> None:
        with self._guarded():
            self.obey(command)

    async def _watch_files(self) -> None:
        """Sync about once a second; while a file cannot be written, pause and try again."""
        while True:
            await asyncio.sleep(SYNC_SECONDS)
            if (lost := self._hold.lost()) is not None:
                raise Ending("failed", EXIT_DIED, lost)
            try:
                await asyncio.to_thread(self._hold.renew)
            except run_directory.RunFileError:
                # The lock's file was removed, and a second supervisor has begun: two must not write one file.
                self._events.log("supervisor", "another supervisor has taken over this run: this one ends")
                os._exit(EXIT_DIED)
            await self._outputs.look_after()
            await self._events.look_after()
            trouble = self._outputs.store.trouble or self._events.journal.trouble
            self._controls.set_trouble(trouble)
            await self._server.restore()
            if trouble is None and self._launch is not None:
                self._launch.pool.hand_out()
