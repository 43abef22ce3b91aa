"""The questions asked before something that cannot be had back is ended: batches in flight, a sweep."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Label

from tui.settings.keys import hint


class StopNowScreen(ModalScreen[bool]):
    """Stop now, or stay."""

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
                yield Button(hint(self.app, yes), id="stop", variant="error", compact=True)
                yield Button(hint(self.app, "Stay ({stop_now.stay})"), id="stay", compact=True)

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
