"""What can be done with the answer one stands on, in the list and on a screen of its own alike."""

import os
from typing import ClassVar

import msgspec
from textual.binding import Binding, BindingType
from textual.dom import DOMNode

from tui.copying import copy
from tui.listing import Selection
from tui.widgets.answer_lines import answer_text
from tui.widgets.answer_text import AnswerText


class AnswerActions(DOMNode):
    """Copy, pager, and from one thing found to the next."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "y",
            "copy_answer",
            "Copy",
            id="answer.copy",
            tooltip="Copy the answer (OSC 52; in tmux: set -g set-clipboard on)",
        ),
        Binding("Y", "copy_record", "Copy record", id="answer.copy_record", tooltip="Copy the whole record as JSON"),
        Binding("p", "page", "Pager", id="answer.pager", tooltip="Prompt and answer in $PAGER"),
        Binding("n", "find(1)", "Next match", id="answer.find_next", tooltip="The next thing found", show=False),
        Binding("N", "find(-1)", "Match before", id="answer.find_before", tooltip="The one before", show=False),
    ]

    selection: Selection

    @property
    def text(self) -> AnswerText:
        """Where the answer is read."""
        raise NotImplementedError

    def draw(self) -> None:
        """Show the selection as it is now."""
        raise NotImplementedError

    def found_words(self) -> str:
        """Which of the things found is gone to, and how many there are."""
        text = self.text
        if self.selection.query.finds is None:
            return ""
        if not text.found:
            return "no match in what is shown"
        matches = f"{text.found:,} match{'' if text.found == 1 else 'es'}"
        return f"{matches}, n the next" if text.here is None else f"match {text.here + 1:,} of {text.found:,}"

    def action_copy_answer(self) -> None:
        record = self.selection.record
        if record is not None:
            failed = record.error is not None
            words = record.error or "" if failed else record.text.strip()
            copy(self.app, words, f"The {'error' if failed else 'answer'} of #{record.index}")

    def action_copy_record(self) -> None:
        record = self.selection.record
        if record is not None:
            copy(self.app, msgspec.json.encode(record).decode(), f"The record of #{record.index}")

    def action_page(self) -> None:
        from tui.pager import PagerError, page

        record = self.selection.record
        if record is None:
            return
        try:
            page(self.app, answer_text(record), os.environ)
        except PagerError as error:
            self.app.notify(str(error), title="No pager", severity="warning", markup=False)

    def action_find(self, by: int) -> None:
        """The next thing found; beyond the last, in the next answer that has one."""
        if self.selection.query.finds is None:
            self.app.notify("Nothing is searched for; / in the list begins.", markup=False)
            return
        if not self.text.next_found(by) and self.selection.step(by):
            self.draw()
            self.text.next_found(by)
        self.draw()
