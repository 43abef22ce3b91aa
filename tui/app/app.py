"""The dashboard: hands the state of a run to its screen up to four times a second, and knows the ways to leave.

Holds the run that it follows. Knows only a Launcher's interface for starting runs; figures come from the state, looks
from the widgets. Imports nothing heavy, so that it paints at once.
"""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from textual import work
from textual.binding import Binding, BindingType
from textual.screen import Screen

from rankdeck.runner import protocol
from rankdeck.runner.run_directory import RunFileError
from rankdeck.runner.state import RunState
from rankdeck.tui.app.base import BaseApp
from rankdeck.tui.panels.frame import Frame
from rankdeck.tui.screens.run import RunScreen
from rankdeck.tui.settings.hint_keys import named
from rankdeck.tui.settings.labels import AS_DECLARED, OF_A_RUN, OF_A_SWEEP
from rankdeck.tui.settings.preferences import Preferences
from rankdeck.tui.sources.followed_run import Earlier, FollowedRun
from rankdeck.tui.start.way_back import Back, Seen
from rankdeck.tui.terminal.repaint import REPAINT_SECONDS
from rankdeck.tui.widgets.deck import Leave
from rankdeck.tui.words import alerts

if TYPE_CHECKING:
    from rankdeck.tui.sources.client import Source
    from rankdeck.tui.sources.journal import Journal
    from rankdeck.tui.start.launcher import Launcher
    from rankdeck.tui.start.screen import StartScreen

TITLE_SECONDS = 1.0
QUIET_BEATS = 2
"""If only figures changed, only every other beat paints: calmer to look at, and cheaper for ranks on this machine."""


BREATHE_EVERY = 100
"""After this many messages in a row, the screen and the keys get their turn."""


class LeftRun(NamedTuple):
    """A run as it was when the user went back to the start screen; `lost` says why it could no longer be watched."""

    state: RunState | None
    lost: str | None


class RankdeckApp(BaseApp):
    """The dashboard of a run; without one, the start screen, from which any number of runs can be opened in turn."""

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
        tour: bool = False,
    ) -> None:
        """`steerable` is False if the run takes no commands from here: in a replay, and for an audience.

        `back` says what the user comes back from to the start screen. With `tour` the run's begins by itself.
        """
        super().__init__(preferences, at_home=at_home)
        self._earlier, self._steerable, self._tour = earlier, steerable, tour
        self._launcher = launcher
        self._back = back
        self._start: StartScreen | None = None
        self._beats = 0
        self.left_runs: dict[Path, LeftRun] = {}
        """The runs from which the user went back to the start screen, by directory."""
        self.seen: Seen | None = None
        """The start screen as the user last left it."""
        self.wanted: Journal | None = None
        """The journal that the user chose to replay on the start screen."""
        self.wanted_at = 0.0
        """The second to begin the replay at; from 0 it plays at once."""
        self._turn_to(source)

    def _turn_to(self, source: "Source | None") -> None:
        """Start over with the run that `source` brings, or with none."""
        self.followed = self.new_followed_run(source)
        self._offered: tuple[bool, bool, bool] | None = None
        self._interrupts = 0
        self._leave_when_ended = False
        self._run_screen: RunScreen | None = None

    @property
    def run_is_shown(self) -> bool:
        """Whether the screen shows everything that has come."""
        return self._run_screen is not None and self._run_screen.is_mounted and not self.followed.dirty

    def get_default_screen(self) -> Screen[Any]:
        if self.followed.source is not None:
            self._run_screen = self.new_run_screen()
            return self._run_screen
        from rankdeck.tui.start.screen import StartScreen

        assert self._launcher is not None, "without a run to show there is one to launch with"
        self._start = StartScreen(self._launcher, self._back, open_run=self.open_run, open_replay=self._leave_for)
        return self._start

    def new_followed_run(self, source: "Source | None") -> FollowedRun:
        """A followed run with the events of `source`."""
        return FollowedRun(source, earlier=self._earlier, steerable=self._steerable, tour=self._tour)

    def new_run_screen(self) -> RunScreen:
        """The screen that shows the run."""
        return RunScreen(self.followed)

    def on_mount(self) -> None:
        self.set_interval(REPAINT_SECONDS, self._repaint)
        self.set_interval(TITLE_SECONDS, self._retitle)
        self._retitle()
        self._follow(self.followed)

    def open_run(self, source: "Source", seen: Seen | None = None) -> None:
        """Go from the start screen, last `seen` like this, to a run; leaving the run leads back."""
        self.seen = seen
        self._turn_to(source)
        self.reworded = OF_A_RUN
        self._run_screen = self.new_run_screen()
        self.push_screen(self._run_screen)
        self.followed.dirty = True
        self._follow(self.followed)

    def _leave_for(self, journal: "Journal", position: float, seen: Seen) -> None:
        """A replay is another application: end this one, and say which journal to replay."""
        self.wanted, self.wanted_at, self.seen = journal, position, seen
        self.exit()

    @work(exclusive=True, group="back")
    async def _go_back(self, start: "StartScreen", directory: Path) -> None:
        """Go from a run back to the start screen; the run stays on screen until the start screen is up to date."""
        await start.come_back(directory)
        self.left_runs[directory] = LeftRun(self.followed.final_state, self.followed.lost)
        for group in ("follow", "earlier"):
            self.workers.cancel_group(self, group)
        self.followed.let_go()
        self._turn_to(None)
        self.reworded = AS_DECLARED
        while self.screen is not start:
            await self.pop_screen()
        self._retitle()

    # --- events in ---------------------------------------------------------------------------

    @work(exclusive=True, group="follow")
    async def _follow(self, followed: FollowedRun) -> None:
        taken = 0
        async for reaction in followed.follow():
            for text in reaction.alerts:
                self.alert(text)
            if reaction.answers_missing:
                self._load_earlier(followed)
            taken += 1
            if taken == 1:
                self._repaint()
            if taken % BREATHE_EVERY == 0:
                # A busy socket never has to wait, and would keep the event loop to itself.
                await asyncio.sleep(0)
        if followed.state.ended is not None and self._leave_when_ended:
            await self._exit_with("stopped")

    @work(exclusive=True, group="earlier")
    async def _load_earlier(self, followed: FollowedRun) -> None:
        try:
            records = await asyncio.to_thread(followed.newest_stored)
        except (OSError, ValueError, RunFileError) as error:
            self.notify(f"earlier answers cannot be read: {error}", severity="warning", markup=False)
            return
        followed.load(records)

    # --- state out ---------------------------------------------------------------------------

    def _repaint(self) -> None:
        followed = self.followed
        if not followed.dirty or self._run_screen is None or not self._run_screen.is_mounted:
            return
        self._beats += 1
        if (not followed.news and self._beats % QUIET_BEATS) or not self.may_repaint():
            return
        followed.dirty = followed.news = False
        with self.batch_update():
            self._run_screen.show(
                Frame(
                    followed.state,
                    followed.book,
                    followed.lost,
                    followed.steers,
                    followed.silence,
                    followed.tour.captions,
                )
            )
            offered = (followed.steers, followed.state.ready_at is not None, followed.state.sweeping)
            if offered != self._offered:
                self._offered = offered
                self._close_outdated_question()
                others = {name: label for name, label in self.reworded.items() if name not in OF_A_SWEEP}
                self.reworded = {**others, **(OF_A_SWEEP if followed.state.sweeping else {})}
                self._run_screen.refresh_bindings()
                self.screen.refresh_bindings()  # a dialog above it may have some of its keys

    def _close_outdated_question(self) -> None:
        """Close a question about a run that has ended meanwhile."""
        from rankdeck.tui.screens.questions import Question

        if not self.followed.goes_on and isinstance(self.screen, Question):
            self.screen.dismiss(None)

    def _retitle(self) -> None:
        self.set_window_title(alerts.title(self.followed.state))

    # --- actions -----------------------------------------------------------------------------

    async def action_stop(self) -> None:
        """Ask the run to stop after the batches in flight."""
        if self.followed.steers:
            await self.followed.ask(protocol.Stop(now=False))
            self.say("The run stops after the batches in flight.", "Stopping")

    async def action_interrupt(self) -> None:
        """Ctrl-C: stop after the batches in flight; the second time stop at once; the third time leave in any case."""
        if not self.followed.steers:
            await self._exit_with("ended")
            return
        self._interrupts += 1
        self._leave_when_ended = True
        if self._interrupts == 1:
            await self.followed.ask(protocol.Stop(now=False))
            again = named(
                "The run stops after the batches in flight. {app.interrupt} again ends it at once.", self.keys
            )
            self.say(again, "Stopping")
        elif self._interrupts == 2:
            await self.followed.ask(protocol.Stop(now=True))
            self.say("The batches in flight are abandoned.", "Ending the run")
        else:
            await self._exit_with("stopped")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Stop and detach are offered only while the run can be steered."""
        return self.followed.steers if action in ("stop", "detach") else super().check_action(action, parameters)

    async def action_detach(self) -> None:
        """Leave; the run goes on."""
        await self._exit_with("detached" if self.followed.goes_on else "ended")

    def leave_soon(self) -> bool:
        """End the application; may be called from a signal handler. False if it has not started yet."""
        if self._loop is None:
            return False
        asyncio.run_coroutine_threadsafe(self._told_to_leave(), self._loop)
        return True

    async def _told_to_leave(self) -> None:
        await self.followed.end_tour()
        self.exit("detached" if self.followed.goes_on else "ended")

    async def action_leave(self) -> None:
        """Leave; while the run goes on, ask first whether to stop it."""
        if not self.followed.steers:
            await self._exit_with("ended")
            return
        from rankdeck.tui.screens.questions import LeaveScreen

        self.push_screen(LeaveScreen(), self._left)

    async def _left(self, choice: str | None) -> None:
        if choice == "detach":
            await self.action_detach()
        elif choice == "stop":
            self._leave_when_ended = True
            await self.action_stop()
            if not self.followed.goes_on:
                await self._exit_with("ended")

    async def _exit_with(self, leave: Leave) -> None:
        """Leave the run: for the start screen if the run was opened there, else for good."""
        await self.followed.end_tour()
        if self._start is not None and self.followed.directory is not None:
            self._go_back(self._start, self.followed.directory.resolve())
            return
        if self.followed.state.ended is None and leave == "ended":
            leave = "detached"
        self.exit(leave)
