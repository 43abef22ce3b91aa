"""What counts, and until when: clocks that stop at the last result, peaks, counts that follow the files."""

import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol import StepsInFlight
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.state import RunState, summarise
from rankdeck.runner.state.ticks import RATE_WINDOW_SECONDS
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


def test_a_mark_is_on_the_clock_of_work_not_of_loading(last_round):
    state = play(protocol.Paused(at=17.0, reason="asked for", asked=True), state=last_round)
    assert [(mark.kind, mark.elapsed) for mark in state.marks] == [("pause", 7.0)]
