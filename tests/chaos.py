"""Chaos: a run during which ranks, supervisors and viewers are killed, stopped, resumed, and knobs turned, at random.

`run_through(seed, …)` takes one run through what its seed brings and says what is wrong with its end: nothing,
if every prompt has exactly one whole record. Used by the tests with stand-in ranks and with accelerate's.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from rankdeck.runner import protocol, run_directory, start
from rankdeck.runner.protocol import Command
from rankdeck.runner.start import Started
from rankdeck.tui.sources.client import SocketSource, SourceError
from tests.runner.supervisor.test_supervisor import command_line, processes_of

ACTIONS = (
    "kill rank",
    "kill supervisor",
    "kill viewer",
    "stop",
    "stop now",
    "batch size",
    "active ranks",
    "pause",
    "stall",
)

WATCH = """
import asyncio, sys
from pathlib import Path
from rankdeck.tui.sources.client import SocketSource
async def watch():
    async for message in SocketSource(Path(sys.argv[1])).events():
        print(type(message).__name__, flush=True)
asyncio.run(watch())
"""


class Flight:
    """One run under chaos."""

    def __init__(
        self, seed: int, started: Started, *, acts: int, calm: tuple[float, float], actions: tuple[str, ...] = ACTIONS
    ) -> None:
        self.random = random.Random(seed)
        self.started, self.directory = started, started.directory
        self.acts, self.calm, self.actions = acts, calm, actions
        self.did: list[str] = []
        self._stalled: list[asyncio.StreamWriter] = []

    async def run_through(self, seconds: float) -> None:
        """Act at random until all turns are taken, then let the run end by itself."""
        async with asyncio.timeout(seconds):
            for _ in range(self.acts):
                await asyncio.sleep(self.random.uniform(*self.calm))
                if not run_directory.supervisor_alive(self.directory):
                    self._resume_if_needed()
                    continue
                action = self.random.choice(self.actions)
                self.did.append(action)
                await getattr(self, "_" + action.replace(" ", "_"))()
            while not self._complete():
                if self.started.process.poll() is None:
                    await asyncio.sleep(0.02)
                else:
                    self._resume_if_needed()
        for writer in self._stalled:
            writer.close()
        self.started.process.wait(10)

    def _complete(self) -> bool:
        return (
            self.started.process.poll() is not None
            and run_directory.read_run_file(self.directory).status == "completed"
        )

    def _resume_if_needed(self) -> None:
        if self.started.process.poll() is None or self._complete():
            return
        changes = {"batch_size": self.random.randint(1, 12)} if self.random.random() < 0.5 else {}
        self.started = start.resume(self.directory, changes)

    async def _send(self, *commands: Command) -> None:
        """Send a command as a viewer would: connect, greet, send, hang up."""
        source = SocketSource(self.directory, self.started.died)
        events = source.events()
        try:
            await anext(events)
            for command in commands:
                await source.send(command)
            await anext(events)
        except (SourceError, StopAsyncIteration):
            pass  # the run ended, or was killed, just then
        finally:
            await events.aclose()  # type: ignore[attr-defined]

    def _pids(self, module: str) -> list[int]:
        return [process.pid for process in processes_of(self.directory) if module in " ".join(command_line(process))]

    async def _kill_rank(self) -> None:
        pids = self._pids("rank.py rank") or self._pids("rankdeck.runner.rank.worker")
        if pids:
            _kill(self.random.choice(sorted(pids)))

    async def _kill_supervisor(self) -> None:
        self.started.process.kill()
        self.started.process.wait()

    async def _kill_viewer(self) -> None:
        viewer = subprocess.Popen(
            [sys.executable, "-c", WATCH, str(self.directory)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert viewer.stdout is not None
        await asyncio.to_thread(viewer.stdout.readline)
        viewer.kill()
        viewer.communicate()

    async def _stop(self) -> None:
        await self._send(protocol.Stop())

    async def _stop_now(self) -> None:
        await self._send(protocol.Stop(now=True))

    async def _batch_size(self) -> None:
        await self._send(protocol.SetBatchSize(batch_size=self.random.randint(1, 20)))

    async def _active_ranks(self) -> None:
        await self._send(protocol.SetActiveRanks(active_ranks=self.random.randint(1, 3)))

    async def _pause(self) -> None:
        await self._send(protocol.Pause())
        await asyncio.sleep(self.random.uniform(0, 0.1))
        await self._send(protocol.Resume())

    async def _stall(self) -> None:
        """A viewer that connects and never reads."""
        try:
            _, writer = await asyncio.open_unix_connection(str(run_directory.socket_path(self.directory)), limit=1024)
        except OSError:
            return
        writer.write(protocol.encode_line(protocol.ViewerHello()))
        self._stalled.append(writer)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def wrong_with(directory: Path, prompts: list[str], expected: Callable[[int, str], str]) -> list[str]:
    """What is wrong with a run's outputs: every prompt must have exactly one whole record, in input order."""
    lines = (directory / run_directory.OUTPUTS_FILE).read_bytes()
    wrong = [] if lines.endswith(b"\n") else ["the last line is torn"]
    records = list(run_directory.read_outputs(directory))
    if [record.index for record in records] != list(range(len(prompts))):
        wrong.append(f"the records are of {[record.index for record in records]}")
    wrong += [
        f"prompt {record.index} has the answer {record.text!r}"
        for record in records
        if record.text != expected(record.index, prompts[record.index]) or record.error is not None
    ]
    if left := processes_of(directory):
        wrong.append(f"left behind: {left}")
    return wrong
