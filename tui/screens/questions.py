"""The question asked before a run that goes on is left."""

from typing import ClassVar, Literal

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Label

from tui.settings.keys import hint, label

Choice = Literal["stop", "detach", "cancel"]


class LeaveScreen(ModalScreen[Choice]):
    """Stop the run, leave it running, or stay."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "choose('stop')", "Stop the run", id="leave.stop", tooltip="Stop after the batches in flight"),
        Binding("d", "choose('detach')", "Detach", id="leave.detach", tooltip="Leave; the run goes on"),
        Binding("escape,c,q", "choose('cancel')", "Stay", id="leave.cancel", tooltip="Back to the run"),
        Binding(
            "left", "app.focus_previous", "Previous", id="leave.previous", tooltip="To the answer before", show=False
        ),
        Binding("right", "app.focus_next", "Next", id="leave.next", tooltip="To the next answer", show=False),
    ]

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Label("The run goes on.", classes="title", markup=False)
            yield Label("Stopping waits for the batches in flight; what is finished is kept either way.", markup=False)
            with Horizontal(id="choices"):
                yield Button(hint(self.app, "Stop ({leave.stop})"), id="stop", variant="warning", compact=True)
                detach = f"{label(self.app, 'leave.detach', 'Detach')} " + "({leave.detach})"
                yield Button(hint(self.app, detach), id="detach", variant="primary", compact=True)
                yield Button(hint(self.app, "Stay ({leave.cancel})"), id="cancel", compact=True)

    def on_mount(self) -> None:
        self.query_one("#cancel").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id in ("stop", "detach", "cancel"):
            self.action_choose(event.button.id)  # type: ignore[arg-type]

    def action_choose(self, choice: Choice) -> None:
        self.dismiss(choice)
