"""What the keys do with the answer under the cursor, in the list and on the screen of a single answer."""

import os

import msgspec
from textual.binding import Binding, BindingType
from textual.dom import DOMNode

from rankdeck.tui.panels.outputs.answer_lines import answer_text
from rankdeck.tui.panels.outputs.finding import found_words
from rankdeck.tui.panels.outputs.listing import Selection
from rankdeck.tui.settings.hint_keys import key_of, named
from rankdeck.tui.terminal.clipboard import copy
from rankdeck.tui.widgets.answer_text import AnswerText
from rankdeck.tui.widgets.deck import Deck


def answer_keys(*, show: bool) -> list[BindingType]:
    """The keys of these actions; `show` puts them into the line of keys, which has no room for them in a run."""

    def key(keys: str, action: str, description: str, name: str, tooltip: str, *, show: bool = show) -> Binding:
        return Binding(keys, action, description, id=f"answer.{name}", tooltip=tooltip, show=show)

    copying = "Copy the answer by OSC 52, which the terminal must allow; in tmux: set -g set-clipboard on"
    return [
        key("y", "copy_answer", "Copy", "copy", copying),
        key("Y", "copy_record", "Copy record", "copy_record", "Copy the whole record as JSON"),
        key("p", "pager", "Pager", "pager", "Prompt and answer in $PAGER"),
        key("n", "find(1)", "Next match", "find_next", "The next thing found, in the next answer too", show=False),
        key("N", "find(-1)", "Match before", "find_before", "The thing found before", show=False),
    ]


class AnswerActions(DOMNode):
    """Copy, open in the pager, go from match to match."""

    app: Deck
    selection: Selection

    @property
    def text(self) -> AnswerText:
        """The widget that shows the answer."""
        raise NotImplementedError

    def draw(self) -> None:
        """Show the selection in its current state."""
        raise NotImplementedError

    def moved(self) -> None:
        """Show that the selection is now at another answer."""
        self.draw()

    def found_words(self) -> str:
        """Which match the cursor is at, and how many there are."""
        text = self.text
        searched = self.selection.query.finds is not None and self.selection.record is not None
        next_key = key_of("answer.find_next", self.app.keys)
        return found_words(text.found, text.here, next_key) if searched else ""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only a user at this machine may start programs and write files."""
        return self.app.at_home if action in ("pager", "export") else super().check_action(action, parameters)

    def action_copy_answer(self) -> None:
        record = self.selection.record
        if record is not None:
            failed = record.error is not None
            words = record.error or "" if failed else record.text.strip()
            self._copy(words, f"The {'error' if failed else 'answer'} of #{record.index}")

    def action_copy_record(self) -> None:
        record = self.selection.record
        if record is not None:
            self._copy(msgspec.json.encode(record).decode(), f"The record of #{record.index}")

    def _copy(self, text: str, what: str) -> None:
        ways = "{answer.pager} opens it in the pager, {outputs.export} writes it to a file."
        copy(self.app, text, what, instead=named(ways, self.app.keys) if self.app.at_home else "")

    def action_pager(self) -> None:
        from rankdeck.tui.terminal.pager import PagerError, page

        record = self.selection.record
        if record is None:
            return
        try:
            page(self.app, answer_text(record), os.environ)
        except PagerError as error:
            self.app.notify(str(error), title="No pager", severity="warning", markup=False)

    def action_find(self, by: int) -> None:
        """Go to the next match; after the last one, to the next answer that has any."""
        if self.selection.query.finds is None:
            self.app.notify("Nothing is searched for; / in the list begins.", markup=False)
            return
        if not self.text.next_found(by) and self.selection.step(by):
            self.moved()
            self.text.next_found(by)
        self.draw()
