"""Looks once a second for ranks that say nothing: tells what is known of them, and gives up those that hang.

Knows the clock and what the kernel says of a rank's process. What is too long is `talk.patience`'s to say; what follows
is what follows the loss of any rank.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from rankdeck.runner import protocol
from rankdeck.runner.machine.kernel import Doing, ProcessLook, look_at
from rankdeck.runner.state.silence import silence_words
from rankdeck.runner.supervisor.event_stream import EventStream
from rankdeck.runner.supervisor.launch import RankLaunch
from rankdeck.runner.supervisor.talk.patience import Pulse, Stage, patience_for, to_be_given_up, to_be_told

LOOK_SECONDS = 1.0
LONGEST_LOOK_SECONDS = 2.0
"""A look that comes later than this counts as no longer: the supervisor itself was stopped, and has heard nobody."""

QUIET_SECONDS = 3.0
"""The process of a rank that has said something since is not looked at."""

BUSY_SHARE = 0.1
"""Of a core: a rank that loads and takes more than this is at work, if without a word (a download, say)."""


@dataclass(frozen=True)
class _Watched:
    """A rank at one look; one that has not connected yet counts as loading."""

    number: int
    pulse: Pulse
    stage: Stage
    process: ProcessLook | None

    @property
    def doing(self) -> Doing | None:
        return self.process.doing if self.process is not None else None


class HungRanks:
    """Watches the ranks of whichever launch is under way; `asked` is the patience that the user asked for."""

    def __init__(
        self, asked: float | None, current_launch: Callable[[], RankLaunch | None], events: EventStream
    ) -> None:
        self._asked, self._current_launch, self._events = asked, current_launch, events
        self._launch: RankLaunch | None = None
        self._to_come: dict[int, Pulse] = {}
        self._told: dict[int, tuple[Doing | None, float]] = {}
        self._cpu: dict[int, float] = {}

    async def watch(self) -> None:
        """Look until cancelled."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            self.look(min(now - before, LONGEST_LOOK_SECONDS))
            before = now

    def look(self, seconds: float) -> None:
        """Look at every rank, `seconds` after the last look."""
        launch = self._current_launch()
        if launch is not self._launch:
            self._launch, self._to_come, self._told, self._cpu = launch, {}, {}, {}
        if launch is None or launch.pool.leaving:
            return
        watched = [rank for rank in self._watched(launch, seconds) if rank.number not in launch.pool.given_up]
        loading = [rank for rank in watched if rank.stage == "loading"]
        at_work = [rank for rank in loading if self._loads(rank, seconds)]
        if at_work:
            for rank in loading:  # the others may be waiting for it
                if not rank.pulse.stopped:
                    rank.pulse.silent = min(rank.pulse.silent, QUIET_SECONDS)
        for rank in watched:
            self._judge(launch, rank)

    def _watched(self, launch: RankLaunch, seconds: float) -> list[_Watched]:
        pool, watched = launch.pool, []
        for number in pool.to_come:
            pulse = self._to_come.setdefault(number, Pulse())
            pulse.silent += seconds
            watched.append(_Watched(number, pulse, "loading", None))
        for number, rank in pool.work.ranks.items():
            rank.pulse.silent += seconds
            pid = pool.pids.get(number) if rank.pulse.silent >= QUIET_SECONDS else None
            process = look_at(pid) if pid is not None else None
            rank.pulse.stopped = process is not None and process.doing == "stopped"
            watched.append(_Watched(number, rank.pulse, pool.work.stage(rank), process))
        return watched

    def _loads(self, rank: _Watched, seconds: float) -> bool:
        """Whether a rank that loads is at work: it has said something, or its process computes."""
        if rank.process is None:
            return rank.pulse.silent < QUIET_SECONDS
        before, self._cpu[rank.number] = self._cpu.get(rank.number), rank.process.cpu_seconds
        return before is not None and rank.process.cpu_seconds - before > BUSY_SHARE * seconds

    def _judge(self, launch: RankLaunch, rank: _Watched) -> None:
        told = self._told.get(rank.number)
        if to_be_given_up(rank.pulse, rank.stage, self._asked):
            launch.give_up(rank.number, f"{silence_words(self._silence(rank))}; it was ended")
        elif to_be_told(rank.pulse, rank.stage):
            if told is None or told[0] != rank.doing:
                silence = self._silence(rank)
                self._events.emit(silence)
                self._events.log("supervisor", f"rank {rank.number}: {silence_words(silence, outlook=True)}")
            self._told[rank.number] = rank.doing, rank.pulse.silent
        elif told is not None:
            del self._told[rank.number]
            self._events.emit(protocol.RankHeard(rank=rank.number))
            self._events.log("supervisor", f"rank {rank.number}: goes on, after {told[1]:.0f} s")

    def _silence(self, rank: _Watched) -> protocol.RankSilent:
        return protocol.RankSilent(
            rank=rank.number,
            stage=rank.stage,
            seconds=round(rank.pulse.silent, 1),
            process=rank.doing,
            patience=patience_for(rank.pulse, rank.stage, self._asked),
        )
