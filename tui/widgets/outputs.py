"""The Outputs view: the answers in a list that can be filtered, and the whole answer under the cursor.

Holds keys and layout. Which answers are listed is a Selection's business; where they come from, the application's.
"""

from typing import ClassVar, Protocol

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical

from rankdeck.runner.protocol import OutputRecord
from rankdeck.runner.state import RunState
from rankdeck.tui.panels.bars import heading, widths
from rankdeck.tui.panels.frame import Frame
from rankdeck.tui.panels.outputs.answer_lines import COLUMNS, batch_seconds
from rankdeck.tui.panels.outputs.listing import ANSWERS, ERRORS, Selection, listing_title
from rankdeck.tui.widgets.answer_actions import AnswerActions, answer_keys
from rankdeck.tui.widgets.answer_list import AnswerList
from rankdeck.tui.widgets.answer_text import AnswerText
from rankdeck.tui.widgets.deck import Deck
from rankdeck.tui.widgets.lines import Lines, Titles
from rankdeck.tui.widgets.query_field import QueryField
from rankdeck.tui.words.sweep import answers_thrown_away

BESIDE = 160
"""The width from which the answer is beside the list."""

HINT = 'words "a phrase" rank:1 tokens:>40 finish:error #17 -word'
KEYS = (
    "{outputs.filter} filter",
    "{outputs.errors} errors",
    "{outputs.open} whole",
    "{answer.copy} copy",
    "{answer.pager} pager",
    "{outputs.export} export",
    "{outputs.order} order",
    "{outputs.follow} follow",
)
KEYS_AWAY = tuple(key for key in KEYS if key not in ("{answer.pager} pager", "{outputs.export} export"))


class AnswerScreens(Protocol):
    """What the view asks of the screen it is on, which acts at once: the next key is meant for what has opened."""

    def open_answer(self, view: "OutputsView") -> None:
        """Show the whole answer that the view's selection is at."""
        ...

    def export_answers(self, selection: Selection) -> None:
        """Ask for a file, and write the selected answers to it."""
        ...


class OutputsView(AnswerActions, Vertical):
    """The list, and below or beside it the whole answer under the cursor."""

    app: Deck

    DEFAULT_CSS = """
    OutputsView { height: 1fr; }
    OutputsView #answers-box { height: 3fr; }
    OutputsView #answers-heading { height: 1; }
    OutputsView #answer { height: 2fr; min-height: 5; }
    OutputsView.-beside { layout: horizontal; }
    OutputsView.-beside #answers-box { width: 3fr; height: 1fr; }
    OutputsView.-beside #answer { width: 2fr; height: 1fr; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        *answer_keys(show=False),
        Binding(
            "slash", "filter", "Filter", key_display="/", id="outputs.filter", tooltip="Filter and search", show=False
        ),
        Binding("e", "errors", "Errors", id="outputs.errors", tooltip="Only errors, or all again", show=False),
        Binding("escape", "clear", "Clear", id="outputs.clear", tooltip="Clear the filter", show=False),
        Binding("v,enter", "open", "Whole", id="outputs.open", tooltip="The answer on the whole screen", show=False),
        Binding("E", "export", "Export", id="outputs.export", tooltip="Write the listed answers to a file", show=False),
        Binding(
            "o", "order", "Order", id="outputs.order", tooltip="In the order they came, or in input order", show=False
        ),
        Binding(
            "f", "follow", "Follow", id="outputs.follow", tooltip="Let the cursor follow the newest answer", show=False
        ),
    ]

    def __init__(self, screens: AnswerScreens, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._screens = screens

    def compose(self) -> ComposeResult:
        with Vertical(id="answers-box"):
            yield QueryField(ANSWERS, HINT)
            yield Lines(id="answers-heading")
            yield AnswerList(id="answers")
        yield AnswerText(id="answer")

    def on_mount(self) -> None:
        self._state = RunState()
        self._list, self._text = self.query_one(AnswerList), self.query_one(AnswerText)
        self._box, self._field = self.query_one("#answers-box", Vertical), self.query_one(QueryField)
        self._heading = self.query_one("#answers-heading", Lines)
        self._list_titles, self._text_titles = Titles(self._box), Titles(self._text)

    @property
    def selection(self) -> Selection:  # type: ignore[override]
        return self._list.selection

    @property
    def text(self) -> AnswerText:
        return self._text

    def show(self, frame: Frame) -> None:
        self._state = frame.state
        self._list.show(frame.book, thrown_away=answers_thrown_away(frame.state))
        self._show_answer()  # its batch may have ended since

    def take_focus(self) -> None:
        self._list.focus()

    def on_resize(self) -> None:
        self.set_class(self.size.width >= BESIDE, "-beside")
        self.call_after_refresh(self.draw)

    def on_answer_list_moved(self) -> None:
        self.draw()

    def on_answer_list_opened(self) -> None:
        self.action_open()

    def draw(self) -> None:
        width, selection = self._list.row_width, self.selection
        if not width:
            return
        self._heading.show([heading(COLUMNS, *widths(COLUMNS, width, most_gap=2))])
        title = "".join(text for text, _ in listing_title(selection, width - 10))
        keys = self._field.words(KEYS if self.app.at_home else KEYS_AWAY, self._list.size.width - 2)
        self._list_titles.show(f"Outputs  {title}", keys)
        self._show_answer()
        self._text_titles.show("Answer", self.found_words())

    def _show_answer(self) -> None:
        record = self.selection.record
        seconds = self.batch_seconds(record) if record is not None else None
        self._text.show(record, self.selection.query.finds, seconds)

    def moved(self) -> None:
        self._list.settle(reveal=True)
        self.draw()

    # --- filter ---------------------------------------------------------------------------------

    def on_query_field_asked(self, event: QueryField.Asked) -> None:
        self._list.filter(event.query)

    def on_query_field_mistaken(self) -> None:
        self.draw()

    def on_query_field_closed(self) -> None:
        self.take_focus()
        self.draw()

    def action_filter(self) -> None:
        self._field.open()
        self.draw()

    def action_clear(self) -> None:
        if self.selection.query:
            self._field.ask("")

    def action_errors(self) -> None:
        terms = self.selection.query.text.split(" ")
        others = [term for term in terms if term and term != ERRORS]
        self._field.ask(" ".join(others if ERRORS in terms else [*others, ERRORS]))

    def action_order(self) -> None:
        self._list.turn_order()

    def action_follow(self) -> None:
        self._list.follow()

    # --- elsewhere ------------------------------------------------------------------------------

    def batch_seconds(self, record: OutputRecord) -> float | None:
        """Seconds that the answer's batch took; None if not known."""
        return batch_seconds(self._state, record)

    def action_open(self) -> None:
        if self.selection.record is not None:
            self._screens.open_answer(self)

    def action_export(self) -> None:
        if len(self.selection.listing.book):
            self._screens.export_answers(self.selection)
        else:
            self.app.say("There are no answers yet.", "Export")
