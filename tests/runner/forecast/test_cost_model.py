"""The cost model: from sums of measured batches to the seconds of a batch, marked if nothing like it was measured."""

import itertools
import random

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rankdeck.runner.forecast.answer_lengths import Answers, answers
from rankdeck.runner.forecast.cost_model import fit
from rankdeck.runner.forecast.cost_model import given as by_hand
from rankdeck.runner.forecast.forecast import sweep_seconds
from rankdeck.runner.forecast.line_fit import Line, Sample, fitted_curve, fitted_line
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.state.costs import CostPoint, with_length

SECONDS = st.floats(1e-6, 10)
ROWS = st.lists(st.integers(1, 256), min_size=2, max_size=8, unique=True)


def point(
    rows: int,
    *,
    ranks: int = 1,
    batches: int = 3,
    steps: int = 50,
    slots_per_row: int = 20,
    prefill: tuple[float, float] = (0.1, 0.002),
    step: tuple[float, float] = (0.02, 0.001),
    rest: tuple[float, float] = (0.01, 0.001),
    factor: float = 1.0,
) -> CostPoint:
    """The sums that would have been measured for batches of known cost."""
    prefill_seconds = (prefill[0] + prefill[1] * slots_per_row * rows) * factor
    decode_seconds = (step[0] + step[1] * rows) * (steps - 1) * factor
    return CostPoint(
        active_ranks=ranks,
        rows=rows,
        batches=batches,
        steps=steps * batches,
        prompt_slots=slots_per_row * rows * batches,
        prompt_tokens=slots_per_row * rows * batches,
        output_tokens=rows * steps * batches,
        prefill_seconds=prefill_seconds * batches,
        decode_seconds=decode_seconds * batches,
        seconds=(prefill_seconds + decode_seconds + (rest[0] + rest[1] * rows) * factor) * batches,
    )


POINTS = st.builds(
    CostPoint,
    active_ranks=st.integers(1, 4),
    rows=st.integers(0, 64),
    batches=st.integers(0, 20),
    steps=st.integers(0, 2000),
    prompt_slots=st.integers(0, 10**5),
    output_tokens=st.integers(0, 10**5),
    prefill_seconds=st.floats(0, 100),
    decode_seconds=st.floats(0, 100),
    seconds=st.floats(0, 300),
)


@given(ROWS, SECONDS, SECONDS, SECONDS, SECONDS, st.integers(1, 300), st.integers(1, 200))
def test_known_parameters_are_found_again(rows, base, slope, prefill_base, prefill_slope, held_out, steps):
    assume(max(rows) >= 2 * min(rows))
    # A slope that is tiny beside the base cannot be found, and does not matter.
    assume(slope * max(rows) > base / 100)
    assume(prefill_slope * 20 * max(rows) > prefill_base / 100)
    known = {"prefill": (prefill_base, prefill_slope), "step": (base, slope)}
    model = fit([point(one, **known) for one in rows])
    assert model is not None
    assert model.residual == pytest.approx(0, abs=1e-4)
    truth = point(held_out, batches=1, steps=steps, **known)
    assert model.seconds(held_out, steps, 1) == pytest.approx(truth.seconds, rel=1e-2)


@given(st.lists(POINTS, max_size=12), st.floats(0.1, 500), st.floats(0, 1000), st.integers(1, 8))
def test_no_prediction_is_negative_and_more_steps_never_cost_less(points, rows, steps, ranks):
    model = fit(points)
    if model is None:
        assert not any(one.batches and one.rows and one.seconds > 1e-6 for one in points)
        return
    assert 0 <= model.seconds(rows, steps, ranks) <= model.seconds(rows, steps + 1, ranks)
    assert model.residual is not None


def test_each_number_of_ranks_has_its_own_cost_and_the_nearest_one_stands_in_for_an_unmeasured_one():
    model = fit([point(rows, ranks=ranks, factor=ranks) for rows in (4, 16) for ranks in (1, 3)])
    assert model is not None
    one, three = (model.seconds(8, 50, ranks) for ranks in (1, 3))
    assert three == pytest.approx(3 * one)
    assert model.seconds(8, 50, 2) == three, "of two equally near, the one that promises less"
    assert model.seconds(8, 50, 9) == three
    assert model.why_extrapolated(8, 3) is None
    assert model.why_extrapolated(8, 2) == "2 ranks not measured (measured: 1, 3)"


def test_rows_outside_the_measured_range_are_marked_but_not_for_a_row_more_or_less():
    model = fit([point(4), point(16)])
    assert model is not None
    assert model.why_extrapolated(17, 1) is None
    assert model.why_extrapolated(32, 1) == "batches of 32 not measured (measured: 4 to 16)"
    assert model.why_extrapolated(1, 2) == "2 ranks not measured (measured: 1); batches of 1 not measured " \
        "(measured: 4 to 16)"  # fmt: skip


def test_measured_at_one_row_count_a_batch_costs_the_same_whatever_its_rows():
    for points in ([point(16)], [point(16), point(17)]):
        model = fit(points)
        assert model is not None
        assert model.seconds(4, 50, 1) == pytest.approx(model.seconds(16, 50, 1))
        assert model.seconds(16, 100, 1) > 1.6 * model.seconds(16, 50, 1), "but more steps cost more"


def test_measured_at_one_row_count_the_shape_comes_from_another_number_of_ranks():
    model = fit([point(1), point(8), point(16), point(16, ranks=2, factor=1.5)])
    assert model is not None
    assert model.seconds(4, 50, 2) == pytest.approx(1.5 * model.seconds(4, 50, 1))
    assert model.why_extrapolated(4, 2) == "batches of 4 not measured (measured: 16)"


def test_batches_of_a_single_step_have_no_decode_and_are_fitted_nevertheless():
    model = fit([point(4, steps=1), point(16, steps=1)])
    assert model is not None
    assert model.seconds(8, 1, 1) == pytest.approx(point(8, steps=1, batches=1).seconds)


def test_without_a_whole_batch_there_is_no_model():
    assert fit([]) is None
    assert fit([CostPoint(active_ranks=1, rows=4)]) is None


def test_points_of_several_runs_are_added_up():
    twice = fit([point(4), point(4, factor=3), point(16), point(16, factor=3)])
    assert twice is not None
    assert twice.batches == 12
    assert twice.seconds(4, 50, 1) == pytest.approx(2 * point(4, batches=1).seconds)


def test_the_residual_says_how_far_the_measured_batches_are_off():
    model = fit([point(1), point(4, factor=1.3), point(8), point(16, factor=1.3)])
    assert model is not None
    assert model.residual is not None
    assert 0.05 < model.residual < 0.2


def test_ten_times_as_many_batches_of_each_kind_are_as_far_off():
    few, many = (
        fit([point(rows, batches=batches, factor=1.3 if rows == 4 else 1.0) for rows in (1, 4, 8)])
        for batches in (3, 30)
    )
    assert few is not None
    assert many is not None
    assert few.residual == pytest.approx(many.residual)


def test_many_batches_count_more_in_the_residual_than_few():
    # Both numbers of ranks have one kind of batch, so only that with two kinds of cost has an error.
    uneven = [point(8), point(8, ranks=2), point(16, ranks=2, factor=2), point(32, ranks=2)]
    few, many = fit(uneven), fit([point(8, batches=3000), *uneven[1:]])
    assert few is not None
    assert many is not None
    assert few.residual is not None
    assert many.residual is not None
    assert many.residual < few.residual / 5


def test_where_rows_leave_when_they_end_a_step_has_the_rows_that_are_still_in_it():
    leaving = [msgspec.structs.replace(one, row_steps=one.rows * one.steps // 2) for one in (point(8), point(16))]
    model = fit(leaving)
    assert model is not None
    assert model.rows_leave
    # Half as many tokens as row x step slots: on average half of the rows are in a step.
    assert model.seconds(16, 50, 1, tokens_per_row=25) == pytest.approx(point(16, batches=1).seconds)
    assert model.seconds(16, 50, 1, tokens_per_row=50) > model.seconds(16, 50, 1, tokens_per_row=25)
    stay = fit([point(8), point(16)])
    assert stay is not None
    assert stay.seconds(16, 50, 1, tokens_per_row=25) == stay.seconds(16, 50, 1)


def test_below_the_first_measured_rows_a_step_falls_at_most_in_proportion():
    bent = Line(base=0.0, slope=10.0, knots=((4.0, 8.0), (8.0, 9.0), (16.0, 30.0)))
    assert bent.at(4) == 8.0
    assert bent.at(2) == 4.0, "not 8 - 2 x 10"
    assert bent.at(0) == 0.0
    gentle = Line(base=0.0, slope=0.5, knots=((4.0, 8.0), (8.0, 9.0)))
    assert gentle.at(2) == 7.0, "the slope, where that falls less"
    assert gentle.at(12) == 11.0, "and beyond the last"


def test_errors_are_relative_so_that_large_batches_do_not_spoil_the_small_ones():
    nothing = (0.0, 0.0)
    points = [point(rows, steps=1, rest=nothing, factor=1.3 if rows == 64 else 1.0) for rows in (1, 2, 8, 64)]
    model = fit(points)
    assert model is not None
    assert model.seconds(1, 1, 1) == pytest.approx(point(1, steps=1, batches=1, rest=nothing).seconds, rel=0.1)


def test_a_noisy_line_stays_a_line_and_a_bent_one_is_joined_piece_by_piece():
    noise = random.Random(1)
    rows = [1, 2, 4, 8, 16, 32, 64]

    def samples(step):
        return [Sample(one, value := step(one), 1 / value**2) for one in rows]

    straight = fitted_curve(samples(lambda one: (0.02 + 0.001 * one) * noise.uniform(0.97, 1.03)))
    assert not straight.knots
    bent = fitted_curve(samples(lambda one: max(0.02, 0.002 * one)))
    assert bent.knots
    assert bent.at(6) == pytest.approx(0.02)
    assert bent.at(48) == pytest.approx(0.096)
    assert bent.at(80) > bent.at(64)
    assert 0 < bent.at(0.5) <= bent.at(1)


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.01, 100)), min_size=2, max_size=6), SECONDS, SECONDS)
def test_no_line_with_base_and_slope_of_at_least_0_fits_better(values, base, slope):
    samples = [Sample(x, y, 1 / y**2) for x, y in values]
    assume(max(x for x, _ in values) >= 1.3 * min(x for x, _ in values))

    def error(line):
        return sum(one.weight * (line.at(one.x) - one.y) ** 2 for one in samples)

    assert error(fitted_line(samples)) <= error(Line(base, slope)) * (1 + 1e-6) + 1e-9


def test_a_cost_given_by_hand_is_the_same_for_every_batch_up_to_its_size():
    model = by_hand(2.74, 16)
    assert model.seconds(16, 100, 1) == model.seconds(3, 100, 7) == 2.74
    assert model.why_extrapolated(4, 7) is None
    assert model.why_extrapolated(20, 1) == "batches of 20 not measured (measured: 1 to 16)"
    assert by_hand(2.74, 16, active_ranks=1).why_extrapolated(16, 2) is not None


# --- how long answers get -----------------------------------------------------------------------


def histogram(values: list[int], most: int) -> tuple[int, ...]:
    counts: tuple[int, ...] = ()
    for value in values:
        counts = with_length(counts, value, most)
    return counts


def test_with_a_fixed_length_every_batch_has_all_steps():
    length = Answers(max_new_tokens=40)
    assert (length.steps(1), length.steps(64), length.tokens_per_row) == (40, 40, 40)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 4))
def test_the_steps_of_a_natural_batch_are_the_expected_longest_of_its_answers(values, rows):
    length = answers([point(rows)], histogram(values, 12), measured_tokens=12, fixed=False)
    draws = list(itertools.product(values, repeat=rows))
    assert length.steps(rows) == pytest.approx(sum(max(draw) for draw in draws) / len(draws))
    assert length.tokens_per_row == pytest.approx(sum(values) / len(values))


@given(st.lists(st.integers(0, 500), min_size=1, max_size=50), st.integers(1, 64))
def test_bins_blur_lengths_by_less_than_a_bin(values, rows):
    length = answers([point(4)], histogram(values, 500), measured_tokens=500, fixed=False)
    assert length.tokens_per_row == pytest.approx(sum(values) / len(values), abs=500 / 64)
    assert 1 <= length.steps(rows) <= length.steps(rows + 1) + 1e-9
    assert length.steps(rows + 1) <= 500 + 1e-9


def test_lengths_beyond_those_measured_are_cut_or_marked():
    measured = histogram([2, 10, 10, 12], 12)
    cut = answers([point(4)], measured, measured_tokens=12, fixed=False, max_new_tokens=10)
    assert cut.tokens_per_row == pytest.approx(8)
    assert cut.why_extrapolated is None
    longer = answers([point(4)], measured, measured_tokens=12, fixed=False, max_new_tokens=24)
    assert longer.tokens_per_row == pytest.approx((2 + 10 + 10 + 24) / 4), (
        "answers that were cut off are taken to use the whole limit"
    )
    assert longer.why_extrapolated == "answers of up to 24 tokens not measured (measured: 12)"


def test_without_kept_answers_lengths_come_from_the_steps_of_batches():
    points = [point(4, steps=20), point(16, steps=40)]
    length = answers(points, (), measured_tokens=50, fixed=False)
    assert length.steps(4) == 20
    assert length.steps(10) == pytest.approx(30)
    assert length.steps(64) == 40
    assert length.tokens_per_row == pytest.approx(36)


def test_a_histogram_without_64_bins_is_refused():
    with pytest.raises(ValueError, match="64 bins"):
        answers([point(4)], (1, 2), measured_tokens=50, fixed=False)


def test_a_sweep_takes_the_time_of_its_warm_ups_and_rounds():
    model = fit([point(rows, ranks=ranks, prefill=(0, 0), rest=(0, 0)) for ranks in (1, 2) for rows in (2, 8)])
    plan = SweepPlan(batch_sizes=[2, 8], ranks=[1, 2], repeats=3, least_rounds=2, least_seconds=0)
    # A step takes 22 and 28 ms: 15 of them warm up (the first token is the prefill's), twice 99 are measured.
    assert sweep_seconds(plan, model, 100) == pytest.approx(3 * 2 * (0.022 + 0.028) * (15 + 2 * 99))
    longer = msgspec.structs.replace(plan, least_seconds=5.0)
    assert sweep_seconds(longer, model, 50) > 3 * 4 * 5.0
    # Before short answers a warm-up is a quarter of them.
    assert sweep_seconds(plan, model, 8) == pytest.approx(3 * 2 * (0.022 + 0.028) * (1 + 2 * 7))
