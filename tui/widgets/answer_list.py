"""A list of answers of any length; only the visible rows are painted.

Knows a Selection (which answers, in what order, where the cursor is) and what a row looks like.
"""

import asyncio
from functools import lru_cache
from typing import ClassVar

from textual import events, work
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from rankdeck.tui.panels.bars import widths
from rankdeck.tui.panels.outputs.answer_lines import COLUMNS, answer_row
from rankdeck.tui.panels.outputs.listing import AnswerQuery, Selection, nothing_listed
from rankdeck.tui.sources.outputs import OutputBook
from rankdeck.tui.widgets.deck import Deck
from rankdeck.tui.widgets.lines import Painter


class AnswerList(ScrollView, Painter, can_focus=True):
    """A row for every answer; the cursor follows the newest until the user moves it."""

    app: Deck

    DEFAULT_CSS = """
    AnswerList { height: 1fr; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", id="outputs.up", tooltip="The answer above", show=False),
        Binding("down,j", "move(1)", "Down", id="outputs.down", tooltip="The answer below", show=False),
        Binding(
            "pageup,ctrl+b", "page(-1)", "Page up", id="outputs.page_up", tooltip="A page of answers up", show=False
        ),
        Binding("pagedown,ctrl+f", "page(1)", "Page down", id="outputs.page_down", tooltip="A page down", show=False),
        Binding("home,g", "edge(0)", "First", id="outputs.first", tooltip="The first answer", show=False),
        Binding("end,G", "edge(1)", "Last", id="outputs.last", tooltip="The last answer", show=False),
    ]

    class Moved(Message):
        """The cursor is at another answer, or the list has changed."""

    class Opened(Message):
        """The user wants to see the whole answer under the cursor."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.selection = Selection()
        self._version = -1
        self._thrown_away = False
        self._answer_row = lru_cache(maxsize=512)(answer_row)

    @property
    def row_width(self) -> int:
        return self.scrollable_content_region.width

    @property
    def order(self) -> str:
        return self.selection.order

    @property
    def following(self) -> bool:
        return self.selection.following

    @property
    def cursor(self) -> int | None:
        """The prompt index of the answer under the cursor."""
        return self.selection.cursor

    def show(self, book: OutputBook, *, thrown_away: bool = False) -> None:
        """Show what is new in the book; `thrown_away`: the run keeps no answers, so there will be none."""
        if self._thrown_away != thrown_away:
            self._thrown_away = thrown_away
            self.refresh()
        if self.selection.listing.book is not book:
            self._open(book, self.selection.query)
        elif self._version != book.version:
            self._version = book.version
            self._take_in()

    def filter(self, query: AnswerQuery) -> None:
        """List the answers that match the query."""
        self._open(self.selection.listing.book, query)

    def _open(self, book: OutputBook, query: AnswerQuery) -> None:
        self.selection.open(book, query)
        self._version = book.version
        self._take_in()

    def _take_in(self) -> None:
        complete = self.selection.listing.catch_up()
        self.settle()
        if not complete:
            self._go_through()

    @work(exclusive=True, group="listing")
    async def _go_through(self) -> None:
        """Test many answers against a new query in slices, so that keys are handled in between."""
        while True:
            await asyncio.sleep(0)
            if self.selection.listing.catch_up():
                break
        self.settle()

    def settle(self, *, reveal: bool = False) -> None:
        """Fit size, cursor and scroll position to the list; the row under the cursor keeps its place on the screen."""
        selection, was, offset = self.selection, self._position, self.scroll_offset.y
        seen = was is not None and offset <= was < offset + self.size.height
        selection.settle()
        self.virtual_size = Size(self.row_width, len(selection))
        position = self._position = selection.position
        if position is not None and self.size.height:
            if selection.following or reveal:
                self._reveal(position)
            elif was is not None and seen and position != was:
                self._scroll(offset + position - was)
        self.refresh()
        self.post_message(self.Moved())

    _position: int | None = None
    """The cursor's row when the list was last settled."""

    def _reveal(self, position: int) -> None:
        top, height = self.scroll_offset.y, self.size.height
        if position < top:
            self._scroll(position)
        elif position >= top + height:
            self._scroll(position - height + 1)

    def _scroll(self, y: int) -> None:
        self.scroll_to(y=y, animate=False, force=True, immediate=True)

    def go(self, position: int) -> None:
        self.selection.go(position)
        self.settle(reveal=True)

    def action_move(self, by: int) -> None:
        self.go((self.selection.position or 0) + by)

    def action_page(self, direction: int) -> None:
        self.action_move(direction * max(1, self.size.height - 1))

    def action_edge(self, end: int) -> None:
        self.go(len(self.selection) - 1 if end else 0)

    def turn_order(self) -> None:
        self.selection.turn_order()
        self.settle(reveal=True)

    def follow(self) -> None:
        self.selection.follow()
        self.settle(reveal=True)

    def on_resize(self) -> None:
        # Also called when the view is shown again at the same size; then everything is painted already.
        if self.size != self._settled_size:
            self._settled_size = self.size
            self.settle(reveal=self._position is None or self._in_sight(self._position))

    _settled_size = Size(0, 0)

    def _in_sight(self, position: int) -> bool:
        return position >= self.scroll_offset.y

    def on_click(self, event: events.Click) -> None:
        row = event.y + self.scroll_offset.y
        if row < len(self.selection):
            self.go(row)
            if event.chain == 2:
                self.post_message(self.Opened())

    def on_mouse_scroll_up(self) -> None:
        # A user who scrolls back does not want to be taken to the newest answer again.
        if self.selection.following and len(self.selection) > self.size.height:
            self.selection.following = False
            self.post_message(self.Moved())

    def render_line(self, y: int) -> Strip:
        width, selection = self.row_width, self.selection
        position = y + self.scroll_offset.y
        if not len(selection):
            if y > 0:
                return self.paint((), width)
            words = nothing_listed(selection, width, self.app.keys, thrown_away=self._thrown_away)
            return self.paint(((words, "dim"),), width)
        record = selection.at(position) if position < len(selection) else None
        if record is None:
            return self.paint((), width)
        here = record.index == selection.cursor
        sizes, gap = widths(COLUMNS, width, most_gap=2)
        line = self._answer_row(record, tuple(sizes), gap, here=here, finds=selection.query.finds)
        return self.paint(line, width, self.style_of("cursor") if here else None)
