"""Throughput over time as lines: a fixed scale from zero, round numbers on both axes.

The time axis starts at the first batch and spans a round number of seconds, so that the picture stands still while
it fills; when the span is full, the next one takes over. Once the run has ended, the axis is as long as the run. Pure.
"""

from collections.abc import Collection, Sequence
from itertools import pairwise, zip_longest
from math import floor, log10
from typing import NamedTuple

from rankdeck.runner.state import HistoryPoint, Mark
from rankdeck.tui.panels.bands import Band, band_row, edges
from rankdeck.tui.panels.marks import label_rows, mark_column
from rankdeck.tui.words.text import Line, Piece

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_ROUND = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
_SPANS = (30, 60, 90, 120, 180, 240, 300, 420, 600, 900, 1200, 1800, 2700, 3600, 7200, 14400, 28800, 43200, 86400)


def round_maximum(value: float) -> float:
    """The smallest round number not below `value`; 10 if there is nothing yet."""
    if value <= 0:
        return 10.0
    power = 10.0 ** floor(log10(value))
    return next(step * power for step in _ROUND if step * power >= value * (1 - 1e-9))


def round_span(seconds: float) -> float:
    """The smallest round number of seconds not below `seconds`, at least 30."""
    for span in _SPANS:
        if seconds <= span:
            return float(span)
    days = 2
    while seconds > days * 86400:
        days *= 2
    return float(days * 86400)


def time_label(seconds: float) -> str:
    if seconds < 120:
        return f"{round(seconds, 1):g} s"
    if seconds < 7200:
        return f"{round(seconds / 60, 1):g} min"
    return f"{round(seconds / 3600, 1):g} h"


def value_label(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"


def columns(history: Sequence[tuple[float, float]], number: int, span: float) -> list[float | None]:
    """Means of values in each of `number` equal parts of `span` seconds; None where nothing was measured.

    `history` has pairs of seconds and values, in order of time. A part without a sample keeps the value before it,
    unless the samples around it are so far apart that the run stood still between them.
    """
    sums, counts, held_to = [0.0] * number, [0] * number, [-1] * number
    apart = sorted(after - before for (before, _), (after, _) in pairwise(history))
    hole = HOLE * apart[len(apart) // 2] if apart else 0.0
    for point, after in zip_longest(history, history[1:]):
        position = _column(point[0], span, number)
        sums[position] += point[1]
        counts[position] += 1
        if after is not None and after[0] - point[0] <= hole:
            held_to[position] = _column(after[0], span, number)
    values: list[float | None] = []
    held, until = 0.0, -1
    for position in range(number):
        if counts[position]:
            held, until = sums[position] / counts[position], max(position, held_to[position])
        values.append(held if position <= until else None)
    return values


HOLE = 4.0
"""Samples further apart than this multiple of the median distance leave a gap."""


def _column(seconds: float, span: float, number: int) -> int:
    return max(0, min(number - 1, int(seconds / span * number)))


LABELS_FROM, TWO_LABELS_FROM = 4, 9
"""Lines from which a chart has one row, or two, for what stands above it: the settings, then labels of the marks."""

LOADS_FROM, BOTH_LOADS_FROM = 4, 5
"""Lines from which one row, or two, of the load stand below the plot."""


class LoadRow(NamedTuple):
    """A row below the plot: a name, the present figure in percent, and the history, pairs of seconds and percent."""

    name: str
    percent: float | None
    history: Sequence[tuple[float, float]]
    style: str = "busy"

    @property
    def label(self) -> str:
        return self.name if self.percent is None else f"{self.name} {self.percent:3.0f}%"


def chart(
    history: Sequence[HistoryPoint],
    width: int,
    height: int,
    marks: Sequence[Mark] = (),
    settings: Sequence[Band] = (),
    loads: Sequence[LoadRow] = (),
    *,
    over: bool = False,
) -> list[Line]:
    """`height` lines of `width` cells: settings and labels of the marks, plot, time axis, and a row for each load.

    `over` if the run has ended.
    """
    maximum = round_maximum(max((point.tokens_per_second for point in history), default=0.0))
    ends = [history[-1].elapsed if history else 0.0, *(mark.elapsed for mark in marks)]
    span = max(ends) if over and max(ends) > 0 else round_span(max(ends))
    loads = loads[: (height >= LOADS_FROM) + (height >= BOTH_LOADS_FROM)]
    room = max(3, len(value_label(maximum)), len(value_label(maximum / 2)), *(len(load.label) for load in loads))
    plot = max(1, width - room - 2)
    above = max(0, (height - len(loads) >= LABELS_FROM) + (height - len(loads) >= TWO_LABELS_FROM))
    signs = [band_row(settings, span, plot)] if settings and above else []
    if marks and above > len(signs):
        signs = [*label_rows(marks, span, plot, above - len(signs)), *signs]
    rows = max(1, height - 1 - len(signs) - len(loads))
    middle = rows // 2 if rows >= 5 and rows % 2 == 0 else None
    labels = {0: value_label(maximum)}
    if middle is not None:
        labels[middle] = value_label(maximum / 2)
    marked = {*(mark_column(mark, span, plot) for mark in marks), *edges(settings, span, plot)}
    lines: list[Line] = [((" " * (room + 2), ""), *sign) for sign in signs]
    values = [(point.elapsed, point.tokens_per_second) for point in history]
    for line, cells in enumerate(plot_rows(columns(values, plot, span), maximum, rows)):
        label, tick = labels.get(line, ""), "┤" if line in labels else "│"
        lines.append(((f"{label:>{room}} {tick}", "axis"), *crossed(cells, marked)))
    lines.append(((f"{'0':>{room}} └" + _time_axis(plot, span), "axis"),))
    for load in loads:
        cells = percent_cells(columns(load.history, plot, span))
        lines.append(((f"{load.label:<{room}}  ", "dim"), (cells, load.style)))
    return lines


def plot_rows(values: Sequence[float | None], maximum: float, height: int) -> list[str]:
    """A bar per value in `height` rows, the top one first, to an eighth of a cell; anything above zero shows."""
    tops = [0 if not value else max(1, round(value / maximum * height * 8)) for value in values]
    return ["".join(_EIGHTHS[min(8, max(0, top - floor * 8))] for top in tops) for floor in reversed(range(height))]


def percent_cells(values: Sequence[float | None]) -> str:
    """A cell for each percentage, a little lower than the row at 100 %; blank where nothing is known."""
    return "".join(" " if value is None else _EIGHTHS[max(1, min(7, round(value / 100 * 7)))] for value in values)


def crossed(cells: str, marked: Collection[int]) -> list[Piece]:
    """A row of a plot with a thin line through it at each marked column."""
    pieces: list[Piece] = []
    at = 0
    for column in sorted(marked):
        full = cells[column] == _EIGHTHS[8]
        pieces.extend(((cells[at:column], "chart"), ("│", "mark-on-chart" if full else "mark")))
        at = column + 1
    return [*pieces, (cells[at:], "chart")]


def _time_axis(width: int, span: float) -> str:
    """A rule with the middle and the end of the span written into it."""
    rule = ["─"] * width
    for share in (0.5, 1.0):
        label = f" {time_label(span * share)} "
        start = min(width - len(label), int(width * share) - len(label) // 2)
        if share == 1.0:
            label, start = label.rstrip(), width - len(label.rstrip())
        if start > 1 and width >= 24 * share:
            rule[start : start + len(label)] = label
    return "".join(rule)
