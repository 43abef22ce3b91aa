"""Which batches count for a setting: those that began and ended in it, with none but its active ranks at work."""

import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.state import RunState
from tests.runner.state.test_state import finished, play, ready


@pytest.fixture
def running() -> RunState:
    """Two active ranks, at batch size 2, without work."""
    config = RunConfig(prompts="p.txt", ranks=2, batch_size=2, max_new_tokens=10)
    return play(
        protocol.RunStarted(at=0.0, name="n", directory="/d", config=config, prompts=80),
        protocol.RanksLaunched(at=1.0, attempt=1, world_size=2),
        ready(0),
        ready(1),
        protocol.RanksReady(at=10.0),
        protocol.BatchSizeChanged(at=10.0, batch_size=2, auto=False, reason="as asked for"),
    )


def started(rank: int, batch: int, at: float) -> protocol.BatchStarted:
    return protocol.BatchStarted(at=at, rank=rank, batch=batch, rows=2)


def counted(state: RunState) -> list[dict[int, int]]:
    """Batches by rank, for each period."""
    return [{rank: share.batches for rank, share in period.shares.items()} for period in state.periods]


def test_a_batch_that_begins_beside_an_inactive_rank_at_work_does_not_count_for_the_new_setting(running):
    state = play(
        started(0, 1, 10.0),
        started(1, 2, 10.0),
        finished(0, 1, 11.0),
        protocol.ActiveRanksChanged(at=11.0, active_ranks=1),
        started(0, 3, 11.0),  # rank 1 still computes: this one is slower than one rank alone
        finished(1, 2, 12.0),
        finished(0, 3, 12.0),
        state=running,
    )
    assert counted(state) == [{0: 1}, {}]
    state = play(started(0, 4, 12.0), finished(0, 4, 13.0), state=state)
    assert counted(state) == [{0: 1}, {0: 1}]
    assert state.periods[-1].tokens_per_second == 20.0


def test_a_batch_that_began_before_a_knob_was_turned_counts_for_neither_setting(running):
    state = play(
        started(0, 1, 10.0),
        protocol.BatchSizeChanged(at=10.5, batch_size=4, auto=False, reason="as asked for"),
        finished(0, 1, 11.0),
        state=running,
    )
    assert [share for shares in counted(state) for share in shares.items()] == []


def test_an_inactive_rank_without_work_does_not_keep_others_from_counting(running):
    state = play(
        protocol.ActiveRanksChanged(at=10.0, active_ranks=1), started(0, 1, 10.0), finished(0, 1, 11.0), state=running
    )
    assert counted(state)[-1] == {0: 1}


def test_a_warm_up_and_the_batch_of_another_number_count_for_nothing(running):
    warm_up = protocol.BatchStarted(at=10.0, rank=0, batch=1, rows=2, warm_up=True, kept=False)
    state = play(warm_up, finished(0, 1, 11.0), started(0, 2, 11.0), finished(0, 7, 12.0), state=running)
    assert counted(state)[-1] == {}
