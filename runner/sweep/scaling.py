"""What more ranks bring: speedup and scaling efficiency, at one batch size or at the best of each. Pure."""

from collections.abc import Sequence

import msgspec

from rankdeck.runner.sweep.cells import AtLeastOne, Cell, best, rate
from rankdeck.runner.sweep.intervals import ratio_half_width


def speedup(tokens_per_second: float, base: float, base_ranks: int = 1) -> float:
    """How many times the tokens/s of one rank. `base` is the tokens/s of `base_ranks`, taken to scale perfectly."""
    return tokens_per_second / base * base_ranks


def efficiency(speedup: float, ranks: int) -> float:
    """Speedup per rank, as a share: 1 where every rank adds as much as the first."""
    return speedup / ranks


class Scaling(msgspec.Struct, frozen=True, kw_only=True):
    """What a number of ranks brings: its tokens/s over those of the fewest ranks in the same comparison.

    `speedup` and its 95 % half-width are in times one rank, `efficiency` is a share. There is no half-width with one
    repeat, nor in the row that the others are compared with.
    """

    active_ranks: AtLeastOne
    batch_size: int
    tokens_per_second: float
    half_width: float | None
    speedup: float
    efficiency: float
    speedup_half_width: float | None = None

    @property
    def setting(self) -> tuple[int, int]:
        """Active ranks and batch size."""
        return self.active_ranks, self.batch_size

    @property
    def efficiency_half_width(self) -> float | None:
        """Half-width of the 95 % interval of the efficiency, as a share."""
        return None if self.speedup_half_width is None else self.speedup_half_width / self.active_ranks


def scaling(found: Sequence[Cell], batch_size: int) -> list[Scaling]:
    """A row for each number of ranks measured at `batch_size`, fewest first; empty unless there are two.

    Speedup is over one rank; if one rank was not measured, over the fewest, taken to scale perfectly.
    """
    return _over_the_first([cell for cell in found if cell.batch_size == batch_size])


def best_scaling(found: Sequence[Cell]) -> list[Scaling]:
    """The best cell of each number of ranks over the best of the fewest: what tuning both knobs gains.

    Rows as in `scaling`. The intervals ignore that each cell was picked as the highest of its row.
    """
    rows = (
        best([cell for cell in found if cell.active_ranks == ranks]) for ranks in {one.active_ranks for one in found}
    )
    return _over_the_first([cell for cell in rows if cell is not None])


def _over_the_first(row: Sequence[Cell]) -> list[Scaling]:
    """Rows for cells that differ in their number of ranks, over the cell with the fewest."""
    cells = sorted((cell for cell in row if cell.tokens_per_second is not None), key=lambda cell: cell.active_ranks)
    if len(cells) < 2 or rate(cells[0]) <= 0:
        return []
    return [_row(cells[0], cell) for cell in cells]


def _row(first: Cell, cell: Cell) -> Scaling:
    assert first.tokens_per_second is not None
    assert cell.tokens_per_second is not None
    noise = None if cell is first else ratio_half_width(first.tokens_per_second, cell.tokens_per_second)
    times = speedup(rate(cell), rate(first), first.active_ranks)
    return Scaling(
        active_ranks=cell.active_ranks,
        batch_size=cell.batch_size,
        tokens_per_second=rate(cell),
        half_width=cell.tokens_per_second.half_width,
        speedup=times,
        efficiency=efficiency(times, cell.active_ranks),
        speedup_half_width=None if noise is None else noise * first.active_ranks,
    )


LEAST_GAIN = 0.05
"""A larger batch must gain at least this share to be worth its memory and its latency."""


class Knee(msgspec.Struct, frozen=True, kw_only=True):
    """The batch size beyond which a larger one stops paying, for one number of active ranks, and that in a sentence.

    `ended`: growth was seen to end; otherwise `batch_size` is just the largest that was measured. `open`: growth was
    still going on there, and memory did not run out, so a larger batch may be faster still.
    """

    active_ranks: int
    batch_size: int
    sentence: str
    ended: bool
    open: bool = False


def knee(found: Sequence[Cell], active_ranks: int) -> Knee | None:
    """Where growth ends for `active_ranks`: the smallest batch size beyond which no larger one gains 5 %.

    None before two batch sizes are measured.
    """
    row = [cell for cell in found if cell.active_ranks == active_ranks and cell.tokens_per_second is not None]
    wall = next(
        (cell.batch_size for cell in found if cell.active_ranks == active_ranks and cell.outcome == "out_of_memory"),
        None,
    )
    if len(row) < 2:
        return None
    at = next(
        place
        for place, cell in enumerate(row)
        if all(rate(larger) < rate(cell) * (1 + LEAST_GAIN) for larger in row[place + 1 :])
    )
    here = row[at]
    pair = (here, row[at + 1]) if at + 1 < len(row) else (row[at - 1], here)
    ended = at + 1 < len(row)
    if _cannot_tell(*pair):
        words = f"{_change(*pair)}: too noisy to tell"
    elif at + 1 < len(row):
        words = f"{_change(here, row[at + 1])}: stay at {here.batch_size}"
    else:
        words = f"{_change(row[at - 1], here)}: "
        words += (
            f"{here.batch_size} is the largest before out of memory at {wall}"
            if wall is not None
            else f"still growing at {here.batch_size}, the largest tried"
        )
    growing = not ended and wall is None and not _cannot_tell(*pair)
    return Knee(active_ranks=active_ranks, batch_size=here.batch_size, sentence=words, ended=ended, open=growing)


def _change(one: Cell, other: Cell) -> str:
    """`16 -> 32: +4% ± 2%, +31% memory`."""
    if not rate(one):
        return f"{one.batch_size} -> {other.batch_size}: no tokens before, so no ratio"
    words = f"{one.batch_size} -> {other.batch_size}: {_signed(rate(other) / rate(one) - 1)}"
    if (noise := _noise(one, other)) is not None:
        words += f" ± {noise:.0%}"
    if one.peak_memory_bytes and other.peak_memory_bytes:
        words += f", {_signed(other.peak_memory_bytes / one.peak_memory_bytes - 1)} memory"
    return words


def _noise(one: Cell, other: Cell) -> float | None:
    """Half-width of the 95 % interval of the ratio of two cells' tokens/s; None if either has one repeat."""
    if one.tokens_per_second is None or other.tokens_per_second is None:
        return None
    return ratio_half_width(one.tokens_per_second, other.tokens_per_second)


def _cannot_tell(one: Cell, other: Cell) -> bool:
    """Whether the interval of the change includes both a gain of 5 % and no gain at all."""
    noise = _noise(one, other)
    if noise is None or not rate(one):
        return False
    gain = rate(other) / rate(one) - 1
    return gain - noise < 0 and gain + noise > LEAST_GAIN


def _signed(share: float) -> str:
    """`+4%`, `-12%`, and never `-0%`."""
    return f"{round(share * 100):+d}%"
