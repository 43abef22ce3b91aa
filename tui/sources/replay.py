"""A journal as a source for the dashboard: played at any speed, paused, sought through.

`Rewinder` computes the state and the answers after any number of events, with the reducer of live runs; `ReplaySource`
knows position, speed, whether it plays, and a clock, and sends Snapshots of what has happened so far. Knows no keys
and no widgets; there is no run to steer, so commands are ignored.
"""

import asyncio
import contextlib
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

from rankdeck.runner.protocol import Command, Output
from rankdeck.runner.state import RunState, Snapshot, ToViewer, apply
from rankdeck.tui.sources.client import SourceError
from rankdeck.tui.sources.followed_run import FollowedRun
from rankdeck.tui.sources.journal import Journal, JournalError
from rankdeck.tui.sources.outputs import KEPT, OutputBook

SLOWEST, FASTEST = 0.25, 64.0
BEAT_SECONDS = 0.1
"""How often a playing journal is read; the screen is painted up to four times a second."""

SLICE = 1000
"""How many events are applied before the screen and the keys get their turn: about 20 milliseconds' worth."""

FAR = 5 * SLICE
"""If it is behind by more events than this, the replay is called seeking; else it only plays fast."""

MOST_CHECKPOINTS = 256


class Rewinder:
    """The state of a run, and its answers, after the first `number` events, for any number.

    A state is kept every `spacing` events, so that going back applies few of them; when there are too many such states,
    every second one is dropped.
    """

    def __init__(self, journal: Journal, *, spacing: int = 1000, kept: int = KEPT) -> None:
        self._journal = journal
        self._spacing = spacing
        self._kept = kept
        self._checkpoints = [RunState()]
        self.number = 0
        self.state = RunState()
        self.book = OutputBook(kept)

    def go(self, number: int, most: int | None = None) -> bool:
        """Go to `number`, by at most `most` events; returns whether anything changed.

        Raises:
            JournalError: the file has changed since it was checked.
        """
        was = self.number
        best = min(number // self._spacing, len(self._checkpoints) - 1)
        if number < self.number or best * self._spacing > self.number + self._spacing:
            self._restore(best)
        stop = number if most is None else min(number, self.number + most)
        state = self.state
        for event in self._journal.events(self.number, stop):
            state = apply(state, event)
            if type(event) is Output:
                self.book.add(event.record)
            self.number += 1
            if self.number == len(self._checkpoints) * self._spacing:
                self._keep(state)
        self.state = state
        return self.number != was

    def _keep(self, state: RunState) -> None:
        self._checkpoints.append(state)
        if len(self._checkpoints) > MOST_CHECKPOINTS:
            self._checkpoints = self._checkpoints[::2]
            self._spacing *= 2

    def _restore(self, checkpoint: int) -> None:
        self.number, self.state = checkpoint * self._spacing, self._checkpoints[checkpoint]
        self.book = OutputBook(self._kept)
        answers = self._journal.outputs
        end = bisect_left(answers, self.number)
        for number in answers[max(0, end - self._kept) : end]:
            event = self._journal.event(number)
            assert isinstance(event, Output)
            self.book.add(event.record)


class Transport(NamedTuple):
    """The position of a replay, for the user. Seconds are the replay's, at speed 1."""

    playing: bool
    seeking: bool
    ended: bool
    speed: float
    position: float
    length: float
    left_out: float


class ReplaySource:
    """A journal being played. Its Snapshots hold everything that happened up to the current position."""

    def __init__(
        self,
        journal: Journal,
        *,
        speed: float = 1.0,
        position: float = 0.0,
        playing: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.directory: Path = journal.path.parent
        self.journal = journal
        self._rewinder = Rewinder(journal)
        self._clock = clock
        self._speed, self._playing = speed, playing
        self._from, self._since = min(position, journal.length), clock()
        self._turned = asyncio.Event()

    @property
    def book(self) -> OutputBook:
        """The answers up to the current position."""
        return self._rewinder.book

    @property
    def caught_up(self) -> bool:
        """Whether everything up to the current position has been sent."""
        return self._rewinder.number == self.journal.number_at(self._position())

    @property
    def transport(self) -> Transport:
        # What is shown, not what was asked for: during a far jump, how far it has come.
        position, number = self._position(), self._rewinder.number
        far = abs(self.journal.number_at(position) - number) > FAR
        return Transport(
            playing=self._playing,
            seeking=far,
            ended=position >= self.journal.length and not far,
            speed=self._speed,
            position=self.journal.moment(max(0, number - 1)) if far else position,
            length=self.journal.length,
            left_out=self.journal.left_out,
        )

    # --- transport ----------------------------------------------------------------------------

    def play_or_pause(self) -> None:
        """Pause or play; at the end, play from the beginning."""
        at_end = self._position() >= self.journal.length
        self._set(0.0 if at_end else self._position(), playing=at_end or not self._playing)

    def seek_by(self, seconds: float) -> None:
        self._set(self._position() + seconds)

    def seek_to(self, seconds: float) -> None:
        self._set(seconds)

    def change_speed(self, *, up: bool) -> bool:
        """Double or halve the speed; returns False if it is at its limit."""
        speed = min(FASTEST, max(SLOWEST, self._speed * (2 if up else 0.5)))
        if speed == self._speed:
            return False
        self._set(self._position())
        self._speed = speed
        return True

    def wake(self) -> None:
        """Look at the clock again."""
        self._turned.set()

    def _set(self, position: float, *, playing: bool | None = None) -> None:
        self._from, self._since = min(self.journal.length, max(0.0, position)), self._clock()
        self._playing = self._playing if playing is None else playing
        self.wake()

    def _position(self) -> float:
        if not self._playing:
            return self._from
        return min(self.journal.length, self._from + max(0.0, self._clock() - self._since) * self._speed)

    # --- as a source --------------------------------------------------------------------------

    async def events(self) -> AsyncIterator[ToViewer]:
        while True:
            self._turned.clear()
            position = self._position()
            number = self.journal.number_at(position)
            try:
                changed = self._rewinder.go(number, SLICE)
            except JournalError as error:
                raise SourceError(str(error)) from None
            if changed:
                yield Snapshot(state=self._rewinder.state)
            if self._rewinder.number != number:
                await asyncio.sleep(0)
                continue
            moving = self._playing and position < self.journal.length
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_SECONDS if moving else None):
                    await self._turned.wait()

    async def send(self, command: Command) -> None:
        pass


class ReplayedRun(FollowedRun):
    """A run being replayed. The source keeps the answers, as there are fewer after a step back."""

    def __init__(self, replay: ReplaySource) -> None:
        super().__init__(replay, steerable=False, live=False)
        self._replay = replay

    @property
    def book(self) -> OutputBook:
        return self._replay.book
