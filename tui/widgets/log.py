"""The Log view: what supervisor, launcher and ranks wrote, wrapped under its source, with a search; follows the newest.

Knows a log, the query's field and the keys. Which lines match a query, and where, is LogPage's business.
"""

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from rankdeck.runner.state import LogEntry
from rankdeck.tui.panels.frame import Frame
from rankdeck.tui.panels.log.log_listing import LOG, LogPage, LogQuery, log_title, nothing_logged
from rankdeck.tui.panels.outputs.finding import found_words
from rankdeck.tui.panels.outputs.query import Query
from rankdeck.tui.settings.hint_keys import key_of
from rankdeck.tui.widgets.deck import Deck
from rankdeck.tui.widgets.lines import Painter, Titles
from rankdeck.tui.widgets.query_field import QueryField
from rankdeck.tui.widgets.scrolling import Scrolling

KEYS = ("{log.find} find", "{scroll.down} {scroll.up} line", "G newest")
KEYS_FOUND = ("{log.next} next", "{log.before} before")

HINT = 'words "a phrase" rank:1 source:launcher -word'


class LogLines(Scrolling, ScrollView, Painter, can_focus=True):
    """The lines; only the visible ones are painted. Scrolled up it stays where it is, else it follows the newest."""

    app: Deck

    DEFAULT_CSS = """
    LogLines { height: 1fr; }
    """

    class Changed(Message):
        """The listed lines, or the match that the cursor is at, have changed."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.page = LogPage(Query(), 0)
        self._log: Sequence[LogEntry] | None = None
        self._place: tuple[int, int] | None = None
        self._following = True

    @property
    def here(self) -> int | None:
        """The number of the match that the user went to."""
        return self.page.found_at(self._place) if self._place is not None else None

    @property
    def following(self) -> bool:
        return self.scroll_offset.y >= self.max_scroll_y if self.max_scroll_y else self._following

    def show(self, log: Sequence[LogEntry], first_batch: float | None = None) -> None:
        """Show a log; its times count from `first_batch`, in seconds on the timeline's clock."""
        if first_batch != self.page.first_batch:
            self.page.first_batch = first_batch
            self.refresh()
        if log is self._log:
            return
        self._log = log
        if self.page.width:
            self._following = self.following
            gone = self.page.take_in(log)
            self._settle(self.scroll_offset.y - gone)

    def filter(self, query: LogQuery) -> None:
        """List the lines that match; the line the user was at stays in its place, since what surrounds it matters."""
        self._lay_out(query, self.page.width)

    def on_resize(self) -> None:
        width = self.scrollable_content_region.width
        if width != self.page.width:
            self._lay_out(self.page.query, width)
        elif self._following:
            self._settle(self.scroll_offset.y)

    def _lay_out(self, query: LogQuery, width: int) -> None:
        self._following, top = self.following, self.scroll_offset.y
        if query != self.page.query and self._place is not None:
            number = self._place[0]
            self._place, self._following = None, False
        else:
            number = self.page.number_at(top)
        offset = self.page.start_of(number) - top
        self.page = self.page.again(query, width)
        if self._log is not None:
            self.page.take_in(self._log)
        self._settle(self.page.start_of(number) - offset)

    def _settle(self, y: int) -> None:
        """Fit the size to the listed lines, with line `y` at the top, or the newest at the bottom."""
        self.virtual_size = Size(self.page.width, self.page.height)
        self._scroll(self.max_scroll_y if self._following else y)
        # A scrollbar that is not shown yet is not told of scrolling.
        self.vertical_scrollbar.position = self.scroll_y
        self.refresh()
        self.post_message(self.Changed())

    def _scroll(self, y: int) -> None:
        self.scroll_to(y=max(0, y), animate=False, force=True, immediate=True)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self.post_message(self.Changed())

    def find(self, by: int) -> None:
        """Go to the next match (`by` 1) or the one before (-1); the first time to a visible one, if there is any."""
        page, here = self.page, self.here
        if here is not None:
            found = here + by
        else:
            first = page.found_from(self.scroll_offset.y)
            found = first if by > 0 else page.found_from(self.scroll_offset.y + self.size.height) - 1
            found = min(found, page.found - 1) if by > 0 else max(found, 0)
        if not 0 <= found < page.found:
            return
        self._place = page.place(found)
        line, top, height = page.line_of(found), self.scroll_offset.y, self.scrollable_content_region.height
        if not top <= line < top + height:
            self._scroll(line - height // 2)
        self._following = self.following
        self.refresh()
        self.post_message(self.Changed())

    def render_line(self, y: int) -> Strip:
        width = self.content_size.width
        if not len(self.page):
            words = nothing_logged(self.page, width, self.app.keys) if y == 0 else ""
            return self.paint(((words, "dim"),), width)
        return self.paint(self.page.line(y + self.scroll_offset.y, self.here), width)


class LogView(Vertical):
    """The newest thousand lines of the log, and the field to filter them."""

    app: Deck

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "find", "Find", key_display="/", id="log.find", tooltip="Find in the log", show=False),
        Binding("n", "next(1)", "Next match", id="log.next", tooltip="The next thing found in the log", show=False),
        Binding("N", "next(-1)", "Match before", id="log.before", tooltip="The thing found before", show=False),
        Binding("escape", "clear", "Clear", id="log.clear", tooltip="All lines again", show=False),
    ]

    def compose(self) -> ComposeResult:
        yield QueryField(LOG, HINT)
        yield LogLines(id="log-lines")

    def on_mount(self) -> None:
        self._field, self._lines = self.query_one(QueryField), self.query_one(LogLines)
        self._titles = Titles(self)
        self._draw()

    def show(self, frame: Frame) -> None:
        self._lines.show(frame.state.log, frame.state.timeline.first_batch)

    def take_focus(self) -> None:
        self._lines.focus()

    def on_resize(self) -> None:
        self._draw()

    def on_log_lines_changed(self) -> None:
        self._draw()

    def _draw(self) -> None:
        page, width = self._lines.page, self.content_size.width
        usual: Sequence[str] = KEYS
        if page.query:
            there = key_of("log.next", self.app.keys)
            found = (found_words(page.found, self._lines.here, there), *KEYS_FOUND) if page.found else ()
            usual = (*found, "{log.clear} clears")
        title = "".join(text for text, _ in log_title(page, following=self._lines.following, width=width - 8))
        self._titles.show(f"Log  {title}", self._field.words(usual, width - 2))

    # --- find -----------------------------------------------------------------------------------

    def on_query_field_asked(self, event: QueryField.Asked) -> None:
        self._lines.filter(event.query)

    def on_query_field_mistaken(self) -> None:
        self._draw()

    def on_query_field_closed(self) -> None:
        self.take_focus()
        self._draw()

    def action_find(self) -> None:
        self._field.open()
        self._draw()

    def action_clear(self) -> None:
        if self._lines.page.query:
            self._field.ask("")

    def action_next(self, by: int) -> None:
        if self._lines.page.query.finds is None:
            self.app.say("Nothing is searched for; / begins.")
        else:
            self._lines.find(by)
