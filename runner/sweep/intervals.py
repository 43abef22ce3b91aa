"""95 % confidence intervals: of a mean, of the difference and of the ratio of two means. Pure arithmetic.

Knows numbers, not what they measure. Assumes trials that are independent and nearly normal. Each comparison is of two
means: when one mean is compared with many equal ones, about one in twenty looks different.
"""

import math
import statistics
from bisect import bisect_left
from collections.abc import Sequence

import msgspec

T_95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""Student's t, two-sided 95 %, for 1 to 20 degrees of freedom."""

NORMAL_95 = 1.96
"""The same for the normal distribution: infinitely many degrees of freedom."""

MOST_REPEATS = 100
"""`repeats_to_tell` gives up beyond this: nobody would run more repeats to tell two settings apart."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A mean over `count` trials, and the half-width of its 95 % t-interval; None with one trial."""

    mean: float
    half_width: float | None
    count: int

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean, in the mean's unit; None with one trial."""
        return None if self.half_width is None or self.count < 2 else self.half_width / student_t(self.count - 1)


def student_t(freedom: float) -> float:
    """Student's t, two-sided 95 %, for any degrees of freedom of at least 1.

    Between the whole numbers of the table it is interpolated over 1 / `freedom`, in which t is convex: so no interval
    comes out too narrow.
    """
    below = min(int(freedom), len(T_95))
    low = T_95[below - 1]
    high, beyond = (T_95[below], 1 / (below + 1)) if below < len(T_95) else (NORMAL_95, 0.0)
    return low + (high - low) * (1 / below - 1 / freedom) / (1 / below - beyond)


def deviations(count: int) -> float:
    """Half-width of the 95 % interval of a mean over `count` >= 2 trials, in standard deviations of one trial."""
    return student_t(count - 1) / math.sqrt(count)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % t-interval of `values` (at least one)."""
    count = len(values)
    mean = statistics.fmean(values)
    if count < 2:
        return Estimate(mean=mean, half_width=None, count=count)
    return Estimate(mean=mean, half_width=deviations(count) * statistics.stdev(values), count=count)


def difference_half_width(one: Estimate, other: Estimate) -> float | None:
    """Half-width of the 95 % interval of `other.mean - one.mean`, in their unit; None if either has one trial.

    Welch's interval (Biometrika 34, 1947), which allows unequal variances, with Satterthwaite's degrees of freedom.
    """
    if one.standard_error is None or other.standard_error is None:
        return None
    return _welch((one.standard_error, one.count), (other.standard_error, other.count))


def ratio_half_width(one: Estimate, other: Estimate) -> float | None:
    """Half-width of the 95 % interval of `other.mean / one.mean`; None if either has one trial, or `one` is 0.

    By the delta method (Casella and Berger, Statistical Inference, 2nd ed., 5.5.4): relative standard errors add in
    quadrature; degrees of freedom as above. It is too narrow if the noise of `one` is not small against its mean.
    Fieller's interval does not need that, but is then unbounded (Franz, Ratios, arXiv:0710.2024).
    """
    if one.standard_error is None or other.standard_error is None or not one.mean:
        return None
    ratio = other.mean / one.mean
    return _welch((ratio * one.standard_error / one.mean, one.count), (other.standard_error / one.mean, other.count))


def sum_half_width(terms: Sequence[tuple[float, int]]) -> float:
    """Half-width of the 95 % interval of a sum of independent means, each given as its standard error and its count."""
    return _welch(*terms)


def _welch(*terms: tuple[float, int]) -> float:
    """Half-width of the 95 % interval of a sum of independent terms, each a standard error and its trials."""
    error = math.hypot(*(each for each, _ in terms))
    if not error:
        return 0.0
    # Satterthwaite (Biometrics Bulletin 2, 1946); in shares of the total, so that no fourth power overflows.
    freedom = 1 / sum((each / error) ** 4 / (count - 1) for each, count in terms)
    return student_t(max(1.0, freedom)) * error


def told_apart(one: Estimate, other: Estimate) -> bool:
    """Whether the 95 % interval of their difference excludes 0; never if either has one trial."""
    half_width = difference_half_width(one, other)
    return half_width is not None and abs(other.mean - one.mean) > half_width


def repeats_to_tell(one: Estimate, other: Estimate) -> int | None:
    """About how many trials of each it would take to tell two means apart that differ and vary as these do.

    With that many, about half of all attempts succeed if the true difference is the measured one. None if either has
    one trial, or if it would take more than `MOST_REPEATS`.
    """
    if one.standard_error is None or other.standard_error is None:
        return None
    spreads = [one.standard_error * math.sqrt(one.count), other.standard_error * math.sqrt(other.count)]

    def tells(count: int) -> bool:
        return abs(other.mean - one.mean) > _welch(*((spread / math.sqrt(count), count) for spread in spreads))

    counts = range(min(one.count, other.count) + 1, MOST_REPEATS + 1)
    place = bisect_left(counts, True, key=tells)
    return counts[place] if place < len(counts) else None
