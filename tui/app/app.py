"""The dashboard: hands the state of a run to the screen four times a second at most, and knows the ways to leave it.

Knows how a run is started only as a Launcher; figures come from the state, looks from the widgets. Imports nothing
heavy: it must paint at once.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from textual import work
from textual.binding import Binding, BindingType
from textual.screen import Screen

from runner import protocol
from runner.state import RunState
from tui.app.base import Leave
from tui.app.followed_run import Earlier, FollowingApp
from tui.screens.run import RunScreen
from tui.screens.views import Moment
from tui.settings.hint_keys import named
from tui.settings.keys import keys_of
from tui.settings.preferences import Preferences
from tui.start.coming_back import AS_DECLARED, OF_A_RUN, OF_A_SWEEP, Back, Seen
from tui.terminal.repaint import REPAINT_SECONDS
from tui.words import alerts

if TYPE_CHECKING:
    from tui.sources.client import Source
    from tui.sources.journal import Journal
    from tui.start.launcher import Launcher
    from tui.start.screen import StartScreen

TITLE_SECONDS = 1.0
QUIET_BEATS = 2
"""Figures that only moved on are painted at every second beat: calm for the eye, and cheap for the ranks beside it."""


class Flown(NamedTuple):
    """A run as it was when it was left for the start screen; `lost` says why it could no longer be watched."""

    state: RunState | None
    lost: str | None


class RankdeckApp(FollowingApp):
    """The dashboard of one run; without a run to show, the start screen, from which one run after another is opened."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "ctrl+c",
            "interrupt",
            "Stop, then end",
            id="app.interrupt",
            tooltip="Ask the run to stop; a second time ends it at once",
            show=False,
            priority=True,
        ),
    ]

    def __init__(
        self,
        source: "Source | None",
        *,
        launcher: "Launcher | None" = None,
        earlier: Earlier | None = None,
        steerable: bool = True,
        preferences: Preferences | None = None,
        at_home: bool = True,
        back: Back | None = None,
    ) -> None:
        """`steerable` is False where nothing may be asked of the run: in a replay, and for an audience.

        `back` is where the start screen is come back to from.
        """
        super().__init__(source, earlier=earlier, preferences=preferences, at_home=at_home)
        self._steerable = steerable
        self._launcher = launcher
        self._back = back
        self._start: StartScreen | None = None
        self._beats = 0
        self.flown: dict[Path, Flown] = {}
        """The runs that were left for the start screen, by their directories."""
        self.seen: Seen | None = None
        """The start screen as it was when it was last left."""
        self.wanted: Journal | None = None
        """What the start screen was left for: a journal to be replayed."""
        self.wanted_at = 0.0
        """The second of it to begin at; it plays where that is its beginning."""

    def _turn_to(self, source: "Source | None") -> None:
        super()._turn_to(source)
        self._offered: tuple[bool, bool, bool] | None = None
        self._interrupts = 0
        self._leave_when_ended = False
        self._run_screen: RunScreen | None = None

    @property
    def run_is_shown(self) -> bool:
        """Whether everything that came is on the screen."""
        return self._run_screen is not None and self._run_screen.is_mounted and not self._dirty

    def get_default_screen(self) -> Screen[Any]:
        if self._source is not None:
            self._run_screen = self.new_run_screen()
            return self._run_screen
        from tui.start.screen import StartScreen

        self._start = StartScreen(self._launcher, self._back)
        return self._start

    def new_run_screen(self) -> RunScreen:
        """The screen that shows a run."""
        return RunScreen()

    def on_mount(self) -> None:
        self.set_interval(REPAINT_SECONDS, self._repaint)
        self.set_interval(TITLE_SECONDS, self._retitle)
        self._retitle()
        if self._source is not None:
            self._follow(self._source)

    def open_run(self, source: "Source") -> None:
        """From the start screen to a run; whoever leaves that comes back to it."""
        self._turn_to(source)
        self.reworded = OF_A_RUN
        self._run_screen = self.new_run_screen()
        self.push_screen(self._run_screen)
        self._dirty = True
        self._follow(source)

    @work(exclusive=True, group="back")
    async def _go_back(self, start: "StartScreen", directory: Path) -> None:
        """From a run to the start screen, which is shown when it is as it will stay; until then the run is."""
        await start.come_back(directory)
        self.flown[directory] = Flown(self.final_state, self.lost)
        for group in ("follow", "earlier"):
            self.workers.cancel_group(self, group)
        self._turn_to(None)
        self.reworded = AS_DECLARED
        while self.screen is not start:
            await self.pop_screen()
        self._retitle()

    # --- state out ---------------------------------------------------------------------------

    def _repaint(self) -> None:
        if not self._dirty or self._run_screen is None or not self._run_screen.is_mounted:
            return
        self._beats += 1
        if (not self._news and self._beats % QUIET_BEATS) or not self.may_repaint():
            return
        self._dirty = self._news = False
        with self.batch_update():
            self._run_screen.show(Moment(self._run_state, self._book, self.lost))
            offered = (self.steers, self._run_state.ready_at is not None, self._run_state.sweeping)
            if offered != self._offered:
                self._offered = offered
                self._over_by_now()
                others = {name: words for name, words in self.reworded.items() if name not in OF_A_SWEEP}
                self.reworded = {**others, **(OF_A_SWEEP if self._run_state.sweeping else {})}
                self._run_screen.refresh_bindings()

    def _over_by_now(self) -> None:
        """A question about a run that has ended meanwhile asks nothing any more."""
        from tui.screens.questions import LeaveScreen
        from tui.screens.stop_now import StopNowScreen

        if not self._goes_on and isinstance(self.screen, LeaveScreen | StopNowScreen):
            self.screen.dismiss(None)

    def _retitle(self) -> None:
        self.entitle(alerts.title(self._run_state))

    # --- actions -----------------------------------------------------------------------------

    @property
    def _goes_on(self) -> bool:
        return self._run_screen is not None and self._run_state.ended is None and self.lost is None

    @property
    def steers(self) -> bool:
        """Whether there is a run that can be asked for something."""
        return self._steerable and self._goes_on

    async def ask(self, command: protocol.Command) -> None:
        """Ask something of the run, while there is one to ask."""
        if self._source is not None and self.steers:
            await self._source.send(command)

    async def action_stop(self) -> None:
        """Ask the run to stop after the batches in flight."""
        if self.steers:
            await self.ask(protocol.Stop(now=False))
            self.say("The run stops after the batches in flight.", "Stopping")

    async def action_interrupt(self) -> None:
        """Ctrl-C: first stop cleanly, then at once, then leave whatever happens."""
        if not self.steers:
            self._exit_with("ended")
            return
        self._interrupts += 1
        self._leave_when_ended = True
        if self._interrupts == 1:
            await self.ask(protocol.Stop(now=False))
            again = named(
                "The run stops after the batches in flight. {app.interrupt} again ends it at once.", keys_of(self)
            )
            self.say(again, "Stopping")
        elif self._interrupts == 2:
            await self.ask(protocol.Stop(now=True))
            self.say("The batches in flight are abandoned.", "Ending the run")
        else:
            self._exit_with("stopped")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Stopping and detaching are offered only while there is something to stop or to leave running."""
        return self.steers if action in ("stop", "detach") else super().check_action(action, parameters)

    def action_detach(self) -> None:
        """Leave; the run goes on."""
        self._exit_with("detached" if self._goes_on else "ended")

    def leave_soon(self) -> bool:
        """Leave for good; may be called from a signal's handler. False where there is nothing yet to leave."""
        if self._loop is None:
            return False
        self._loop.call_soon_threadsafe(self.exit, "detached" if self._goes_on else "ended")
        return True

    def action_leave(self) -> None:
        """Leave; while the run goes on, ask what shall become of it."""
        if not self.steers:
            self._exit_with("ended")
            return
        from tui.screens.questions import LeaveScreen

        self.push_screen(LeaveScreen(), self._left)

    async def _left(self, choice: str | None) -> None:
        if choice == "detach":
            self.action_detach()
        elif choice == "stop":
            self._leave_when_ended = True
            await self.action_stop()
            if not self._goes_on:
                self._exit_with("ended")

    def _followed(self) -> None:
        if self._run_state.ended is not None and self._leave_when_ended:
            self._exit_with("stopped")

    def _exit_with(self, leave: Leave) -> None:
        """Leave the run: for the start screen, where it was opened from there."""
        if self._start is not None and self.watched is not None:
            self._go_back(self._start, self.watched.resolve())
            return
        if self._run_state.ended is None and leave == "ended":
            leave = "detached"
        self.exit(leave)
