"""A run that is followed: its newest state, made of the events that its source brings, its answers, what it was asked.

Knows no screen: whoever shows the run is told by `news` and `dirty` that there is something to show.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from rankdeck.runner import protocol
from rankdeck.runner.protocol import OutputRecord
from rankdeck.runner.state import RunState, Snapshot, ToViewer, apply
from rankdeck.tui.sources.client import Source, SourceError
from rankdeck.tui.sources.knobs import Knobs
from rankdeck.tui.sources.outputs import KEPT, OutputBook
from rankdeck.tui.words import alerts

Earlier = Callable[[Path], Iterable[OutputRecord]]
"""Reads the answers that a run directory holds already."""


class Heard(NamedTuple):
    """What a message of the run is to its viewer."""

    alerts: list[str]
    """What someone who looks elsewhere wants to know."""
    answers_missing: bool
    """Whether answers came before this view did, or while it lagged behind: `load_earlier` reads them."""


class FollowedRun:
    """One run, or none yet where there is no `source`.

    `steerable` is False where nothing may be asked of the run: in a replay, and for an audience. `live` is False where
    what happens to the run happened long ago, and calls nobody.
    """

    def __init__(
        self, source: Source | None, *, earlier: Earlier | None = None, steerable: bool = True, live: bool = True
    ) -> None:
        self.source = source
        self.state = RunState()
        """The newest state there is; the screen may be a moment behind."""
        self.knobs = Knobs()
        self.lost: str | None = None
        """Why the run can no longer be watched, where that is so."""
        self.dirty = False
        """Whether anything came that is not on the screen yet."""
        self.news = False
        """Whether that is more than figures that moved on."""
        self._book = OutputBook()
        self._earlier, self._steerable, self._live = earlier, steerable, live
        self._heard_any = False

    @property
    def book(self) -> OutputBook:
        """The newest answers."""
        return self._book

    @property
    def directory(self) -> Path | None:
        """The run's directory; None where no run is followed."""
        return self.source.directory if self.source is not None else None

    @property
    def final_state(self) -> RunState | None:
        """The last state that came; None where none did."""
        return self.state if self._heard_any else None

    @property
    def goes_on(self) -> bool:
        return self.source is not None and self.state.ended is None and self.lost is None

    @property
    def steers(self) -> bool:
        """Whether there is a run that can be asked for something."""
        return self._steerable and self.goes_on

    async def ask(self, command: protocol.Command) -> None:
        """Ask something of the run, while there is one to ask."""
        if self.source is not None and self.steers:
            await self.source.send(command)

    async def follow(self) -> AsyncIterator[Heard]:
        """Take message after message, until no more come; where the run was lost, `lost` says why."""
        if self.source is None:
            return
        try:
            async for message in self.source.events():
                yield self._take(message)
        except SourceError as error:
            self.lost = str(error)
            self.dirty = True
            if self._live:
                yield Heard([alerts.lost(self.state, self.lost)], answers_missing=False)

    def _take(self, message: ToViewer) -> Heard:
        self.dirty = True
        self.news = self.news or not isinstance(message, protocol.Tick | protocol.Output)
        if isinstance(message, protocol.Refused):
            self.lost = message.reason
            return Heard([], answers_missing=False)
        before, heard_any, self._heard_any = self.state, self._heard_any, True
        if isinstance(message, Snapshot):
            self.state = message.state
        else:
            self.state = apply(self.state, message)
            if isinstance(message, protocol.Output):
                self.book.add(message.record)
        self.knobs.heard(self.state)
        told = alerts.since(before, self.state) if heard_any and self._live else []
        return Heard(told, isinstance(message, Snapshot | protocol.RunEnded) and self._misses_answers())

    def _misses_answers(self) -> bool:
        missing = self.state.done > len(self.book) and len(self.book) < KEPT
        return missing and self._earlier is not None and self.source is not None

    def stored_answers(self) -> Iterable[OutputRecord] | None:
        """Every answer on disk, read as it is asked for; None where only what was heard is known."""
        if self._earlier is None or self.source is None:
            return None
        return self._earlier(self.source.directory)

    def newest_stored(self) -> deque[OutputRecord]:
        """As many of the newest answers on disk as are listed. Blocks.

        Raises:
            OSError, ValueError, RunFileError: they cannot be read.
        """
        return deque(self.stored_answers() or (), maxlen=KEPT)

    def load(self, records: Iterable[OutputRecord]) -> None:
        """Take in answers that were never heard of."""
        self.book.load(records)
        self.dirty = True
