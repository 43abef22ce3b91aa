"""How long answers get: expected steps of a batch and output tokens of a prompt, from measured lengths. Pure."""

import functools
import itertools
from collections.abc import Iterable, Sequence

import msgspec

from rankdeck.runner.forecast.line_fit import Line
from rankdeck.runner.state.costs import LENGTH_BINS, CostPoint


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """How long answers get: all `max_new_tokens` long when `fixed`, else as they were measured.

    `lengths` is the histogram of `runner.state.costs`, over up to `measured_tokens` tokens. Without one (a sweep keeps
    no answers) `batches` has the mean steps of batches by rows, and `tokens` the mean length of an answer.
    """

    max_new_tokens: int
    fixed: bool = True
    lengths: tuple[int, ...] = ()
    measured_tokens: int = 0
    batches: Line = Line()
    tokens: float = 0.0

    def steps(self, rows: float) -> float:
        """Expected steps of a batch of `rows`: the longest of so many answers.

        Of n draws from a distribution with cumulative shares F the largest is at most x with probability F(x)^n
        (H. A. David, H. N. Nagaraja, Order Statistics, 3rd ed. 2003, section 2.1); F is the measured histogram's.
        """
        if rows <= 0:
            return 0.0
        if self.fixed:
            return self.max_new_tokens
        if not any(self.lengths):
            return min(self.batches.at(rows) * self._stretch, self.max_new_tokens)
        total, seen, before, expected = sum(self.lengths), 0, 0.0, 0.0
        for length, count in zip(self._values(), self.lengths, strict=True):
            if count:
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
        total = sum(self.lengths)
        if not total:
            return min(self.tokens * self._stretch, self.max_new_tokens)
        return sum(value * count for value, count in zip(self._values(), self.lengths, strict=True)) / total

    @property
    def why_extrapolated(self) -> str | None:
        """Why steps, or at a fixed length what they cost, are guessed: answers may be longer than those measured.

        None where they may not, or where nothing was measured.
        """
        if not self.measured_tokens or self.max_new_tokens <= self.measured_tokens:
            return None
        return f"answers of up to {self.max_new_tokens} tokens not measured (measured: {self.measured_tokens})"

    @property
    def _stretch(self) -> float:
        """Where more tokens are allowed than when it was measured, answers are taken to fill them alike."""
        return max(1.0, self.max_new_tokens / self.measured_tokens) if self.measured_tokens else 1.0

    def _values(self) -> tuple[float, ...]:
        return _bin_values(len(self.lengths), self.measured_tokens, self.max_new_tokens)


@functools.lru_cache(maxsize=4)
def _bin_values(bins: int, measured_tokens: int, max_new_tokens: int) -> tuple[float, ...]:
    """The length each bin stands for, cut at `max_new_tokens`.

    The last bin is those that were cut off, nearly always: they go as far as they may.
    """
    edges = [place * measured_tokens // bins for place in range(bins + 1)]
    middles = [(low + 1 + high) / 2 for low, high in itertools.pairwise(edges)]
    middles[-1] = max(measured_tokens, max_new_tokens)
    return tuple(min(value, float(max_new_tokens)) for value in middles)


def answers(
    points: Iterable[CostPoint],
    lengths: Sequence[int],
    *,
    measured_tokens: int,
    fixed: bool,
    max_new_tokens: int | None = None,
) -> Answers:
    """How long answers get in a job, from those of one measured with up to `measured_tokens` new tokens.

    Raises:
        ValueError: `lengths` is no histogram of 64 bins.
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
    return Answers(
        max_new_tokens=measured_tokens if max_new_tokens is None else max_new_tokens,
        fixed=fixed or not rows,
        lengths=tuple(lengths),
        measured_tokens=measured_tokens,
        batches=Line(knots=tuple((float(key), steps / batches) for key, (steps, batches) in sorted(sums.items()))),
        tokens=tokens / rows if rows else 0.0,
    )
