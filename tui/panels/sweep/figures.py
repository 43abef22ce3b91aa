"""The figures of a sweep as data: the columns of its tables, how each reads, which settings stand out, and why
some have none.

The Sweep view, `--plain` and the report lay them out; widths, styles and signs are theirs. Pure.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from rankdeck.runner.protocol.sweep_plan import TrialOutcome
from rankdeck.runner.sweep.cells import Cell
from rankdeck.runner.sweep.scaling import Scaling
from rankdeck.runner.sweep.verdict import SweepSummary
from rankdeck.tui.words.sweep import Value, estimate_value, scaling_shown, speedup_places, times, true_knees, value_of
from rankdeck.tui.words.text import gib, percent, visible


class Heading(NamedTuple):
    """What stands above a column: `title` in a terminal, `name` and `unit` where there is room for both."""

    title: str
    name: str
    unit: str = ""


Reads = Callable[[float, int], str]
"""How a figure reads, given how many digits tokens/s have after the point."""


class Figure(NamedTuple):
    """A column of the table of settings, and what a setting has in it."""

    heading: Heading
    get: Callable[[Cell], float | None]
    reads: Reads
    needs_gpu: bool = False

    def value(self, cell: Cell, places: int) -> Value | None:
        """None where there is no such figure; tokens/s have `places` digits after the point."""
        exact = self.get(cell)
        return None if exact is None else Value(exact, self.reads(exact, places))


RATE = Heading("tok/s", "output", "tokens/s")


# --- settings ---------------------------------------------------------------------------------------


def _rate(value: float, places: int) -> str:
    return f"{value:,.{places}f}"


def _share(value: float, places: int) -> str:
    return percent(value)


def _percent(value: float, places: int) -> str:
    return f"{value:.0f}%"


def _gib(value: float, places: int) -> str:
    return gib(int(value))


def _digits(digits: int) -> Reads:
    return lambda value, _: f"{value:,.{digits}f}"


def _step(place: int) -> Callable[[Cell], float | None]:
    return lambda cell: cell.step_ms[place] if cell.step_ms else None


def _trials(cell: Cell) -> int | None:
    return cell.tokens_per_second.count if cell.tokens_per_second is not None else None


SPEED: tuple[Figure, ...] = (
    Figure(Heading("trials", "trials"), _trials, _digits(0)),
    Figure(Heading("per rank", "per rank", "tokens/s"), lambda cell: cell.rank_tokens_per_second, _rate),
    Figure(Heading("with prompts", "with prompts", "tokens/s"), lambda cell: cell.total_tokens_per_second, _rate),
    Figure(Heading("ms/step", "decode p50", "ms/step"), _step(0), _digits(1)),
    Figure(Heading("p90 ms", "decode p90", "ms/step"), _step(1), _digits(1)),
    Figure(Heading("p99 ms", "decode p99", "ms/step"), _step(2), _digits(1)),
    Figure(Heading("prefill s", "prefill", "s"), lambda cell: cell.prefill_seconds, _digits(3)),
    Figure(Heading("batch s", "batch", "s"), lambda cell: cell.batch_seconds, _digits(2)),
)
COST: tuple[Figure, ...] = (
    Figure(Heading("waste", "padding waste"), lambda cell: cell.padding_waste, _share),
    Figure(Heading("idle", "idle"), lambda cell: cell.idle, _share),
    Figure(
        Heading("peak GiB", "peak memory", "GiB per rank"), lambda cell: cell.peak_memory_bytes, _gib, needs_gpu=True
    ),
    Figure(
        Heading("reserved GiB", "reserved memory", "GiB per rank"),
        lambda cell: cell.reserved_memory_bytes,
        _gib,
        needs_gpu=True,
    ),
    Figure(Heading("busy", "busy"), lambda cell: cell.busy_percent, _percent, needs_gpu=True),
    Figure(Heading("MBU", "MBU"), lambda cell: cell.mbu, _share),
    Figure(Heading("tok/J", "energy", "tokens/J"), lambda cell: cell.tokens_per_joule, _digits(2), needs_gpu=True),
    Figure(Heading("DRAM", "DRAM"), lambda cell: cell.dram_percent, _percent, needs_gpu=True),
    Figure(Heading("tensor", "tensor pipe"), lambda cell: cell.tensor_percent, _percent, needs_gpu=True),
    Figure(Heading("watts", "power", "W"), lambda cell: cell.power_watts, _digits(0), needs_gpu=True),
)
FIGURES = (*SPEED, *COST)
"""From left to right, after ranks, batch size and tokens/s."""


def rate_value(cell: Cell, places: int) -> Value | None:
    """Tokens/s with their noise."""
    return None if cell.tokens_per_second is None else estimate_value(cell.tokens_per_second, places)


def known(figures: Sequence[Figure], cells: Sequence[Cell]) -> list[Figure]:
    """The figures that at least one of these settings has."""
    return [figure for figure in figures if any(figure.get(cell) is not None for cell in cells)]


Mark = Literal["best", "chosen", "tied", "knee"]


def marks(summary: SweepSummary) -> dict[tuple[int, int], Mark]:
    """The settings that stand out, as (active ranks, batch size); of two marks that apply, the one first in `Mark`."""
    found: dict[tuple[int, int], Mark] = dict.fromkeys(true_knees(summary), "knee")
    if summary.verdict is not None:
        found |= dict.fromkeys(summary.verdict.tied, "tied")
    if summary.chosen is not None:
        found[summary.chosen.setting] = "chosen"
    if summary.best is not None:
        found[summary.best.setting] = "best"
    return found


class Missing(NamedTuple):
    """Why a setting has no figures: how its trials ended (None: not run yet), and a reason, which may be empty."""

    outcome: TrialOutcome | None
    reason: str

    @property
    def words(self) -> str:
        return (self.outcome or "not run").replace("_", " ")

    @property
    def sentence(self) -> str:
        """`skipped: 64 did not fit`"""
        return f"{self.words}: {self.reason}" if self.reason else self.words


def why_missing(cell: Cell, found: Sequence[Cell]) -> Missing | None:
    """Why a cell of `found` has no figures; None if it was measured.

    A batch larger than one that ran out of memory on as many ranks counts as skipped even before its turn.
    """
    if cell.tokens_per_second is not None:
        return None
    reason = visible(cell.reason or "")
    if cell.outcome == "failed":
        return Missing("failed", reason or "no reason is known")
    row = (other for other in found if other.active_ranks == cell.active_ranks)
    no_room = (other.batch_size for other in row if other.outcome == "out_of_memory")
    wall = min(no_room, default=cell.batch_size)
    if cell.outcome != "out_of_memory" and wall < cell.batch_size:
        return Missing("skipped", f"{wall} did not fit")
    return Missing(cell.outcome, reason)


# --- scaling ----------------------------------------------------------------------------------------

SCALING = (RATE, Heading("speedup", "speedup", "times one rank"), Heading("efficiency", "scaling efficiency"))
"""From left to right, after ranks and batch size."""


def scaling_values(row: Scaling, places: int) -> tuple[Value, Value, Value]:
    """What stands below `SCALING`; tokens/s with `places` digits after the point."""
    digits = speedup_places(row.speedup)
    speedup = value_of(row.speedup, row.speedup_half_width, lambda value: f"{value:.{digits}f}")
    return (
        value_of(row.tokens_per_second, row.half_width, lambda value: _rate(value, places)),
        speedup._replace(text=times(row.speedup)),
        value_of(row.efficiency, row.efficiency_half_width, percent),
    )


EACH_THE_SAME = "best with each number of ranks: the same"


def same_and_best_scaling(summary: SweepSummary) -> tuple[list[Scaling], list[Scaling]]:
    """Scaling at the batch size that is run, and of the best with each number of ranks: empty where it is the same."""
    same = scaling_shown(summary)
    return same, summary.best_scaling if summary.best_scaling != same else []
