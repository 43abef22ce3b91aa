"""The figures for a running job: how long it will still take, and what other settings of its knobs would bring."""

import heapq
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.forecast import cost_model, forecast
from rankdeck.runner.protocol.config import MAX_BATCH_SIZE, RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan, SweepState, Trial, TrialRecord
from rankdeck.runner.state import RankState, RunState
from rankdeck.runner.state.periods import KnobPeriod, share_of_batch
from tests.runner.forecast.test_cost_model import point

DISPATCHES = st.sampled_from(["pull", "split"])


def running(prompts: int = 400, done: int = 64, *, ranks: int = 4, active: int = 2, **changes: object) -> RunState:
    """A run at batch size 16 that measured batches of 8 and 16 on two active ranks; no rank has one in hand."""
    values: dict[str, object] = {
        "config": RunConfig(prompts="x", ranks=ranks, max_new_tokens=50, ignore_eos=True),
        "prompts": prompts,
        "completed": done,
        "phase": "running",
        "batch_size": 16,
        "active_ranks": active,
        "costs": (point(8, ranks=2), point(16, ranks=2)),
        "ranks": tuple(RankState(rank=rank) for rank in range(ranks)),
        "now": 1000.0,
    }
    return RunState(**{**values, **changes})  # type: ignore[arg-type]


def batch_seconds(rows: float) -> float:
    model = cost_model.fit([point(8, ranks=2), point(16, ranks=2)])
    assert model is not None
    return model.seconds(rows, 50, 2)


def in_hand(state: RunState, **ranks: RankState) -> RunState:
    changed = {rank.rank: rank for rank in ranks.values()}
    return msgspec.structs.replace(state, ranks=tuple(changed.get(rank.rank, rank) for rank in state.ranks))


def test_the_time_left_is_the_rounds_left_times_their_cost():
    state = running(prompts=400, done=64)
    assert forecast.eta_seconds(state) == pytest.approx(11 * batch_seconds(336 / 22))
    assert forecast.eta_seconds(running(prompts=64, done=64)) == 0


def test_a_batch_in_flight_counts_with_the_steps_it_has_left():
    state = in_hand(running(prompts=80, done=64), a=RankState(rank=0, batch=9, rows=16, step=25))
    assert forecast.eta_seconds(state) == pytest.approx(batch_seconds(16) / 2)
    young = RankState(rank=0, batch=9, rows=16, batch_started_at=999.0)
    assert forecast.eta_seconds(in_hand(state, a=young)) == pytest.approx(batch_seconds(16) - 1)


def test_nothing_is_predicted_before_a_whole_batch_or_while_a_sweep_measures():
    assert forecast.eta_seconds(running(costs=())) is None
    assert forecast.what_if(running(costs=())) == []
    sweep = SweepState(plan=SweepPlan(batch_sizes=[1], ranks=[1]), trials=())
    assert forecast.eta_seconds(running(sweep=sweep)) is None


def trials(*, took: dict[int, float], current: bool = False) -> RunState:
    """A sweep of four trials, two at each of two settings, of which those in `took` are over, as of 1,000 s."""
    plan = SweepPlan(batch_sizes=[1, 8], ranks=[1])
    order = tuple(Trial(number=n, repeat=1, active_ranks=1, batch_size=size) for n, size in enumerate((1, 1, 8, 8), 1))
    records = tuple(TrialRecord(trial=trial, outcome="measured") for trial in order if trial.number in took)
    left = next((trial for trial in order if trial.number not in took), None)
    sweep = SweepState(
        plan=plan, trials=order, records=records, took=took, current=left if current else None, since=998.0
    )
    return running(sweep=sweep, costs=())


def test_the_time_left_of_a_sweep_is_that_of_its_trials_by_their_settings():
    assert forecast.eta_seconds(trials(took={})) is None
    assert forecast.eta_seconds(trials(took={1: 4.0})) == pytest.approx(3 * 4), "as far as is known"
    assert forecast.eta_seconds(trials(took={1: 4.0, 3: 10.0})) == pytest.approx(4 + 10)
    assert forecast.eta_seconds(trials(took={1: 4.0, 2: 6.0, 3: 20.0})) == pytest.approx(20)


def test_of_the_trial_under_way_only_the_rest_is_left():
    assert forecast.eta_seconds(trials(took={1: 4.0, 3: 10.0}, current=True)) == pytest.approx(4 - 2 + 10)
    assert forecast.eta_seconds(trials(took={1: 1.0, 2: 1.0, 3: 1.0}, current=True)) == 0.0, "never negative"


def test_a_run_that_is_stopping_still_has_an_end():
    going = in_hand(running(prompts=80, done=64), a=RankState(rank=0, batch=9, rows=16, step=25))
    stopping = msgspec.structs.replace(going, phase="stopping")
    assert forecast.eta_seconds(stopping) == forecast.eta_seconds(going) == pytest.approx(batch_seconds(16) / 2)
    assert forecast.eta_seconds(msgspec.structs.replace(going, phase="launching")) is None


def test_tokens_left_are_those_of_prompts_to_come_and_of_what_batches_in_hand_lack():
    state = in_hand(running(prompts=112, done=64), a=RankState(rank=0, batch=9, rows=16, step=25))
    assert state.pending == 32
    for one in forecast.what_if(state):
        assert one.tokens_per_second * one.seconds_left == pytest.approx((32 + 16 / 2) * 50)


def test_the_settings_offered_are_one_more_rank_one_fewer_twice_and_half_the_batch():
    found = forecast.what_if(running())
    assert [(one.active_ranks, one.batch_size) for one in found] == [(3, 16), (1, 16), (2, 32), (2, 8)]
    assert [one.extrapolated for one in found] == [True, True, True, False]
    more, fewer, larger, smaller = found
    assert more.change_percent > 0 > fewer.change_percent
    assert larger.change_percent > 0 > smaller.change_percent
    assert fewer.change_percent == pytest.approx(-50, abs=3)
    now = forecast.eta_seconds(running())
    assert now is not None
    for one in found:
        assert one.seconds_left == pytest.approx(now / (1 + one.change_percent / 100))
        assert one.tokens_per_second == pytest.approx(336 * 50 / one.seconds_left)


def test_only_possible_settings_are_offered_and_none_once_everything_is_handed_out():
    alone = running(ranks=1, active=1, batch_size=1)
    assert [(one.active_ranks, one.batch_size) for one in forecast.what_if(alone)] == [(1, 2)]
    last = in_hand(running(prompts=80, done=64), a=RankState(rank=0, batch=9, rows=16, step=25))
    assert forecast.what_if(last) == []


def test_no_batch_larger_than_a_run_may_have_is_offered():
    offered = {one.batch_size for one in forecast.what_if(running(batch_size=MAX_BATCH_SIZE, prompts=10**7))}
    assert offered == {MAX_BATCH_SIZE, MAX_BATCH_SIZE // 2}


def test_against_a_setting_that_was_not_measured_every_gain_is_a_guess():
    unmeasured = running(batch_size=32)
    assert {(one.batch_size, one.extrapolated) for one in forecast.what_if(unmeasured)} == {
        (16, True),  # measured itself, but held against one that was not
        (32, True),
        (64, True),
    }


def test_one_more_rank_brings_nothing_if_the_rounds_stay_the_same():
    flat = (point(16, ranks=4),)
    state = running(prompts=100, done=0, ranks=5, active=4, costs=flat)
    more = forecast.what_if(state)[0]
    assert (more.active_ranks, more.change_percent) == (5, pytest.approx(0))


@given(
    st.lists(st.floats(0, 20), min_size=1, max_size=8),
    st.integers(0, 40),
    st.floats(0.1, 10),
)
def test_the_closed_form_of_the_end_agrees_with_handing_out_batch_by_batch(free, batches, cost):
    heap = list(free)
    heapq.heapify(heap)
    last = 0.0
    for _ in range(batches):
        last = heapq.heappop(heap) + cost
        heapq.heappush(heap, last)
    expected = last if batches else max(free)
    assert forecast.finish(free, batches, cost) == pytest.approx(expected)


def test_split_shares_are_done_by_their_ranks_and_those_of_inactive_ranks_by_any_free_rank():
    config = RunConfig(prompts="x", ranks=2, max_new_tokens=50, ignore_eos=True, dispatch="split")
    both = running(prompts=64, done=0, ranks=2, active=2, config=config)
    assert forecast.eta_seconds(both) == pytest.approx(2 * batch_seconds(16))
    one = running(prompts=64, done=0, ranks=2, active=1, config=config)
    assert forecast.eta_seconds(one) == pytest.approx(4 * batch_seconds(16))


def test_a_rank_that_ran_out_of_memory_counts_with_its_cap():
    flat = {"costs": (point(4, ranks=2), point(8, ranks=2), point(16, ranks=2))}
    free = running(prompts=192, done=0, ranks=2, **flat)
    capped = in_hand(free, a=RankState(rank=0, cap=8))
    # One rank with 8 and one with 16 prompts a batch: as two with 12, so 16 batches of 12 instead of 12 of 16.
    assert forecast.eta_seconds(free) == pytest.approx(6 * batch_seconds(16))
    assert forecast.eta_seconds(capped) == pytest.approx(8 * batch_seconds(12))
    both = in_hand(capped, b=RankState(rank=1, cap=8))
    assert forecast.eta_seconds(both) == pytest.approx(12 * batch_seconds(8))


def test_a_cap_above_the_batch_size_or_of_an_inactive_rank_changes_nothing():
    free = running(prompts=192, done=0, ranks=3, active=2)
    roomy = in_hand(free, a=RankState(rank=0, cap=64))
    inactive = in_hand(free, a=RankState(rank=2, cap=1))
    assert forecast.eta_seconds(roomy) == forecast.eta_seconds(inactive) == forecast.eta_seconds(free)


@given(
    st.integers(1, 10**6),
    st.floats(0, 1),
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(1, 64),
    DISPATCHES,
    st.booleans(),
)
def test_the_time_left_is_never_negative(prompts, share, ranks, active, size, dispatch, fixed):
    config = RunConfig(prompts="x", ranks=ranks, max_new_tokens=50, ignore_eos=fixed, dispatch=dispatch)
    done = int(prompts * share)
    state = running(
        prompts=prompts, done=done, ranks=ranks, active=min(active, ranks), batch_size=size, config=config
    )  # fmt: skip
    if prompts - done >= 3:
        state = in_hand(state, a=RankState(rank=0, batch=3, rows=3, step=70), b=RankState(rank=ranks - 1, cap=2))
    seconds = forecast.eta_seconds(state)
    assert seconds is not None
    assert seconds >= 0
    assert all(one.seconds_left > 0 for one in forecast.what_if(state))


def capped(*caps: int | None) -> RunState:
    ranks = tuple(RankState(rank=number, cap=cap) for number, cap in enumerate(caps))
    return msgspec.structs.replace(running(prompts=400, done=64, ranks=len(caps)), ranks=ranks)


def test_ranks_that_ran_out_of_memory_count_with_their_caps():
    free, one, both, high = (
        forecast.eta_seconds(capped(*caps)) for caps in ((None, None), (None, 8), (8, 8), (64, None))
    )
    assert free == high == pytest.approx(11 * batch_seconds(336 / 22)), "a cap above the batch size is none"
    assert one == pytest.approx(14 * batch_seconds(336 / 28)), "12 prompts a batch on the mean"
    assert both == pytest.approx(21 * batch_seconds(8))


def test_only_the_caps_of_active_ranks_count_and_no_larger_batch_is_promised_beyond_them():
    assert forecast.eta_seconds(capped(None, None, 1)) == forecast.eta_seconds(capped(None, None, None))
    larger = next(one for one in forecast.what_if(capped(8, 8)) if one.batch_size == 32)
    assert larger.change_percent == pytest.approx(0)
    smaller = next(one for one in forecast.what_if(capped(4, 4)) if one.batch_size == 8)
    assert smaller.change_percent == pytest.approx(0)


def test_a_million_prompts_are_predicted_in_less_than_a_millisecond():
    state = running(prompts=10**6, ranks=8, active=8)
    forecast.eta_seconds(state)
    began = time.perf_counter()
    for _ in range(100):
        forecast.eta_seconds(state)
    assert (time.perf_counter() - began) / 100 < 1e-3


def test_the_end_is_predicted_once_a_batch_was_measured_and_else_estimated_by_the_pace() -> None:
    assert forecast.eta_seconds(running()) == pytest.approx(11 * batch_seconds(336 / 22))
    unmeasured = running(costs=(), first_batch_at=990.0)
    assert forecast.eta_seconds(unmeasured) == pytest.approx(10 * 336 / 64)
    assert forecast.eta_seconds(running(phase="loading")) is None


def test_the_prediction_for_the_whole_file_counts_its_last_round() -> None:
    row = forecast.whole_file(running(prompts=100), 2, 16)
    assert row is not None
    assert row.rounds == 4
    # 100 prompts in four rounds of two ranks: twelve or thirteen rows each, never sixteen.
    assert row.seconds == pytest.approx(2 * batch_seconds(13) + 2 * batch_seconds(12))
    assert forecast.whole_file(running(costs=()), 2, 16) is None


# --- full batches, whatever is left -----------------------------------------------------------------


def steady(state: RunState) -> dict[tuple[int, int], tuple[float, float]]:
    return {
        (one.active_ranks, one.batch_size): (one.steady_tokens_per_second, one.steady_percent)
        for one in forecast.what_if(state)
    }


def test_a_steady_rate_is_of_full_batches_on_all_ranks_at_once():
    found = steady(running())
    rate, percent = found[2, 8]
    assert rate == pytest.approx(2 * 8 * 50 / batch_seconds(8))
    assert percent == pytest.approx(100 * (rate / (2 * 16 * 50 / batch_seconds(16)) - 1))
    assert found[1, 16][1] == pytest.approx(-50, abs=3)


def test_a_rank_that_ran_out_of_memory_counts_with_its_cap_in_it():
    capped = in_hand(running(), a=RankState(rank=0, cap=16))
    (rate, _), (bare, _) = steady(capped)[2, 32], steady(running())[2, 32]
    assert rate == pytest.approx(2 * 24 * 50 / batch_seconds(24))
    assert rate < bare


def brought(batch_size: int, ranks: int, rate: float, *, rows: int | None = None, cold: bool = False) -> KnobPeriod:
    """A period whose ranks together made `rate` tokens/s, in two batches each."""
    share = share_of_batch(round(rate), ranks, cold=cold, rows=batch_size if rows is None else rows)
    return KnobPeriod(
        batch_size=batch_size, active_ranks=ranks, shares={rank: share.plus(share) for rank in range(ranks)}
    )


def test_between_two_settings_that_ran_it_is_what_they_brought():
    state = running(periods=(brought(8, 2, 300), brought(32, 2, 500), brought(16, 2, 400)))
    found = {(one.active_ranks, one.batch_size): one for one in forecast.what_if(state)}
    assert steady(state)[2, 8] == pytest.approx((300, -25))
    assert steady(state)[2, 32] == pytest.approx((500, 25))
    assert [found[2, size].measured for size in (8, 32)] == [True, True]
    assert not found[2, 32].extrapolated
    assert not found[1, 16].measured


def test_for_a_setting_that_never_ran_it_starts_from_what_the_present_one_brought():
    bare, state = steady(running()), steady(running(periods=(brought(16, 2, 400),)))
    for setting, (rate, percent) in state.items():
        assert percent == pytest.approx(bare[setting][1])
        assert rate == pytest.approx(400 * (1 + percent / 100))


@pytest.mark.parametrize("unlike", [{"cold": True}, {"rows": 12}])
def test_cold_batches_and_such_as_were_not_full_are_compared_with_no_forecast(unlike):
    assert steady(running(periods=(brought(8, 2, 300), brought(16, 2, 400, **unlike)))) == steady(running())
    kept = steady(running(periods=(brought(8, 2, 300, **({"rows": 6} if "rows" in unlike else unlike)),)))
    assert kept == steady(running())


@given(st.integers(0, 330), st.integers(0, 15), st.integers(0, 50))
def test_it_does_not_move_with_prompts_that_are_done_nor_with_steps_in_flight(done: int, rows: int, step: int):
    state = in_hand(running(done=64 + done), a=RankState(rank=0, batch=9, rows=rows, step=step))
    for setting, figures in steady(state).items():
        assert figures == steady(running())[setting]


def natural(**changes: object) -> RunState:
    """Answers end by themselves: a hundred did, after some 25 tokens each."""
    lengths = tuple(100 if place == 31 else 0 for place in range(64))
    config = RunConfig(prompts="x", ranks=4, max_new_tokens=50)
    return running(**{"config": config, "lengths": lengths, "measured_lengths": lengths, **changes})


def test_an_answer_moves_what_is_left_and_a_measured_batch_moves_the_steady_rate():
    before = natural()
    longer = tuple(100 if place in (31, 63) else 0 for place in range(64))
    answered = msgspec.structs.replace(before, lengths=longer)
    assert forecast.what_if(answered)[0].tokens_per_second != forecast.what_if(before)[0].tokens_per_second
    assert steady(answered) == steady(before)
    assert steady(msgspec.structs.replace(answered, measured_lengths=longer)) != steady(before)
    measured = msgspec.structs.replace(before, costs=(point(8, ranks=2), point(16, ranks=2, factor=2.0)))
    assert steady(measured) != steady(before)
