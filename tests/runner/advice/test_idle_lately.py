"""A rank is idle by its last minute: what it did before, pauses and inactivity count for nothing."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner import protocol
from rankdeck.runner.advice.segments import LATELY_SECONDS, end_of, idle_lately, segments
from rankdeck.runner.state import RunState, summarise
from rankdeck.runner.state.timeline import Hold, Lane, Span, Timeline
from tests.runner.state.test_state import play
from tests.runner.state.test_timeline import batch, launched


def at(state: RunState, second: float) -> RunState:
    return play(protocol.Tick(at=second), state=state)


def works(state: RunState, rank: int, number: int, began: float) -> RunState:
    """A batch in hand since then."""
    return play(protocol.BatchStarted(at=began, rank=rank, batch=number, rows=2), state=state)


def test_a_rank_that_decodes_is_not_idle_because_it_once_was() -> None:
    state = works(batch(launched(), 0, 1, 10, 12), 0, 2, 100)
    assert idle_lately(at(state, 100), 0) == 1.0, "of its last minute it had no batch at all"
    assert idle_lately(at(state, 115), 0) == pytest.approx(45 / 60)
    later = at(state, 160)
    assert idle_lately(later, 0) == 0.0
    assert later.idle(later.ranks[0]) == pytest.approx(88 / 150), "its mean still has it"


def test_a_rank_without_a_batch_is_idle_from_the_end_of_its_last_one() -> None:
    state = batch(batch(launched(), 0, 1, 10, 30), 0, 2, 36, 60)
    assert idle_lately(at(state, 60), 0) == pytest.approx(6 / 50), "no minute has gone since the ranks were ready"
    assert idle_lately(at(state, 72), 0) == pytest.approx((6 + 12) / 60)
    assert idle_lately(at(state, 500), 0) == 1.0
    assert idle_lately(at(state, 40), 1) == 1.0, "it never had one"


def test_the_time_before_the_ranks_were_ready_is_not_part_of_it() -> None:
    state = launched()
    assert idle_lately(state, 0) == 0.0, "no time has gone since then"
    assert idle_lately(works(at(state, 20), 0, 1, 20), 0) == 1.0
    assert idle_lately(at(works(state, 0, 1, 10), 20), 0) == 0.0
    loading = play(protocol.RanksLaunched(at=1.0, attempt=1, world_size=1))
    assert idle_lately(at(loading, 90), 0) == 0.0


def test_a_pause_is_not_idle() -> None:
    state = batch(launched(), 0, 1, 10, 30)
    state = play(protocol.Paused(at=31.0, reason="asked for", asked=True), state=state)
    assert idle_lately(at(state, 60), 0) == pytest.approx(1 / 50)
    state = works(play(protocol.Resumed(at=60.0), state=state), 0, 2, 62)
    assert idle_lately(at(state, 70), 0) == pytest.approx((1 + 2) / 60)


def test_an_inactive_rank_is_not_idle() -> None:
    state = batch(batch(launched(), 0, 1, 10, 30), 1, 2, 10, 30)
    state = play(protocol.ActiveRanksChanged(at=34.0, active_ranks=1), state=state)
    assert idle_lately(at(state, 60), 1) == pytest.approx(4 / 50)
    assert idle_lately(at(state, 60), 0) == pytest.approx(30 / 50)
    state = play(protocol.ActiveRanksChanged(at=60.0, active_ranks=2), state=state)
    assert idle_lately(at(state, 63), 1) == pytest.approx((4 + 3) / 53)
    assert idle_lately(at(state, 105), 1) == pytest.approx(45 / 60), "from 45 s on it was inactive for 15 s"


def test_a_pause_of_a_rank_that_is_inactive_counts_once() -> None:
    state = batch(launched(), 1, 1, 10, 30)
    state = play(
        protocol.ActiveRanksChanged(at=34.0, active_ranks=1),
        protocol.Paused(at=40.0, reason="asked for", asked=True),
        protocol.Resumed(at=45.0),
        protocol.Tick(at=60.0),
        state=state,
    )
    assert idle_lately(state, 1) == pytest.approx(4 / 50)


def test_after_the_end_it_is_the_share_of_the_whole_run_as_the_summary_has_it() -> None:
    state = batch(batch(launched(), 0, 1, 10, 30), 1, 2, 10, 200)
    summary = summarise(at(state, 220))
    ended = protocol.RunEnded(at=220.0, status="stopped", exit_status=0, summary=summary)
    over = play(ended, state=state)
    assert [round(idle_lately(over, rank), 4) for rank in (0, 1)] == [one.idle for one in summarise(over).ranks]
    assert idle_lately(over, 0) == pytest.approx(170 / 190)


@pytest.mark.parametrize("rank", [-1, 2, 9])
def test_a_rank_that_is_not_known_is_not_idle(rank: int) -> None:
    assert idle_lately(at(launched(), 60), rank) == 0.0
    assert idle_lately(RunState(), rank) == 0.0


def lane_of(*spans: Span, pauses: tuple[Hold, ...] = (), now: float = 100.0) -> RunState:
    timeline = Timeline(lanes=(Lane(spans=spans),), pauses=pauses)
    return RunState(now=now, ready_at=0.0, timeline=timeline)


def test_the_gaps_within_joined_spans_count_as_far_as_they_may_lie_in_the_minute() -> None:
    joined = Span("batch", 50.0, 100.0, joined=9, gaps=6.0)
    assert idle_lately(lane_of(joined), 0) == pytest.approx(6 / 60)
    assert idle_lately(lane_of(Span("batch", 0.0, 45.0, joined=9, gaps=30.0), Span("batch", 45.0, 100.0)), 0) == (
        pytest.approx(5 / 60)
    ), "no more of it lies there"
    paused = (Hold(60.0, 65.0, "asked for"),)
    assert idle_lately(lane_of(joined, pauses=paused), 0) == pytest.approx(1 / 60), "the rest of it was a pause"


TURNS = st.lists(
    st.tuples(st.floats(0.25, 30), st.sampled_from(["start", "finish", "pause", "resume", "one", "two"])), max_size=40
)


@given(TURNS)
def test_it_is_the_idle_part_of_the_segments_of_the_last_minute(turns) -> None:
    state, now = launched(), 10.0
    for number, (seconds, what) in enumerate(turns, 1):
        now += seconds
        rank = state.ranks[0]
        event: protocol.AnyEvent = protocol.Tick(at=now)
        if what == "start" and rank.batch is None:
            event = protocol.BatchStarted(at=now, rank=0, batch=number, rows=2)
        elif what == "finish" and rank.batch is not None:
            state = batch_over(state, rank.batch, now)
        elif what == "pause" and state.paused is None:
            event = protocol.Paused(at=now, reason="asked for", asked=True)
        elif what == "resume" and state.paused is not None:
            event = protocol.Resumed(at=now)
        elif what in ("one", "two"):
            # Rank 0 is always active; rank 1 never has a batch.
            event = protocol.ActiveRanksChanged(at=now, active_ranks=1 if what == "one" else 2)
        state = play(event, state=state)
        for number_of_rank in (0, 1):
            end = end_of(state)
            since = max(end - LATELY_SECONDS, 10.0)
            idle = sum(
                max(0.0, each.ended - max(each.began, since))
                for each in segments(state, number_of_rank)
                if each.kind == "idle"
            )
            expected = idle / (end - since) if end > since else 0.0
            assert idle_lately(state, number_of_rank) == pytest.approx(expected, abs=1e-6)


def batch_over(state: RunState, number: int, now: float) -> RunState:
    return play(protocol.BatchFailed(at=now, rank=0, batch=number, kind="error", error="e"), state=state)


def test_sixty_four_ranks_with_many_pauses_are_known_within_a_frame() -> None:
    spans = tuple(Span("batch", 0.6 * place, 0.6 * place + 0.5) for place in range(96))
    pauses = tuple(Hold(0.2 * place, 0.2 * place + 0.1, "asked for") for place in range(250))
    active = tuple((0.2 * place, 64 - place % 2) for place in range(250))
    timeline = Timeline(lanes=(Lane(spans=spans),) * 64, pauses=pauses, active=active)
    state = RunState(now=60.0, ready_at=0.0, timeline=timeline)
    began = time.process_time()
    shares = [idle_lately(state, rank) for rank in range(64)]
    assert time.process_time() - began < 0.25, "the rows of one frame; a tenth of that is usual"
    assert all(0 < share < 1 for share in shares)
