"""One answer on the whole screen: its figures, prompt and text, with keys to the next and the previous one.

Knows a Selection that it shares with the list: moving here moves the cursor there.
"""

from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from rankdeck.runner.protocol import OutputRecord
from rankdeck.tui.panels.outputs.listing import Selection
from rankdeck.tui.widgets.answer_actions import AnswerActions, answer_keys
from rankdeck.tui.widgets.answer_text import AnswerText
from rankdeck.tui.widgets.key_bar import KeyBar
from rankdeck.tui.widgets.lines import Titles

BEAT_SECONDS = 0.5
"""How often the screen, with its number of answers, is brought up to date."""


class AnswerScreen(AnswerActions, Screen[None]):
    """The answer under the cursor."""

    DEFAULT_CSS = """
    AnswerScreen AnswerText { height: 1fr; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        *answer_keys(show=True),
        Binding("escape,v,enter,q", "dismiss", "Back", id="answer.close", tooltip="Back to the list"),
        Binding("left,h", "go(-1)", "Previous", id="answer.previous", tooltip="The answer before"),
        Binding("right,l", "go(1)", "Next", id="answer.next", tooltip="The answer after"),
    ]

    def __init__(self, selection: Selection, seconds: Callable[[OutputRecord], float | None]) -> None:
        super().__init__()
        self.selection, self._seconds = selection, seconds

    def compose(self) -> ComposeResult:
        yield AnswerText(id="whole-answer")
        yield KeyBar()

    def on_mount(self) -> None:
        # The answer being read stays, whatever else arrives.
        self.selection.following = False
        self._text = self.query_one(AnswerText)
        self._titles = Titles(self._text)
        self._text.focus()
        self.set_interval(BEAT_SECONDS, self.draw)
        self.call_after_refresh(self.draw)

    def on_resize(self) -> None:
        self.call_after_refresh(self.draw)

    @property
    def text(self) -> AnswerText:
        return self._text

    def draw(self) -> None:
        record, selection = self.selection.record, self.selection
        if record is None:
            self.dismiss()
            return
        self._text.show(record, selection.query.finds, self._seconds(record))
        position = selection.position
        place = f"{position + 1:,} of {len(selection):,}" if position is not None else "no longer listed"
        self._titles.show(f"Answer   {place}", self.found_words())

    def action_go(self, by: int) -> None:
        if not self.selection.step(by):
            self.app.bell()
        self.draw()
