"""An application that keeps pace with its terminal: repaints and resizes wait until it has taken what was written.

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
    """Asks before each repaint; with a driver that does not count bytes, it repaints at every beat."""

    def __init__(self) -> None:
        super().__init__()
        self._pace = RepaintPace()
        self._resized: Resize | None = None

    @property
    def backlog(self) -> int:
        """Bytes that the terminal has not taken yet; 0 if the driver does not count them."""
        return self._driver.backlog if isinstance(self._driver, CountingDriver) else 0

    def may_repaint(self) -> bool:
        """Whether to repaint now; if True, the caller must repaint."""
        now = time.monotonic()
        written = self._driver.written if isinstance(self._driver, CountingDriver) else 0
        due = self._pace.due(now, self.backlog, written)
        if due:
            self._pace.painted(now)
        return due

    async def on_event(self, event: Event) -> None:
        """Each resize repaints the whole screen: while the terminal is behind, only the newest is kept for later."""
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
