"""The Log view: what supervisor, launcher and ranks wrote, wrapped under its source, following the tail."""

from functools import lru_cache

from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from runner.protocol import LogLine
from tui.text import Line, cut, visible, wrap
from tui.views import Moment
from tui.widgets.lines import Painter
from tui.widgets.scrolling import Scrolling
from tui.widgets.tail import SOURCE_WIDTH, source_style

LONGEST = 4000
"""A log line is shown up to so many characters; runner.log has all of it."""


@lru_cache(maxsize=4096)
def entry_lines(source: str, text: str, width: int) -> tuple[Line, ...]:
    """A log entry: its source once, its text wrapped beside it."""
    name = cut(visible(source), SOURCE_WIDTH)
    shown = visible(text[:LONGEST]) + ("…" if len(text) > LONGEST else "")
    parts = wrap(shown, max(10, width - SOURCE_WIDTH - 2))
    style = source_style(source)
    return tuple(
        ((f"{name if number == 0 else '':<{SOURCE_WIDTH}}  ", style), (part, "")) for number, part in enumerate(parts)
    )


class LogView(Scrolling, ScrollView, Painter, can_focus=True):
    """The newest thousand lines; scrolled up it stays where it is."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._log: tuple[LogLine, ...] | None = None
        self._lines: list[Line] = []
        self.border_title = "Log"

    def show(self, moment: Moment) -> None:
        if moment.state.log is not self._log:
            self._log = moment.state.log
            self._lay_out()

    def take_focus(self) -> None:
        self.focus()

    def on_resize(self) -> None:
        self._lay_out()

    def _lay_out(self) -> None:
        width = self.scrollable_content_region.width
        if not width or self._log is None:
            return
        at_end = self.scroll_offset.y >= self.max_scroll_y
        self._lines = [line for entry in self._log for line in entry_lines(entry.source, entry.text, width)]
        self.virtual_size = Size(width, len(self._lines))
        if at_end:
            self.scroll_end(animate=False, immediate=True, x_axis=False)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        position = y + self.scroll_offset.y
        if not self._lines and y == 0:
            return self.paint((("what the supervisor and the ranks say", "dim"),), self.content_size.width)
        line = self._lines[position] if position < len(self._lines) else ()
        return self.paint(line, self.content_size.width)
