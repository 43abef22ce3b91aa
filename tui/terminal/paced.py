"""An application that keeps step with its terminal: repaints and resizes wait for what is still on its way to it.

Knows Textual's driver, and the pace of tui/terminal/repaint.py. What is painted is the application's business.
"""

import time
from typing import Any, TypeVar

from textual.app import App
from textual.events import Event, Resize

from rankdeck.tui.terminal.repaint import REPAINT_SECONDS, RepaintPace

Result = TypeVar("Result")


class PacedApp(App[Result]):
    """Asks before it repaints; on a driver that does not count what it wrote, it may at every beat."""

    def __init__(self) -> None:
        super().__init__()
        self._pace = RepaintPace()
        self._resized: Resize | None = None

    @property
    def backlog(self) -> int:
        """Bytes that the terminal has not yet taken, where that can be known."""
        driver: Any = self._driver
        return getattr(driver, "backlog", 0)

    def may_repaint(self) -> bool:
        """Whether to repaint now; whoever is told so does."""
        now = time.monotonic()
        due = self._pace.due(now, self.backlog, getattr(self._driver, "written", 0))
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
