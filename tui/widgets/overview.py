"""The Overview: how fast, how far, how full, what each rank does. Gives each panel its lines and its room."""

from functools import partial

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll

from runner.state import RunState
from tui.outputs import OutputBook
from tui.text import Line
from tui.views import Moment
from tui.widgets.devices import device_lines, devices_title
from tui.widgets.lines import Panel
from tui.widgets.notice import held_up
from tui.widgets.progress import progress_lines
from tui.widgets.ranks import rank_lines
from tui.widgets.summary import summary_lines, summary_title
from tui.widgets.tail import tail_lines, tail_title
from tui.widgets.throughput import throughput_lines

TAIL_FROM = 22
"""The newest answers are shown where so many lines are left beside the tables: the chart needs the first ones."""


CHARTS_NEED = 7

CALM_FROM = 5
"""So many ranks count their steps on screen twice a second: their rows are most of what goes over the line."""


class Overview(VerticalScroll, can_focus=True):
    """The first view: panels from top to bottom, the charts taking what room the tables leave."""

    def compose(self) -> ComposeResult:
        yield Panel("Summary", id="summary")
        with Horizontal(id="charts"):
            yield Panel("Throughput", id="throughput")
            yield Panel("Progress", id="progress")
        yield Panel("GPUs", id="devices")
        yield Panel("Ranks", id="ranks")
        yield Panel("Log", id="tail")

    def on_mount(self) -> None:
        self._panels = {panel.id: panel for panel in self.query(Panel)}
        self._ranks_beat: object = None
        self._shown: Moment | None = None

    def show(self, moment: Moment) -> None:
        """Show a moment; panels that would look the same paint nothing."""
        state, _, lost = moment
        panels = self._panels
        summary = panels["summary"]
        summary.display = state.ended is not None or lost is not None
        if summary.display:
            style = state.ended.status if state.ended is not None else "failed"
            summary.set_classes(f"-{style}")
            make = partial(_summary, state, lost)
            summary.draw(make, summary_title(state, lost))
        panels["throughput"].draw(partial(throughput_lines, state))
        panels["progress"].draw(partial(progress_lines, state))
        panels["devices"].draw(partial(_devices, state), devices_title(state))
        beat = _ranks_beat(state) if lost is None else None
        if beat is None or beat != self._ranks_beat:
            self._ranks_beat = beat
            panels["ranks"].draw(partial(_ranks, state))
        self._shown = moment
        self._make_room(*moment)

    def take_focus(self) -> None:
        self.focus()

    def on_resize(self) -> None:
        """A line above or below came or went."""
        if self._shown is not None:
            self._make_room(*self._shown)

    def tables_height(self, state: RunState, lost: str | None) -> int:
        """The lines that everything but the charts takes."""
        width = self.content_size.width - 4
        tables = [device_lines(state, width), rank_lines(state, width), summary_lines(state, lost, width)]
        frame = self._panels["ranks"].gutter.height
        return sum(len(lines) + frame for lines in tables if lines)

    def _make_room(self, state: RunState, book: OutputBook, lost: str | None) -> None:
        """A tall terminal shows more; of an ended run, or one held up, what the GPUs do now is wanted least."""
        room = self.size.height - self.tables_height(state, lost)
        spared = state.ended is not None or held_up(state)
        self._panels["devices"].display = not spared or room >= CHARTS_NEED
        tail = self._panels["tail"]
        tail.display = room >= TAIL_FROM
        if tail.display:
            tail.draw(partial(_tail, state, book), tail_title(state))


def _ranks_beat(state: RunState) -> object:
    """What has to change for the rows of many ranks to be painted again; None where they always are."""
    if len(state.ranks) < CALM_FROM or state.phase != "running":
        return None
    return int(state.now * 2), state.active_ranks, [(rank.phase, rank.batch, rank.cap) for rank in state.ranks]


def _summary(state: RunState, lost: str | None, width: int, height: int) -> list[Line]:
    return summary_lines(state, lost, width)


def _devices(state: RunState, width: int, height: int) -> list[Line]:
    return device_lines(state, width)


def _ranks(state: RunState, width: int, height: int) -> list[Line]:
    return rank_lines(state, width)


def _tail(state: RunState, book: OutputBook, width: int, height: int) -> list[Line]:
    return tail_lines(state, book.newest(height), width, height)
