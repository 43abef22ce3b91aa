"""What a view is handed each time there is news, and what the widget of a view does with it."""

from typing import Literal, NamedTuple, Protocol

from rankdeck.runner.state import RunState
from rankdeck.tui.sources.outputs import OutputBook

ViewName = Literal["overview", "outputs", "timeline", "sweep", "log"]


class Frame(NamedTuple):
    """What there is to show: the newest state, the answers, and why the run can no longer be watched, if so."""

    state: RunState
    book: OutputBook
    lost: str | None
    steers: bool = True


class View(Protocol):
    """What the widget of a view does."""

    def show(self, frame: Frame) -> None:
        """Show this; what would look the same is not painted."""
        ...

    def take_focus(self) -> None:
        """Give the keys to the widget of this view that wants them."""
        ...
