"""What the keys of a run in the list do, and the words for a failure.

Knows a Launcher, which it asks in a thread, and functions to hand the results to. Does not know the screen.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from rankdeck.tui.sources.runs import RecentRun
from rankdeck.tui.start.launcher import Launcher
from rankdeck.tui.start.run_list import RunAction
from rankdeck.tui.words.errors import problem
from rankdeck.tui.words.text import visible

if TYPE_CHECKING:
    from rankdeck.tui.sources.client import Source
    from rankdeck.tui.sources.journal import Journal

FAILURES: dict[RunAction, tuple[str, str | None]] = {
    "attach": ("cannot be attached to", "attach"),
    "resume": ("cannot be resumed", "resume"),
    "look": ("cannot be shown", "replay"),
    "replay": ("cannot be replayed", "replay"),
    "report": ("no report can be made", "report"),
    "settings": ("its settings cannot be taken over", None),
}
"""The words for an action that failed, and the command that prints the whole error, if there is one."""


class RunActions:
    """Does what was requested for a run, and says so where it fails."""

    def __init__(
        self,
        launcher: Launcher,
        *,
        open: "Callable[[Callable[[], Source], Callable[[Exception], None]], Coroutine[Any, Any, None]]",
        replay: "Callable[[Journal, float], object]",
        copy: Callable[[RecentRun], Coroutine[Any, Any, None]],
        notify: Callable[..., object],
        complain: Callable[[str], object],
    ) -> None:
        """`open` is given what connects to a run and what to call if that fails, `replay` the second to begin at,
        `complain` a line for the user; `notify` is Textual's.
        """
        self._launcher, self._open, self._replay, self._copy = launcher, open, replay, copy
        self._notify, self._complain = notify, complain

    async def do(self, action: RunAction, run: RecentRun) -> None:
        """What the key says; if anything is raised, say what failed and why."""
        try:
            if action in ("attach", "resume"):
                start = self._launcher.attach if action == "attach" else self._launcher.resume
                await self._open(partial(start, run.directory), partial(self._failed, action, run))
            elif action == "settings":
                await self._copy(run)
            elif action == "report":
                path = visible(str(await asyncio.to_thread(self._launcher.report, run.directory)))
                said = f"{path}, with .md, .csv and .json beside it"
                self._notify(said, title="Report written", markup=False, timeout=15)
            else:
                journal = await asyncio.to_thread(self._launcher.journal, run.directory)
                self._replay(journal, journal.length if action == "look" else 0.0)
        except Exception as error:
            self._failed(action, run, error)

    def _failed(self, action: RunAction, run: RecentRun, error: Exception) -> None:
        what, command = FAILURES[action]
        self._complain(problem(what, error, run.name, command))
