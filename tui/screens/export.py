"""Exporting the listed answers: the dialog that asks for the file, twice if one would be replaced, and the writing.

Knows the words for the user; formats and files are the business of `answer_files`.
"""

import asyncio
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Label

from rankdeck.runner.run_directory import RunFileError
from rankdeck.runner.state import RunState
from rankdeck.tui.panels.outputs.listing import Selection
from rankdeck.tui.screens.answer_files import ExportError, Target, gather, suggested, target, write
from rankdeck.tui.sources.followed_run import FollowedRun
from rankdeck.tui.widgets.deck import Deck
from rankdeck.tui.widgets.fields import TextField
from rankdeck.tui.words.text import some, visible

HINT = ".jsonl records as in outputs.jsonl, .csv a table, .txt to read"


class ExportScreen(ModalScreen[Target]):
    """Returns the file to write; if it `replaces` one, the user has agreed."""

    app: Deck

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Close", id="export.close", tooltip="Write nothing")
    ]

    def __init__(self, what: str, name: str, run_directory: Path) -> None:
        super().__init__()
        self._what, self._suggested, self._run_directory = what, name, run_directory
        self._agreed: str | None = None

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog") as box:
            box.border_title = "Export"
            box.border_subtitle = self.app.hint("enter writes, {export.close} closes")
            yield Label(self._what, classes="title", markup=False)
            with Horizontal(classes="field"):
                yield Label("file", classes="name", markup=False)
                yield TextField(self._suggested, id="export-file", compact=True, select_on_focus=False)
            yield Label(HINT, id="export-said", classes="said", markup=False)

    def on_mount(self) -> None:
        self.query_one(Input).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._agreed = None
        try:
            found = target(event.value, self._run_directory)
        except ExportError as error:
            self._say(str(error), wrong=True)
        else:
            self._say(f"{found.path.name} exists; enter asks again" if found.replaces else HINT)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        try:
            found = target(event.value, self._run_directory)
        except ExportError as error:
            self._say(str(error), wrong=True)
            return
        if found.replaces and self._agreed != event.value:
            self._agreed = event.value
            self._say(f"{found.path.name} exists and would be lost; enter replaces it", wrong=True)
            return
        self.dismiss(found)

    def _say(self, text: str, *, wrong: bool = False) -> None:
        label = self.query_one("#export-said", Label)
        label.set_class(wrong, "-wrong")
        label.update(visible(f"✗ {text}" if wrong else text))


def export_screen(state: RunState, selection: Selection) -> ExportScreen:
    """The dialog for the answers that are listed, with a file name suggested."""
    query = selection.query
    what = f"the answers that match {query.text}" if query else "all answers"
    name = suggested(state.name, filtered=bool(query))
    return ExportScreen(visible(f"Write {what}"), name, Path(state.directory or "."))


async def export(app: Deck, followed: FollowedRun, selection: Selection, to: Target) -> None:
    """Write every answer that matches the query (from disk if no longer listed), and tell the user how it went."""
    book = selection.listing.book
    try:
        records = gather(followed.stored_answers(), book.newest(len(book)), selection.query.matches)
        number = await asyncio.to_thread(write, records, to, replace=to.replaces)
    except (OSError, ExportError, RunFileError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        words = f"{to.path}: {why}. Nothing was written."
        app.notify(words, title="Not exported", severity="error", markup=False)
        return
    app.say(f"{some(number, 'answer')} in {visible(str(to.path))}", "Exported")
