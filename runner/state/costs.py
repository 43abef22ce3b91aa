"""What batches cost: sums by rows and active ranks, the basis of predictions. Pure.

The reducer adds whole batches; the sums are part of the state and of run.json; `runner.forecast.cost_model` fits them.
"""

from collections.abc import Sequence

import msgspec

MAX_COST_POINTS = 256
LENGTH_BINS = 64


class CostPoint(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over `batches` with equally many rows, generated with `active_ranks` at work.

    `seconds` runs from handing out a batch to its last result; `prefill_seconds` and `decode_seconds` are measured by
    the engine. `prompt_slots` counts token positions of prompts as they were
    prefilled, with their padding if there was any; `steps` the forward passes,
    prefill included; `row_steps` sums over these the rows that were still in the batch. A `cold` point has batches that
    pay for what is done once (`runner.state.batches`): a warm one takes its place.
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
    cold: bool = False

    @property
    def step_rows(self) -> float:
        """Mean rows of a step: fewer than `rows` if rows leave when they end."""
        return self.row_steps / self.steps if self.steps and self.row_steps else self.rows


def with_batch(points: tuple[CostPoint, ...], batch: CostPoint) -> tuple[CostPoint, ...]:
    """`points` with one more batch, given as a CostPoint; beyond MAX_COST_POINTS the rarest point is dropped."""
    for place, point in enumerate(points):
        if (point.active_ranks, point.rows) == (batch.active_ranks, batch.rows):
            return (*points[:place], _sum(point, batch), *points[place + 1 :])
    if len(points) >= MAX_COST_POINTS:
        rarest = min(points, key=lambda point: point.batches)
        points = tuple(point for point in points if point is not rarest)
    return (*points, batch)


def _sum(one: CostPoint, other: CostPoint) -> CostPoint:
    if one.cold != other.cold:
        return other if one.cold else one
    return CostPoint(
        cold=one.cold,
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
    """A histogram of answer lengths, in 64 equal bins up to `max_new_tokens`, with one more answer.

    Bin i holds lengths above i/64 and up to (i+1)/64 of `max_new_tokens`.
    """
    bins = list(counts) if counts else [0] * LENGTH_BINS
    place = min(LENGTH_BINS - 1, max(0, -(-output_tokens * LENGTH_BINS // max_new_tokens) - 1))
    bins[place] += 1
    return tuple(bins)
