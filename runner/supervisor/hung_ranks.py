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
LEAST_ASKED_SECONDS = 2 * LOOK_SECONDS
"""Silence is counted in looks, and a rank may have spoken just before the last one."""

LONGEST_LOOK_SECONDS = 2.0
"""A look that comes later than this counts as no longer: the supervisor itself was stopped, and has heard nobody."""

QUIET_SECONDS = 3.0
"""The process of a rank that has said something since is not looked at."""

BUSY_SHARE = 0.1
"""Of a core: a rank that takes more than this is at work, if without a word."""

BUSY_BYTES = 64 * 1024
"""A second: a rank that moves more than this is at work, too. A download, or a file on a network, takes no core."""


@dataclass(frozen=True)
class _Watched:
    """A rank at one look; one that has not connected yet counts as loading. `works`: its process was seen at work."""

    number: int
    pulse: Pulse
    stage: Stage
    process: ProcessLook | None
    works: bool

    @property
    def doing(self) -> Doing | None:
        return self.process.doing if self.process is not None else None


class HungRanks:
    """Watches the ranks of whichever launch is under way; `asked` is the patience that the user asked for."""

    def __init__(
        self, asked: float | None, current_launch: Callable[[], RankLaunch | None], events: EventStream
    ) -> None:
        self._asked = max(asked, LEAST_ASKED_SECONDS) if asked else asked
        self._current_launch, self._events = current_launch, events
        self._launch: RankLaunch | None = None
        self._to_come: dict[int, Pulse] = {}
        self._told: dict[int, tuple[Doing | None, float]] = {}
        self._looks: dict[int, ProcessLook] = {}

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
            self._launch, self._to_come, self._told, self._looks = launch, {}, {}, {}
        if launch is None or launch.pool.leaving:
            return
        watched = [rank for rank in self._watched(launch, seconds) if rank.number not in launch.pool.given_up]
        loading = [rank for rank in watched if rank.stage == "loading"]
        if any(rank.works or rank.pulse.silent < QUIET_SECONDS for rank in loading):
            for rank in loading:  # the others may be waiting for it
                if not rank.pulse.stopped:
                    rank.pulse.silent = min(rank.pulse.silent, QUIET_SECONDS)
        for rank in watched:
            self._judge(launch, rank)

    def _watched(self, launch: RankLaunch, seconds: float) -> list[_Watched]:
        work = launch.pool.work
        watched = [
            self._look_at(launch, seconds, number, self._to_come.setdefault(number, Pulse()), "loading")
            for number in launch.pool.to_come
        ]
        for number, rank in work.ranks.items():
            # On a GPU a rank that hangs spins. On a CPU a first prefill may take an hour.
            excused = rank.on_cpu and not rank.pulse.pace_known and self._asked is None
            watched.append(
                self._look_at(launch, seconds, number, rank.pulse, work.stage(rank), excused_by_work=excused)
            )
        return watched

    def _look_at(
        self,
        launch: RankLaunch,
        seconds: float,
        number: int,
        pulse: Pulse,
        stage: Stage,
        *,
        excused_by_work: bool = False,
    ) -> _Watched:
        pid = launch.process_of(number) if pulse.silent + seconds >= QUIET_SECONDS else None
        process = look_at(pid) if pid is not None else None
        before = self._looks.pop(number, None)
        works = before is not None and process is not None and _has_worked(before, process, seconds)
        if process is not None:
            self._looks[number] = process
        stopped = process is not None and process.doing == "stopped"
        pulse.passed(seconds, stopped=stopped, computes=works and excused_by_work and stage == "at work")
        return _Watched(number, pulse, stage, process, works)

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
            self._events.log("supervisor", f"rank {rank.number}: working again after {told[1]:.0f} s")

    def _silence(self, rank: _Watched) -> protocol.RankSilent:
        return protocol.RankSilent(
            rank=rank.number,
            stage=rank.stage,
            seconds=round(rank.pulse.silent, 1),
            process=rank.doing,
            patience=patience_for(rank.pulse, rank.stage, self._asked),
        )


def _has_worked(before: ProcessLook, now: ProcessLook, seconds: float) -> bool:
    """Whether a process, as the kernel saw it `seconds` apart, has computed meanwhile, or moved bytes."""
    return (
        now.cpu_seconds - before.cpu_seconds > BUSY_SHARE * seconds
        or now.moved_bytes - before.moved_bytes > BUSY_BYTES * seconds
    )
