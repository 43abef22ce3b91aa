"""A run being followed: its newest state, made from its source's events, its answers, and the commands sent to it.

Knows no screen: `news` and `dirty` tell the application that there is something to show.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from rankdeck.runner import protocol
from rankdeck.runner.protocol import OutputRecord
from rankdeck.runner.state import RunState, Snapshot, ToViewer, apply
from rankdeck.tui.sources.client import SocketSource, Source, SourceError
from rankdeck.tui.sources.knobs import Knobs
from rankdeck.tui.sources.outputs import KEPT, OutputBook
from rankdeck.tui.sources.tour import Heard, TourGuide
from rankdeck.tui.words import alerts

Earlier = Callable[[Path], Iterable[OutputRecord]]
"""Reads the answers that are already in a run directory."""


class Reaction(NamedTuple):
    """What a message from the run means to its viewer."""

    alerts: list[str]
    """Words for a user who may not be looking at the terminal."""
    answers_missing: bool
    """Whether there are answers from before this viewer came, or from while it lagged: `newest_stored` reads them."""


class FollowedRun:
    """One run, or none yet if `source` is None.

    `steerable` is False if the run takes no commands from here: in a replay, and for an audience. `live` is False for
    a recorded run, which alerts nobody. With `tour` one begins by itself.
    """

    def __init__(
        self,
        source: Source | None,
        *,
        earlier: Earlier | None = None,
        steerable: bool = True,
        live: bool = True,
        tour: bool = False,
    ) -> None:
        self.source = source
        self.state = RunState()
        """The newest state; the screen may be a moment behind."""
        self.knobs = Knobs()
        self.tour = TourGuide(wanted=tour)
        self.lost: str | None = None
        """Why the run can no longer be watched; None if it can."""
        self.silence: str | None = None
        """What is waited for, while nothing comes from the run; None while it talks."""
        self.dirty = False
        """Whether anything has come that is not on the screen yet."""
        self.news = False
        """Whether that is more than new figures."""
        self._book = OutputBook()
        self._earlier, self._steerable, self._live = earlier, steerable, live
        self._received_any = False

    @property
    def book(self) -> OutputBook:
        """The newest answers."""
        return self._book

    @property
    def directory(self) -> Path | None:
        """The run's directory; None if no run is followed."""
        return self.source.directory if self.source is not None else None

    @property
    def final_state(self) -> RunState | None:
        """The last state that came; None if none did."""
        return self.state if self._received_any else None

    @property
    def goes_on(self) -> bool:
        return self.source is not None and self.state.ended is None and self.lost is None

    @property
    def steers(self) -> bool:
        """Whether there is a run that takes commands."""
        return self._steerable and self.goes_on

    async def ask(self, command: protocol.Command) -> None:
        """Send the run a user's command, if it takes any; a tour ends with it."""
        if self.source is not None and self.steers:
            await self.take_over(command)
            await self.source.send(command)

    async def take_over(self, command: protocol.Command | None = None, *, ranks: bool = False) -> None:
        """The user steers, with a `command` or with a knob that is at its end, that of the `ranks` or the other."""
        if self.tour.captions:
            self.dirty = self.news = True
        await self._send(self.tour.take_over(self.state, command, ranks=ranks))

    async def begin_tour(self) -> str | None:
        """Begin a tour; returns why none can begin, for people."""
        if self.source is None or not self.steers:
            return None
        if self.knobs.waiting:
            return "No tour now: your last turn of a knob has not reached the run yet."
        heard = self.tour.begin(self.state)
        if isinstance(heard, str):
            return heard
        self.dirty = self.news = True
        await self._send(heard)
        return None

    async def end_tour(self) -> None:
        """Leave a tour that is under way: for a user who ends it, and before this viewer leaves the run."""
        if self.tour.under_way:
            self.dirty = self.news = True
            await self._send(self.tour.leave(self.state))

    async def _send(self, heard: Heard) -> None:
        if self.source is not None and self.steers:
            for command in heard.commands:
                await self.source.send(command)

    async def _tour_on(self) -> None:
        """Send what the tour wants next."""
        if self.source is None or not self._steerable or self.lost is not None:
            return
        heard = self.tour.hear(self.state)
        self.news = self.news or bool(heard.said)
        await self._send(heard)

    def let_go(self) -> None:
        """Ask nothing more of the run: whoever watched it has left."""
        self.source = None

    async def follow(self) -> AsyncIterator[Reaction]:
        """Take messages until no more come; if the run was lost, `lost` then says why."""
        if self.source is None:
            return
        if isinstance(self.source, SocketSource):
            self.source.on_silence = self._hear_silence
        try:
            async for message in self.source.events():
                reaction = self._take(message)
                await self._tour_on()
                yield reaction
        except SourceError as error:
            self.lost = str(error)
            self.dirty = True
            if self._live:
                yield Reaction([alerts.lost(self.state, self.lost)], answers_missing=False)

    def _hear_silence(self, said: str | None) -> None:
        self.silence = said
        self.dirty = self.news = True

    def _take(self, message: ToViewer) -> Reaction:
        self.dirty = True
        self.news = self.news or not isinstance(message, protocol.Tick | protocol.Output)
        if isinstance(message, protocol.Refused):
            self.lost = message.reason
            return Reaction([], answers_missing=False)
        before, received_any, self._received_any = self.state, self._received_any, True
        if isinstance(message, Snapshot):
            self.state = message.state
        else:
            self.state = apply(self.state, message)
            if isinstance(message, protocol.Output):
                self.book.add(message.record)
        self.knobs.update(self.state)
        told = alerts.since(before, self.state) if received_any and self._live else []
        return Reaction(told, isinstance(message, Snapshot | protocol.RunEnded) and self._misses_answers())

    def _misses_answers(self) -> bool:
        missing = self.state.done > len(self.book) and len(self.book) < KEPT
        return missing and self._earlier is not None and self.source is not None

    def stored_answers(self) -> Iterable[OutputRecord] | None:
        """Every answer on disk, read one by one; None if the answers on disk cannot be read from here."""
        if self._earlier is None or self.source is None:
            return None
        return self._earlier(self.source.directory)

    def newest_stored(self) -> deque[OutputRecord]:
        """The newest answers on disk, as many as can be listed. Blocks.

        Raises:
            OSError, ValueError, RunFileError: they cannot be read.
        """
        return deque(self.stored_answers() or (), maxlen=KEPT)

    def load(self, records: Iterable[OutputRecord]) -> None:
        """Add answers that came before this viewer did."""
        self.book.load(records)
        self.dirty = True
