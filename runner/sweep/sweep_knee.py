"""Where a larger batch stops to pay, for one number of active ranks, and that in a sentence. Pure."""

from collections.abc import Sequence

import msgspec

from runner.sweep.cells import Cell, rate
from runner.sweep.intervals import ratio_half_width

LEAST_GAIN = 0.05
"""A larger batch must gain this much to be worth its memory and its latency."""


class Knee(msgspec.Struct, frozen=True, kw_only=True):
    """Where a larger batch stops to pay, for one number of active ranks, and that in a sentence.

    `ended` says whether growth was seen to end: else `batch_size` is only the largest that was measured. Where it grew
    that far and memory did not run out, it is `open` how much faster a larger one would be.
    """

    active_ranks: int
    batch_size: int
    sentence: str
    ended: bool
    open: bool = False


def knee(found: Sequence[Cell], active_ranks: int) -> Knee | None:
    """Where a row's growth ends: the smallest batch size after which no larger one gains 5 % more.

    None before two sizes of the row are measured.
    """
    row = [cell for cell in found if cell.active_ranks == active_ranks and cell.tokens_per_second is not None]
    wall = next(
        (cell.batch_size for cell in found if cell.active_ranks == active_ranks and cell.outcome == "out_of_memory"),
        None,
    )
    if len(row) < 2:
        return None
    at = 0
    for place in range(1, len(row)):
        if rate(row[place]) >= rate(row[at]) * (1 + LEAST_GAIN):
            at = place
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
    """Half-width of the 95 % interval of the ratio of two cells' rates; None with one repeat."""
    if one.tokens_per_second is None or other.tokens_per_second is None:
        return None
    return ratio_half_width(one.tokens_per_second, other.tokens_per_second)


def _cannot_tell(one: Cell, other: Cell) -> bool:
    """Whether the interval of the change holds both a gain of 5 % and none at all."""
    noise = _noise(one, other)
    if noise is None or not rate(one):
        return False
    gain = rate(other) / rate(one) - 1
    return gain - noise < 0 and gain + noise > LEAST_GAIN


def _signed(share: float) -> str:
    """`+4%`, `-12%`, and never `-0%`."""
    return f"{round(share * 100):+d}%"
