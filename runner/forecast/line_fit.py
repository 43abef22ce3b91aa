"""Straight lines fitted to a few samples: least squares, base and slope of at least 0. Pure.

Knows numbers, not what they stand for.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence

import msgspec

LEAST_SPREAD = 1.25
"""A slope can be told from noise if the largest x is at least this many times the smallest."""

LINE_MISFIT = 0.05
"""A line that misses its samples by more than this share, root mean square, may be replaced by straight pieces."""


class Line(msgspec.Struct, frozen=True):
    """base + slope x; with `knots`, straight pieces through these (x, y), and the slope beyond them.

    Beyond `end` it climbs by `beyond`.
    """

    base: float = 0.0
    slope: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()
    end: float = math.inf
    beyond: float = 0.0

    def at(self, x: float) -> float:
        """The value at x; never negative for x >= 0."""
        if x > self.end:
            return self.at(self.end) + self.beyond * (x - self.end)
        if not self.knots:
            return self.base + self.slope * x
        place = bisect_right(self.knots, (x, math.inf))
        if place == len(self.knots):
            last_x, last_y = self.knots[-1]
            return last_y + self.slope * (x - last_x)
        right_x, right_y = self.knots[place]
        if place == 0:
            # Below the first knot, y falls at most in proportion to x: no step costs nothing.
            return max(right_y - self.slope * (right_x - x), right_y * x / right_x)
        left_x, left_y = self.knots[place - 1]
        return left_y + (right_y - left_y) * (x - left_x) / (right_x - left_x)


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """y measured at x. For a relative error `weight` includes the factor 1/y²."""

    x: float
    y: float
    weight: float


def spread(xs: Sequence[float]) -> bool:
    """Whether the xs differ enough to tell a slope."""
    return bool(xs) and max(xs) >= LEAST_SPREAD * max(min(xs), 1e-9)


class _Sums:
    """Weighted sums of samples: all that a straight line needs, so leaving one sample out is cheap."""

    def __init__(self) -> None:
        self.w = self.x = self.xx = self.y = self.xy = self.yy = 0.0

    def add(self, sample: Sample, sign: int = 1) -> None:
        x, y, weight = sample.x, sample.y, sign * sample.weight
        self.w += weight
        self.x += weight * x
        self.xx += weight * x * x
        self.y += weight * y
        self.xy += weight * x * y
        self.yy += weight * y * y

    def error(self, line: Line) -> float:
        a, b = line.base, line.slope
        return self.yy - 2 * (a * self.y + b * self.xy) + a * a * self.w + 2 * a * b * self.x + b * b * self.xx

    def line(self) -> Line:
        """Least squares with base and slope >= 0: the free optimum, else the better one with either of them 0."""
        determinant = self.w * self.xx - self.x * self.x
        if determinant > 1e-9 * self.w * self.xx:
            slope = (self.w * self.xy - self.x * self.y) / determinant
            base = (self.y - slope * self.x) / self.w
            if slope >= 0 and base >= 0:
                return Line(base, slope)
        level = Line(max(0.0, self.y / self.w) if self.w > 0 else 0.0)
        steep = Line(0.0, max(0.0, self.xy / self.xx) if self.xx > 0 else 0.0)
        return min(level, steep, key=self.error)


def fitted_line(samples: list[Sample]) -> Line:
    """The line through samples; level if their x are too close together to tell a slope."""
    if not samples:
        return Line()
    if not spread([sample.x for sample in samples]):
        return Line(sum(one.y * one.weight for one in samples) / sum(one.weight for one in samples))
    return _summed(samples).line()


def _summed(samples: list[Sample]) -> _Sums:
    sums = _Sums()
    for sample in samples:
        sums.add(sample)
    return sums


def fitted_curve(samples: list[Sample]) -> Line:
    """The line through samples, or straight pieces from one to the next if those are better justified."""
    line = fitted_line(samples)
    if len(samples) < 3 or not spread([sample.x for sample in samples]):
        return line
    weights = sum(one.weight * one.y**2 for one in samples)
    sums = _summed(samples)
    if (max(0.0, sums.error(line)) / weights) ** 0.5 <= LINE_MISFIT:
        return line
    by_line = by_pieces = 0.0
    for left, inner, right in zip(samples, samples[1:], samples[2:], strict=False):
        sums.add(inner, -1)
        by_line += inner.weight * (sums.line().at(inner.x) - inner.y) ** 2
        sums.add(inner)
        pieces = left.y + (right.y - left.y) * (inner.x - left.x) / (right.x - left.x)
        by_pieces += inner.weight * (pieces - inner.y) ** 2
    if by_pieces > by_line * 1.001:
        return line
    return Line(line.base, line.slope, tuple((one.x, one.y) for one in samples))


def steeper_beyond(line: Line, samples: list[Sample], least_slope: float = 0.0) -> Line:
    """The line, beyond its samples as steep as between the last two, and at least of `least_slope`.

    For what grows ever faster, such as the cost of a step by its rows: bound by memory at first, by compute later. It
    never climbs faster than in proportion to x, so that noise in one sample does not make a gain a loss.
    """
    if not samples:
        return line
    *before, last = sorted(samples, key=lambda one: one.x)
    inner = next((one for one in reversed(before) if spread([one.x, last.x])), None)
    newest = (last.y - inner.y) / (last.x - inner.x) if inner is not None else 0.0
    end = line.at(last.x)
    slope = min(max(line.slope, newest, least_slope), end / last.x if last.x > 0 else math.inf)
    return msgspec.structs.replace(line, end=last.x, beyond=slope)
