"""The forecast's bounds, on both sides, and its sentences, whole: when there is a figure, and what is said of it."""

import msgspec
import pytest
from msgspec.structs import replace

from rankdeck.runner import protocol
from rankdeck.runner.forecast import cost_model, forecast, plan
from rankdeck.runner.forecast.answer_lengths import Answers, answers
from rankdeck.runner.forecast.line_fit import Line, Sample, fitted_curve, fitted_line, spread
from rankdeck.runner.forecast.plan import PlanRow, best_row, compute, play, shares
from rankdeck.runner.protocol.config import MAX_BATCH_SIZE, RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan, SweepState
from rankdeck.runner.scheduling.rounds import EvenRounds
from rankdeck.runner.state import RankState, RunState, summarise
from rankdeck.runner.state.costs import LENGTH_BINS, CostPoint
from tests.runner.forecast.test_cost_model import point
from tests.runner.forecast.test_forecast import batch_seconds, in_hand, running, trials
from tests.runner.state.test_state import ready

# --- when there is an end to tell ---------------------------------------------------------------------


def at_pace(done: int, seconds: float, **changes: object) -> RunState:
    """A run of 100 prompts that has measured nothing yet."""
    return running(prompts=100, done=done, costs=(), first_batch_at=1000.0 - seconds, **changes)


@pytest.mark.parametrize(
    ("done", "seconds", "left"),
    [(1, 10.0, None), (2, 10.0, 490.0), (50, 0.9, None), (50, 1.0, 1.0), (99, 99.0, 1.0), (100, 10.0, None)],
)
def test_a_pace_counts_from_two_percent_and_one_second_on_until_all_is_done(done, seconds, left):
    assert forecast.eta_seconds(at_pace(done, seconds)) == (None if left is None else pytest.approx(left))


@pytest.mark.parametrize("phase", ["starting", "model", "launching", "loading", "ended"])
def test_while_no_batch_is_handed_out_there_is_no_end_to_tell(phase):
    assert forecast.eta_seconds(running(phase=phase)) is None


def test_after_the_end_and_while_a_rank_at_work_is_silent_nobody_knows_it():
    state = running()
    ended = protocol.RunEnded(status="stopped", exit_status=0, summary=summarise(state))
    assert forecast.eta_seconds(replace(state, ended=ended)) is None
    for stage, known in (("at work", False), ("loading", True), ("waiting", True)):
        silence = protocol.RankSilent(rank=0, stage=stage, seconds=20)  # type: ignore[arg-type]
        silent = in_hand(state, a=RankState(rank=0, silence=silence))
        assert (forecast.eta_seconds(silent) is not None) is known


def test_a_sweep_that_stops_or_is_over_has_no_trials_left():
    sweeping = trials(took={1: 4.0, 3: 10.0})
    assert forecast.eta_seconds(sweeping) == pytest.approx(14)
    assert forecast.eta_seconds(replace(sweeping, phase="stopping")) is None
    assert sweeping.sweep is not None
    over = replace(sweeping, sweep=replace(sweeping.sweep, settled="by hand"))
    assert forecast.eta_seconds(over) is None, "the pace of what was thrown away says nothing"
    measured = replace(over, costs=running().costs)
    assert forecast.eta_seconds(measured) == forecast.eta_seconds(running()), "the job goes on"
    assert forecast.eta_seconds(replace(sweeping, costs=running().costs)) == pytest.approx(14), "but not before"


def test_trials_of_settings_that_have_not_run_take_the_mean_of_the_settings_that_have():
    assert forecast.eta_seconds(trials(took={1: 2.0, 2: 6.0})) == pytest.approx(2 * 4.0)
    both = trials(took={1: 2.0, 2: 6.0, 3: 10.0})
    assert forecast.eta_seconds(both) == pytest.approx(10.0)
    assert both.sweep is not None
    third = replace(both.sweep.trials[3], active_ranks=2)
    other = replace(both.sweep, trials=(*both.sweep.trials[:3], third))
    assert forecast.eta_seconds(replace(both, sweep=other)) == pytest.approx((4.0 + 10.0) / 2), "not of the trials"


# --- batches in hand ----------------------------------------------------------------------------------


def alone(rank: RankState, **changes: object) -> float | None:
    """Seconds left of a run all of whose prompts but those of `rank` are done."""
    return forecast.eta_seconds(in_hand(running(prompts=64 + rank.rows, done=64, **changes), a=rank))


def test_a_batch_in_hand_takes_what_is_left_of_it_and_never_less_than_nothing():
    young = RankState(rank=0, batch=9, rows=16, batch_started_at=999.5)
    assert alone(young) == pytest.approx(batch_seconds(16) - 0.5)
    assert alone(replace(young, batch_started_at=1001.0)) == pytest.approx(batch_seconds(16)), "clocks differ a little"
    assert alone(replace(young, batch_started_at=0.0)) == 0.0
    assert alone(replace(young, step=50)) == alone(replace(young, step=70)) == 0.0
    assert alone(replace(young, step=40, batch_started_at=0.0)) == pytest.approx(batch_seconds(16) / 5)
    assert alone(RankState(rank=0, rows=0, batch=9)) == 0.0


def test_rows_of_a_continuous_rank_are_counted_by_their_tokens():
    rows = RankState(rank=0, batch=9, rows=16, step=40, in_flight_tokens=200, ready=ready(0, engine="continuous"))
    assert alone(rows) == pytest.approx(batch_seconds(16) * (1 - 200 / (16 * 50)))
    assert alone(replace(rows, in_flight_tokens=900)) == 0.0


def test_a_rank_with_a_batch_in_hand_begins_the_next_one_when_that_is_over():
    state = in_hand(running(prompts=96, done=64), a=RankState(rank=0, batch=9, rows=16, step=25))
    # 16 prompts are left for two ranks: a batch of 8 each, of which rank 0's begins half a batch of 16 later.
    state = replace(state, rounds=EvenRounds())
    assert forecast.eta_seconds(state) == pytest.approx(batch_seconds(16) / 2 + batch_seconds(8))


def test_in_the_middle_of_a_round_the_rest_is_cut_as_was_planned_unless_rows_come_and_go_or_a_rank_is_capped():
    state = running(prompts=80, done=64, rounds=EvenRounds(16, 2, 1))
    assert forecast.eta_seconds(state) == pytest.approx(batch_seconds(16))
    fresh = batch_seconds(8)
    capped = in_hand(state, a=RankState(rank=0, cap=14))
    assert forecast.eta_seconds(capped) == pytest.approx(fresh)
    continuous = in_hand(state, a=RankState(rank=0, ready=ready(0, engine="continuous")))
    assert forecast.eta_seconds(continuous) == pytest.approx(fresh)
    few = running(prompts=65, done=64)
    assert forecast.eta_seconds(few) == pytest.approx(batch_seconds(1)), "no more batches than prompts"


def test_of_a_split_run_each_rank_does_what_is_left_of_its_share():
    config = RunConfig(prompts="x", ranks=2, max_new_tokens=50, ignore_eos=True, dispatch="split")
    state = running(prompts=64, done=20, ranks=2, config=config)
    # Of 32 prompts each, rank 0 has done 20 and rank 1 has 16 in hand, half done.
    state = in_hand(state, a=RankState(rank=0, prompts=20), b=RankState(rank=1, batch=3, rows=16, step=25))
    assert state.pending == 28
    assert forecast.eta_seconds(state) == pytest.approx(batch_seconds(16) * 1.5)
    alone = replace(state, active_ranks=1)
    # Rank 0 does its own 12, and then the 16 of rank 1.
    assert forecast.eta_seconds(alone) == pytest.approx(batch_seconds(12) + batch_seconds(16))


# --- what if --------------------------------------------------------------------------------------------


def test_settings_at_the_edge_of_what_is_possible():
    def offered(**changes: object) -> list[tuple[int, int]]:
        return [(one.active_ranks, one.batch_size) for one in forecast.what_if(running(10**6, **changes))]

    assert offered(ranks=2, active=2) == [(1, 16), (2, 32), (2, 8)]
    assert offered(ranks=2, active=1) == [(2, 16), (1, 32), (1, 8)]
    assert (2, MAX_BATCH_SIZE) in offered(batch_size=MAX_BATCH_SIZE // 2)
    assert offered(batch_size=3, ranks=1, active=1) == [(1, 6), (1, 1)]


def test_a_change_is_in_percent_of_the_present_setting_and_its_seconds_include_what_is_in_hand():
    flat = (point(8, ranks=1), point(16, ranks=1), point(8, ranks=2), point(16, ranks=2))
    state = running(prompts=96, done=0, ranks=2, active=1, costs=flat)
    two = forecast.what_if(state)[0]
    assert (two.active_ranks, two.batch_size) == (2, 16)
    assert two.change_percent == pytest.approx(100)
    assert two.extrapolated is False
    in_flight = in_hand(replace(state, prompts=112), a=RankState(rank=0, batch=1, rows=16, step=25))
    again = forecast.what_if(in_flight)[0]
    assert again.change_percent == pytest.approx(100), "only what a knob can act on"
    assert again.seconds_left > two.seconds_left


def test_the_whole_file_is_done_as_the_run_itself_would_and_by_its_own_answers():
    short = running(prompts=100, config=RunConfig(prompts="x", ranks=2, max_new_tokens=25, ignore_eos=True))
    row = forecast.whole_file(short, 2, 16)
    assert row is not None
    assert row.tokens_per_second * row.seconds == pytest.approx(100 * 25)
    assert (row.ranks, row.batch_size) == (2, 16)
    assert forecast.whole_file(running(prompts=0), 2, 16) is None
    assert forecast.whole_file(running(config=None), 2, 16) is None
    natural = running(prompts=100, config=RunConfig(prompts="x", ranks=2, max_new_tokens=50))
    counts = (*[0] * 31, 4, *[0] * 32)
    row = forecast.whole_file(replace(natural, lengths=counts), 2, 16)
    assert row is not None
    assert row.tokens_per_second * row.seconds == pytest.approx(100 * 25), "of 25 tokens, half of what they may have"


# --- when the last of some batches ends -------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "batches", "cost", "end"),
    [
        ([1.0, 5.0], 0, 3.0, 5.0),
        ([1.0, 5.0], 2, 0.0, 5.0),
        ([0.0, 0.0], 1, 3.0, 3.0),
        ([0.0, 0.0], 3, 3.0, 6.0),
        ([0.0, 100.0], 3, 3.0, 9.0),
        ([0.0, 1.0], 2, 3.0, 4.0),
        ([0.0, 4.0], 2, 3.0, 6.0),
    ],
)
def test_batches_go_to_whichever_rank_is_free_first(free, batches, cost, end):
    assert forecast.finish(free, batches, cost) == pytest.approx(end)


def test_a_trial_has_as_many_rounds_as_its_seconds_take():
    model = cost_model.given(2.0, 64)
    plan = SweepPlan(batch_sizes=[8], ranks=[1], repeats=1, least_rounds=2, least_seconds=0.0)
    assert forecast.sweep_seconds(plan, model, 100) == 2 + 2 * 2
    assert forecast.sweep_seconds(replace(plan, least_seconds=4.0), model, 100) == 2 + 2 * 2
    assert forecast.sweep_seconds(replace(plan, least_seconds=4.1), model, 100) == 2 + 3 * 2
    assert forecast.sweep_seconds(replace(plan, repeats=3, batch_sizes=[8, 8, 16]), model, 100) == 3 * 2 * 6
    assert forecast.sweep_seconds(plan, cost_model.given(0.0, 64), 100) == 0.0


# --- the plan of a job --------------------------------------------------------------------------------


def row(ranks: int, size: int, rate: float, **changes: object) -> PlanRow:
    values = {"rounds": 1, "seconds": 1000 / rate, "speedup": 1.0, "efficiency": 1.0, "idle": 0.0, **changes}
    return PlanRow(ranks=ranks, batch_size=size, tokens_per_second=rate, **values)  # type: ignore[arg-type]


def test_the_best_row_has_the_fewest_ranks_of_those_within_one_percent():
    assert best_row([row(1, 8, 98.9), row(2, 8, 99.0), row(4, 8, 100.0)]).ranks == 2
    assert best_row([row(2, 32, 100.0), row(2, 16, 99.5), row(2, 8, 98.0)]).batch_size == 16


def test_the_shares_of_split_are_whole_and_the_first_are_larger():
    assert [shares(prompts, 3) for prompts in (0, 1, 7, 9)] == [[0, 0, 0], [1, 0, 0], [3, 2, 2], [3, 3, 3]]


@pytest.mark.parametrize("how", [play, compute])
def test_a_job_is_played_by_its_dispatch(how):
    cost = {16: 2.0, 10: 1.5, 4: 1.0, 9: 1.25}.__getitem__
    assert how(20, 1, 16, "split", cost) == plan.Outcome(2, 3.0, 3.0), "plain slices: 16 and 4"
    assert how(20, 1, 16, "pull", cost) == plan.Outcome(2, 3.0, 3.0), "even rounds: 10 and 10"
    assert how(19, 2, 16, "pull", cost) == plan.Outcome(1, 1.5, 2.75)
    assert how(0, 2, 16, "pull", cost) == plan.Outcome(0, 0.0, 0.0)
    assert how(1, 3, 16, "pull", {1: 2.0}.__getitem__) == plan.Outcome(1, 2.0, 2.0)


def test_a_plan_says_what_it_is_of():
    found = plan.predict(
        cost_model.given(2.0, 16), Answers(max_new_tokens=30), prompts=64, ranks=[2], batch_sizes=[16],
        dispatch="split", basis="given",
    )  # fmt: skip
    assert (found.prompts, found.dispatch, found.tokens_per_prompt, found.basis) == (64, "split", 30, "given")
    assert (found.residual, found.reasons) == (None, [])
    assert found.best == found.rows[0] == row(
        2, 16, 480.0, rounds=2, seconds=4.0, speedup=2.0, efficiency=1.0, idle=0.0
    )  # fmt: skip


def test_why_a_row_is_a_guess_is_said_of_its_largest_batch_and_its_answers():
    model = cost_model.fit([point(4), point(16)])
    assert model is not None
    longer = Answers(max_new_tokens=100, measured_tokens=50)
    (found,) = plan.predict(model, longer, prompts=200, ranks=[1], batch_sizes=[50]).rows
    assert found.why == (
        "batches of 50 not measured (measured: 4 to 16); answers of up to 100 tokens not measured (measured: 50)"
    )
    assert found.extrapolated
    split = plan.predict(model, Answers(max_new_tokens=50), prompts=30, ranks=[2], batch_sizes=[40], dispatch="split")
    assert split.rows[0].why is not None
    assert split.rows[0].why.startswith("2 ranks not measured (measured: 1)")
    assert "batches" not in split.rows[0].why, "15 prompts are all of a share"


def test_the_best_inside_what_was_measured_is_told_if_the_best_lies_outside():
    inside, outside = row(1, 16, 1234.4), row(2, 16, 2000.0, extrapolated=True, why="2 ranks not measured")
    assert plan._measured_best([inside, outside], outside) == [
        "the best setting is outside what was measured (2 ranks not measured); the best inside it is 1 rank at "
        "batch size 16: 1,234 tok/s"
    ]
    assert plan._measured_best([outside], outside) == []
    assert plan._measured_best([inside, outside], inside) == []
    two = row(2, 8, 10.0)
    assert "is 2 ranks at batch size 8: 10 tok/s" in plan._measured_best([two, outside], outside)[0]


@pytest.mark.parametrize(("size", "rate", "said"), [(8, 95.0, True), (8, 94.9, False), (9, 99.0, False)])
def test_a_smaller_batch_is_half_as_large_at_most_and_within_five_percent(size, rate, said):
    best = row(2, 16, 100.0)
    found = plan._smaller([row(1, 4, 99.0), best, row(2, size, rate)], best)
    sentence = f"batch size {size} yields {rate / 100:.0%} of the best, with less memory and sooner answers"
    assert found == ([sentence] if said else [])


def test_of_several_smaller_batches_the_smallest_is_named():
    best = row(2, 16, 100.0)
    assert plan._smaller([best, row(2, 8, 99.0), row(2, 4, 96.0)], best)[0].startswith("batch size 4 yields 96%")


@pytest.mark.parametrize(
    ("fewer", "more", "prompts", "reason"),
    [
        (row(4, 16, 100.0, rounds=2), row(5, 16, 100.9, rounds=2), 100,
         "4 -> 5 ranks brings nothing: 25 and 20 prompts per rank both take 2 rounds at batch size 16; "
         "batch size 20 would take 1"),
        (row(4, 16, 100.0, rounds=3), row(5, 16, 105.0, rounds=3), 200,
         "4 -> 5 ranks brings only +5%: 50 and 40 prompts per rank both take 3 rounds at batch size 16; "
         "batch size 20 would take 2"),
        (row(4, 64, 100.0), row(5, 64, 90.0), 100,
         "4 -> 5 ranks brings -10%: 25 and 20 prompts per rank both take 1 round at batch size 64"),
        (row(4, 16, 100.0, rounds=2), row(5, 16, 113.0, rounds=2), 100, None),
        (row(4, 16, 100.0, rounds=3), row(5, 16, 100.0, rounds=2), 100, None),
    ],
)  # fmt: skip
def test_where_more_ranks_bring_hardly_anything_the_rounds_say_why(fewer, more, prompts, reason):
    assert plan._plateaus(prompts, [more, fewer]) == ([] if reason is None else [reason])


def sharing(many: dict[int, float], best: int, *, most: int = 9) -> list[str]:
    """What is said of a batch of 16 that takes so many times as long with so many ranks."""
    points = [point(rows, ranks=ranks, factor=factor) for ranks, factor in many.items() for rows in (8, 16)]
    model = cost_model.fit(points)
    assert model is not None
    rows = [row(ranks, 16, 1.0) for ranks in (best, most)]
    return plan._sharing(model, Answers(max_new_tokens=50), rows, rows[0], 16)


def test_what_sharing_costs_is_told_of_the_best_ranks_or_else_of_the_most_that_were_measured():
    said = "a batch of 16 takes {} times as long on {} ranks as on {}: they slow each other down"
    assert sharing({1: 1.0, 2: 1.5, 4: 3.0}, best=2) == [said.format("1.5", 2, "1 rank")]
    assert sharing({1: 1.0, 2: 1.5, 4: 3.0}, best=3) == [said.format("3.0", 4, "1 rank")]
    assert sharing({1: 1.0, 2: 1.5, 4: 3.0}, best=1) == [said.format("3.0", 4, "1 rank")]
    assert sharing({2: 1.0, 4: 2.0}, best=4) == [said.format("2.0", 4, "2 ranks")]
    assert sharing({1: 1.0, 2: 1.5, 4: 3.0}, best=2, most=2) == [said.format("1.5", 2, "1 rank")]
    assert sharing({1: 1.0, 2: 1.04}, best=2) == [], "hardly anything"
    assert sharing({1: 1.0, 2: 1.06}, best=2) != []
    assert sharing({2: 1.0}, best=2) == []
    assert sharing({1: 1.0, 4: 2.0}, best=2, most=3) == [], "4 ranks are not among those asked for"


# --- the cost model -----------------------------------------------------------------------------------


def test_a_model_knows_what_it_was_fitted_to():
    points = [point(4), point(16, ranks=3, batches=5)]
    model = cost_model.fit(points)
    assert model is not None
    assert (model.batches, model.measured_ranks, model.measured_rows) == (8, [1, 3], (4, 16))
    assert (model.slots_per_row, model.rows_leave, model.cold) == (20.0, False, False)
    assert (cost_model.given(2.0, 16).measured_ranks, cost_model.given(2.0, 16).measured_rows) == ([], (1, 16))
    assert cost_model.fit([msgspec.structs.replace(point(4), seconds=1e-6)]) is None


def test_cold_batches_count_only_where_there_are_no_others():
    slow = msgspec.structs.replace(point(16, factor=5), cold=True)
    model = cost_model.fit([point(4), slow])
    assert model is not None
    assert (model.cold, model.batches, model.measured_rows) == (False, 3, (4, 4))
    assert model.seconds(16, 50, 1) == pytest.approx(point(4, batches=1).seconds)
    alone = cost_model.fit([slow])
    assert alone is not None
    assert (alone.cold, alone.batches) == (True, 3)


def test_many_batches_of_a_size_count_more_than_few_and_all_by_their_relative_error():
    def at(batches: int) -> float:
        """The prefill of a batch of 8, if one of 4 and of 12 took a second, and so many of 8 two."""
        others = {"step": (0.0, 0.0), "rest": (0.0, 0.0), "steps": 1}
        kinds = [point(4, prefill=(1.0, 0.0), **others), point(8, prefill=(2.0, 0.0), batches=batches, **others)]
        model = cost_model.fit([*kinds, point(12, prefill=(1.0, 0.0), **others)])
        assert model is not None
        return model.seconds(8, 1, 1)

    for batches in (1, 4, 1000):
        few, many = 3 / (3 + 4), batches / (batches + 4) / 2.0**2
        assert at(batches) == pytest.approx((2 * few + many * 2.0) / (2 * few + many))


def test_without_prompt_slots_the_usual_width_counts_and_a_batch_of_nothing_costs_nothing():
    model = cost_model.fit([point(4), point(16)])
    assert model is not None
    assert model.seconds(8, 50, 1) == model.seconds(8, 50, 1, 160.0)
    assert model.seconds(8, 50, 1, 0.0) == pytest.approx(model.seconds(8, 50, 1) - 0.002 * 160)
    assert model.seconds(0, 50, 1) == model.seconds(-1, 50, 1) == 0.0
    assert model.seconds(8, 1, 1) == model.seconds(8, 0, 1), "the first token is the prefill's"


@pytest.mark.parametrize(("rows", "known"), [(3.6, False), (3.7, True), (17.6, True), (17.7, False)])
def test_rows_a_tenth_beyond_what_was_measured_are_as_good_as_measured(rows, known):
    model = cost_model.fit([point(4), point(16)])
    assert model is not None
    assert (model.why_extrapolated(rows, 1) is None) is known


def test_a_single_number_of_rows_and_of_ranks_is_told_as_one():
    model = cost_model.fit([point(16, ranks=2)])
    assert model is not None
    assert model.why_extrapolated(40, 1) == (
        "1 rank not measured (measured: 2); batches of 40 not measured (measured: 16)"
    )


def test_the_shape_of_the_nearest_number_of_ranks_is_taken_and_of_two_the_one_with_more():
    shapes = [
        point(rows, ranks=ranks, step=(0.02, slope)) for ranks, slope in ((1, 0.0), (3, 0.01)) for rows in (4, 16)
    ]
    model = cost_model.fit([*shapes, point(16, ranks=2, step=(0.02, 0.01))])
    assert model is not None
    assert model.seconds(4, 50, 2) == pytest.approx(model.seconds(4, 50, 3))


# --- lines --------------------------------------------------------------------------------------------


def test_a_slope_needs_x_that_differ_by_a_quarter():
    assert not spread([])
    assert not spread([4.0, 4.9])
    assert spread([5.0, 4.0])
    level = fitted_line([Sample(4.0, 1.0, 3.0), Sample(4.9, 2.0, 1.0)])
    assert (level.base, level.slope) == (1.25, 0.0), "the weighted mean"
    assert fitted_line([]) == Line()
    assert fitted_line([Sample(1.0, 2.0, 1.0), Sample(2.0, 3.0, 1.0)]).at(5.0) == pytest.approx(6.0)


def test_a_line_never_has_a_negative_base_or_slope():
    falling = fitted_line([Sample(1.0, 3.0, 1.0), Sample(2.0, 1.0, 1.0)])
    assert (falling.base, falling.slope) == (2.0, 0.0)
    steep = fitted_line([Sample(1.0, 0.0, 1.0), Sample(2.0, 4.0, 1.0)])
    assert (steep.base, steep.slope) == (0.0, pytest.approx(1.6))


def test_pieces_take_the_place_of_a_line_only_if_it_misses_by_more_than_five_percent_and_they_do_better():
    def curve(*ys: float) -> Line:
        return fitted_curve([Sample(float(x), y, 1 / y**2) for x, y in zip((1, 2, 4, 8, 16), ys, strict=False)])

    assert curve(1.0, 1.0, 1.0, 2.0, 4.0).knots, "flat, then steep"
    assert not curve(1.0, 2.0, 4.0, 8.0, 16.0).knots
    assert not curve(1.0, 1.04, 1.0, 1.04, 1.0).knots, "noise of a few percent"
    assert not curve(1.0, 1.5, 1.0, 1.5, 1.0).knots, "zigzag: neighbours predict it worse than a line"
    assert not curve(1.0, 3.0).knots
    pieces = Line(1.0, 2.0, ((2.0, 4.0), (4.0, 10.0)))
    assert [pieces.at(x) for x in (1.0, 2.0, 3.0, 4.0, 6.0)] == [2.0, 4.0, 7.0, 10.0, 14.0]


# --- how long answers get -----------------------------------------------------------------------------


def test_answers_are_fixed_if_asked_for_or_if_nothing_was_measured():
    assert answers([point(4)], (), measured_tokens=50, fixed=True).fixed
    assert answers([], (), measured_tokens=50, fixed=False).fixed
    assert answers([CostPoint(active_ranks=1, rows=4)], (), measured_tokens=50, fixed=False).fixed
    natural = answers([point(4)], (), measured_tokens=50, fixed=False)
    assert (natural.fixed, natural.max_new_tokens, natural.measured_tokens) == (False, 50, 50)
    assert answers([point(4)], (0,) * LENGTH_BINS, measured_tokens=50, fixed=False).lengths == ()


def test_lengths_of_batches_grow_in_proportion_with_what_is_allowed_and_never_beyond_it():
    grown = answers([point(4, steps=20)], (), measured_tokens=50, fixed=False, max_new_tokens=100)
    assert (grown.steps(4), grown.tokens_per_row) == (40.0, 40.0)
    cut = answers([point(4, steps=20)], (), measured_tokens=50, fixed=False, max_new_tokens=10)
    assert (cut.steps(4), cut.tokens_per_row) == (10, 10)
    assert (cut.steps(0), Answers(max_new_tokens=5).steps(-1)) == (0.0, 0.0)


@pytest.mark.parametrize(("most", "measured", "guess"), [(50, 50, False), (51, 50, True), (51, 0, False)])
def test_answers_are_a_guess_only_beyond_what_was_allowed_then(most, measured, guess):
    assert (Answers(max_new_tokens=most, measured_tokens=measured).why_extrapolated is not None) is guess


def test_bins_stand_for_their_middle_and_the_last_for_all_that_is_allowed():
    counts = (2, *[0] * 62, 1)
    found = answers([point(4)], counts, measured_tokens=640, fixed=False)
    assert found.lengths == ((5.5, 2), (640.0, 1))
    longer = answers([point(4)], counts, measured_tokens=640, fixed=False, max_new_tokens=1000)
    assert longer.lengths == ((5.5, 2), (1000.0, 1))
    shorter = answers([point(4)], counts, measured_tokens=640, fixed=False, max_new_tokens=5)
    assert shorter.lengths == ((5.0, 2), (5.0, 1))


def test_a_state_without_a_sweep_of_its_own_is_no_sweep():
    none = SweepState(plan=SweepPlan(batch_sizes=[1], ranks=[1]), trials=(), settled="over")
    assert forecast.eta_seconds(running(sweep=none)) == forecast.eta_seconds(running())
