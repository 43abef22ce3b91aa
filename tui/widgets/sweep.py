"""The Sweep view: progress, the table of settings, the charts. Gives each panel its lines and its room, no figures."""

from functools import partial
from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Container, VerticalScroll

from rankdeck.runner.protocol.sweep_plan import SweepState
from rankdeck.runner.state import RunState
from rankdeck.runner.sweep.verdict import SweepSummary, summarise_sweep
from rankdeck.tui.panels.frame import Frame
from rankdeck.tui.panels.sweep.chart import knee_lines, scaling_lines, sizes_chart
from rankdeck.tui.panels.sweep.status import empty_lines, how_lines, status_lines
from rankdeck.tui.panels.sweep.table import table_lines
from rankdeck.tui.settings.hint_keys import Keys
from rankdeck.tui.widgets.deck import Deck
from rankdeck.tui.widgets.lines import Panel
from rankdeck.tui.words.sweep import shown_sweep
from rankdeck.tui.words.text import Line

LEAST_CHART, MOST_CHART = 10, 20
"""Lines of the chart: the fewest that can be read, and the most that show anything more."""


TEXTS = ("sweep-status", "sweep-how")

BESIDE_FROM = 110
"""The width, in cells, from which the two charts are side by side."""


class SweepView(VerticalScroll, can_focus=True):
    """Panels from top to bottom; if the table is higher than the screen, the charts are above it."""

    app: Deck

    DEFAULT_CSS: ClassVar[str] = """
    SweepView {
        height: 1fr;
    }
    SweepView #sweep-charts { height: auto; layout: vertical; }
    SweepView #sweep-charts.-beside { layout: horizontal; }
    SweepView #sweep-charts.-beside #sweep-sizes { width: 1fr; }
    SweepView #sweep-charts.-beside #sweep-scaling { width: 46; }
    SweepView #sweep-status.-alone { min-height: 100%; }
    """

    def compose(self) -> ComposeResult:
        yield Panel("Sweep", id="sweep-status")
        yield Panel("Settings", id="sweep-table")
        with Container(id="sweep-charts"):
            yield Panel("Batch sizes", id="sweep-sizes")
            yield Panel("Scaling: speedup over ranks", id="sweep-scaling")
        yield Panel("How it is measured", id="sweep-how")

    def on_mount(self) -> None:
        self._panels = {panel.id: panel for panel in self.query(Panel)}
        self._charts = self.query_one("#sweep-charts")
        self._table_first = True
        self._state: RunState | None = None
        self._steers = True
        self._summarised: tuple[SweepState, SweepSummary] | None = None

    def show(self, frame: Frame) -> None:
        """Show a frame; panels that would look the same paint nothing."""
        self._state, self._steers = frame.state, frame.steers
        self._draw()

    def take_focus(self) -> None:
        self.focus()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        state = self._state
        if state is None or not self.size.width:
            return
        sweep = shown_sweep(state)
        for name in ("sweep-table", "sweep-sizes", "sweep-scaling", "sweep-how"):
            self._panels[name].display = sweep is not None
        self._panels["sweep-status"].set_class(sweep is None, "-alone")
        if sweep is None:
            self._panels["sweep-status"].draw(partial(_empty, state, self.app.keys, self._steers))
            return
        summary = self._summary(sweep)
        self._panels["sweep-status"].draw(partial(_status, state, sweep, summary, self.size.width < BESIDE_FROM))
        self._panels["sweep-table"].draw(partial(_table, state, sweep, summary))
        self._panels["sweep-how"].draw(partial(_how, state, sweep))
        chart = self._chart_height(len(summary.cells) + 1, len(summary.knees))
        self._panels["sweep-sizes"].draw(partial(_sizes, sweep, summary, chart))
        several = len(set(sweep.plan.ranks)) > 1
        self._charts.set_class(several and self.size.width >= BESIDE_FROM, "-beside")
        self._panels["sweep-scaling"].display = several
        if several:
            room = chart + max(1, len(summary.knees))
            self._panels["sweep-scaling"].draw(partial(_scaling, sweep, summary, room))
        self._arrange(len(summary.cells) + 1)

    def _summary(self, sweep: SweepState) -> SweepSummary:
        """The figures, computed again only when a trial is over: a tick changes none of them."""
        if self._summarised is not None:
            before, summary = self._summarised
            if before.records is sweep.records and before.plan == sweep.plan:
                return summary
        summary = summarise_sweep(sweep)
        self._summarised = (sweep, summary)
        return summary

    def _chart_height(self, table: int, knees: int) -> int:
        """The lines that the other panels leave to the chart, between LEAST_CHART and MOST_CHART."""
        frame = self._panels["sweep-table"].gutter.height
        width = self.size.width - 4
        texts = [self._panels[name].get_content_height(self.size, self.size, width) for name in TEXTS]
        return max(LEAST_CHART, min(MOST_CHART, self.size.height - table - sum(texts) - 4 * frame - max(1, knees)))

    def _arrange(self, table: int) -> None:
        first = table <= self.size.height
        if first == self._table_first:
            return
        self._table_first = first
        if first:
            self.move_child(self._charts, after=self._panels["sweep-table"])
        else:
            self.move_child(self._charts, before=self._panels["sweep-table"])


def _empty(state: RunState, keys: Keys, steers: bool, width: int, height: int) -> list[Line]:
    return empty_lines(state, width, keys, steers=steers)


def _status(
    state: RunState, sweep: SweepState, summary: SweepSummary, scaling: bool, width: int, height: int
) -> list[Line]:
    return status_lines(state, sweep, summary, width, scaling=scaling)


def _table(state: RunState, sweep: SweepState, summary: SweepSummary, width: int, height: int) -> list[Line]:
    return table_lines(state, sweep, summary, width)


def _how(state: RunState, sweep: SweepState, width: int, height: int) -> list[Line]:
    return how_lines(state, sweep, width)


def _sizes(sweep: SweepState, summary: SweepSummary, chart: int, width: int, height: int) -> list[Line]:
    return [*sizes_chart(sweep.plan, summary, width, chart), *knee_lines(summary, width)]


def _scaling(sweep: SweepState, summary: SweepSummary, room: int, width: int, height: int) -> list[Line]:
    return scaling_lines(sweep.plan, summary, width, room)
