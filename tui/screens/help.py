"""The help screen: every key of the view it covers, and the words that this view uses."""

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen

from rankdeck.tui.widgets.deck import Deck
from rankdeck.tui.widgets.lines import Panel
from rankdeck.tui.widgets.scrolling import ScrollBox
from rankdeck.tui.words.text import Line, pad, wrap

Entries = Sequence[tuple[str, str]]
"""Keys or words, with what they do or mean."""

Sections = Sequence[tuple[str, Entries]]
"""Headings, and the keys under each."""


def help_lines(keys: Sections, words: Entries, width: int) -> list[Line]:
    """The keys, by section, all in the same two columns; then the words in two columns."""
    lines: list[Line] = []
    first = max((len(name) for _, entries in keys for name, _ in entries), default=0) + 2
    for heading, entries in keys:
        lines.extend([((heading, "strong"),), *_entries(entries, first, width), ()])
    if words:
        first = max(len(name) for name, _ in words) + 2
        lines.extend([(("Words", "strong"),), *_entries(words, first, width), ()])
    return lines[:-1]


def _entries(entries: Entries, first: int, width: int) -> list[Line]:
    return [
        ((pad(name if number == 0 else "", first), "key"), (part, ""))
        for name, text in entries
        for number, part in enumerate(wrap(text, max(10, width - first)))
    ]


class HelpScreen(ModalScreen[None]):
    """Keys and words."""

    app: Deck

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,f1,q", "dismiss", "Close", id="help.close", tooltip="Back")
    ]

    def __init__(self, keys: Sections, words: Entries = (), title: str = "Help") -> None:
        super().__init__()
        self._keys, self._words, self._title = keys, words, title

    def compose(self) -> ComposeResult:
        with ScrollBox(id="help") as box:
            box.border_title = Content(self._title)
            box.border_subtitle = self.app.hint("{scroll.down} {scroll.up} scroll, {help.close} closes")
            yield Panel("", id="help-lines")

    def on_mount(self) -> None:
        self.query_one(Panel).draw(lambda width, height: help_lines(self._keys, self._words, width))
        self.query_one("#help").focus()
