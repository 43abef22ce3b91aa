"""One launch of the ranks, from `accelerate launch` until its last process is gone.

Knows how ranks are launched, where they log to, and how to find out why one was lost. Does not decide what follows.
"""

import asyncio
import contextlib
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankdeck.runner import run_directory
from rankdeck.runner.machine import kernel, processes, telemetry
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.supervisor import accelerate
from rankdeck.runner.supervisor.accelerate import AccelerateProcess, LaunchCommand
from rankdeck.runner.supervisor.door.peers import RankPeer
from rankdeck.runner.supervisor.event_stream import EventStream
from rankdeck.runner.supervisor.ranks import RankPool

LAST_WORDS_SECONDS = 5.0
LEAVE_SECONDS = 60.0


@dataclass(frozen=True)
class Loss:
    """Ranks were lost, `rank` first; None where that is not known.

    `hopeless` means that another launch would fail the same way.
    """

    rank: int | None
    cause: str
    hopeless: bool

    def __str__(self) -> str:
        return self.cause if self.rank is None else f"rank {self.rank}: {self.cause}"


class RankLaunch:
    """One launch of a run's ranks, which then talk to `pool`."""

    def __init__(
        self,
        pool: RankPool,
        directory: Path,
        config: RunConfig,
        model: str,
        launch_command: LaunchCommand,
        events: EventStream,
    ) -> None:
        self.pool = pool
        self._directory, self._config, self._model = directory, config, model
        self._launch_command, self._events = launch_command, events
        self._launcher_lines: deque[str] = deque(maxlen=400)
        self._tails = {rank: LogTail(directory / f"rank-{rank}.log") for rank in range(config.ranks)}
        self._first_lost: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._process: AccelerateProcess | None = None

    async def start(self) -> None:
        """Start the ranks, which connect to the socket by themselves.

        Raises:
            OSError: it cannot be started.
        """
        on_cpu = self._config.device == "cpu"
        config_file = self._directory / "accelerate.yaml"
        accelerate.write_accelerate_config(config_file, self._config.ranks, on_cpu)
        arguments = ["--run-dir", str(self._directory), "--socket", str(run_directory.socket_path(self._directory))]
        arguments += ["--model", self._model, "--attempt", str(self.pool.attempt)]
        command = self._launch_command(config_file, self._config.ranks, "rankdeck.runner.rank.worker", arguments)
        environment = accelerate.rank_environment(
            os.environ,
            self._config.ranks,
            on_cpu,
            processes.usable_cores(),
            expandable_segments=not processes.under_wsl(),  # where they may fail in the middle of a run
        )
        if not on_cpu:
            environment |= await asyncio.to_thread(telemetry.rank_variables, os.environ)
        self._events.log("supervisor", "starting " + " ".join(command))
        self._process = await AccelerateProcess.start(command, environment)

    async def serve(self, peer: RankPeer) -> None:
        """Listen to a rank until it hangs up; one that is not of this launch is refused, and changes nothing."""
        if (refusal := self.pool.why_refused(peer.hello) or self._why_a_stranger(peer)) is not None:
            peer.refuse(refusal)
            self._events.log("supervisor", f"refused a rank: {refusal}")
            return
        if self._process is not None and peer.pid is not None:
            self._process.remember(peer.pid)
        if await self.pool.serve(peer) and not self._first_lost.done():
            self._first_lost.set_result(peer.hello.rank)

    def give_up(self, rank: int, why: str) -> None:
        """Take a rank for lost."""
        self.pool.give_up(rank, why)
        if not self._first_lost.done():
            self._first_lost.set_result(rank)

    def _why_a_stranger(self, peer: RankPeer) -> str | None:
        """Why a process is none of this launch's; None if it is one, or that cannot be known."""
        if peer.pid is None or (self._process is not None and kernel.descends_from(peer.pid, self._process.pid)):
            return None
        return f"process {peer.pid} was not started by this launch"

    async def over(self) -> Loss | None:
        """Wait until all ranks have left as they were told (None), or one is lost."""
        assert self._process is not None
        process = self._process
        reading: asyncio.Task[None] = asyncio.create_task(self._read(process))
        leaving: asyncio.Task[None] = asyncio.create_task(self._left_in_time())
        try:
            waited: list[asyncio.Future[Any]] = [reading, leaving, self._first_lost]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if self._first_lost.done():
                return await self._loss(self._first_lost.result(), reading)
            if leaving.done():
                self._events.log("supervisor", f"not all ranks left within {LEAVE_SECONDS:.0f} s")
                return None
            status = await process.wait()
            if self.pool.leaving:
                return None
            # A rank's own connection tells more than the launcher; give it a moment to close.
            with contextlib.suppress(TimeoutError):
                return await self._loss(await asyncio.wait_for(self._first_lost, 1.0), reading)
            said = accelerate.cause_of(list(self._launcher_lines)) or "it said nothing"
            return Loss(None, f"accelerate launch ended with status {status}: {said}", hopeless=not self.pool.ready)
        finally:
            reading.cancel()
            leaving.cancel()

    async def wait(self, seconds: float) -> None:
        """Wait up to `seconds` for the launch to end by itself."""
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), seconds)

    async def end(self) -> None:
        """End every process that is left."""
        if self._process is not None:
            await self._process.end()
        self.look_at_logs(last_look=True)

    def look_at_logs(self, *, last_look: bool = False) -> None:
        """Log what the ranks have written since the last look."""
        for rank, tail in self._tails.items():
            for line in tail.new_lines(last_look=last_look):
                self._events.log(f"rank {rank}", line)

    async def _read(self, process: AccelerateProcess) -> None:
        async for line in process.lines():
            self._launcher_lines.append(line)
            if line.strip():
                self._events.log("launcher", line)

    async def _left_in_time(self) -> None:
        await self.pool.told_to_leave.wait()
        await asyncio.sleep(LEAVE_SECONDS)

    async def _loss(self, rank: int, reading: "asyncio.Task[None]") -> Loss:
        if (why := self.pool.given_up.get(rank)) is not None:
            return Loss(rank, why, hopeless=False)
        said = self.pool.errors.get(rank)
        if said is None:
            # torchrun names the signal that ended a rank only after it has ended the others.
            await asyncio.wait({reading}, timeout=LAST_WORDS_SECONDS)
            self.look_at_logs(last_look=True)
        return Loss(rank, said or self._last_words(rank), hopeless=said is not None and not self.pool.ready)

    def _last_words(self, rank: int) -> str:
        signal_name = accelerate.killed_by(list(self._launcher_lines), self.pool.pids.get(rank))
        if signal_name == "SIGKILL":
            return "killed by SIGKILL (the kernel sends it when memory runs out; or somebody did)"
        said = accelerate.cause_of(list(self._tails[rank].recent))
        if signal_name:
            return f"killed by {signal_name}" + (f": {said}" if said else "")
        return said or "ended without a word"


MAX_BYTES_A_LOOK = 1024 * 1024
"""Of a log that grew by more than this since the last look, only the end is read: it must not fill memory."""

MAX_LINES_A_LOOK = 200
MAX_LINE = 2000
KEPT_LINES = 200


class LogTail:
    """Follows a log file from its present end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = path.stat().st_size if path.exists() else 0
        self._rest = b""
        self.recent: deque[str] = deque(maxlen=KEPT_LINES)

    def new_lines(self, *, last_look: bool = False) -> list[str]:
        """Whole lines since the last look; with `last_look` also a line that has no end yet."""
        try:
            with self._path.open("rb") as file:
                end = os.fstat(file.fileno()).st_size
                if end - self._position > MAX_BYTES_A_LOOK:
                    self._position, self._rest = end - MAX_BYTES_A_LOOK, b""
                file.seek(self._position)
                content = file.read(MAX_BYTES_A_LOOK)
                self._position = file.tell()
        except OSError:
            return []
        *whole, self._rest = (self._rest + content).replace(b"\r", b"\n").split(b"\n")
        if last_look and self._rest:
            whole, self._rest = [*whole, self._rest], b""
        self._rest = self._rest[: 4 * MAX_LINE]  # bytes; a character has four at most
        lines = [line.decode("utf-8", "replace")[:MAX_LINE] for line in whole if line.strip()]
        self.recent.extend(lines)
        return lines[-MAX_LINES_A_LOOK:]
