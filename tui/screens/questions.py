"""The questions asked before a run is left or stopped at once, or a sweep ended.

Knows the words, the keys and the value of each option; what an option leads to is up to the caller.
"""

from typing import ClassVar, NamedTuple

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Label
from textual.widgets.button import ButtonVariant

from rankdeck.tui.widgets.deck import Deck


class Option(NamedTuple):
    """A button and its keys; `id` and `label` are the binding's, `value` is what the question returns."""

    id: str
    keys: str
    value: str
    label: str
    tooltip: str
    button: str
    variant: ButtonVariant = "default"


def _bindings(*options: Option) -> list[BindingType]:
    """The keys of the options, and the arrows that go from button to button."""

    def arrow(key: str, way: str, label: str, tooltip: str) -> Binding:
        name = f"{options[0].id.partition('.')[0]}.{way}"
        return Binding(key, f"app.focus_{way}", label, id=name, tooltip=tooltip, show=False)

    return [
        *(
            Binding(option.keys, f"dismiss('{option.value}')", option.label, id=option.id, tooltip=option.tooltip)
            for option in options
        ),
        arrow("left", "previous", "Previous", "To the previous option"),
        arrow("right", "next", "Next", "To the next option"),
    ]


class Question(ModalScreen[str]):
    """A title, a text and a button for each option; the last one, which changes nothing, has the focus."""

    app: Deck

    ASKED: ClassVar[str]
    TEXT: ClassVar[str]
    OPTIONS: ClassVar[tuple[Option, ...]]

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Label(self.ASKED, classes="title", markup=False)
            yield Label(self.TEXT, markup=False)
            with Horizontal(id="choices"):
                for option in self.OPTIONS:
                    words = f"{self.app.label(option.id, option.button)} ({{{option.id}}})"
                    yield Button(self.app.hint(words), id=option.value, variant=option.variant, compact=True)

    def on_mount(self) -> None:
        self.query_one(f"#{self.OPTIONS[-1].value}").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id)


class LeaveScreen(Question):
    """Stop the run, leave it running, or stay."""

    ASKED = "The run goes on."
    TEXT = "Stopping waits for the batches in flight; what is finished is kept either way."
    OPTIONS = (
        Option("leave.stop", "s", "stop", "Stop the run", "Stop after the batches in flight", "Stop", "warning"),
        Option("leave.detach", "d", "detach", "Detach", "Leave; the run goes on", "Detach", "primary"),
        Option("leave.cancel", "escape,c,q", "cancel", "Stay", "Back to the run", "Stay"),
    )
    BINDINGS: ClassVar[list[BindingType]] = _bindings(*OPTIONS)


class StopNowScreen(Question):
    """Stop now, or stay."""

    ASKED = "Stop now?"
    TEXT = (
        "The batches in flight are abandoned and their prompts stay unfinished; finished answers are kept. "
        "`rankdeck resume` goes on with what is missing."
    )
    OPTIONS = (
        Option("stop_now.stop", "X,y", "stop", "Stop now", "Abandon the batches in flight", "Stop now", "error"),
        Option("stop_now.stay", "escape,n,q", "stay", "Stay", "Back to the run", "Stay"),
    )
    BINDINGS: ClassVar[list[BindingType]] = _bindings(*OPTIONS)


class EndSweepScreen(Question):
    """End the sweep, or let it go on; by the keys of `StopNowScreen`."""

    ASKED = "End the sweep?"
    TEXT = (
        "What it has measured stays, and can be seen here; the trials that are left are not run. A run that it is "
        "part of goes on at the chosen setting."
    )
    OPTIONS = (
        StopNowScreen.OPTIONS[0]._replace(
            label="End the sweep", tooltip="End the sweep; what it has measured stays", button="End it"
        ),
        StopNowScreen.OPTIONS[1],
    )
    BINDINGS: ClassVar[list[BindingType]] = _bindings(*OPTIONS)
