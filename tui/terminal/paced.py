"""An application that keeps step with its terminal: repaints and resizes wait for what is still on its way to it.

Knows Textual's driver, and the pace of tui/terminal/repaint.py. What is painted is the application's business.
"""

import time
from typing import Protocol, TypeVar, runtime_checkable

from textual.app import App
from textual.events import Event, Resize

from rankdeck.tui.terminal.repaint import REPAINT_SECONDS, RepaintPace

Result = TypeVar("Result")


@runtime_checkable
class CountingDriver(Protocol):
    """A driver that counts bytes: `written` since the start, and the `backlog` that the terminal has yet to take."""

    written: int

    @property
    def backlog(self) -> int: ...


class PacedApp(App[Result]):
    """Asks before it repaints; on a driver that does not count what it wrote, it may at every beat."""

    def __init__(self) -> None:
        super().__init__()
        self._pace = RepaintPace()
        self._resized: Resize | None = None

    @property
    def backlog(self) -> int:
        """Bytes that the terminal has not taken yet; 0 if the driver does not count them."""
        return self._driver.backlog if isinstance(self._driver, CountingDriver) else 0

    def may_repaint(self) -> bool:
        """Whether to repaint now; whoever is told so does."""
        now = time.monotonic()
        written = self._driver.written if isinstance(self._driver, CountingDriver) else 0
        due = self._pace.due(now, self.backlog, written)
        if due:
            self._pace.painted(now)
        return due

    async def on_event(self, event: Event) -> None:
        """A window that is dragged asks for a whole picture each time: one at a time, the newest."""
        if isinstance(event, Resize):
            held, self._resized = self._resized, event if self.backlog else None
            if self._resized is not None:
                if held is None:
                    self.set_timer(REPAINT_SECONDS, self._resize_later)
                return
        await super().on_event(event)

    async def _resize_later(self) -> None:
        event, self._resized = self._resized, None
        if event is not None:
            await super().on_event(event)
