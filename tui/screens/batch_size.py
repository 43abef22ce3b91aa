"""The dialog for a batch size, checked as it is typed."""

from typing import ClassVar, Literal

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Label

from rankdeck.tui.widgets.deck import Deck
from rankdeck.tui.widgets.fields import TextField
from rankdeck.tui.words.numbers import read_batch_size

Typed = int | Literal["auto"]

HINT = "a number, or auto; from each rank's next batch on"


class BatchSizeScreen(ModalScreen[Typed]):
    """Asks for a batch size; returns None when left with escape."""

    app: Deck

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Close", id="batch_size.close", tooltip="Leave it as it is")
    ]

    def __init__(self, now: int) -> None:
        super().__init__()
        self._now = now

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog") as box:
            box.border_title = "Batch size"
            box.border_subtitle = self.app.hint("enter sets it, {batch_size.close} closes")
            with Horizontal(classes="field"):
                yield Label(f"now {self._now}", classes="name", markup=False)
                yield TextField(id="batch-size", compact=True)
            yield Label(HINT, id="batch-size-said", classes="said", markup=False)

    def on_mount(self) -> None:
        self.query_one(Input).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._say(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        try:
            self.dismiss(read_batch_size(event.value) or "auto")
        except ValueError as error:
            self._complain(str(error))

    def _say(self, text: str) -> None:
        # The beginning of `auto` is not a mistake.
        if not "auto".startswith(text.strip().lower()):
            try:
                read_batch_size(text)
            except ValueError as error:
                self._complain(str(error))
                return
        self._complain("")

    def _complain(self, message: str) -> None:
        label = self.query_one("#batch-size-said", Label)
        label.set_class(bool(message), "-wrong")
        label.update(f"✗ {message}" if message else HINT)
