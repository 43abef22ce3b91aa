"""One run, from its first event to its last.

Wires the other modules together: model, launch, crew, files, telemetry, viewers. Every figure any
view shows comes from the events emitted here, and the supervisor itself reads them from the same
reducer. Knows no torch and no terminal.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from runner import launcher, models, protocol, rundir, state
from runner.crew import Crew
from runner.launcher import Launch, LaunchCommand
from runner.logs import LogTail
from runner.prompts import PromptIndex
from runner.protocol import AnyEvent, OutputRecord
from runner.rundir import LineWriter, RunFile
from runner.scheduler import Scheduler
from runner.server import RankPeer, Server, Viewers
from runner.telemetry import Telemetry

TICK_SECONDS = 0.25
JOURNAL_TICK_SECONDS = 1.0
SYNC_SECONDS = 1.0
TELEMETRY_SECONDS = 1.0
LEAVE_SECONDS = 60.0
LAST_WORDS_SECONDS = 5.0
STOP_SECONDS = 2.0
VIEWERS_SECONDS = 3.0

EXIT_COMPLETE, EXIT_ERRORS, EXIT_BAD_INPUT, EXIT_DIED, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


class Ending(Exception):
    """The run is to end now, and this is how."""

    def __init__(self, status: protocol.RunStatus, exit_status: int, cause: str | None = None) -> None:
        super().__init__(cause or status)
        self.status, self.exit_status, self.cause = status, exit_status, cause


class Supervisor:
    """The run in `directory`, whose run.json and prompts.jsonl are there already."""

    def __init__(
        self,
        directory: Path,
        run: RunFile,
        launch_command: LaunchCommand = launcher.accelerate_command,
    ) -> None:
        self.directory, self.run_file, self.config = directory, run, run.config
        self._launch_command = launch_command
        self.state = state.RunState()
        self._prompts = PromptIndex.open(directory / rundir.PROMPTS_FILE)
        self._scheduler = Scheduler(
            self._prompts.lengths,
            order=self.config.order,
            batch_size=self.config.batch_size,
            active_ranks=self.config.ranks,
        )
        self._outputs = LineWriter(directory / rundir.OUTPUTS_FILE)
        self._journal = LineWriter(directory / rundir.EVENTS_FILE)
        self._clock_offset = time.time() - time.monotonic()
        self._journal_tick_at = 0.0
        self._viewers = Viewers(lambda: protocol.encode_line(state.Snapshot(state=self.state)))
        self._server = Server(
            rundir.socket_path(directory),
            viewers=self._viewers,
            on_rank=self._serve_rank,
            on_command=self.obey,
            log=lambda text: self.log("supervisor", text),
        )
        self._ending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._crew: Crew | None = None
        self._launch: Launch | None = None
        self._launcher_said: deque[str] = deque(maxlen=400)
        self._tails: dict[int, LogTail] = {}
        self._digests: dict[int, str] = {}
        self._samples: tuple[list[protocol.DeviceSample], list[protocol.ProcessSample]] | None = None

    # --- events -------------------------------------------------------------------------------

    def emit(self, event: AnyEvent) -> None:
        """Stamp, apply, journal, show: in this order, so that no view knows more than the journal."""
        event = msgspec.structs.replace(event, at=round(time.monotonic() + self._clock_offset, 4))
        self.state = state.apply(self.state, event)
        line = protocol.encode_line(event)
        if not isinstance(event, protocol.Tick):
            self._journal.write(line)
        elif event.at - self._journal_tick_at >= JOURNAL_TICK_SECONDS * 0.9:
            self._journal_tick_at = event.at
            self._journal.write(line)
        self._viewers.offer(line)

    def log(self, source: str, text: str) -> None:
        """Lines for runner.log (this process's stderr) and for every view."""
        stamp = time.strftime("%H:%M:%S", time.localtime())
        for line in text.rstrip().split("\n"):
            sys.stderr.write(f"{stamp} {source}: {line}\n")
            self.emit(protocol.LogLine(source=source, text=line))
        sys.stderr.flush()

    # --- life ---------------------------------------------------------------------------------

    async def run(self) -> int:
        """From the first event to the last. Returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.obey, protocol.Stop(now=True))
        await self._server.start()
        self.emit(
            protocol.RunStarted(
                name=self.run_file.name,
                directory=str(self.directory),
                config=self.config,
                prompts=self._prompts.count,
            )
        )
        for work in (self._tick(), self._sample(), self._fly()):
            self._spawn(work)
        try:
            await self._ending
        except Ending as ending:
            return await self._end(ending)
        raise AssertionError("a run ends by an Ending")

    def finish_with(self, ending: Ending) -> None:
        """End the run so; the first to say so decides."""
        if not self._ending.done():
            self._ending.set_exception(ending)

    def obey(self, command: protocol.Command) -> None:
        """What a viewer, or a signal, asks for."""
        if self._ending.done():
            return
        self.log("supervisor", "asked to stop now" if command.now else "asked to stop after the batches in flight")
        self.emit(protocol.Stopping(now=command.now))
        if self._crew is None or self._launch is None or not self._crew.ready:
            self.finish_with(Ending("stopped", EXIT_INTERRUPTED))
        elif command.now:
            self._crew.abandon()
            self._spawn(self._stop_now(self._launch))
        else:
            self._crew.stopping = True
            self._crew.hand_out()

    async def _stop_now(self, launch: Launch) -> None:
        # A decode step is short, but a prefill, or a rank that hangs, need not be waited for.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(launch.wait(), STOP_SECONDS)
        self._over()

    async def _fly(self) -> None:
        model = await self._find_model()
        attempt = self.state.attempt + 1
        on_cpu = self.config.device == "cpu"
        config_file = self.directory / "accelerate.yaml"
        launcher.write_accelerate_config(config_file, self.config.ranks, on_cpu)
        arguments = ["--run-dir", str(self.directory), "--socket", str(rundir.socket_path(self.directory))]
        arguments += ["--model", model, "--attempt", str(attempt)]
        command = self._launch_command(config_file, self.config.ranks, "runner.worker", arguments)
        environment = launcher.rank_environment(os.environ, self.config.ranks, on_cpu, launcher.usable_cores())
        self._tails = {rank: LogTail(self.directory / f"rank-{rank}.log") for rank in range(self.config.ranks)}
        self._crew = Crew(
            attempt, self.config, self._prompts, self._scheduler, emit=self.emit, log=self.log, keep=self._keep
        )
        self.log("supervisor", "starting " + " ".join(command))
        self._launch = await Launch.start(command, environment)
        self.emit(protocol.RanksLaunched(attempt=attempt, world_size=self.config.ranks))
        async for line in self._launch.lines():
            self._launcher_said.append(line)
            if line.strip():
                self.log("launcher", line)
        status = await self._launch.wait()
        if self._crew.leaving and status == 0:
            self._all_left()
        elif not self._crew.pids:
            said = launcher.cause_of(list(self._launcher_said)) or "and said nothing"
            raise Ending("failed", EXIT_DIED, f"accelerate launch ended with status {status}: {said}")
        else:
            # The ranks' own connections tell which of them was first; this is for the case that none does.
            await asyncio.sleep(LAST_WORDS_SECONDS)
            raise Ending("failed", EXIT_DIED, f"accelerate launch ended with status {status}")

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
        self.emit(protocol.ModelProgress(phase="found", label=model.label))
        return model.path_or_id

    def _all_left(self) -> None:
        """Every rank left in peace: the run is complete, or was drained."""
        assert self._crew is not None
        if self.config.dispatch == "split" and not self._crew.stopping:
            gathered = dict(self._crew.gathered)
            differing = sorted(
                index
                for index in self._digests.keys() | gathered.keys()
                if gathered.get(index) != self._digests.get(index)
            )
            self.emit(protocol.GatherChecked(records=len(self._crew.gathered), differing=differing))
            if differing:
                cause = f"gather_object brought other results than the socket for {len(differing)} prompts"
                raise Ending("failed", EXIT_DIED, cause)
        self._over()

    def _over(self) -> NoReturn:
        if self._scheduler.unsettled:
            raise Ending("stopped", EXIT_INTERRUPTED)
        raise Ending("completed", EXIT_ERRORS if self.state.failed else EXIT_COMPLETE)

    async def _end(self, ending: Ending) -> int:
        if self._launch is not None:
            await self._launch.end()
        for task in self._tasks:
            task.cancel()
        self._look_at_logs(last_look=True)
        cause, exit_status = ending.cause, ending.exit_status
        try:
            self._outputs.close()
            rundir.order_outputs(self.directory, self._prompts.count)
            if self.config.output is not None:
                rundir.copy_outputs(self.directory, Path(self.config.output))
        except OSError as error:
            exit_status = EXIT_DIED
            cause = f"{cause + '; ' if cause else ''}finished outputs are in {self.directory}, but: {error}"
        summary = state.summarise(self.state)
        self.emit(protocol.RunEnded(status=ending.status, exit_status=exit_status, cause=cause, summary=summary))
        rundir.write_run_file(
            self.directory,
            msgspec.structs.replace(
                self.run_file,
                status=ending.status,
                exit_status=exit_status,
                cause=cause,
                ended_at=self.state.now,
                summary=summary,
            ),
        )
        self._journal.close()
        await self._viewers.close(VIEWERS_SECONDS)
        self._server.close()
        return exit_status

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except Ending as ending:
                self.finish_with(ending)
            except Exception as error:  # a bug of ours must end the run with its cause, not hang it
                self.log("supervisor", traceback.format_exc())
                self.finish_with(Ending("failed", EXIT_DIED, f"supervisor: {type(error).__name__}: {error}"))

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- ranks --------------------------------------------------------------------------------

    async def _serve_rank(self, peer: RankPeer) -> None:
        if self._crew is None or self._launch is None:
            return
        self._launch.remember(peer.hello.pid)
        if await self._crew.serve(peer) and not self._ending.done():
            self._spawn(self._lost(self._crew, peer.hello.rank))
        elif self._crew.leaving:
            self._spawn(self._leave_in_time())

    def _keep(self, record: OutputRecord) -> None:
        """A finished prompt: handed to the system before anybody sees it."""
        if self._scheduler.settle(record.index):
            self._outputs.write(protocol.encode_line(record))
            if self.config.dispatch == "split":
                self._digests[record.index] = protocol.record_digest(record)
            self.emit(protocol.Output(record=record))

    async def _leave_in_time(self) -> None:
        await asyncio.sleep(LEAVE_SECONDS)
        self.log("supervisor", f"not all ranks left within {LEAVE_SECONDS:.0f} s")
        self._all_left()

    async def _lost(self, crew: Crew, rank: int) -> None:
        """A rank hung up before it was told to: find out why, and end the run with it."""
        assert self._launch is not None
        if rank not in crew.failures:
            # torchrun names the signal that ended a rank only after it has ended the others.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._launch.wait(), LAST_WORDS_SECONDS)
            await asyncio.sleep(TICK_SECONDS)
        self._look_at_logs()
        cause = crew.failures.get(rank) or self._last_words(crew, rank)
        self.emit(protocol.RankLost(rank=rank, cause=cause))
        raise Ending("failed", EXIT_DIED, f"rank {rank}: {cause}")

    def _last_words(self, crew: Crew, rank: int) -> str:
        signal_name = launcher.killed_by(list(self._launcher_said), crew.pids[rank])
        if signal_name == "SIGKILL":
            return "killed by SIGKILL (the kernel sends it when memory runs out; or somebody did)"
        said = launcher.cause_of(list(self._tails[rank].recent))
        if signal_name:
            return f"killed by {signal_name}" + (f": {said}" if said else "")
        return said or "ended without a word"

    # --- clock and sensors --------------------------------------------------------------------

    async def _tick(self) -> None:
        synced_at = time.monotonic()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            (devices, processes), self._samples = self._samples or (None, None), None
            steps = self._crew.steps if self._crew is not None else []
            self.emit(protocol.Tick(steps=steps, devices=devices, processes=processes))
            self._viewers.catch_up()
            self._look_at_logs()
            if time.monotonic() - synced_at >= SYNC_SECONDS:
                synced_at = time.monotonic()
                await asyncio.to_thread(self._outputs.sync)

    def _look_at_logs(self, *, last_look: bool = False) -> None:
        for rank, tail in self._tails.items():
            for line in tail.new_lines(last_look=last_look):
                self.log(f"rank {rank}", line)

    async def _sample(self) -> None:
        """Telemetry, in a thread of its own: a driver call that hangs holds up nothing else."""
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, "telemetry")
        telemetry = await loop.run_in_executor(thread, Telemetry.open)
        self.emit(protocol.TelemetryStarted(gpus=telemetry.gpus, reason=telemetry.reason))
        while True:
            devices = await loop.run_in_executor(thread, telemetry.sample_devices)
            pids = dict(self._crew.pids) if self._crew is not None else {}
            processes = await loop.run_in_executor(thread, telemetry.sample_processes, pids)
            self._samples = devices, processes
            await asyncio.sleep(TELEMETRY_SECONDS)
