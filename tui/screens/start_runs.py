"""What the start screen does with the runs in its list: looks for them, goes to them, replays and reports on them.

Knows the Launcher, which is only ever asked in a thread, and of the screen its form. What a run is, tui.runs knows.
"""

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from textual import on, work
from textual.screen import Screen

from tui.launcher import Launcher
from tui.runs import RecentRun
from tui.start_form import values_of
from tui.text import visible
from tui.widgets.new_run import NewRun
from tui.widgets.run_list import RunList

if TYPE_CHECKING:
    from tui.app import RankdeckApp
    from tui.client import Source

T = TypeVar("T")


class RunWishes(Screen[None]):
    """A screen with a list of runs, on which each of their keys does what it says."""

    app: "RankdeckApp"

    def __init__(self, launcher: Launcher | None) -> None:
        super().__init__()
        self._launcher = launcher
        # There from the beginning: the line of keys asks what can be done before the screen is mounted.
        self._list = RunList(id="runs")
        self._form = NewRun(id="new-run")
        self._launching = False

    @abstractmethod
    def _open(self, start: "Callable[[], Source]") -> object:
        """From here to a run."""

    @on(RunList.Asked)
    def _asked(self, event: RunList.Asked) -> None:
        launcher, run = self._launcher, event.run
        if launcher is None or self._launching:
            return
        if event.wish == "attach":
            self._open(lambda: launcher.attach(run.directory))
        elif event.wish == "resume":
            self._open(lambda: launcher.resume(run.directory))
        elif event.wish in ("look", "replay"):
            self._replay(launcher, run, at_end=event.wish == "look")
        elif event.wish == "report":
            self._report(launcher, run)
        else:
            self._copy(launcher, run)

    @work(exclusive=True, group="launch")
    async def _replay(self, launcher: Launcher, run: RecentRun, *, at_end: bool) -> None:
        """A replay is an application of its own: this one ends, and says what is wanted."""
        journal = await self._try(lambda: launcher.journal(run.directory), "It cannot be replayed")
        if journal is not None:
            self.app.wanted, self.app.wanted_at = journal, journal.length if at_end else 0.0
            self.app.exit()

    @work(exclusive=True, group="report")
    async def _report(self, launcher: Launcher, run: RecentRun) -> None:
        path = await self._try(lambda: launcher.report(run.directory), "There is no report")
        if path is not None:
            self.app.notify(
                f"{visible(str(path))}, with .md, .csv and .json beside it",
                title="Report written",
                markup=False,
                timeout=15,
            )

    @work(exclusive=True, group="copy")
    async def _copy(self, launcher: Launcher, run: RecentRun) -> None:
        settings = await self._try(lambda: launcher.settings(run), "They cannot be copied")
        if settings is not None:
            self._form.fill(values_of(settings), over=True)
            self.app.say(f"The form has the settings of {visible(run.name)}.")
            self._form.focus_prompts()

    async def _try(self, work: Callable[[], T], title: str) -> T | None:
        """What `work` gives, done in a thread; None, and the reason on the screen, where it raises."""
        try:
            return await asyncio.to_thread(work)
        except Exception as error:  # whatever keeps it from happening, the user is told and may do something else
            said = visible(str(error) or type(error).__name__)
            self.app.notify(said, title=title, severity="error", markup=False, timeout=15)
            return None
