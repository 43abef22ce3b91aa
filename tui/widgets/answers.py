"""The Outputs view: a list of answers of any length, and the whole of the one under the cursor.

The list paints the rows that are seen and nothing else, so ten thousand answers cost what ten do.
Knows an OutputBook; where answers come from is elsewhere.
"""

from typing import ClassVar

from rich.style import Style
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from runner.protocol import OutputRecord
from tui.outputs import ListOrder, OutputBook
from tui.text import NOTHING, Line, Piece, count, cut, some, visible, wrap
from tui.theme import rank_style
from tui.views import Moment
from tui.widgets.bars import Column, heading, row, widths
from tui.widgets.lines import Lines, Painter

_COLUMNS = (
    Column("prompt", 8, "right", 11),
    Column("rank", 4, "right"),
    Column("tokens", 6, "right"),
    Column("finish", 6),
    Column("prompt begins", 12, "left", 60),
    Column("answer begins", 14, "left", 400),
)
SHOWN_CHARACTERS = 20_000
"""An answer longer than this is cut on screen; outputs.jsonl has all of it."""

_FINISH_STYLES = {"stop": "", "length": "dim", "error": "warn"}


def answer_row(record: OutputRecord, sizes: list[int], gap: int, *, here: bool = False) -> Line:
    """One answer as a row of the list, marked where the cursor is here."""
    failed = record.finish_reason == "error"
    answer = visible((record.error or "") if failed else record.text.strip()[: 4 * sizes[5]])
    cells: tuple[Line, ...] = (
        ((f"{'▸ ' if here else ''}#{record.index}", "strong" if here else "dim"),),
        ((NOTHING if record.rank is None else str(record.rank), rank_style(record.rank)),),
        ((count(record.output_tokens), ""),),
        ((record.finish_reason, _FINISH_STYLES[record.finish_reason]),),
        ((cut(visible(record.prompt.strip()[: 4 * sizes[4]]), sizes[4]), "dim"),),
        ((cut(answer, sizes[5]), "warn" if failed else ""),),
    )
    return row(cells, _COLUMNS, sizes, gap)


def answer_lines(record: OutputRecord, width: int) -> list[Line]:
    """The whole of an answer: its figures, the prompt, the text."""
    pieces: list[Piece] = [(f"prompt #{record.index}", "strong")]
    if record.id != str(record.index):
        pieces.append((f"  id {cut(visible(record.id), 24)}", ""))
    if record.rank is not None:
        pieces.extend((("   rank ", "dim"), (str(record.rank), rank_style(record.rank))))
    if record.batch is not None:
        pieces.extend((("   batch ", "dim"), (f"#{record.batch}", "")))
    pieces.append(
        (f"   {some(record.prompt_tokens, 'prompt token')}, {some(record.output_tokens, 'output token')}", "")
    )
    pieces.extend((("   finish ", "dim"), (record.finish_reason, _FINISH_STYLES[record.finish_reason])))
    lines: list[Line] = [tuple(pieces), ()]
    lines.extend(_text(record.prompt, width, "dim"))
    lines.append(())
    if record.error is not None:
        lines.extend(_text(record.error, width, "warn"))
    else:
        lines.extend(_text(record.text.strip() or "(an empty answer)", width, "" if record.text else "dim"))
    return lines


def _text(text: str, width: int, style: str) -> list[Line]:
    shown = visible(text[:SHOWN_CHARACTERS], keep_newlines=True)
    lines: list[Line] = [((line, style),) for line in wrap(shown, width)]
    if len(text) > SHOWN_CHARACTERS:
        left = some(len(text) - SHOWN_CHARACTERS, "more character")
        lines.append(((f"… and {left}; outputs.jsonl has all of it", "key"),))
    return lines


class AnswerList(ScrollView, Painter, can_focus=True):
    """Every answer in a row; follows the newest until the cursor is moved."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", id="outputs.up", tooltip="The answer above", show=False),
        Binding("down,j", "move(1)", "Down", id="outputs.down", tooltip="The answer below", show=False),
        Binding("pageup", "page(-1)", "Page up", id="outputs.page_up", tooltip="A page of answers up", show=False),
        Binding("pagedown", "page(1)", "Page down", id="outputs.page_down", tooltip="A page down", show=False),
        Binding("home,g", "edge(0)", "First", id="outputs.first", tooltip="The first answer", show=False),
        Binding("end,G", "edge(1)", "Last", id="outputs.last", tooltip="The last answer", show=False),
        Binding(
            "o", "order", "Order", id="outputs.order", tooltip="In the order they came, or in input order", show=False
        ),
        Binding(
            "f", "follow", "Follow", id="outputs.follow", tooltip="Let the cursor follow the newest answer", show=False
        ),
    ]

    class Moved(Message):
        """The cursor stands on another answer, or the order or what is followed has changed."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._book: OutputBook | None = None
        self._version = -1
        self.order: ListOrder = "arrival"
        self.following = True
        self.cursor: int | None = None
        """The prompt index of the answer under the cursor."""

    def show(self, book: OutputBook) -> None:
        """Take in what is new in the book."""
        if self._book is book and self._version == book.version:
            return
        self._book, self._version = book, book.version
        self._settle()

    @property
    def row_width(self) -> int:
        return self.scrollable_content_region.width

    @property
    def record(self) -> OutputRecord | None:
        """The answer under the cursor."""
        return self._book.get(self.cursor) if self._book is not None and self.cursor is not None else None

    def _settle(self) -> None:
        """Fit size, cursor and scroll position to the book."""
        book = self._book
        if book is None:
            return
        self.virtual_size = Size(self.row_width, len(book))
        if len(book) and (self.following or self.cursor is None or book.get(self.cursor) is None):
            self.cursor = book.key(len(book) - 1, "arrival")
        self._reveal()
        self.refresh()
        self.post_message(self.Moved())

    def _reveal(self) -> None:
        position = self._position()
        if position is not None and self.size.height:
            self.scroll_to_region(Region(0, position, 1, 1), animate=False, force=True)

    def _position(self) -> int | None:
        if self._book is None or self.cursor is None:
            return None
        return self._book.position(self.cursor, self.order)

    def _go(self, position: int) -> None:
        if self._book is None or not len(self._book):
            return
        position = max(0, min(len(self._book) - 1, position))
        self.following = False
        self.cursor = self._book.key(position, self.order)
        self._reveal()
        self.refresh()
        self.post_message(self.Moved())

    def action_move(self, by: int) -> None:
        self._go((self._position() or 0) + by)

    def action_page(self, direction: int) -> None:
        self._go((self._position() or 0) + direction * max(1, self.size.height - 1))

    def action_edge(self, end: int) -> None:
        self._go(len(self._book) - 1 if end and self._book is not None else 0)

    def action_order(self) -> None:
        self.order = "input" if self.order == "arrival" else "arrival"
        self._settle()

    def action_follow(self) -> None:
        self.following = True
        self._settle()

    def on_resize(self) -> None:
        self._settle()

    def on_click(self, event: object) -> None:
        row_clicked = getattr(event, "y", 0) + self.scroll_offset.y
        if self._book is not None and row_clicked < len(self._book):
            self._go(row_clicked)

    def render_line(self, y: int) -> Strip:
        width = self.row_width
        position = y + self.scroll_offset.y
        if self._book is None or not len(self._book):
            words = "answers are listed here as they arrive" if y == 0 else ""
            return self.paint(((words, "dim"),), width)
        if position >= len(self._book):
            return self.paint((), width)
        index = self._book.key(position, self.order)
        record = self._book.get(index)
        assert record is not None
        here = index == self.cursor
        line = answer_row(record, *widths(_COLUMNS, width, most_gap=2), here=here)
        over: Style | None = None
        if here:
            over = self.style_of("cursor")
        return self.paint(line, width, over)


class OutputsView(Vertical):
    """The list, and under it the whole answer under the cursor."""

    def compose(self) -> ComposeResult:
        with Vertical(id="answers-box"):
            yield Lines(id="answers-heading")
            yield AnswerList(id="answers")
        with VerticalScroll(id="answer", can_focus=True):
            yield Lines(id="answer-text")

    def on_mount(self) -> None:
        self._list = self.query_one(AnswerList)
        self._box = self.query_one("#answers-box", Vertical)
        self._heading = self.query_one("#answers-heading", Lines)
        self._text = self.query_one("#answer-text", Lines)
        self._pane = self.query_one("#answer", VerticalScroll)
        self._shown: tuple[OutputRecord | None, int] | None = None
        self._pane.border_title = "Answer"
        self._box.border_subtitle = "o order, f follow"

    def show(self, moment: Moment) -> None:
        self._list.show(moment.book)

    def take_focus(self) -> None:
        self._list.focus()

    def on_answer_list_moved(self) -> None:
        self._update()

    def on_resize(self) -> None:
        self.call_after_refresh(self._update)

    def _update(self) -> None:
        width = self._list.row_width
        if not width:
            return
        self._heading.show([heading(_COLUMNS, *widths(_COLUMNS, width, most_gap=2))])
        order = "as they came" if self._list.order == "arrival" else "in input order"
        follow = ", following the newest" if self._list.following else ""
        self._box.border_title = f"Outputs {order}{follow}"
        record, text_width = self._list.record, self._pane.scrollable_content_region.width
        if (record, text_width) != self._shown:
            moved = self._shown is None or self._shown[0] is not record
            self._shown = (record, text_width)
            self._text.show(answer_lines(record, text_width) if record is not None else [])
            if moved:
                self._pane.scroll_home(animate=False)
