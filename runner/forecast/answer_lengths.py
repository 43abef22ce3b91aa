"""How long answers get: expected steps of a batch and output tokens of a prompt, from measured lengths. Pure."""

import itertools
from collections.abc import Iterable, Sequence

import msgspec

from rankdeck.runner.forecast.line_fit import Line
from rankdeck.runner.state.costs import LENGTH_BINS, CostPoint


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """How long answers get: all of them `max_new_tokens` when `fixed`, else as they were measured.

    `lengths` has the measured lengths, shortest first, each with the number of answers that had it. They were measured
    with up to `measured_tokens` tokens allowed. A sweep keeps no answers: then `batches` has the mean steps of a batch
    by its rows, and `tokens` the mean length of an answer.
    """

    max_new_tokens: int
    fixed: bool = True
    lengths: tuple[tuple[float, int], ...] = ()
    measured_tokens: int = 0
    batches: Line = Line()
    tokens: float = 0.0

    def steps(self, rows: float) -> float:
        """Expected steps of a batch of `rows`: the length of the longest of its answers.

        Of n draws from a distribution with cumulative shares F the largest is at most x with probability F(x)^n
        (H. A. David, H. N. Nagaraja, Order Statistics, 3rd ed. 2003, section 2.1); F is the measured histogram's.
        """
        if rows <= 0:
            return 0.0
        if self.fixed:
            return self.max_new_tokens
        if not self.lengths:
            return min(self.batches.at(rows) * self._longer, self.max_new_tokens)
        total, seen, before, expected = sum(count for _, count in self.lengths), 0, 0.0, 0.0
        for length, count in self.lengths:
            seen += count
            share = (seen / total) ** rows
            expected += length * (share - before)
            before = share
        return expected

    @property
    def tokens_per_row(self) -> float:
        """Expected output tokens of a prompt."""
        if self.fixed:
            return self.max_new_tokens
        if not self.lengths:
            return min(self.tokens * self._longer, self.max_new_tokens)
        return sum(length * count for length, count in self.lengths) / sum(count for _, count in self.lengths)

    @property
    def why_extrapolated(self) -> str | None:
        """Why steps, or at a fixed length their cost, are a guess: answers may get longer than those measured.

        None if they may not, or if nothing was measured.
        """
        if not self.measured_tokens or self.max_new_tokens <= self.measured_tokens:
            return None
        return f"answers of up to {self.max_new_tokens} tokens not measured (measured: {self.measured_tokens})"

    @property
    def _longer(self) -> float:
        """Factor on measured lengths if more tokens are allowed now: answers are assumed to grow in proportion."""
        return max(1.0, self.max_new_tokens / self.measured_tokens) if self.measured_tokens else 1.0


def _counted(histogram: Sequence[int], measured_tokens: int, max_new_tokens: int) -> tuple[tuple[float, int], ...]:
    """The length that each bin stands for, cut at `max_new_tokens`, and its count; bins without answers left out.

    Nearly all answers in the last bin were cut off, so they are taken to go on as far as they may.
    """
    edges = [place * measured_tokens // len(histogram) for place in range(len(histogram) + 1)]
    middles = [(low + 1 + high) / 2 for low, high in itertools.pairwise(edges)]
    middles[-1] = max(measured_tokens, max_new_tokens)
    return tuple(
        (min(value, float(max_new_tokens)), count) for value, count in zip(middles, histogram, strict=True) if count
    )


def answers(
    points: Iterable[CostPoint],
    lengths: Sequence[int],
    *,
    measured_tokens: int,
    fixed: bool,
    max_new_tokens: int | None = None,
) -> Answers:
    """How long answers get in a job, from one that was measured with up to `measured_tokens` new tokens.

    `lengths` is the histogram of `runner.state.costs.with_length`, or empty.

    Raises:
        ValueError: `lengths` does not have 64 bins.
    """
    if lengths and len(lengths) != LENGTH_BINS:
        raise ValueError(f"lengths must have {LENGTH_BINS} bins, not {len(lengths)}")
    sums: dict[int, tuple[int, int]] = {}
    rows = tokens = 0
    for point in points:
        if point.batches > 0 and point.rows > 0:
            steps, batches = sums.get(point.rows, (0, 0))
            sums[point.rows] = (steps + point.steps, batches + point.batches)
            rows += point.rows * point.batches
            tokens += point.output_tokens
    most = measured_tokens if max_new_tokens is None else max_new_tokens
    return Answers(
        max_new_tokens=most,
        fixed=fixed or not rows,
        lengths=_counted(lengths, measured_tokens, most) if any(lengths) else (),
        measured_tokens=measured_tokens,
        batches=Line(knots=tuple((float(key), steps / batches) for key, (steps, batches) in sorted(sums.items()))),
        tokens=tokens / rows if rows else 0.0,
    )
