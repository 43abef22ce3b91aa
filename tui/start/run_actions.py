"""What the start screen does with the runs in its list: goes to them, replays and reports on them, takes them over.

Knows the Launcher, which is only ever asked in a thread, and of the screen its form. What a run is, tui.sources.runs
knows.
"""

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from textual import on, work
from textual.screen import Screen
from textual.widgets import Label

from rankdeck.tui.panels.forms.run_form import FIRST_VALUES, values_of
from rankdeck.tui.sources.runs import RecentRun
from rankdeck.tui.start.form import NewRun
from rankdeck.tui.start.launcher import Launcher
from rankdeck.tui.start.memory import Seen
from rankdeck.tui.start.run_list import RunList, Wish
from rankdeck.tui.widgets.deck import Deck
from rankdeck.tui.words.errors import problem
from rankdeck.tui.words.text import visible

if TYPE_CHECKING:
    from rankdeck.tui.sources.client import Source
    from rankdeck.tui.sources.journal import Journal

T = TypeVar("T")

OpenRun = Callable[["Source", Seen], None]
"""Leads to a run; this screen, as it was seen, is come back to."""

OpenReplay = Callable[["Journal", float, Seen], None]
"""Leads to a replay from a position in seconds on; it plays where that is the beginning."""

FAILS: dict[Wish, tuple[str, str | None]] = {
    "attach": ("cannot be attached to", "attach"),
    "resume": ("cannot be resumed", "resume"),
    "look": ("cannot be shown", "replay"),
    "replay": ("cannot be replayed", "replay"),
    "report": ("no report can be made", "report"),
    "settings": ("its settings cannot be taken over", None),
}
"""How it is said that a wish failed, and the command with which the whole of the error comes to the terminal,
if one does."""


class RunWishes(Screen[None]):
    """A screen with a list of runs, on which each of their keys does what it says."""

    app: Deck

    def __init__(self, launcher: Launcher | None, *, open_run: OpenRun, open_replay: OpenReplay) -> None:
        super().__init__()
        self._launcher = launcher
        self._open_run, self._open_replay = open_run, open_replay
        # There from the beginning: the line of keys asks what can be done before the screen is mounted.
        self._list = RunList(id="runs")
        self._form = NewRun(id="new-run")
        self._settings_of: Path | None = None
        """The run whose settings stand in the form."""
        self._said = Label("", id="start-said", markup=False)
        self._launching = False

    @abstractmethod
    def seen(self) -> Seen:
        """What is to be seen here, for whoever comes back."""

    @abstractmethod
    def _open(self, start: "Callable[[], Source]", complain: Callable[[Exception], object]) -> object:
        """From here to a run; `complain` is told what kept it from being opened."""

    @on(RunList.Asked)
    def _asked(self, event: RunList.Asked) -> None:
        launcher, run = self._launcher, event.run
        if launcher is None or self._launching:
            return
        self._say("")
        if event.wish == "attach":
            self._open(lambda: launcher.attach(run.directory), partial(self._complain, run, event.wish))
        elif event.wish == "resume":
            self._open(lambda: launcher.resume(run.directory), partial(self._complain, run, event.wish))
        elif event.wish in ("look", "replay"):
            self._replay(launcher, run, event.wish)
        elif event.wish == "report":
            self._report(launcher, run)
        else:
            self._copy(launcher, run)

    @work(exclusive=True, group="launch")
    async def _replay(self, launcher: Launcher, run: RecentRun, wish: Wish) -> None:
        journal = await self._try(lambda: launcher.journal(run.directory), run, wish)
        if journal is not None:
            self._open_replay(journal, journal.length if wish == "look" else 0.0, self.seen())

    @work(exclusive=True, group="report")
    async def _report(self, launcher: Launcher, run: RecentRun) -> None:
        path = await self._try(lambda: launcher.report(run.directory), run, "report")
        if path is not None:
            self.app.notify(
                f"{visible(str(path))}, with .md, .csv and .json beside it",
                title="Report written",
                markup=False,
                timeout=15,
            )

    @work(exclusive=True, group="copy")
    async def _copy(self, launcher: Launcher, run: RecentRun) -> None:
        settings = await self._try(lambda: launcher.settings(run), run, "settings")
        if settings is not None:
            self._settings_of = run.directory
            self._form.fill(values_of(settings), over=True)
            self._form.focus_prompts()
            self._form.say_taken(run.name, await self._defaults(launcher))

    async def _defaults(self, launcher: Launcher) -> dict[str, str]:
        """What stands in the fields of a first run; may take a second, in which GPUs are counted."""
        return {**FIRST_VALUES, **values_of(await asyncio.to_thread(launcher.first_settings))}

    async def _try(self, work: Callable[[], T], run: RecentRun, wish: Wish) -> T | None:
        """What `work` gives, done in a thread; None, and the reason on the screen, where it raises."""
        try:
            return await asyncio.to_thread(work)
        except Exception as error:  # whatever keeps it from happening, the user is told and may do something else
            self._complain(run, wish, error)
            return None

    def _complain(self, run: RecentRun, wish: Wish, error: Exception) -> None:
        what, command = FAILS[wish]
        self._say(problem(what, error, run.name, command))

    def _say(self, problem: str) -> None:
        """A line above the keys that stays until something else is done; nothing said takes no room."""
        self._said.display = bool(problem)
        self._said.update(f"✗ {problem}" if problem else "")
