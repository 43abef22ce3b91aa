"""The dashboard of a replay: fed from a journal, takes no commands."""

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType

from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.screens.replay import ReplayScreen
from rankdeck.tui.screens.run import RunScreen
from rankdeck.tui.settings.labels import AS_DECLARED, OF_A_REPLAY
from rankdeck.tui.settings.preferences import Preferences
from rankdeck.tui.sources.followed_run import FollowedRun
from rankdeck.tui.sources.replay import ReplayedRun, ReplaySource

if TYPE_CHECKING:
    from rankdeck.tui.sources.client import Source


class ReplayApp(RankdeckApp):
    """The dashboard of a journal; `stops` says why the journal stops before the run's end, if it does."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "ctrl+c", "interrupt", "Leave", id="app.interrupt", tooltip="Leave the replay", show=False, priority=True
        ),
    ]

    def __init__(
        self,
        replay: ReplaySource,
        stops: str = "",
        *,
        preferences: Preferences | None = None,
        at_home: bool = True,
        from_start: bool = False,
    ) -> None:
        """`from_start` is True if leaving the replay leads back to the start screen."""
        self.replay, self.stops = replay, stops
        super().__init__(replay, steerable=False, preferences=preferences, at_home=at_home)
        self.reworded = OF_A_REPLAY if from_start else AS_DECLARED

    def new_followed_run(self, source: "Source | None") -> FollowedRun:
        return ReplayedRun(self.replay)

    def new_run_screen(self) -> RunScreen:
        return ReplayScreen(self.followed, self.replay, self.stops)

    def on_mount(self) -> None:
        super().on_mount()
        for note in self.replay.journal.notes:
            self.say(note)
