"""One run under chaos: acts at random while it lives, resumed whenever it rests, until it says that it is complete."""

import asyncio
import contextlib
import random
import signal
from collections import Counter
from collections.abc import Callable, Sequence

from rankdeck.runner import protocol, run_directory, start
from rankdeck.runner.protocol import Command
from rankdeck.runner.start import Started
from rankdeck.tui.sources.client import SocketSource, SourceError
from tests.chaos import disk_acts, file_acts, process_acts, processes
from tests.chaos.acts import KNOWN
from tests.chaos.disk_acts import Disk, SizeLimit
from tests.chaos.processes import Found

__all__ = ["ACTS", "Flight", "Stuck"]

ACTS = tuple(KNOWN)
assert all(module.__doc__ for module in (disk_acts, file_acts, process_acts)), "imported for the acts they make known"

GONE_SECONDS = 15.0
"""How long the last process of a run may take to go, after its supervisor, on a busy machine."""

MOST_RESTS = 5
"""How often in a row a run may end by itself without a record more than before."""


AT_WORK = 0.6
"""How many of the acts wait until the ranks work; the others may come while they start."""

SEND_SECONDS = 25.0
"""How long a viewer tries: whoever has removed the socket must not wait for it while the disk is full."""

START_SECONDS = 5.0
"""How long such an act waits: the run may be paused."""


class Stuck(Exception):
    """The run does not come to its end; the text says how."""


class Flight:
    """One run, the luck of its seed, and what was done to it.

    `launch` starts the run; `mark` is to be no other run's.
    """

    def __init__(
        self,
        seed: int,
        mark: str,
        launch: Callable[[], Started],
        *,
        acts: int,
        calm: tuple[float, float],
        actions: Sequence[str] = ACTS,
        disk: Disk | None = None,
    ) -> None:
        self.random = random.Random(seed)
        self.mark = mark
        with processes.marked(mark):
            self.started = launch()
        self.directory = self.started.directory
        run = run_directory.read_run_file(self.directory)
        self.prompts = run.prompts
        self.has_patience = (getattr(run.config, "patience", None) or 1e9) < 10
        self.disk = disk or SizeLimit()
        self._turns, self._calm = acts, calm
        self._actions = [KNOWN[name] for name in actions]
        self.did: list[str] = []
        self.resumes: Counter[str] = Counter()
        self.stalled: list[asyncio.StreamWriter] = []
        self._rests, self._records = 0, 0

    async def run_through(self, seconds: float) -> None:
        """Act at random until all turns are taken, then let the run come to its end.

        Raises:
            Stuck: it does not, in so many seconds or at all.
        """
        try:
            async with asyncio.timeout(seconds):
                while self._turns and not self.complete():
                    if self.random.random() < AT_WORK:
                        await self._until_at_work()
                    await asyncio.sleep(self.random.uniform(*self._calm))
                    await self._act_or_resume()
                while not self.complete():
                    self.resume_if_needed()
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise Stuck(f"not at its end after {seconds:.0f} s") from None

    async def _act_or_resume(self) -> None:
        if not run_directory.supervisor_alive(self.directory):
            self.resume_if_needed()
            return
        self._turns -= 1
        (act,) = self.random.choices(self._actions, [act.weight for act in self._actions])
        self.did.append(act.name)
        self._rests = 0
        if not await act.do(self):
            self.did.pop()

    async def _until_at_work(self) -> None:
        """Wait until outputs.jsonl is another than a moment ago, the supervisor has ended, or for a few seconds."""
        outputs, sizes = self.directory / run_directory.OUTPUTS_FILE, set[int]()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                while self.started.process.poll() is None and len(sizes) < 2:
                    sizes.add(outputs.stat().st_size if outputs.exists() else 0)
                    await asyncio.sleep(0.02)

    async def clear_up(self) -> list[Found]:
        """Hang up, continue what hangs, and wait for the run's processes. Returns those that stay; they are killed."""
        for writer in self.stalled:
            writer.close()
        for process in self.processes():
            process.signal(signal.SIGCONT)
        left = await asyncio.to_thread(processes.all_gone, self.mark, GONE_SECONDS)
        for process in left:
            process.signal(signal.SIGKILL)
        self.started.process.wait()
        return left

    def processes(self) -> list[Found]:
        return processes.find(self.mark)

    def complete(self) -> bool:
        """Whether the run has ended and says that it is complete."""
        return (
            self.started.process.poll() is not None
            and run_directory.read_run_file(self.directory).status == "completed"
        )

    def kill_supervisor(self) -> bool:
        if self.started.process.poll() is not None:
            return False
        self.started.process.kill()
        self.started.process.wait()
        return True

    def resume_if_needed(self) -> None:
        """Resume the run if it rests: with another batch size every second time.

        Raises:
            Stuck: it has ended by itself again and again.
        """
        if self.started.process.poll() is None or self.complete():
            return
        run = run_directory.read_run_file(self.directory)
        self.resumes[run.cause or ("its supervisor was killed" if run.status == "running" else run.status)] += 1
        self._count_rests(run.cause)
        changes = {"batch_size": self.random.randint(1, 12)} if self.random.random() < 0.5 else {}
        with processes.marked(self.mark):
            self.started = start.resume(self.directory, changes)

    def _count_rests(self, cause: str | None) -> None:
        outputs = self.directory / run_directory.OUTPUTS_FILE
        records = outputs.read_bytes().count(b"\n") if outputs.exists() else 0
        self._rests = self._rests + 1 if records == self._records else 0
        self._records = records
        if self._rests > MOST_RESTS:
            raise Stuck(f"resumed {self._rests} times in a row, and ended each time without a record more: {cause}")

    async def send(self, *commands: Command) -> bool:
        """Send commands as a viewer would: connect, greet, send, hang up."""
        source = SocketSource(self.directory, self.started.died)
        events = source.events()
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await anext(events)
                for command in commands:
                    await source.send(command)
                await anext(events)
        except (SourceError, StopAsyncIteration, TimeoutError):
            return False  # the run ended, or was killed, just then, or its socket is gone
        else:
            return True
        finally:
            await events.aclose()  # type: ignore[attr-defined]

    async def send_stop_now(self) -> bool:
        return await self.send(protocol.Stop(now=True))
