"""An application that follows a run: takes its events in, keeps its state and its answers, and says what calls for one.

Knows where events come from only as a Source. What is shown of the state, and how it is left, is not its business.
"""

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import work

from runner import protocol
from runner.protocol import OutputRecord
from runner.run_directory.run_file import RunFileError
from runner.state import RunState, Snapshot, ToViewer, apply
from tui.app.base import BaseApp
from tui.settings.preferences import Preferences
from tui.sources.knobs import Knobs
from tui.sources.outputs import KEPT, OutputBook
from tui.words import alerts

if TYPE_CHECKING:
    from tui.sources.client import Source

Earlier = Callable[[Path], Iterable[OutputRecord]]
"""Reads the answers that a run directory holds already."""

BREATHE_EVERY = 100
"""After so many messages at once the screen and the keys get their turn."""


class FollowingApp(BaseApp):
    """Follows one run at a time."""

    CALLS: ClassVar[bool] = True
    """Whether what happens to the run happens now, and may ring a bell."""

    def __init__(
        self,
        source: "Source | None",
        *,
        earlier: Earlier | None = None,
        preferences: Preferences | None = None,
        at_home: bool = True,
    ) -> None:
        super().__init__(preferences, at_home=at_home)
        self._earlier = earlier
        self._turn_to(source)

    def _turn_to(self, source: "Source | None") -> None:
        """Nothing is known any more but where the events of this run will come from."""
        self._source = source
        self.knobs = Knobs()
        self._book = OutputBook()
        self._run_state = RunState()
        self._seen_any = self._dirty = self._news = False
        self.lost: str | None = None
        """Why the run can no longer be watched, where that is so."""

    @property
    def final_state(self) -> RunState | None:
        """The last state that came; None where none did."""
        return self._run_state if self._seen_any else None

    @property
    def run_state(self) -> RunState:
        """The newest state there is; the screen may be a moment behind."""
        return self._run_state

    @property
    def watched(self) -> Path | None:
        """The directory of the run that is followed; None where none is."""
        return self._source.directory if self._source is not None else None

    @property
    def book(self) -> OutputBook:
        return self._book

    @abstractmethod
    def _repaint(self) -> None:
        """Put the state on the screen."""

    @abstractmethod
    def _followed(self) -> None:
        """No more events come."""

    @work(exclusive=True, group="follow")
    async def _follow(self, source: "Source") -> None:
        from tui.sources.client import SourceError

        taken = 0
        try:
            async for message in source.events():
                self._take(message)
                taken += 1
                if taken == 1:
                    self._repaint()
                if taken % BREATHE_EVERY == 0:
                    # A socket with much to say never waits, and would keep the loop to itself.
                    await asyncio.sleep(0)
        except SourceError as error:
            self.lost = str(error)
            self._dirty = True
            if self.CALLS:
                self.call_for(alerts.lost_call(self._run_state, self.lost))
        self._followed()

    def _take(self, message: ToViewer) -> None:
        self._dirty = True
        self._news = self._news or not isinstance(message, protocol.Tick | protocol.Output)
        if isinstance(message, protocol.Refused):
            self.lost = message.reason
            return
        before, seen_any, self._seen_any = self._run_state, self._seen_any, True
        if isinstance(message, Snapshot):
            self._run_state = message.state
            self._look_back()
        else:
            self._run_state = apply(self._run_state, message)
            if isinstance(message, protocol.Output):
                self._book.add(message.record)
            elif isinstance(message, protocol.RunEnded):
                self._look_back()
        self.knobs.heard(self._run_state)
        if seen_any and self.CALLS:
            for text in alerts.calls(before, self._run_state):
                self.call_for(text)

    def _look_back(self) -> None:
        """Read the answers that were never heard of: from before this view came, or fell behind."""
        missing = self._run_state.done > len(self._book) and len(self._book) < KEPT
        if missing and self._earlier is not None and self._source is not None:
            self._load_earlier(self._source.directory, self._earlier)

    @work(exclusive=True, group="earlier")
    async def _load_earlier(self, directory: Path, earlier: Earlier) -> None:
        try:
            records = await asyncio.to_thread(lambda: deque(earlier(directory), maxlen=KEPT))
        except (OSError, ValueError, RunFileError) as error:
            self.notify(f"earlier answers cannot be read: {error}", severity="warning", markup=False)
            return
        self._book.load(records)
        self._dirty = True

    def stored_answers(self) -> Iterable[OutputRecord] | None:
        """Every answer on disk, read as it is asked for; None where only what was heard is known."""
        if self._earlier is None or self._source is None:
            return None
        return self._earlier(self._source.directory)
