"""The live table of a sweep: a row for every setting, the columns that fit, the most telling ones first. Pure.

Every setting has its row from the start and every column its width, so that nothing moves while the figures
come in. Figures are those of runner.sweep.verdict.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rankdeck.runner.protocol.sweep_plan import SweepState
from rankdeck.runner.state import RunState
from rankdeck.runner.sweep.cells import Cell
from rankdeck.runner.sweep.intervals import Estimate
from rankdeck.runner.sweep.verdict import SweepSummary
from rankdeck.tui.panels.bars import Column, heading, row, widths
from rankdeck.tui.words.styles import rank_style
from rankdeck.tui.words.sweep import rate_places, true_knees, what_happens
from rankdeck.tui.words.text import UNKNOWN, Line, Piece, fit, gib, pad, percent, visible

MARKERS = "●■▲◆○□△◇"
"""One for each number of ranks, the same in table and chart: colour alone tells nothing."""

BEST, RUNNING, NOT_YET, WALL, BEYOND = "★", "▸", "·", "▓", "░"


class Figure(NamedTuple):
    """A column of figures, and how much it tells: 0 is wanted most.

    `of` gives the text, None where there is no figure; tokens/s get as many digits after the point as it is told.
    """

    column: Column
    wanted: int
    of: Callable[[Cell, int], str | None]
    gpu: bool = False


def _number(value: float | None, places: int) -> str | None:
    return None if value is None else f"{value:,.{places}f}"


def _share(value: float | None) -> str | None:
    return None if value is None else percent(value)


def _gib(cell: Cell) -> str | None:
    return None if cell.peak_memory_bytes is None else gib(cell.peak_memory_bytes)


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.0f}%"


def _step(cell: Cell, place: int) -> str | None:
    return _number(cell.step_ms[place] if cell.step_ms else None, 1)


def _right(title: str, width: int) -> Column:
    return Column(title, width, "right")


FIGURES = (
    Figure(_right("per rank", 8), 1, lambda cell, places: _number(cell.rank_tokens_per_second, places)),
    Figure(_right("ms/step", 7), 0, lambda cell, _: _step(cell, 0)),
    Figure(_right("p99 ms", 7), 10, lambda cell, _: _step(cell, 2)),
    Figure(_right("prefill s", 9), 6, lambda cell, _: _number(cell.prefill_seconds, 3)),
    Figure(_right("batch s", 7), 5, lambda cell, _: _number(cell.batch_seconds, 2)),
    Figure(_right("waste", 5), 3, lambda cell, _: _share(cell.padding_waste)),
    Figure(_right("idle", 4), 4, lambda cell, _: _share(cell.idle)),
    Figure(_right("peak GiB", 8), 2, lambda cell, _: _gib(cell), gpu=True),
    Figure(_right("busy", 4), 7, lambda cell, _: _percent(cell.busy_percent), gpu=True),
    Figure(_right("MBU", 4), 8, lambda cell, _: _share(cell.mbu)),
    Figure(_right("tok/J", 6), 9, lambda cell, _: _number(cell.tokens_per_joule, 2), gpu=True),
    Figure(_right("DRAM", 4), 12, lambda cell, _: _percent(cell.dram_percent), gpu=True),
    Figure(_right("tensor", 6), 13, lambda cell, _: _percent(cell.tensor_percent), gpu=True),
    Figure(_right("watts", 6), 14, lambda cell, _: _number(cell.power_watts, 0), gpu=True),
)
"""As they stand from left to right, after tokens/s."""

_SETTING = (Column("", 2), Column("ranks", 5, "right"), Column("batch", 5, "right"))
_RATE = (Column("tok/s", 8, "right"), Column("±95%", 7, "right"))
_NOTE = Column("", 10)


class Shown(NamedTuple):
    """What a table shows beside the cells: which are best, run, tied, at hand, at a knee; the order of the markers."""

    best: tuple[int, int] | None
    chosen: tuple[int, int] | None
    tied: frozenset[tuple[int, int]]
    at_hand: tuple[int, int] | None
    happening: str
    knees: frozenset[tuple[int, int]]
    series: tuple[int, ...]


def shown_of(sweep: SweepState, summary: SweepSummary) -> Shown:
    """What is to be marked."""
    best, chosen, now = summary.best, summary.chosen, sweep.current
    return Shown(
        best=best.setting if best is not None else None,
        chosen=chosen.setting if chosen is not None else None,
        tied=frozenset(summary.verdict.tied if summary.verdict is not None else ()),
        at_hand=(now.active_ranks, now.batch_size) if now is not None else None,
        happening=what_happens(sweep),
        knees=frozenset(true_knees(summary)),
        series=tuple(sorted(set(sweep.plan.ranks))),
    )


def marker(series: Sequence[int], active_ranks: int) -> Piece:
    """The sign and the style of a number of ranks."""
    place = series.index(active_ranks)
    return MARKERS[place % len(MARKERS)], rank_style(place)


def table_lines(state: RunState, sweep: SweepState, summary: SweepSummary, width: int) -> list[Line]:
    """A heading, and a row for every setting of the plan."""
    shown = shown_of(sweep, summary)
    figures = chosen(summary.cells, width, gpus=bool(state.devices), mbu=sweep.bandwidth_bytes_per_second is not None)
    columns = (*_SETTING, *_RATE, *(figure.column for figure in figures), _NOTE)
    sizes, gap = widths(columns, width, most_gap=3)
    places = rate_places(summary.cells)
    lines = [heading(columns, sizes, gap)]
    lines.extend(_row(cell, summary.cells, shown, figures, columns, sizes, gap, places) for cell in summary.cells)
    return [fit(line, width) for line in lines]


def chosen(cells: Sequence[Cell], width: int, *, gpus: bool, mbu: bool) -> list[Figure]:
    """The figures for which there is room, as they stand. What only a GPU tells has no column where there is none."""
    base = (*_SETTING, *_RATE, _NOTE)
    room = width - sum(column.width for column in base) - (len(base) - 1)
    kept = []
    for figure in sorted(FIGURES, key=lambda figure: figure.wanted):
        possible = mbu if figure.column.title == "MBU" else gpus or not figure.gpu
        wanted = possible or any(figure.of(cell, 1) is not None for cell in cells)
        if wanted and figure.column.width + 1 <= room:
            kept.append(figure)
            room -= figure.column.width + 1
    return [figure for figure in FIGURES if figure in kept]


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
    here = (cell.active_ranks, cell.batch_size)
    running, best = here == shown.at_hand, here == shown.best
    style = "strong" if best or running else ""
    sign, series_style = marker(shown.series, cell.active_ranks)
    start: tuple[Line, ...] = (
        ((BEST if best else " ", "good"), (RUNNING if running else " ", "key")),
        ((f"{sign} ", series_style), (pad(str(cell.active_ranks), 3, "right"), style)),
        ((str(cell.batch_size), style),),
    )
    wall = _wall(found, cell)
    if cell.tokens_per_second is None and not running and (cell.outcome is not None or wall is not None):
        used = sum(sizes[: len(start)]) + gap * len(start)
        head = row(start, columns[: len(start)], sizes[: len(start)], gap)
        return (*head, (" " * gap, ""), *_barred(cell, wall, sum(sizes) + gap * (len(sizes) - 1) - used))
    values: list[Line] = [*_rate(cell.tokens_per_second, style, places)]
    values.extend(_figure(figure.of(cell, places), cell, style) for figure in figures)
    return row([*start, *values, _note(here, shown)], columns, sizes, gap)


def _rate(estimate: Estimate | None, style: str, places: int) -> tuple[Line, Line]:
    if estimate is None:
        return ((NOT_YET, "dim"),), ()
    half = estimate.half_width
    noise: Line = ((f"±{half:,.{places}f}", "dim"),) if half is not None else ()
    return ((f"{estimate.mean:,.{places}f}", style),), noise


def _figure(text: str | None, cell: Cell, style: str) -> Line:
    if cell.tokens_per_second is None:
        return ((NOT_YET, "dim"),)
    return ((UNKNOWN, "dim"),) if text is None else ((text, style),)


def _note(here: tuple[int, int], shown: Shown) -> Line:
    if here == shown.at_hand:
        return ((shown.happening, "key"),)
    if here == shown.best:
        return (("best", "good"),)
    if here == shown.chosen:
        return (("chosen", "good"),)
    if here in shown.tied:
        return (("tied", ""),)
    return (("knee", "dim"),) if here in shown.knees else ()


def _wall(found: Sequence[Cell], cell: Cell) -> int | None:
    """The batch size below this one that ran out of memory with as many ranks; None where none did."""
    below = [
        other.batch_size
        for other in found
        if other.active_ranks == cell.active_ranks
        and other.batch_size < cell.batch_size
        and other.outcome == "out_of_memory"
    ]
    return min(below, default=None)


def _barred(cell: Cell, wall: int | None, width: int) -> Line:
    """What stands in place of figures: the wall of memory, what lies beyond it, or a failure with its reason."""
    if cell.outcome == "failed":
        return fit((("✗ failed: ", "bad"), (visible(cell.reason or "no reason is known"), "warn")), width)
    if cell.outcome == "out_of_memory":
        words = " out of memory "
        band = WALL * max(0, width - len(words) - 2)
        return fit(((WALL * 2, "track"), (words, "bad"), (band, "track")), width)
    words = f"{wall} did not fit" if wall is not None else visible(cell.reason or "")
    return fit(((BEYOND * 2, "track"), (f" skipped: {words}", "dim")), width)
