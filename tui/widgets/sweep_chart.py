"""The charts of a sweep: tokens/s over batch size with the knees in words, and speedup over ranks. Pure.

Both axes start at 0 where they show an amount, and are as long as the plan asks for, so that the picture
stands still while it fills. Figures and sentences are those of runner.sweep_figures.
"""

from collections.abc import Sequence
from math import log2

from runner.sweep_figures import Cell, Scaling, SweepSummary
from runner.trials import SweepPlan
from tui.sweep_words import rate_places, scaling_shown, true_knees
from tui.text import Line, fit, flow, line_width, pad, percent, some, wrap
from tui.widgets.bars import Column, heading, row
from tui.widgets.canvas import Canvas, axis_room, with_axes
from tui.widgets.chart import round_maximum
from tui.widgets.sweep_table import marker

KNEE, KNEE_ABOVE, NO_ROOM = "▾", "▴", "✗"
_AXES = 2
"""Lines of a chart below its plot: the level axis, and its labels."""


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
    """The first column of each size's group, spaced by log2, and a group's width: a column per series, where it fits.

    Sizes that lie too close for that are pushed apart; so many that they don't fit stand evenly.
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
    """The line, the noise and the signs of one number of ranks."""
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
    """A sign over the knee, else under it; none where there is no room near it: the words below say it, too."""
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
    """Each knee and its noise in words, wrapped; a word on what will stand there where there is none yet."""
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
"""From so many cells on the table stands beside the chart."""

_COLUMNS = (
    Column("ranks", 5, "right"),
    Column("tok/s", 8, "right"),
    Column("±", 6, "right"),
    Column("speedup", 7, "right"),
    Column("effic.", 6, "right"),
)


def scaling_title(summary: SweepSummary) -> str:
    rows = scaling_shown(summary)
    return f"Scaling at batch size {rows[0].batch_size}" if rows else "Scaling"


def scaling_lines(plan: SweepPlan, summary: SweepSummary, width: int, height: int) -> list[Line]:
    """Speedup against the ideal line, and the same as a table; nothing where one number of ranks is planned.

    `height` is that of the chart and, where they stand above one another, the table.
    """
    if len(set(plan.ranks)) < 2:
        return []
    rows = scaling_shown(summary)
    table = scaling_table(plan, summary, rows)
    if width >= SIDE_BY_SIDE:
        right = max(line_width(line) for line in table)
        left = width - right - 4
        chart = [fit(line, left) for line in speedup_chart(plan, rows, left, max(height, len(table)))]
        beside = [*table, *[()] * (len(chart) - len(table))]
        return [(*line, ("    ", ""), *cells) for line, cells in zip(chart, beside, strict=False)]
    return [*speedup_chart(plan, rows, width, max(8, height - len(table) - 1)), (), *table]


def speedup_chart(plan: SweepPlan, rows: Sequence[Scaling], width: int, height: int) -> list[Line]:
    """Speedup over ranks, and the ideal line; both axes from 0 to the most ranks of the plan."""
    most = max(plan.ranks)
    fastest = max((each.speedup for each in rows), default=0.0)
    maximum = float(most) if fastest <= most else round_maximum(fastest)
    facts: list[Line] = [(("speedup over ranks", "dim"),), (("●", "key"), (" measured", "")), (("⠒ ideal", "dim"),)]
    legend = flow(facts, width, gap=2)
    canvas = Canvas(width - axis_room(maximum, "x") - 2, max(3, height - len(legend) - _AXES))

    def point(ranks: float, speedup: float) -> tuple[float, float]:
        # The last column and the top edge belong to the largest of both.
        return ranks / most * (canvas.width - 2) + 0.5, speedup / maximum * (1 - 0.5 / canvas.height)

    canvas.line(point(0, 0), point(most, most), "dim", every=3)
    before = None
    for each in rows:
        here = point(each.active_ranks, each.speedup)
        if before is not None:
            canvas.line(before, here, "key")
        before = here
        canvas.sign(int(here[0]), canvas.row(here[1]), "●", "key")
    ticks = {int(point(ranks, 0)[0]): str(ranks) for ranks in sorted(set(plan.ranks))}
    return [*legend, *with_axes(canvas, maximum, ticks, unit="x")]


def scaling_table(plan: SweepPlan, summary: SweepSummary, rows: Sequence[Scaling]) -> list[Line]:
    """Ranks, tokens/s, speedup and scaling efficiency; a row of dots where nothing is measured yet."""
    sizes = [column.width for column in _COLUMNS]
    lines = [heading(_COLUMNS, sizes, 1)]
    places = rate_places(summary.cells)
    known = {each.active_ranks: each for each in rows}
    best = summary.best
    for ranks in sorted(set(plan.ranks)):
        each = known.get(ranks)
        if each is None:
            dot: Line = (("·", "dim"),)
            lines.append(row([((str(ranks), "dim"),), dot, (), dot, dot], _COLUMNS, sizes, 1))
            continue
        is_best = best is not None and (best.active_ranks, best.batch_size) == (ranks, each.batch_size)
        style = "strong" if is_best else ""
        noise = "" if each.half_width is None else f"±{each.half_width:,.{places}f}"
        cells: tuple[Line, ...] = (
            ((pad(str(ranks), 5, "right"), style),),
            ((f"{each.tokens_per_second:,.{places}f}", style),),
            ((noise, "dim"),),
            ((f"{each.speedup:.2f}x", style),),
            ((percent(each.efficiency), style),),
        )
        lines.append(row(cells, _COLUMNS, sizes, 1))
    return lines
