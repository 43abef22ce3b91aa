"""What batches cost: sums by rows and active ranks, from which predictions are made. Pure shapes.

Gathered by the reducer from whole batches, kept in the state and in run.json; `runner.forecast.cost_model` fits them.
"""

from collections.abc import Sequence

import msgspec

MAX_COST_POINTS = 256
LENGTH_BINS = 64


class CostPoint(msgspec.Struct, frozen=True, kw_only=True):
    """Batches of equally many rows, generated while so many ranks were active: sums over `batches` of them.

    `seconds` is from handing out a batch to its last result in, `prefill_seconds` and `decode_seconds` are the
    engine's own. `prompt_slots` counts token positions of padded prompts, rows x width; `steps` those of the longest
    row, and `row_steps` the rows that were still in the batch, summed over the steps.
    """

    active_ranks: int
    rows: int
    batches: int = 0
    steps: int = 0
    row_steps: int = 0
    prompt_slots: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def step_rows(self) -> float:
        """Mean rows of a step: fewer than `rows` where rows leave once they have ended."""
        return self.row_steps / self.steps if self.steps and self.row_steps else self.rows


def with_batch(points: tuple[CostPoint, ...], batch: CostPoint) -> tuple[CostPoint, ...]:
    """`points` and one more batch (a CostPoint of one); of too many different ones the rarest is forgotten."""
    for place, point in enumerate(points):
        if (point.active_ranks, point.rows) == (batch.active_ranks, batch.rows):
            return (*points[:place], _sum(point, batch), *points[place + 1 :])
    if len(points) >= MAX_COST_POINTS:
        rarest = min(points, key=lambda point: point.batches)
        points = tuple(point for point in points if point is not rarest)
    return (*points, batch)


def _sum(one: CostPoint, other: CostPoint) -> CostPoint:
    return CostPoint(
        active_ranks=one.active_ranks,
        rows=one.rows,
        batches=one.batches + other.batches,
        steps=one.steps + other.steps,
        row_steps=one.row_steps + other.row_steps,
        prompt_slots=one.prompt_slots + other.prompt_slots,
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        prefill_seconds=one.prefill_seconds + other.prefill_seconds,
        decode_seconds=one.decode_seconds + other.decode_seconds,
        seconds=one.seconds + other.seconds,
    )


def with_length(counts: Sequence[int], output_tokens: int, max_new_tokens: int) -> tuple[int, ...]:
    """How many answers had which length, in 64 equal bins up to `max_new_tokens`, with one more answer.

    Bin i holds lengths above i/64 and up to (i+1)/64 of `max_new_tokens`.
    """
    bins = list(counts) if counts else [0] * LENGTH_BINS
    place = min(LENGTH_BINS - 1, max(0, -(-output_tokens * LENGTH_BINS // max_new_tokens) - 1))
    bins[place] += 1
    return tuple(bins)
