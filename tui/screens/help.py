"""The help screen: every key of the view under it, and the words that this view uses."""

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen

from tui.text import Line, pad, wrap
from tui.widgets.lines import Panel
from tui.widgets.scrolling import ScrollBox

Sections = Sequence[tuple[str, Sequence[tuple[str, str]]]]
"""Headings, and under each: a key or a word, and what it does or means."""


def help_lines(sections: Sections, width: int) -> list[Line]:
    """Every section under its heading, all in the same two columns; keys that do the same stand apart by a space."""
    first = min(max(len(name) for _, entries in sections for name, _ in entries) + 2, width // 2)
    lines: list[Line] = []
    for heading, entries in sections:
        lines.extend([((heading, "strong"),), *_entries(entries, first, width), ()])
    return lines[:-1]


def _entries(entries: Sequence[tuple[str, str]], first: int, width: int) -> list[Line]:
    return [
        ((pad(name if number == 0 else "", first), "key"), (part, ""))
        for name, text in entries
        for number, part in enumerate(wrap(text, max(10, width - first)))
    ]


class HelpScreen(ModalScreen[None]):
    """Keys and words; any of its own keys closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q", "dismiss", "Close", id="help.close", tooltip="Back")
    ]

    def __init__(self, sections: Sections, title: str = "Help") -> None:
        super().__init__()
        self._sections, self._title = sections, title

    def compose(self) -> ComposeResult:
        with ScrollBox(id="help") as box:
            box.border_title = self._title
            box.border_subtitle = "j k scroll, esc closes"
            yield Panel("", id="help-lines")

    def on_mount(self) -> None:
        self.query_one(Panel).draw(lambda width, height: help_lines(self._sections, width))
        self.query_one("#help").focus()
