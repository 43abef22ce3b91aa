"""The live table of a sweep: a row for every setting, and as many columns as fit, the most telling first. Pure.

Every setting has its row from the start and every column its width, so that nothing moves while the figures
come in. The columns and how they read are panels.sweep.figures'.
"""

from collections.abc import Sequence
from typing import NamedTuple

from rankdeck.runner.protocol.sweep_plan import SweepState
from rankdeck.runner.state import RunState
from rankdeck.runner.sweep.cells import Cell
from rankdeck.runner.sweep.verdict import SweepSummary
from rankdeck.tui.panels.bars import Column, heading, row, widths
from rankdeck.tui.panels.sweep.figures import FIGURES, Figure, Mark, Missing, known, marks, rate_value, why_missing
from rankdeck.tui.words.styles import rank_style
from rankdeck.tui.words.sweep import Value, rate_places, what_happens
from rankdeck.tui.words.text import UNKNOWN, Line, Piece, fit, pad

MARKERS = "●■▲◆○□△◇"
"""One for each number of ranks, the same in table and chart: colour alone is not enough."""

BEST, RUNNING, NOT_YET, WALL, BEYOND = "★", "▸", "·", "▓", "░"


_WIDTHS_AND_TURNS = {
    "per rank": (8, 1),
    "ms/step": (7, 0),
    "p99 ms": (7, 10),
    "prefill s": (9, 6),
    "batch s": (7, 5),
    "waste": (5, 3),
    "idle": (4, 4),
    "peak GiB": (8, 2),
    "reserved GiB": (12, 11),
    "busy": (4, 7),
    "MBU": (4, 8),
    "tok/J": (6, 9),
    "DRAM": (4, 12),
    "tensor": (6, 13),
    "watts": (6, 14),
}
"""A figure's width in cells, and its priority where room is short, by its heading. Others have no column here."""

_SETTING = (Column("", 2), Column("ranks", 5, "right"), Column("batch", 5, "right"))
_RATE = (Column("tok/s", 8, "right"), Column("±95%", 7, "right"))
_NOTE = Column("", 10)


_MARK_STYLES: dict[Mark, str] = {"best": "good", "chosen": "good", "tied": "", "knee": "dim"}


class Shown(NamedTuple):
    """What the table shows beside figures: the current setting, those that stand out, the order of the markers."""

    current: tuple[int, int] | None
    happening: str
    marks: dict[tuple[int, int], Mark]
    series: tuple[int, ...]


def marker(series: Sequence[int], active_ranks: int) -> Piece:
    """The sign and the style of a number of ranks."""
    place = series.index(active_ranks)
    return MARKERS[place % len(MARKERS)], rank_style(place)


def table_lines(state: RunState, sweep: SweepState, summary: SweepSummary, width: int) -> list[Line]:
    """A heading, and a row for every setting of the plan."""
    now = sweep.current
    shown = Shown(
        current=(now.active_ranks, now.batch_size) if now is not None else None,
        happening=what_happens(sweep),
        marks=marks(summary),
        series=tuple(sorted(set(sweep.plan.ranks))),
    )
    mbu = sweep.bandwidth_bytes_per_second is not None and sweep.no_mbu is None
    figures = fitting_figures(summary.cells, width, gpus=bool(state.devices), mbu=mbu)
    columns = (*_SETTING, *_RATE, *map(_column, figures), _NOTE)
    sizes, gap = widths(columns, width, most_gap=3)
    places = rate_places(summary.cells)
    lines = [heading(columns, sizes, gap)]
    lines.extend(_row(cell, summary.cells, shown, figures, columns, sizes, gap, places) for cell in summary.cells)
    return [fit(line, width) for line in lines]


def fitting_figures(cells: Sequence[Cell], width: int, *, gpus: bool, mbu: bool) -> list[Figure]:
    """The figures that fit into `width`, from left to right. Without `gpus` or `mbu`, theirs only if there are any."""
    base = (*_SETTING, *_RATE, _NOTE)
    room = width - sum(column.width for column in base) - (len(base) - 1)
    found = known(FIGURES, cells)
    kept = []
    laid_out = [figure for figure in FIGURES if figure.heading.title in _WIDTHS_AND_TURNS]
    for figure in sorted(laid_out, key=lambda figure: _WIDTHS_AND_TURNS[figure.heading.title][1]):
        possible = mbu if figure.heading.title == "MBU" else gpus or not figure.needs_gpu
        needed = _column(figure).width + 1
        if (possible or figure in found) and needed <= room:
            kept.append(figure)
            room -= needed
    return [figure for figure in FIGURES if figure in kept]


def _column(figure: Figure) -> Column:
    return Column(figure.heading.title, _WIDTHS_AND_TURNS[figure.heading.title][0], "right")


def _row(
    cell: Cell,
    found: Sequence[Cell],
    shown: Shown,
    figures: Sequence[Figure],
    columns: Sequence[Column],
    sizes: Sequence[int],
    gap: int,
    places: int,
) -> Line:
    running, mark = cell.setting == shown.current, shown.marks.get(cell.setting)
    style = "strong" if mark == "best" or running else ""
    sign, series_style = marker(shown.series, cell.active_ranks)
    start: tuple[Line, ...] = (
        ((BEST if mark == "best" else " ", "good"), (RUNNING if running else " ", "key")),
        ((f"{sign} ", series_style), (pad(str(cell.active_ranks), 3, "right"), style)),
        ((str(cell.batch_size), style),),
    )
    why = why_missing(cell, found)
    if why is not None and why.outcome is not None and not running:
        used = sum(sizes[: len(start)]) + gap * len(start)
        head = row(start, columns[: len(start)], sizes[: len(start)], gap)
        return (*head, (" " * gap, ""), *_barred(why, sum(sizes) + gap * (len(sizes) - 1) - used))
    rate = rate_value(cell, places)
    noise: Line = ((f"±{rate.noise}", "dim"),) if rate is not None and rate.noise else ()
    values = [_figure(rate, cell, style), noise]
    values.extend(_figure(figure.value(cell, places), cell, style) for figure in figures)
    note: Line = ((mark, _MARK_STYLES[mark]),) if mark is not None else ()
    return row([*start, *values, ((shown.happening, "key"),) if running else note], columns, sizes, gap)


def _figure(value: Value | None, cell: Cell, style: str) -> Line:
    if cell.tokens_per_second is None:
        return ((NOT_YET, "dim"),)
    return ((UNKNOWN, "dim"),) if value is None else ((value.text, style),)


def _barred(why: Missing, width: int) -> Line:
    """What is shown in place of figures: the memory wall, a skipped setting beyond it, or a failure and its reason."""
    if why.outcome == "failed":
        return fit(((f"✗ {why.words}: ", "bad"), (why.reason, "warn")), width)
    if why.outcome == "out_of_memory":
        words = f" {why.words} "
        band = WALL * max(0, width - len(words) - 2)
        return fit(((WALL * 2, "track"), (words, "bad"), (band, "track")), width)
    return fit(((BEYOND * 2, "track"), (f" {why.sentence}", "dim")), width)
