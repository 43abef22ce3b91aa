"""The dialog that shows all advice in full, as it is now, while the run is steered by the same keys as without it.

Knows no state: whoever opens it passes the lines, and says when there are new ones.
"""

from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen

from rankdeck.tui.screens.run_keys import STEERING_KEYS
from rankdeck.tui.screens.steering import Steering
from rankdeck.tui.sources.followed_run import FollowedRun
from rankdeck.tui.widgets.key_bar import KeyBar
from rankdeck.tui.widgets.lines import Panel
from rankdeck.tui.widgets.scrolling import ScrollBox
from rankdeck.tui.words.text import Line

CLOSE_ADVICE = Binding("escape,i,q", "dismiss", "Close", id="advice.close", tooltip="Back", show=False)
"""Not in the line of keys: as in every dialog, the border says how to close it."""


class AdviceScreen(Steering, ModalScreen[None]):
    """The advice, with the keys that steer below it; it may grow while it is open, and never shrinks."""

    DEFAULT_CSS = """
    AdviceScreen KeyBar { height: 2; padding: 1 1 0 1; background: $surface; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [CLOSE_ADVICE, *STEERING_KEYS]

    def __init__(self, followed: FollowedRun, lines: Callable[[int], list[Line]]) -> None:
        """`lines` returns what to show in a width."""
        super().__init__()
        self.followed, self._lines = followed, lines
        self._most: dict[int, int] = {}

    @property
    def has_keys(self) -> bool:
        """Whether there are keys to list below the advice."""
        return self.followed.steers

    def compose(self) -> ComposeResult:
        with ScrollBox(id="help") as box:
            box.border_title = "Advice"
            box.border_subtitle = self.app.hint("{advice.close} closes")
            yield Panel("", id="advice-lines")
            yield KeyBar()

    def on_mount(self) -> None:
        self._panel, self._bar = self.query_one(Panel), self.query_one(KeyBar)
        self.query_one("#help").focus()
        self.show()

    def show(self) -> None:
        """Show the newest lines; those that are as before are not painted."""
        self._bar.display = self.has_keys
        self._panel.draw(self._as_tall_as_before)

    def _as_tall_as_before(self, width: int, height: int) -> list[Line]:
        """The lines, and below them the room that earlier ones took: what is read must not jump when a line goes."""
        lines = self._lines(width)
        self._most[width] = max(self._most.get(width, 0), len(lines))
        return [*lines, *[()] * (self._most[width] - len(lines))]
