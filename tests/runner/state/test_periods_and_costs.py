"""What each setting brought, and what batches cost: whose figures count, which are dropped, and what stays whole."""

import msgspec
import pytest

from rankdeck.runner import protocol
from rankdeck.runner.scheduling.rounds import EvenRounds
from rankdeck.runner.state.costs import LENGTH_BINS, MAX_COST_POINTS, CostPoint, with_batch, with_length
from rankdeck.runner.state.periods import KnobPeriod, RankShare, share_of_batch, with_new_period
from rankdeck.runner.state.reducer import LOG_LINES
from rankdeck.runner.state.run import RunState
from rankdeck.runner.state.settings import settings
from tests.runner.state.test_accounting import last_round
from tests.runner.state.test_state import finished, play

__all__ = ["last_round"]  # a fixture


def period(batch_size: int = 8, ranks: int = 2, **values: object) -> KnobPeriod:
    return KnobPeriod(batch_size=batch_size, active_ranks=ranks, **values)  # type: ignore[arg-type]


def test_a_setting_has_no_throughput_before_every_active_rank_has_ended_a_batch():
    half = period().with_batch(0, share_of_batch(100, 2.0))
    assert half.tokens_per_second is None
    assert half.with_batch(1, share_of_batch(100, 4.0)).tokens_per_second == 50 + 25


def test_periods_of_one_setting_are_one_row_with_all_batches_and_the_highest_memory():
    first = period().with_batch(0, share_of_batch(100, 2.0), 700, 900).with_batch(1, share_of_batch(100, 2.0), 500)
    again = period().with_batch(0, share_of_batch(300, 2.0), 800, 850).with_batch(1, share_of_batch(100, 2.0))
    (row,) = settings([first, period(batch_size=16).with_batch(0, share_of_batch(1, 1.0), 9999), again])
    assert (row.batches, row.tokens_per_second) == (4, 400 / 4 + 200 / 4)
    assert (row.peak_memory_bytes, row.reserved_memory_bytes) == (800, 900)
    assert row.speedup is None, "one rank never ran"


def test_speedup_is_over_one_rank_at_the_same_batch_size():
    one = period(ranks=1).with_batch(0, share_of_batch(100, 2.0))
    two = period().with_batch(0, share_of_batch(80, 2.0)).with_batch(1, share_of_batch(80, 2.0))
    larger = period(batch_size=16, ranks=1).with_batch(0, share_of_batch(1000, 2.0))
    assert [(row.active_ranks, row.speedup, row.efficiency) for row in settings([two, larger, one])] == [
        (1, 1.0, 1.0),
        (2, 1.6, 0.8),
        (1, 1.0, 1.0),
    ]


def test_a_batch_that_took_no_time_has_no_throughput_and_a_setting_that_nobody_finished_is_no_row():
    nothing = period(ranks=1).with_batch(0, share_of_batch(100, 0.0))
    assert (nothing.tokens_per_second, nothing.batches) == (None, 1)
    half = period().with_batch(0, share_of_batch(100, 2.0))
    slow = period(ranks=1).with_batch(0, share_of_batch(0, 2.0))
    (row,) = settings([nothing, half, slow])
    assert (row.active_ranks, row.tokens_per_second, row.speedup, row.efficiency) == (1, 0.0, None, None)
    assert settings([]) == settings([half]) == []


def test_a_warm_batch_takes_the_place_of_a_cold_one_whichever_came_first():
    cold, warm = RankShare(1, 10, 5.0, True), RankShare(1, 10, 1.0, False)
    assert cold.plus(warm) == warm.plus(cold) == warm
    assert cold.plus(cold) == RankShare(2, 20, 10.0, True)
    assert warm.plus(warm) == RankShare(2, 20, 2.0, False)


def test_a_knob_turned_twice_at_once_leaves_no_empty_period_and_one_with_a_batch_stays():
    empty = (period(began=3.0),)
    turned = with_new_period(empty, 3.0, 16, 2, auto=False, reason="", trial=False)
    assert [(one.batch_size, one.number) for one in turned] == [(16, 1)]
    later = with_new_period(empty, 4.0, 16, 2, auto=False, reason="", trial=False)
    assert [one.batch_size for one in later] == [8, 16], "it lasted a while"
    used = (period(began=3.0).with_batch(0, share_of_batch(1, 1.0)),)
    assert len(with_new_period(used, 3.0, 16, 2, auto=False, reason="", trial=False)) == 2


def cost(rows: int, batches: int = 1, ranks: int = 1, *, cold: bool = False) -> CostPoint:
    return CostPoint(
        active_ranks=ranks, rows=rows, batches=batches, steps=10 * batches, seconds=2.0 * batches, cold=cold
    )


def test_of_too_many_kinds_of_batch_the_rarest_is_forgotten():
    points = tuple(cost(rows, batches=1 if rows == 77 else 3) for rows in range(1, MAX_COST_POINTS + 1))
    found = with_batch(points, cost(5000))
    assert len(found) == MAX_COST_POINTS
    assert 77 not in {point.rows for point in found}
    assert found[-1].rows == 5000


def test_batches_of_equal_rows_and_ranks_are_added_up_and_others_kept_apart():
    found = with_batch((cost(4), cost(4, ranks=2)), cost(4))
    assert [(point.active_ranks, point.batches, point.steps, point.seconds) for point in found] == [
        (1, 2, 20, 4.0),
        (2, 1, 10, 2.0),
    ]
    assert with_batch((cost(4, cold=True),), cost(4)) == (cost(4),), "a warm batch takes its place"
    assert with_batch((cost(4),), cost(4, cold=True)) == (cost(4),)


@pytest.mark.parametrize(
    ("tokens", "most", "place"),
    [(1, 64, 0), (2, 64, 1), (64, 64, 63), (99, 64, 63), (0, 64, 0), (100, 6400, 0), (101, 6400, 1), (6400, 6400, 63)],
)
def test_an_answers_length_is_in_the_bin_whose_upper_edge_it_reaches(tokens, most, place):
    counts = with_length((), tokens, most)
    assert (len(counts), sum(counts), counts.index(1)) == (LENGTH_BINS, 1, place)
    assert with_length(counts, tokens, most)[place] == 2


def test_a_relaunch_does_not_begin_idle_time_anew(last_round):
    state = play(
        finished(0, 1, 12.0),
        protocol.RankLost(at=12.0, rank=1, cause="killed"),
        protocol.RanksLaunched(at=12.0, attempt=2, world_size=2),
        protocol.RanksReady(at=18.0),
        protocol.Tick(at=20.0),
        state=last_round,
    )
    assert state.ready_at == 10.0
    assert [state.idle(rank) for rank in state.ranks] == [pytest.approx(0.8)] * 2, "2 of 10 seconds were work"


def test_after_a_loss_the_plan_of_rounds_is_made_anew(last_round):
    planned = msgspec.structs.replace(last_round, rounds=EvenRounds(2, 2, 5))
    assert play(protocol.RankLost(at=11.0, rank=0, cause="killed"), state=planned).rounds == EvenRounds()


def test_of_a_long_log_the_newest_lines_stay():
    state = RunState()
    for number in range(LOG_LINES + 7):
        state = play(protocol.LogLine(source="rank 0", text=f"line {number}"), state=state)
    assert [state.log[0].text, state.log[-1].text] == ["line 7", f"line {LOG_LINES + 6}"]
