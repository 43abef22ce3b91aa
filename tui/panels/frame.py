"""What a view is handed whenever there is news, and what the widget of a view can do."""

from typing import Literal, NamedTuple, Protocol

from rankdeck.runner.state import RunState
from rankdeck.tui.sources.outputs import OutputBook
from rankdeck.tui.words.tour import Captions

ViewName = Literal["overview", "outputs", "timeline", "sweep", "log"]


class Frame(NamedTuple):
    """What there is to show: the newest state, the answers, why the run can no longer be watched, if it cannot,
    whether this terminal may steer it, what is waited for, if nothing comes from the run, and what the tour says.
    """

    state: RunState
    book: OutputBook
    lost: str | None
    steers: bool
    silence: str | None = None
    tour: Captions = ()


class View(Protocol):
    """What the widget of a view can do."""

    def show(self, frame: Frame) -> None:
        """Show a frame; paint only what changes."""
        ...

    def take_focus(self) -> None:
        """Focus the widget of this view that takes the keys."""
        ...
