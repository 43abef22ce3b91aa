"""A one-line field that filters a list as the user types, and says what is wrong with the query.

Knows the query's language, not what is filtered: the list's view is told of each new query.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Input, Label

from rankdeck.tui.panels.outputs.query import Language, Query, QueryError
from rankdeck.tui.settings.hint_keys import named
from rankdeck.tui.widgets.deck import Deck
from rankdeck.tui.widgets.fields import TextField
from rankdeck.tui.words.text import as_many, visible


class QueryField(Horizontal):
    """Takes no room while it is closed; its query stays in effect."""

    app: Deck

    DEFAULT_CSS = """
    QueryField { height: 1; display: none; }
    QueryField Label { width: 2; color: $primary; text-style: bold; }
    QueryField Input { width: 1fr; background: $surface; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "clear", "Clear", id="query.clear", tooltip="Clear the filter and close"),
        Binding("down,tab", "keep", "To the list", id="query.keep", tooltip="Keep the filter"),
    ]

    class Asked(Message):
        """There is a new query to filter by."""

        def __init__(self, query: Query[Any]) -> None:
            super().__init__()
            self.query = query

    class Mistaken(Message):
        """The text has become invalid, or valid again; `words` says which."""

    class Closed(Message):
        """The field was closed: back to the list."""

    def __init__(self, language: Language[Any], hint: str) -> None:
        super().__init__()
        self._language, self._hint = language, hint
        self._query: Query[Any] = Query()
        self._mistake = ""

    def compose(self) -> ComposeResult:
        yield Label("/", markup=False)
        yield TextField(placeholder=self._hint, compact=True, select_on_focus=False)

    @property
    def opened(self) -> bool:
        return self.display

    def words(self, usual: Sequence[str], width: int) -> str:
        """The words under the list: what is wrong, what can be typed, else the `usual` hints, with the user's keys."""
        if self._mistake:
            return f"✗ {self._mistake}"
        typing = ("enter keeps it", "{query.clear} clears it", f"names: {' '.join(self._language.names)}")
        hints = typing if self.opened else usual
        return as_many([named(hint, self.app.keys) for hint in hints], width)

    def open(self) -> None:
        """Show the field with the current query, and give it the focus."""
        self.display = True
        field = self.query_one(Input)
        field.cursor_position = len(field.value)
        field.focus()

    def ask(self, text: str) -> None:
        """Set the query, whether the field is open or not."""
        self.query_one(Input).value = text
        self._parse(text)

    def action_clear(self) -> None:
        self.ask("")
        self.action_keep()

    def action_keep(self) -> None:
        self.display = False
        # If the text is invalid, go back to the query that the list is filtered by.
        self.ask(self._query.text)
        self.post_message(self.Closed())

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._parse(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if not self._mistake:
            self.action_keep()

    def _parse(self, text: str) -> None:
        why = ""
        try:
            query = self._language.parse(text)
        except QueryError as error:
            why, query = visible(str(error)), error.rest
        self._complain(why)
        if query != self._query:
            self._query = query
            self.post_message(self.Asked(query))

    def _complain(self, why: str) -> None:
        if why != self._mistake:
            self._mistake = why
            self.post_message(self.Mistaken())
