"""The question asked before a run that goes on is left."""

from typing import ClassVar, Literal

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Label

from rankdeck.tui.widgets.deck import Deck

Choice = Literal["stop", "detach", "cancel"]


class LeaveScreen(ModalScreen[Choice]):
    """Stop the run, leave it running, or stay."""

    app: Deck

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
                yield Button(self.app.hint("Stop ({leave.stop})"), id="stop", variant="warning", compact=True)
                detach = f"{self.app.label('leave.detach', 'Detach')} " + "({leave.detach})"
                yield Button(self.app.hint(detach), id="detach", variant="primary", compact=True)
                yield Button(self.app.hint("Stay ({leave.cancel})"), id="cancel", compact=True)

    def on_mount(self) -> None:
        self.query_one("#cancel").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id in ("stop", "detach", "cancel"):
            self.action_choose(event.button.id)  # type: ignore[arg-type]

    def action_choose(self, choice: Choice) -> None:
        self.dismiss(choice)


class StopNowScreen(ModalScreen[bool]):
    """Stop now, or stay."""

    app: Deck

    ASKED = "Stop now?"
    COST = (
        "The batches in flight are abandoned and their prompts stay unfinished; finished answers are kept. "
        "`rankdeck resume` goes on with what is missing."
    )
    YES = "Stop now"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("X,y", "dismiss(True)", "Stop now", id="stop_now.stop", tooltip="Abandon the batches in flight"),
        Binding("escape,n,q", "dismiss(False)", "Stay", id="stop_now.stay", tooltip="Back to the run"),
        Binding(
            "left", "app.focus_previous", "Previous", id="stop_now.previous", tooltip="To the answer before", show=False
        ),
        Binding("right", "app.focus_next", "Next", id="stop_now.next", tooltip="To the next answer", show=False),
    ]

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Label(self.ASKED, classes="title", markup=False)
            yield Label(self.COST, markup=False)
            with Horizontal(id="choices"):
                yes = f"{self.YES} " + "({stop_now.stop})"
                yield Button(self.app.hint(yes), id="stop", variant="error", compact=True)
                yield Button(self.app.hint("Stay ({stop_now.stay})"), id="stay", compact=True)

    def on_mount(self) -> None:
        self.query_one("#stay").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "stop")


class EndSweepScreen(StopNowScreen):
    """End the sweep, or let it go on."""

    ASKED = "End the sweep?"
    COST = (
        "What it has measured stays, and can be seen here; the trials that are left are not run. A run that it is "
        "part of goes on at the chosen setting."
    )
    YES = "End it"
