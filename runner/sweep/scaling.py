"""What more ranks bring: speedup and scaling efficiency, at one batch size or at the best of each. Pure."""

from collections.abc import Sequence

import msgspec

from runner.sweep.cells import Cell, best, rate
from runner.sweep.intervals import ratio_half_width


class Scaling(msgspec.Struct, frozen=True, kw_only=True):
    """What so many ranks bring: their tokens/s over those of the fewest ranks in the same comparison.

    `speedup` and its 95 % half-width are times one rank, `efficiency` is the speedup per rank, as a share. There is no
    half-width with one repeat, nor in the row that the others are compared with.
    """

    active_ranks: int
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
        """That of the 95 % interval of the efficiency, as a share."""
        return None if self.speedup_half_width is None else self.speedup_half_width / self.active_ranks


def scaling(found: Sequence[Cell], batch_size: int) -> list[Scaling]:
    """A row per number of ranks measured at `batch_size`, fewest first; empty unless there are two.

    Speedup is over one rank; where one rank was not measured, over the fewest, taken to scale perfectly.
    """
    return _over_the_first([cell for cell in found if cell.batch_size == batch_size])


def best_scaling(found: Sequence[Cell]) -> list[Scaling]:
    """The best cell of each number of ranks over the best of the fewest: what is gained by whoever tunes both.

    Rows as in `scaling`. The intervals do not know that each cell was picked as the highest of its row.
    """
    rows = (
        best([cell for cell in found if cell.active_ranks == ranks]) for ranks in {one.active_ranks for one in found}
    )
    return _over_the_first([cell for cell in rows if cell is not None])


def _over_the_first(row: Sequence[Cell]) -> list[Scaling]:
    """Cells with one number of ranks each, over the one with the fewest."""
    cells = sorted((cell for cell in row if cell.tokens_per_second is not None), key=lambda cell: cell.active_ranks)
    if len(cells) < 2 or rate(cells[0]) <= 0:
        return []
    return [_row(cells[0], cell) for cell in cells]


def _row(first: Cell, cell: Cell) -> Scaling:
    assert first.tokens_per_second is not None
    assert cell.tokens_per_second is not None
    noise = None if cell is first else ratio_half_width(first.tokens_per_second, cell.tokens_per_second)
    ratio = rate(cell) / rate(first)
    return Scaling(
        active_ranks=cell.active_ranks,
        batch_size=cell.batch_size,
        tokens_per_second=rate(cell),
        half_width=cell.tokens_per_second.half_width,
        speedup=ratio * first.active_ranks,
        efficiency=ratio * first.active_ranks / cell.active_ranks,
        speedup_half_width=None if noise is None else noise * first.active_ranks,
    )
