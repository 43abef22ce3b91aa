"""The Overview: throughput, progress, GPUs, and what each rank does. Gives each panel its lines and its room."""

from functools import partial
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Input, Label

from rankdeck.runner.state import RunState
from rankdeck.tui.panels.frame import Frame
from rankdeck.tui.panels.overview.advice import bound_line
from rankdeck.tui.panels.overview.devices import DeviceForm, device_lines, devices_title
from rankdeck.tui.panels.overview.gpu_figures import common_name
from rankdeck.tui.panels.overview.gpu_ranks import gpu_rank_lines
from rankdeck.tui.panels.overview.notice import held_up
from rankdeck.tui.panels.overview.plan import OverviewPlan, outline, plan_overview
from rankdeck.tui.panels.overview.progress import facts_lines, progress_lines
from rankdeck.tui.panels.overview.rank_order import SORTS, Arrangement, RankView, ranks_title
from rankdeck.tui.panels.overview.ranks import RankForm, rank_lines
from rankdeck.tui.panels.overview.settings_table import settings_lines
from rankdeck.tui.panels.overview.summary import summary_lines, summary_title
from rankdeck.tui.panels.overview.tail import tail_lines, tail_title
from rankdeck.tui.panels.overview.throughput import throughput_lines
from rankdeck.tui.sources.outputs import OutputBook
from rankdeck.tui.widgets.fields import TextField
from rankdeck.tui.widgets.lines import Lines, Panel
from rankdeck.tui.widgets.scrolling import ScrollBox
from rankdeck.tui.words.status import STATUS
from rankdeck.tui.words.sweep import how_ended
from rankdeck.tui.words.text import Line

CALM_FROM = 5
"""From this many ranks on, their steps are shown twice a second: their rows are most of what goes to the terminal."""

MANY = 2
"""From this many ranks on there is something to sort and to filter."""


BOUND = 1
"""The line that says what the run is bound by."""

PLANS = 8
"""The newest plans are kept: the view goes back and forth between having a line of advice, a scrollbar, or not."""

PlanInputs = tuple[RunState, int, int, int, bool, int]
"""The arguments of `plan_overview`."""


class Overview(ScrollBox):
    """The first view: panels from top to bottom; the charts take the room that the tables leave."""

    DEFAULT_CSS = """
    Overview #rank-filter { height: 1; display: none; padding: 0 1; }
    Overview #rank-filter Label { width: 2; color: $primary; text-style: bold; }
    Overview #rank-filter Input { width: 1fr; background: $surface; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("w", "worst_first", "Worst first", id="ranks.worst", tooltip="The ranks in trouble first", show=False),
        Binding(
            "o", "sort", "Order of ranks", id="ranks.sort", tooltip="Order the ranks by the next column", show=False
        ),
        Binding(
            "slash",
            "filter",
            "Filter ranks",
            key_display="/",
            id="ranks.filter",
            tooltip="Show ranks that are like: 3, 8-15, waiting, slow",
            show=False,
        ),
        Binding("escape", "all_ranks", "All ranks", id="ranks.all", tooltip="All ranks, by number", show=False),
    ]

    def compose(self) -> ComposeResult:
        yield Panel("Summary", id="summary")
        with Horizontal(id="charts"):
            yield Panel("Throughput", id="throughput")
            yield Panel("Results by setting", id="settings")
        yield Lines(id="bound")
        yield Panel("Progress", id="progress")
        yield Panel("GPUs", id="devices")
        yield Panel("Ranks", id="ranks")
        with Horizontal(id="rank-filter"):
            yield Label("/", markup=False)
            yield TextField(placeholder="3  8-15  waiting  cuda:1  slow  lost", compact=True, select_on_focus=False)
        yield Panel("Log", id="tail")

    def on_mount(self) -> None:
        self._panels = {panel.id: panel for panel in self.query(Panel)}
        self._bound = self.query_one("#bound", Lines)
        self._field = self.query_one("#rank-filter")
        self._asked = RankView()
        self._arrangement = Arrangement()
        self._plans: list[tuple[PlanInputs, OverviewPlan]] = []
        self._plan = OverviewPlan("cells", "table")
        self._ranks_beat: object = None
        self._shown: Frame | None = None

    def show(self, frame: Frame) -> None:
        """Show a frame; panels that would look the same paint nothing."""
        self._shown = frame
        state, book, lost = frame.state, frame.book, frame.lost
        if not self.size.width:
            return
        summary = self._panels["summary"]
        summary.display = state.ended is not None or lost is not None
        if summary.display:
            style = STATUS[how_ended(state)][1] if state.ended is not None else "bad"
            summary.set_classes(f"-{style}")
            summary.draw(partial(_summary, state, lost), summary_title(state, lost))
        self._make_plan(state, lost)
        self._panels["throughput"].draw(partial(throughput_lines, state))
        measured = bool(state.periods)
        self._panels["settings"].draw(partial(_settings, state), "Results by setting" if measured else "The run")
        self._bound.show([bound_line(state, self._bound.content_size.width)])
        self._panels["progress"].draw(partial(progress_lines, state))
        self._draw_devices(state)
        self._draw_ranks(state, lost)
        tail = self._panels["tail"]
        tail.display = self._plan.tail
        if tail.display:
            tail.draw(partial(_tail, state, book), tail_title(state))

    def take_focus(self) -> None:
        self.focus()

    def on_resize(self) -> None:
        """Draw again: the terminal was resized, or a line above or below came or went."""
        if self._shown is not None:
            self.show(self._shown)

    # --- room -------------------------------------------------------------------------------------

    def tables_height(self, state: RunState, lost: str | None, width: int, height: int) -> int:
        """How many of `height` lines everything but the charts would take."""
        return self._plan_for(state, lost, width, height).height

    def _make_plan(self, state: RunState, lost: str | None) -> None:
        # As if there were no scrollbar: else one that was there once would lead to a plan that needs it.
        plan = self._plan_for(state, lost, self.outer_size.width - self.gutter.width, self.size.height)
        if plan != self._plan:
            self._plan, self._ranks_beat = plan, None

    def _plan_for(self, state: RunState, lost: str | None, width: int, height: int) -> OverviewPlan:
        """The plan for that much room, made again only when something it is made from has changed."""
        inside, border = width - self._panels["ranks"].gutter.width, self._panels["ranks"].gutter.height
        summary = len(summary_lines(state, lost, inside))
        spare = state.ended is not None or held_up(state)
        progress = self._panels["progress"].styles.height
        taken = (summary + border if summary else 0) + (int(progress.value) if progress is not None else 0) + BOUND
        inputs = (outline(state), inside, height, border, spare, taken)
        for known, plan in self._plans:
            if known == inputs:
                return plan
        plan = plan_overview(*inputs)
        self._plans = [*self._plans, (inputs, plan)][-PLANS:]
        return plan

    # --- tables -----------------------------------------------------------------------------------

    def _draw_devices(self, state: RunState) -> None:
        form, panel = self._plan.devices, self._panels["devices"]
        panel.display = form is not None
        if form is not None:
            panel.draw(partial(_devices, state, form), devices_title(state, form))

    def _draw_ranks(self, state: RunState, lost: str | None) -> None:
        beat = _ranks_beat(state) if lost is None else None
        if beat is not None and beat == self._ranks_beat:
            return
        self._ranks_beat = beat
        order = self._arrangement.of(state, self._asked)
        title = ranks_title(state, self._asked, len(order))
        if self._plan.merged:
            beside = "GPUs" if state.devices else "processes"
            title = f"Ranks and {beside}{title.removeprefix('Ranks')}"
            if (name := common_name(state.devices)) is not None:
                title += f"  {len(state.devices)} x {name}"
        self._panels["ranks"].draw(partial(_ranks, state, self._plan, order), title)

    # --- keys -------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("worst_first", "sort", "filter"):
            return self._shown is not None and len(self._shown.state.ranks) >= MANY
        if action == "all_ranks":
            return self._asked != RankView() or self._field.display
        return super().check_action(action, parameters)

    def action_worst_first(self) -> None:
        self._ask(self._asked._replace(sort="rank" if self._asked.sort == "worst first" else "worst first"))

    def action_sort(self) -> None:
        place = (SORTS.index(self._asked.sort) + 1) % len(SORTS)
        self._ask(self._asked._replace(sort=SORTS[place]))

    def action_filter(self) -> None:
        self._field.display = True
        self.query_one(Input).focus()

    def action_all_ranks(self) -> None:
        with self.prevent(Input.Changed):
            self.query_one(Input).value = ""
        self._close()
        self._ask(RankView())

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        self._ask(self._asked._replace(filter=" ".join(event.value.split())))

    @on(Input.Submitted)
    def _close(self) -> None:
        self._field.display = False
        self.focus()

    def _ask(self, view: RankView) -> None:
        self._asked, self._ranks_beat = view, None
        if self._shown is not None:
            self.show(self._shown)
        self.refresh_bindings()


def _ranks_beat(state: RunState) -> object:
    """The rows of many ranks are painted again when this changes; None if they are painted every time."""
    if len(state.ranks) < CALM_FROM or state.phase != "running":
        return None
    return int(state.now * 2), state.active_ranks, [(rank.phase, rank.batch, rank.cap) for rank in state.ranks]


def _settings(state: RunState, width: int, height: int) -> list[Line]:
    return settings_lines(state, width, height) or facts_lines(state, width)


def _summary(state: RunState, lost: str | None, width: int, height: int) -> list[Line]:
    return summary_lines(state, lost, width)


def _devices(state: RunState, form: DeviceForm, width: int, height: int) -> list[Line]:
    return device_lines(state, width, form)


def _ranks(state: RunState, plan: OverviewPlan, order: list[int], width: int, height: int) -> list[Line]:
    if plan.merged:
        return gpu_rank_lines(state, width, order)
    form: RankForm = plan.ranks
    return rank_lines(state, width, form, order)


def _tail(state: RunState, book: OutputBook, width: int, height: int) -> list[Line]:
    return tail_lines(state, book.newest(height), width, height)
