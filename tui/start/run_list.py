"""The list of recent runs: a cursor, and the keys of the run under it. Knows RecentRuns, but not what a key does."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from rankdeck.tui.panels.forms.start_lines import ROWS_PER_RUN, age, no_runs_lines, run_rows
from rankdeck.tui.sources.runs import RecentRun
from rankdeck.tui.widgets.lines import Painter

RunAction = Literal["attach", "resume", "look", "replay", "report", "settings"]
"""`look` shows the end of a run that is over."""


class RunList(ScrollView, Painter, can_focus=True):
    """Two lines a run; a key that makes no sense for the run under the cursor is not offered."""

    DEFAULT_CSS = """
    RunList {
        height: 1fr;
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter",
            "open",
            "Open",
            id="runs.open",
            tooltip="Attach to a run that goes on; of one that is over, its end",
        ),
        Binding("a", "do('attach')", "Attach", id="runs.attach", tooltip="Watch this run while it goes on"),
        Binding(
            "u", "do('resume')", "Resume", id="runs.resume", tooltip="Go on with the prompts that have no answer yet"
        ),
        Binding("p", "do('replay')", "Replay", id="runs.replay", tooltip="Fly this run again"),
        Binding("r", "do('report')", "Report", id="runs.report", tooltip="Write report.html and its like into the run"),
        Binding(
            "c", "do('settings')", "Settings", id="runs.settings", tooltip="Take this run's settings into the form"
        ),
        Binding("up,k", "move(-1)", "Up", id="runs.up", tooltip="The run above", show=False),
        Binding("down,j", "move(1)", "Down", id="runs.down", tooltip="The run below", show=False),
        Binding("pageup", "page(-1)", "Page up", id="runs.page_up", tooltip="A page of runs up", show=False),
        Binding("pagedown", "page(1)", "Page down", id="runs.page_down", tooltip="A page of runs down", show=False),
        Binding("home,g", "edge(0)", "First", id="runs.first", tooltip="The newest run", show=False),
        Binding("end,G", "edge(1)", "Last", id="runs.last", tooltip="The oldest run", show=False),
    ]

    class Moved(Message):
        """The cursor is on another run, or the run has changed."""

    class Requested(Message):
        """A key of the run was pressed."""

        def __init__(self, action: RunAction, run: RecentRun) -> None:
            super().__init__()
            self.action = action
            self.run = run

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._runs: Sequence[RecentRun] | None = None
        self._cursor = 0
        self._ages: list[str] = []
        self._painted: list[RecentRun] = []

    @property
    def runs(self) -> Sequence[RecentRun]:
        """The runs in the list."""
        return self._runs or ()

    @property
    def run(self) -> RecentRun | None:
        """The run under the cursor."""
        return self._runs[self._cursor] if self._runs else None

    def show(self, runs: Sequence[RecentRun], at: Path | None = None) -> None:
        """Show `runs`; the cursor stays on its run, or goes to the one in the directory `at`."""
        before = self.run
        first, self._runs = self._runs is None, runs
        here = at.resolve() if at is not None else before.directory if before is not None else None
        places = [place for place, run in enumerate(runs) if run.directory == here]
        self._cursor = places[0] if places else min(self._cursor, max(0, len(runs) - 1))
        self.virtual_size = Size(self.scrollable_content_region.width, ROWS_PER_RUN * len(runs))
        ages = [age(time.time() - run.started_at) for run in runs]
        if first or ages != self._ages or list(runs) != self._painted:
            self._ages, self._painted = ages, list(runs)
            self.refresh()
        if at is not None:
            self._go(self._cursor)  # scroll it into view
        elif first or self.run != before:
            self.post_message(self.Moved())

    def can(self, action: RunAction) -> bool:
        """Whether the action makes sense for the run under the cursor."""
        run = self.run
        if run is None:
            return False
        return {
            "attach": run.live,
            "resume": run.unfinished,
            "look": run.ended,
            "replay": run.ended,
            "report": run.ended and run.has_figures,
            "settings": run.config is not None,
        }[action]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "do":
            return self.can(parameters[0])  # type: ignore[arg-type]
        return (self.can("attach") or self.can("replay")) if action == "open" else True

    def action_do(self, action: RunAction) -> None:
        if (run := self.run) is not None:
            self.post_message(self.Requested(action, run))

    def action_open(self) -> None:
        self.action_do("attach" if self.can("attach") else "look")

    def _go(self, to: int) -> None:
        if not self._runs:
            return
        self._cursor = max(0, min(len(self._runs) - 1, to))
        region = Region(0, self._cursor * ROWS_PER_RUN, 1, ROWS_PER_RUN)
        self.scroll_to_region(region, animate=False, force=True)
        self.refresh()
        self.post_message(self.Moved())

    def action_move(self, by: int) -> None:
        self._go(self._cursor + by)

    def action_page(self, direction: int) -> None:
        self._go(self._cursor + direction * max(1, self.size.height // ROWS_PER_RUN - 1))

    def action_edge(self, end: int) -> None:
        self._go(len(self._runs) - 1 if end and self._runs else 0)

    def on_click(self, event: Click) -> None:
        self._go((event.y + self.scroll_offset.y) // ROWS_PER_RUN)

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        if not self._runs:
            lines = no_runs_lines(width) if self._runs is not None else [(("looking for runs", "dim"),)]
            return self.paint(lines[y] if y < len(lines) else (), width)
        at, line = divmod(y + self.scroll_offset.y, ROWS_PER_RUN)
        if at >= len(self._runs):
            return self.paint((), width)
        here = at == self._cursor and self.has_focus  # without the focus its keys do nothing
        rows = run_rows(self._runs[at], width, time.time(), here=here)
        return self.paint(rows[line], width, self.style_of("cursor") if here else None)
