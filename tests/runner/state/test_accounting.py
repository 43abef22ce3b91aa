"""What counts, and until when: clocks that stop at the last result, peaks, counts that follow the files."""

import msgspec
import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol import StepsInFlight
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.state import RunState, summarise
from rankdeck.runner.state.ticks import HISTORY_POINTS, RATE_WINDOW_SECONDS
from tests.runner.state.test_state import finished, output, play, ready

CONFIG = RunConfig(prompts="p.txt", ranks=2, batch_size=2, max_new_tokens=10)


@pytest.fixture
def last_round() -> RunState:
    """Two ranks ready at 10 s, each with one of the last two batches in hand since then."""
    return play(
        protocol.RunStarted(at=0.0, name="n", directory="/d", config=CONFIG, prompts=4),
        protocol.RanksLaunched(at=1.0, attempt=1, world_size=2),
        ready(0),
        ready(1),
        protocol.RanksReady(at=10.0),
        protocol.BatchStarted(at=10.0, rank=0, batch=1, rows=2),
        protocol.BatchStarted(at=10.0, rank=1, batch=2, rows=2),
    )


def all_done(state: RunState) -> RunState:
    """The last round, over after 4 s on rank 0 and 5 s on rank 1, one of its four prompts with an error."""
    return play(
        output(0, 5, at=14.0),
        output(1, 5, at=14.0),
        finished(0, 1, 14.0),
        output(2, 5, rank=1, at=15.0),
        output(3, 0, rank=1, at=15.0, error="too long"),
        finished(1, 2, 15.0),
        state=state,
    )


def test_after_the_last_result_no_clock_goes_on_though_the_run_has_not_ended(last_round):
    state = all_done(last_round)
    assert (state.seconds, state.idle(state.ranks[0]), state.idle(state.ranks[1])) == (5.0, pytest.approx(0.2), 0.0)
    later = play(protocol.Tick(at=100.0), state=state)
    assert later.now == 100.0
    assert (later.seconds, later.idle(later.ranks[0]), later.idle(later.ranks[1])) == (5.0, pytest.approx(0.2), 0.0)
    assert [rank.idle for rank in summarise(later).ranks] == [0.2, 0.0]
    assert later.rate_mean == pytest.approx(15 / 5)


def test_while_prompts_are_left_the_clocks_go_on(last_round):
    state = play(output(0, 5, at=14.0), output(1, 5, at=14.0), finished(0, 1, 14.0), state=last_round)
    later = play(protocol.Tick(at=20.0), state=state)
    assert later.seconds == 10.0
    assert later.idle(later.ranks[0]) == pytest.approx(0.6)


def test_a_run_that_is_stopped_stands_still_at_its_last_result(last_round):
    state = play(output(0, 5, at=14.0), output(1, 5, at=14.0), finished(0, 1, 14.0), state=last_round)
    ended = protocol.RunEnded(at=30.0, status="stopped", exit_status=130, summary=summarise(state))
    stopped = play(ended, protocol.Tick(at=90.0), state=state)
    assert stopped.seconds == 4.0
    assert stopped.idle(stopped.ranks[0]) == 0.0


def taken_up(completed: int, failed: int, *, at: float = 60.0) -> protocol.RunTakenUp:
    return protocol.RunTakenUp(
        at=at,
        config=CONFIG,
        completed=completed,
        failed=failed,
        prompt_tokens=3 * completed,
        output_tokens=5 * completed,
    )


@pytest.mark.parametrize(("completed", "failed"), [(3, 1), (1, 0), (0, 0), (2, 2)])
def test_where_journal_and_outputs_differ_the_outputs_count(last_round, completed, failed):
    state = all_done(last_round)
    assert (state.completed, state.failed, state.output_tokens, state.prompt_tokens) == (3, 1, 15, 12)
    state = play(taken_up(completed, failed), state=state)
    assert (state.completed, state.failed) == (completed, failed)
    assert (state.output_tokens, state.prompt_tokens) == (5 * completed, 3 * completed)
    summary = summarise(state)
    assert (summary.completed, summary.failed) == (completed, failed)


def test_the_time_between_two_supervisors_is_no_work(last_round):
    state = play(output(0, 5, at=14.0), protocol.Tick(at=20.0), state=last_round)
    again = play(
        taken_up(1, 0, at=1000.0),
        protocol.RanksLaunched(at=1001.0, attempt=2, world_size=2),
        protocol.RanksReady(at=1010.0),
        protocol.BatchStarted(at=1010.0, rank=0, batch=3, rows=2),
        protocol.Tick(at=1013.0),
        state=state,
    )
    assert (again.seconds_before, again.seconds) == (10.0, 13.0)


def ticked(state: RunState, at: float, tokens: int) -> RunState:
    step = StepsInFlight(rank=0, batch=1, step=1, output_tokens=tokens)
    return play(protocol.Tick(at=at, steps=[step]), state=state)


def test_a_burst_is_no_peak_before_the_window_is_nearly_full(last_round):
    burst = ticked(last_round, 10.25, 1000)
    assert burst.rate_now == pytest.approx(4000.0)
    assert burst.rate_peak == 0.0, "a quarter of a second says nothing about the best that was held"
    held = ticked(burst, 10 + 0.8 * RATE_WINDOW_SECONDS, 1000)
    assert held.rate_peak == held.rate_now == pytest.approx(1000 / (0.8 * RATE_WINDOW_SECONDS))


def test_the_peak_is_the_highest_throughput_that_was_held(last_round):
    state, peaks = last_round, []
    for second, tokens in enumerate([100, 200, 300, 400, 500, 1000, 1500, 2000, 2500, 3000, 3010, 3020, 3030, 3040], 1):
        state = ticked(state, 10.0 + second, tokens)
        peaks.append(state.rate_peak)
    assert peaks == sorted(peaks), "it never falls"
    assert state.rate_peak == pytest.approx(2500 / 5), "from 500 to 3,000 tokens in five seconds"
    assert state.rate_now < state.rate_peak


def test_prompts_in_hand_are_those_of_ranks_with_a_batch(last_round):
    assert last_round.pending == 0
    state = play(
        protocol.RankLost(at=11.0, rank=0, cause="killed"),
        protocol.RanksLaunched(at=12.0, attempt=2, world_size=2),
        state=last_round,
    )
    assert state.pending == 4, "what lost ranks had in hand is to be done again"
    stale = msgspec.structs.replace(state.ranks[0], rows=3)
    assert msgspec.structs.replace(state, ranks=(stale, state.ranks[1])).pending == 4, "rows of no batch are in no hand"


def test_a_batch_in_flight_is_never_more_progress_than_its_prompts(last_round):
    state = ticked(last_round, 11.0, 10)
    assert state.progress == pytest.approx(1 / 4), "10 of the 40 tokens that may come"
    beyond = ticked(last_round, 11.0, 35)
    assert beyond.progress == pytest.approx(2 / 4), "two prompts in hand count as two at most"


def test_a_mark_is_on_the_clock_of_work_not_of_loading(last_round):
    state = play(protocol.Paused(at=17.0, reason="asked for", asked=True), state=last_round)
    assert [(mark.kind, mark.elapsed) for mark in state.marks] == [("pause", 7.0)]


def test_each_rank_has_its_own_padding_waste_in_the_summary(last_round):
    wasteful = finished(1, 2, 15.0)
    wasteful = msgspec.structs.replace(wasteful, result=msgspec.structs.replace(wasteful.result, padded_slots=40))
    summary = summarise(play(finished(0, 1, 14.0), wasteful, state=last_round))
    assert [rank.padding_waste for rank in summary.ranks] == [0.2, 0.8]
    assert summary.padding_waste == 0.5


def test_the_length_of_an_error_is_no_length_of_an_answer(last_round):
    state = all_done(last_round)
    assert sum(state.lengths) == 3


def test_a_batch_beside_an_inactive_rank_that_is_still_at_work_counts_for_no_setting(last_round):
    state = play(
        protocol.BatchSizeChanged(at=9.0, batch_size=2, auto=False, reason="as asked for"),
        protocol.BatchStarted(at=10.0, rank=0, batch=1, rows=2),
        protocol.BatchStarted(at=10.0, rank=1, batch=2, rows=2),
        protocol.ActiveRanksChanged(at=11.0, active_ranks=1),
        finished(0, 1, 14.0),
        protocol.BatchStarted(at=14.0, rank=0, batch=3, rows=2),  # rank 1 still has its batch in hand
        finished(1, 2, 15.0),
        finished(0, 3, 16.0),
        state=last_round,
    )
    assert (state.periods[-1].active_ranks, state.periods[-1].batches, state.costs) == (1, 0, ())
    alone = play(protocol.BatchStarted(at=16.0, rank=0, batch=4, rows=2), finished(0, 4, 18.0), state=state)
    assert alone.periods[-1].batches == 1
    assert [(cost.active_ranks, cost.seconds) for cost in alone.costs] == [(1, 2.0)]


def test_a_relaunch_is_not_in_the_throughput_of_what_comes_after_it(last_round):
    state = ticked(last_round, 12.0, 100)
    assert state.rate_now > 0
    state = play(
        protocol.RankLost(at=12.5, rank=0, cause="killed"),
        protocol.RanksLaunched(at=13.0, attempt=2, world_size=2),
        state=state,
    )
    assert (state.rate_now, state.window) == (0.0, ())
    state = play(protocol.RanksReady(at=14.0), protocol.BatchStarted(at=14.0, rank=0, batch=1, rows=2), state=state)
    assert ticked(state, 15.0, 50).rate_now == pytest.approx(50.0)


def test_a_thinned_history_has_the_mean_of_each_pair_at_its_later_time(last_round):
    state = last_round
    for second in range(1, HISTORY_POINTS + 2):
        state = ticked(state, 10.0 + second, 0)
    assert state.history_step == 2.0
    assert [point.elapsed for point in state.history[:3]] == [2.0, 4.0, 6.0]
    assert state.history[-1].elapsed >= HISTORY_POINTS
