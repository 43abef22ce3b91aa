"""The charts of a sweep: tokens/s over batch size with the knees in words, and speedup over ranks. Pure.

The axis of tokens/s starts at 0 and the batch sizes are the plan's, so that the chart stays put while it fills. The
axes of speedup fit the measured points, which would all sit in one corner otherwise. Figures and sentences are those of
runner.sweep.verdict.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import log2

from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.sweep.cells import Cell
from rankdeck.runner.sweep.scaling import Scaling
from rankdeck.runner.sweep.verdict import SweepSummary
from rankdeck.tui.panels.bars import Column, heading, row
from rankdeck.tui.panels.canvas import Canvas, axis_room, framed, with_axes
from rankdeck.tui.panels.chart import round_maximum
from rankdeck.tui.panels.sweep.figures import EACH_THE_SAME, same_and_best_scaling, scaling_values
from rankdeck.tui.panels.sweep.table import marker
from rankdeck.tui.panels.ticks import LEAST_SPAN, fitted_ticks
from rankdeck.tui.words.sweep import rate_places, times, true_knees
from rankdeck.tui.words.text import Line, fit, flow, line_width, some, wrap

KNEE, KNEE_ABOVE, NO_ROOM = "▾", "▴", "✗"
_AXES = 2
"""Lines below a plot: the axis and its labels."""


# --- tokens/s over batch size -----------------------------------------------------------------------


def sizes_chart(plan: SweepPlan, summary: SweepSummary, width: int, height: int) -> list[Line]:
    """`height` lines: a legend, and tokens/s over batch size with a line for each number of ranks."""
    series = sorted(set(plan.ranks))
    batch_sizes = sorted(set(plan.batch_sizes))
    legend = _legend(series, summary.cells, width)
    tops = [
        cell.tokens_per_second.mean + (cell.tokens_per_second.half_width or 0.0)
        for cell in summary.cells
        if cell.tokens_per_second is not None
    ]
    maximum = round_maximum(max(tops, default=0.0))
    canvas = Canvas(width - axis_room(maximum) - 2, max(3, height - len(legend) - _AXES))
    columns, group = positions(batch_sizes, len(series), canvas.width)
    offsets = {active_ranks: place * group // len(series) for place, active_ranks in enumerate(series)}
    for active_ranks in series:
        cells = [cell for cell in summary.cells if cell.active_ranks == active_ranks]
        own = {size: column + offsets[active_ranks] for size, column in columns.items()}
        _series(canvas, cells, own, maximum, series)
    knees = true_knees(summary)
    for cell in summary.cells:
        if (cell.active_ranks, cell.batch_size) in knees:
            column = columns[cell.batch_size] + offsets[cell.active_ranks]
            _mark_knee(canvas, cell, column, maximum, marker(series, cell.active_ranks)[1])
    if not tops:
        canvas.words(2, canvas.height // 2, "tok/s from the end of the first trial on", "dim")
    ticks = {columns[size] + (group - 1) // 2: str(size) for size in batch_sizes}
    return [*legend, *with_axes(canvas, maximum, ticks)]


def positions(batch_sizes: Sequence[int], series: int, width: int) -> tuple[dict[int, int], int]:
    """The first column of each batch size's group, and the width of a group: a column per series where they fit.

    Groups are spaced by log2 of the size; those that would overlap are pushed apart, or all are spaced evenly.
    """
    group = max(1, min(series, width // len(batch_sizes) // 2))
    last = max(0, width - 1 - group)
    if len(batch_sizes) == 1:
        return {batch_sizes[0]: last // 2}, group
    first, span = log2(batch_sizes[0]), log2(batch_sizes[-1]) - log2(batch_sizes[0])
    start = min(1, last)
    least = group + 1
    columns = [start + round((last - start) * (log2(size) - first) / span) for size in batch_sizes]
    for place in range(1, len(columns)):
        columns[place] = max(columns[place], columns[place - 1] + least)
    limit = last
    for place in reversed(range(len(columns))):
        columns[place] = min(columns[place], limit)
        limit = columns[place] - least
    if columns[0] < 0:
        columns = [round(last * place / (len(columns) - 1)) for place in range(len(columns))]
    return dict(zip(batch_sizes, columns, strict=True)), group


def _series(
    canvas: Canvas, cells: Sequence[Cell], columns: dict[int, int], maximum: float, series: Sequence[int]
) -> None:
    """Draw the line, the noise and the signs of one number of ranks."""
    before: tuple[float, float] | None = None
    for cell in cells:
        column = columns[cell.batch_size]
        sign, style = marker(series, cell.active_ranks)
        if cell.outcome == "out_of_memory":
            canvas.sign(column, canvas.height - 1, NO_ROOM, style)
        if cell.tokens_per_second is None:
            continue
        mean, half = cell.tokens_per_second.mean, cell.tokens_per_second.half_width or 0.0
        point = (column + 0.5, mean / maximum)
        if before is not None:
            canvas.line(before, point, style)
        before = point
        canvas.error_bar(column, (mean - half) / maximum, (mean + half) / maximum, style)
        canvas.sign(column, canvas.row(mean / maximum), sign, style)


def _mark_knee(canvas: Canvas, cell: Cell, column: int, maximum: float, style: str) -> None:
    """Put a sign above the knee, or below it; without room near it there is none, as the lines below name it too."""
    assert cell.tokens_per_second is not None
    at = canvas.row(cell.tokens_per_second.mean / maximum)
    free = next((place for place in (at - 1, at + 1, at - 2, at + 2) if canvas.free(column, place)), None)
    if free is not None:
        canvas.sign(column, free, KNEE if free < at else KNEE_ABOVE, style)


def _legend(series: Sequence[int], cells: Sequence[Cell], width: int) -> list[Line]:
    facts: list[Line] = [(("tok/s over batch size", "dim"),)]
    for active_ranks in series:
        sign, style = marker(series, active_ranks)
        name = some(active_ranks, "rank") if len(series) <= 4 else str(active_ranks)
        facts.append(((sign, style), (f" {name}", "")))
    if len(series) > 4:
        facts[-1] = (*facts[-1], (" ranks", ""))
    facts.append(((KNEE, "mark"), (" knee", "dim")))
    if any(cell.outcome == "out_of_memory" for cell in cells):
        facts.append(((NO_ROOM, ""), (" out of memory", "dim")))
    return flow(facts, width, gap=2)


def knee_lines(summary: SweepSummary, width: int) -> list[Line]:
    """Each knee in words, wrapped; before there is one, a line on what will be shown."""
    if not summary.knees:
        return [(("the knee of each line, once two of its batch sizes are measured", "dim"),)] if width >= 64 else []
    lines: list[Line] = []
    knees = true_knees(summary)
    for knee in summary.knees:
        head = f"{some(knee.active_ranks, 'rank')}: "
        parts = wrap(knee.sentence, max(10, width - len(head) - 2))
        sign = KNEE if (knee.active_ranks, knee.batch_size) in knees else " "
        lines.append(((f"{sign} ", "mark"), (head, "strong"), (parts[0], "")))
        lines.extend(((" " * (len(head) + 2), ""), (part, "")) for part in parts[1:])
    return lines


# --- speedup over ranks -----------------------------------------------------------------------------

SIDE_BY_SIDE = 70
"""From this width on, the table stands beside the chart."""

LEAST_SPEEDUP = 6
"""The fewest lines of the chart of speedup."""

SAME, EACH = "●", "◆"
"""Speedup at one batch size, and of the best with each number of ranks."""

_COLUMNS = (
    Column("ranks", 5, "right"),
    Column("batch", 5, "right"),
    Column("tok/s", 7, "right"),
    Column("speedup", 11, "right"),
    Column("effic.", 9, "right"),
)
_SIZES = [column.width for column in _COLUMNS]


def scaling_lines(plan: SweepPlan, summary: SweepSummary, width: int, height: int) -> list[Line]:
    """Speedup as a chart with the ideal line, and as a table; empty where only one number of ranks is planned.

    Both show the batch size that is run, and the best setting with each number of ranks where that differs. `height` is
    the chart's, or the chart's and the table's where the table stands below it.
    """
    if len(set(plan.ranks)) < 2:
        return []
    same, best = same_and_best_scaling(summary)
    each = [row for row in best if row not in same]
    table = scaling_table(plan, summary, same, each)
    if width >= SIDE_BY_SIDE:
        right = max(line_width(line) for line in table)
        left = width - right - 4
        chart = [fit(line, left) for line in speedup_chart(plan, same, each, left, max(height, len(table)))]
        beside = [*table, *[()] * (len(chart) - len(table))]
        return [(*line, ("    ", ""), *cells) for line, cells in zip(chart, beside, strict=False)]
    chart = speedup_chart(plan, same, each, width, max(LEAST_SPEEDUP, height - len(table)))
    return [*chart, *(fit(line, width) for line in table)]


def speedup_chart(
    plan: SweepPlan, same: Sequence[Scaling], each: Sequence[Scaling], width: int, height: int
) -> list[Line]:
    """Speedup over ranks with its noise, on axes that fit it, and the part of the ideal line that lies within them."""
    least, most = min(plan.ranks), max(plan.ranks)
    facts: list[Line] = [((SAME, "key"), (f" batch size {same[0].batch_size}" if same else " measured", ""))]
    if each:
        facts.append(((EACH, "strong"), (" best of each", "")))
    legend = flow([*facts, (("⠒ ideal", "dim"),)], width, gap=2)
    rows = max(3, height - len(legend) - _AXES)
    low, high = _span([*same, *each], most)
    ticks = fitted_ticks(low, high, max(2, min(5, rows - 1)))
    labels = {value: f"{ticks.label(value)}x" for value in ticks.values if low <= value <= high}
    if len(labels) < 2:
        labels = {value: times(value) for value in (low, high)}
    room = max(map(len, labels.values()))
    canvas = Canvas(width - room - 2, rows)

    def place(ranks: float) -> float:
        return 1.5 + (ranks - least) / (most - least) * (canvas.width - 4)

    def share(speedup: float) -> float:
        # The ends of the axis lie in the middle of the lowest and the highest row: so a point is level with its label.
        return (speedup - low) / (high - low) * (1 - 1 / canvas.height) + 0.5 / canvas.height

    canvas.line((place(least), share(least)), (place(most), share(most)), "dim", every=3)
    # One column to the side, so that neither series hides the noise of the other.
    for series, sign, style, aside in ((each, EACH, "strong", 1), (same, SAME, "key", 0)):
        points = [(place(one.active_ranks) - aside, share(one.speedup)) for one in series]
        for before, here in pairwise(points):
            canvas.line(before, here, style)
        for one, (column, up) in zip(series, points, strict=True):
            half = one.speedup_half_width or 0.0
            canvas.error_bar(int(column), share(one.speedup - half), share(one.speedup + half), style)
            canvas.sign(int(column), canvas.row(up), sign, style)
    below: dict[int, str] = {}
    for ranks in (least, most, *sorted(set(plan.ranks))):
        # Where labels share a column the first is kept; the two ends come first.
        below.setdefault(int(place(ranks)), str(ranks))
    beside = {canvas.row(share(value)): label for value, label in labels.items()}
    return [*legend, *framed(canvas, beside, "", below, room)]


def _span(found: Sequence[Scaling], most: int) -> tuple[float, float]:
    """The ends of the speedup axis: all that was measured with its noise, or before that the ideal."""
    ends = [one.speedup + sign * (one.speedup_half_width or 0.0) for one in found for sign in (-1, 1)]
    low, high = max(0.0, min(ends, default=1.0)), max(ends, default=float(most))
    return low, max(high, low + LEAST_SPAN * high)


def scaling_table(
    plan: SweepPlan, summary: SweepSummary, same: Sequence[Scaling], each: Sequence[Scaling]
) -> list[Line]:
    """Speedup and efficiency with their noise, at one batch size and for the best of each; dots where not measured."""
    places = rate_places(summary.cells)
    known = {one.active_ranks: one for one in same}
    lines = [heading(_COLUMNS, _SIZES, 1)]
    for ranks in sorted(set(plan.ranks)):
        one = known.get(ranks)
        dot: Line = (("·", "dim"),)
        waiting = row([((str(ranks), "dim"),), dot, dot, dot, dot], _COLUMNS, _SIZES, 1)
        lines.append(waiting if one is None else _scaling_row(one, summary, places))
    if each:
        lines.append(((EACH, "strong"), (" best of each, where it is another:", "dim")))
        lines.extend(_scaling_row(one, summary, places) for one in each)
    elif same:
        lines.append(((EACH_THE_SAME, "dim"),))
    return lines


def _scaling_row(one: Scaling, summary: SweepSummary, places: int) -> Line:
    style = "strong" if summary.best is not None and summary.best.setting == one.setting else ""
    rate, *ratios = scaling_values(one, places)
    texts = (
        str(one.active_ranks),
        str(one.batch_size),
        rate.text,
        *(f"{value.text} ±{value.noise}" if value.noise else value.text for value in ratios),
    )
    return row([((text, style),) for text in texts], _COLUMNS, _SIZES, 1)
