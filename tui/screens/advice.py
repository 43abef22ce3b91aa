"""The dialog that shows all advice in full."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen

from rankdeck.runner.state import RunState
from rankdeck.tui.panels.overview.advice import all_advice
from rankdeck.tui.widgets.deck import Deck
from rankdeck.tui.widgets.lines import Panel
from rankdeck.tui.widgets.scrolling import ScrollBox


class AdviceScreen(ModalScreen[None]):
    """The advice as it was when the dialog was opened: it does not change while it is read."""

    app: Deck

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,i,q", "dismiss", "Close", id="advice.close", tooltip="Back")
    ]

    def __init__(self, state: RunState) -> None:
        super().__init__()
        self._state = state

    def compose(self) -> ComposeResult:
        with ScrollBox(id="help") as box:
            box.border_title = "Advice"
            box.border_subtitle = self.app.hint("{advice.close} closes")
            yield Panel("", id="advice-lines")

    def on_mount(self) -> None:
        self.query_one(Panel).draw(lambda width, height: all_advice(self._state, width))
        self.query_one("#help").focus()
