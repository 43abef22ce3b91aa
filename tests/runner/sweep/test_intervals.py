"""95 % intervals of a mean, a difference and a ratio; when two means can be told apart, and in how many repeats."""

import math
import random
import statistics

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rankdeck.runner.sweep.intervals import (
    MOST_REPEATS,
    T_95,
    Estimate,
    deviations,
    difference_half_width,
    estimate,
    ratio_half_width,
    repeats_to_tell,
    student_t,
    sum_half_width,
    told_apart,
)

TRIALS = st.lists(st.floats(1, 1e5), min_size=2, max_size=12)


def test_students_t_is_from_the_table_at_whole_degrees_of_freedom_and_normal_far_out():
    assert [student_t(freedom) for freedom in range(1, 21)] == pytest.approx(T_95)
    assert student_t(1e9) == pytest.approx(1.96)


@pytest.mark.parametrize(("freedom", "exact"), [(1.5, 6.017), (2.5, 3.575), (3.5, 2.940), (30, 2.042), (60, 2.000)])
def test_between_whole_degrees_students_t_is_near_the_exact_value_and_never_below(freedom: float, exact: float):
    assert exact - 1e-3 <= student_t(freedom) < 1.2 * exact


@given(st.floats(1, 1e4), st.floats(1, 1e4))
def test_more_degrees_of_freedom_never_widen_an_interval(one: float, other: float):
    low, high = sorted((one, other))
    assert student_t(low) >= student_t(high) - 1e-9


def test_two_repeats_have_an_interval_of_nine_standard_deviations_and_five_of_little_more_than_one():
    assert [round(deviations(count), 1) for count in (2, 3, 5)] == [9.0, 2.5, 1.2]


def test_the_interval_of_a_difference_is_welchs():
    # Standard errors 1 / sqrt(3) and 3 / sqrt(3): 10 / 3 in all, 4 * 100 / (2 + 162) = 2.44 degrees of freedom.
    one, other = estimate([9.0, 10.0, 11.0]), estimate([17.0, 20.0, 23.0])
    assert difference_half_width(one, other) == pytest.approx(student_t(100 / 41) * (10 / 3) ** 0.5)


def test_the_interval_of_a_ratio_adds_relative_errors_in_quadrature():
    one, other = estimate([9.0, 10.0, 11.0]), estimate([18.0, 20.0, 22.0])
    # Both vary by 10 % from trial to trial, so together they have 4 degrees of freedom.
    assert ratio_half_width(one, other) == pytest.approx(2 * 2.776 * (2 * 0.1**2 / 3) ** 0.5)


@given(TRIALS, TRIALS, st.floats(0.01, 100))
def test_a_ratio_has_no_unit_and_a_difference_has_the_unit_of_its_means(
    first: list[float], second: list[float], factor: float
):
    one, other = estimate(first), estimate(second)
    scaled = [estimate([value * factor for value in values]) for values in (first, second)]
    assert ratio_half_width(*scaled) == pytest.approx(ratio_half_width(one, other), rel=1e-6, abs=1e-9)
    assert difference_half_width(*scaled) == pytest.approx(
        factor * (difference_half_width(one, other) or 0.0), rel=1e-6, abs=1e-6
    )


@given(TRIALS, TRIALS)
def test_the_order_of_two_means_does_not_matter(first: list[float], second: list[float]):
    one, other = estimate(first), estimate(second)
    assert difference_half_width(one, other) == pytest.approx(difference_half_width(other, one))
    assert told_apart(one, other) == told_apart(other, one)


def test_intervals_include_the_true_difference_and_ratio_as_often_as_they_promise():
    luck = random.Random(11)
    held = {"difference": 0, "ratio": 0}
    for _ in range(2000):
        one = estimate([luck.gauss(100, 5) for _ in range(4)])
        other = estimate([luck.gauss(180, 15) for _ in range(3)])
        held["difference"] += abs(other.mean - one.mean - 80) <= (difference_half_width(one, other) or 0.0)
        held["ratio"] += abs(other.mean / one.mean - 1.8) <= (ratio_half_width(one, other) or 0.0)
    assert all(0.93 <= count / 2000 <= 0.99 for count in held.values()), held


def test_with_one_trial_there_is_no_interval_and_nothing_is_told_apart():
    once, often = estimate([1.0]), estimate([100.0, 100.1])
    for pair in ((once, often), (often, once), (once, once)):
        assert difference_half_width(*pair) is None
        assert ratio_half_width(*pair) is None
        assert repeats_to_tell(*pair) is None
        assert not told_apart(*pair)


def test_nothing_is_divided_by_zero():
    still, moving = estimate([0.0, 0.0]), estimate([1.0, 2.0])
    assert ratio_half_width(still, moving) is None
    assert ratio_half_width(moving, still) == 0.0
    assert not told_apart(still, still)
    assert told_apart(still, estimate([1.0, 1.0]))


@given(st.floats(50, 100), st.floats(0.1, 50), st.floats(0.5, 20), st.integers(2, 6))
def test_the_repeats_named_tell_two_means_apart_and_one_fewer_do_not(
    mean: float, gain: float, deviation: float, count: int
):
    def measured(center: float, trials: int) -> Estimate:
        return Estimate(mean=center, half_width=deviations(trials) * deviation, count=trials)

    assume(not told_apart(measured(mean, count), measured(mean + gain, count)))
    needed = repeats_to_tell(measured(mean, count), measured(mean + gain, count))
    if needed is None:
        assert not told_apart(measured(mean, MOST_REPEATS), measured(mean + gain, MOST_REPEATS))
    else:
        assert needed > count
        assert told_apart(measured(mean, needed), measured(mean + gain, needed))
        assert needed == count + 1 or not told_apart(measured(mean, needed - 1), measured(mean + gain, needed - 1))


def test_a_standard_error_is_the_deviation_over_the_root_of_the_trials():
    values = [3.0, 5.0, 8.0, 9.0]
    assert estimate(values).standard_error == pytest.approx(statistics.stdev(values) / 2)
    assert estimate([3.0]).standard_error is None


def within(limit: float, freedom: int, steps: int = 400) -> float:
    """The probability that Student's t with so many degrees of freedom lies within +- `limit`, by Simpson's rule."""
    scale = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(freedom * math.pi)
    width = limit / steps
    heights = [(1 + (place * width) ** 2 / freedom) ** (-(freedom + 1) / 2) for place in range(steps + 1)]
    return 2 * scale * width / 3 * (heights[0] + heights[-1] + 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2]))


@pytest.mark.parametrize("freedom", range(1, 21))
def test_every_value_of_the_table_holds_95_percent(freedom: int):
    assert within(T_95[freedom - 1], freedom) == pytest.approx(0.95, abs=2e-4)


def test_the_interval_of_a_sum_is_that_of_a_difference():
    one, other = estimate([9.0, 10.0, 11.0]), estimate([17.0, 20.0, 23.0])
    terms = [(each.standard_error or 0.0, each.count) for each in (one, other)]
    assert sum_half_width(terms) == difference_half_width(one, other)
    assert sum_half_width(terms[:1]) == pytest.approx(one.half_width)


@given(st.lists(TRIALS, min_size=1, max_size=8))
def test_errors_of_a_sum_cancel_in_part_and_the_largest_stays(parts: list[list[float]]):
    found = [estimate(part) for part in parts]
    terms = [(each.standard_error or 0.0, each.count) for each in found]
    together = sum_half_width(terms)
    assert together <= sum(each.half_width or 0.0 for each in found) * (1 + 1e-9)
    assert together >= 1.95 * max(error for error, _ in terms)


def test_a_sum_of_means_without_error_has_none():
    assert sum_half_width([(0.0, 2), (0.0, 5)]) == 0.0
    assert sum_half_width([(0.0, 2), (1.0, 5)]) == pytest.approx(student_t(4))
