"""The dashboard: takes a run's events in, keeps the state, and hands it to the screen four times a second at most.

Knows where events come from only as a Source, and how a run is started only as a Launcher; figures
come from the state, looks from the widgets. Imports nothing heavy: it must paint at once.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import work
from textual.binding import Binding, BindingType
from textual.screen import Screen

from runner import protocol
from runner.protocol import OutputRecord
from runner.reducer import apply
from runner.rundir import RunFileError
from runner.state import RunState, Snapshot, ToViewer
from tui import outside
from tui.base import BaseApp, Leave
from tui.coming_back import OF_A_RUN, OF_A_SWEEP, Back
from tui.hint_keys import named
from tui.keys import keys_of
from tui.knobs import Knobs
from tui.outputs import KEPT, OutputBook
from tui.preferences import Preferences
from tui.repaint import REPAINT_SECONDS
from tui.screens.run import RunScreen
from tui.views import Moment

if TYPE_CHECKING:
    from tui.client import Source
    from tui.journal import Journal
    from tui.launcher import Launcher

Earlier = Callable[[Path], Iterable[OutputRecord]]
"""Reads the answers that a run directory holds already."""

TITLE_SECONDS = 1.0
QUIET_BEATS = 2
"""Figures that only moved on are painted at every second beat: calm for the eye, and cheap for the ranks beside it."""

BREATHE_EVERY = 100
"""After so many messages at once the screen and the keys get their turn."""


class RankdeckApp(BaseApp):
    """The dashboard of one run; without a run to show, the start screen that launches one."""

    CALLS: ClassVar[bool] = True
    """Whether what happens to the run happens now, and may ring a bell."""

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
        super().__init__(preferences, at_home=at_home)
        self._steerable = steerable
        self.knobs = Knobs()
        self._source = source
        self._launcher = launcher
        self._earlier = earlier
        self._back = back
        self._book = OutputBook()
        self._run_state = RunState()
        self._seen_any = False
        self._dirty = False
        self._news = False
        self._beats = 0
        self._offered: tuple[bool, bool, bool] | None = None
        self._interrupts = 0
        self._leave_when_ended = False
        self._run_screen: RunScreen | None = None
        self.lost: str | None = None
        """Why the run can no longer be watched, where that is so."""
        self.wanted: Journal | None = None
        """What the start screen was left for: a journal to be replayed."""
        self.wanted_at = 0.0
        """The second of it to begin at; it plays where that is its beginning."""

    @property
    def final_state(self) -> RunState | None:
        """The last state that came; None where none did."""
        return self._run_state if self._seen_any else None

    @property
    def run_state(self) -> RunState:
        """The newest state there is; the screen may be a moment behind."""
        return self._run_state

    @property
    def watched(self) -> Path | None:
        """The directory of the run that was shown; None where the start screen was left without one."""
        return self._source.directory if self._source is not None else None

    @property
    def book(self) -> OutputBook:
        return self._book

    @property
    def run_is_shown(self) -> bool:
        """Whether everything that came is on the screen."""
        return self._run_screen is not None and self._run_screen.is_mounted and not self._dirty

    def get_default_screen(self) -> Screen[Any]:
        if self._source is not None:
            self._run_screen = self.new_run_screen()
            return self._run_screen
        from tui.screens.start import StartScreen

        return StartScreen(self._launcher, self._back)

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
        """From the start screen to a run; whoever leaves that comes back in an application of its own."""
        self._source, self.reworded = source, OF_A_RUN
        self._run_screen = self.new_run_screen()
        self.push_screen(self._run_screen)
        self._dirty = True
        self._follow(source)

    # --- events in ---------------------------------------------------------------------------

    @work(exclusive=True, group="follow")
    async def _follow(self, source: "Source") -> None:
        from tui.client import SourceError

        taken = 0
        try:
            async for message in source.events():
                self._take(message)
                taken += 1
                if taken == 1:
                    self._repaint()
                if taken % BREATHE_EVERY == 0:
                    # A socket with much to say never waits, and would keep the loop to itself.
                    await asyncio.sleep(0)
        except SourceError as error:
            self.lost = str(error)
            self._dirty = True
            if self.CALLS:
                self.call_for(outside.lost_call(self._run_state, self.lost))
        if self._run_state.ended is not None and self._leave_when_ended:
            self._exit_with("stopped")

    def _take(self, message: ToViewer) -> None:
        self._dirty = True
        self._news = self._news or not isinstance(message, protocol.Tick | protocol.Output)
        if isinstance(message, protocol.Refused):
            self.lost = message.reason
            return
        before, seen_any, self._seen_any = self._run_state, self._seen_any, True
        if isinstance(message, Snapshot):
            self._run_state = message.state
            self._look_back()
        else:
            self._run_state = apply(self._run_state, message)
            if isinstance(message, protocol.Output):
                self._book.add(message.record)
            elif isinstance(message, protocol.RunEnded):
                self._look_back()
        self.knobs.heard(self._run_state)
        if seen_any and self.CALLS:
            for text in outside.calls(before, self._run_state):
                self.call_for(text)

    def _look_back(self) -> None:
        """Read the answers that were never heard of: from before this view came, or fell behind."""
        missing = self._run_state.done > len(self._book) and len(self._book) < KEPT
        if missing and self._earlier is not None and self._source is not None:
            self._load_earlier(self._source.directory, self._earlier)

    @work(exclusive=True, group="earlier")
    async def _load_earlier(self, directory: Path, earlier: Earlier) -> None:
        try:
            records = await asyncio.to_thread(lambda: deque(earlier(directory), maxlen=KEPT))
        except (OSError, ValueError, RunFileError) as error:
            self.notify(f"earlier answers cannot be read: {error}", severity="warning", markup=False)
            return
        self._book.load(records)
        self._dirty = True

    def stored_answers(self) -> Iterable[OutputRecord] | None:
        """Every answer on disk, read as it is asked for; None where only what was heard is known."""
        if self._earlier is None or self._source is None:
            return None
        return self._earlier(self._source.directory)

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
        from tui.screens.leave import LeaveScreen
        from tui.screens.stop_now import StopNowScreen

        if not self._goes_on and isinstance(self.screen, LeaveScreen | StopNowScreen):
            self.screen.dismiss(None)

    def _retitle(self) -> None:
        self.entitle(outside.title(self._run_state))

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
        """Detach; may be called from a signal's handler. False where there is nothing yet to leave."""
        if self._loop is None:
            return False
        self._loop.call_soon_threadsafe(self.action_detach)
        return True

    def action_leave(self) -> None:
        """Leave; while the run goes on, ask what shall become of it."""
        if not self.steers:
            self._exit_with("ended")
            return
        from tui.screens.leave import LeaveScreen

        self.push_screen(LeaveScreen(), self._left)

    async def _left(self, choice: str | None) -> None:
        if choice == "detach":
            self.action_detach()
        elif choice == "stop":
            self._leave_when_ended = True
            await self.action_stop()
            if not self._goes_on:
                self._exit_with("ended")

    def _exit_with(self, leave: Leave) -> None:
        if self._run_state.ended is None and leave == "ended":
            leave = "detached"
        self.exit(leave)
