"""Counts and shares at the ends of a run: after its last result, and when another supervisor takes it up."""

import pytest
from msgspec.structs import replace

from rankdeck.runner import protocol
from rankdeck.runner.protocol import StepsInFlight
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.state import RunState, summarise
from tests.runner.state.test_state import finished, output, play, ready

CONFIG = RunConfig(prompts="p.txt", ranks=2, batch_size=2, max_new_tokens=10)


def begun(prompts: int = 4) -> RunState:
    """Two ranks ready at 10 s, each with a batch of two in hand since then."""
    return play(
        protocol.RunStarted(at=0.0, name="n", directory="/d", config=CONFIG, prompts=prompts),
        protocol.RanksLaunched(at=1.0, attempt=1, world_size=2),
        ready(0),
        ready(1),
        protocol.RanksReady(at=10.0),
        protocol.BatchStarted(at=10.0, rank=0, batch=1, rows=2),
        protocol.BatchStarted(at=10.0, rank=1, batch=2, rows=2),
    )


def done() -> RunState:
    """The first rank worked from 10 to 15 s, the second from 10 to 20 s; then all prompts had their answers."""
    first = [output(index, 5, rank=0, at=15.0) for index in (0, 1)]
    second = [output(index, 5, rank=1, at=20.0) for index in (2, 3)]
    return play(*first, finished(0, 1, 15.0), *second, finished(1, 2, 20.0), state=begun())


def test_idle_ends_with_the_last_result_however_long_the_run_takes_to_end() -> None:
    state = done()
    assert [state.idle(rank) for rank in state.ranks] == [0.5, 0.0]
    later = play(protocol.Tick(at=25.0), protocol.Tick(at=60.0), state=state)
    assert [later.idle(rank) for rank in later.ranks] == [0.5, 0.0]
    assert later.seconds == 10
    assert [rank.idle for rank in summarise(later).ranks] == [0.5, 0.0]
    ended = protocol.RunEnded(at=90.0, status="completed", exit_status=0, summary=summarise(later))
    over = play(ended, state=later)
    assert [over.idle(rank) for rank in over.ranks] == [0.5, 0.0]


def test_idle_grows_while_prompts_are_left() -> None:
    state = play(finished(0, 1, 15.0), protocol.Tick(at=30.0), state=begun(prompts=100))
    assert [state.idle(rank) for rank in state.ranks] == [0.75, 0.0]


def test_a_rank_that_was_stopped_in_a_batch_was_not_idle_in_it() -> None:
    state = play(protocol.Tick(at=30.0), protocol.Stopping(at=30.0, now=True), state=begun(prompts=100))
    assert [state.idle(rank) for rank in state.ranks] == [0.0, 0.0]


@pytest.mark.parametrize(("completed", "failed"), [(3, 0), (1, 2), (0, 0), (2, 3)])
def test_a_run_that_is_taken_up_has_the_counts_of_its_outputs_and_not_those_of_its_journal(completed, failed) -> None:
    journal = play(output(0, 5), output(1, 5), output(2, 0, error="too long"), state=begun(prompts=100))
    assert (journal.completed, journal.failed) == (2, 1)
    again = protocol.RunTakenUp(
        at=500.0, config=CONFIG, completed=completed, failed=failed, prompt_tokens=30, output_tokens=40
    )
    state = play(again, state=journal)
    assert (state.completed, state.failed, state.done) == (completed, failed, completed + failed)
    assert (state.prompt_tokens, state.output_tokens) == (30, 40)
    more = play(output(9, 5, at=501.0), output(10, 0, error="x", at=501.0), state=state)
    assert (more.completed, more.failed) == (completed + 1, failed + 1)
    summary = summarise(more)
    assert (summary.completed, summary.failed) == (completed + 1, failed + 1)


def test_the_peak_is_of_a_whole_window_and_outlives_a_slower_time_and_another_launch() -> None:
    state = begun(prompts=100)
    for quarter in range(1, 61):
        tokens = min(quarter, 24) * 10
        steps = [StepsInFlight(rank=0, batch=1, step=1, output_tokens=tokens)]
        state = play(protocol.Tick(at=10 + quarter / 4, steps=steps), state=state)
        if quarter == 8:
            assert state.rate_peak == 0, "two seconds are no window"
    assert state.rate_peak == pytest.approx(40.0)
    assert state.rate_now < 40
    launched = play(protocol.RanksLaunched(at=30.0, attempt=2, world_size=2), state=state)
    assert (launched.rate_now, launched.rate_peak) == (0.0, state.rate_peak)
    assert replace(launched, rate_peak=0.0) != launched
