"""Every figure of a batch, a silence or a whole run lands in its own place, and sums are sums of the same figure."""

import msgspec
import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol import BatchResult, RankSilent
from rankdeck.runner.state import RunState
from rankdeck.runner.state.batches import _cost, replace_rank
from rankdeck.runner.state.costs import MAX_COST_POINTS, CostPoint, with_batch
from rankdeck.runner.state.periods import KnobPeriod, share_of_batch
from rankdeck.runner.state.run import RankState
from rankdeck.runner.state.silence import silence_words, silent_ranks, waits_for
from rankdeck.runner.state.summary import summarise
from tests import scripted
from tests.reports import record

FIGURES = ("batches", "steps", "row_steps", "prompt_slots", "prompt_tokens", "output_tokens")
SECONDS = ("prefill_seconds", "decode_seconds", "seconds")


def cost(factor: int, **changes: object) -> CostPoint:
    """A point whose figures are all different, times `factor`."""
    values = {name: factor * (place + 2) for place, name in enumerate((*FIGURES, *SECONDS))}
    return CostPoint(**{"active_ranks": 2, "rows": 4, **values, **changes})


def test_costs_of_equal_batches_are_added_up_figure_by_figure() -> None:
    before, after = cost(1, rows=8), cost(1, active_ranks=1)
    assert with_batch((before, cost(1), after), cost(100)) == (before, cost(101), after), "in their place"


@pytest.mark.parametrize("changes", [{"rows": 5}, {"active_ranks": 3}])
def test_costs_of_other_batches_are_a_point_of_their_own(changes: dict[str, object]) -> None:
    assert with_batch((cost(1),), cost(1, **changes)) == (cost(1), cost(1, **changes))


def test_as_many_kinds_of_batch_are_kept_as_are_allowed() -> None:
    points = tuple(cost(1, rows=rows) for rows in range(1, MAX_COST_POINTS))
    full = with_batch(points, cost(1, rows=1000))
    assert len(full) == MAX_COST_POINTS
    assert full[0] == points[0], "nothing is forgotten yet"
    assert len(with_batch(full, cost(1, rows=2000))) == MAX_COST_POINTS


def test_each_figure_of_a_result_is_that_of_its_cost() -> None:
    result = BatchResult(
        rows=3, prompt_tokens=11, output_tokens=12, slots=130, padded_slots=14, steps=15, row_steps=16,
        prefill_seconds=0.17, decode_seconds=0.18, seconds=9.9,
    )  # fmt: skip
    for cold in (True, False):
        assert _cost(2, result, 1.9, cold=cold) == CostPoint(
            active_ranks=2, rows=3, batches=1, steps=15, row_steps=16, prompt_slots=114, prompt_tokens=11,
            output_tokens=12, prefill_seconds=0.17, decode_seconds=0.18, seconds=1.9, cold=cold,
        )  # fmt: skip


def test_a_step_has_the_rows_that_were_still_in_the_batch() -> None:
    assert CostPoint(active_ranks=1, rows=8, steps=4, row_steps=20).step_rows == 5.0
    assert CostPoint(active_ranks=1, rows=8, steps=0, row_steps=20).step_rows == 8
    assert CostPoint(active_ranks=1, rows=8, steps=4, row_steps=0).step_rows == 8


def test_a_period_adds_up_each_rank_and_keeps_the_highest_memory() -> None:
    period = KnobPeriod(batch_size=4, active_ranks=2)
    assert (period.batches, period.tokens_per_second, period.warm_rate) == (0, None, None)
    period = period.with_batch(0, share_of_batch(100, 2.0), 7, 9).with_batch(0, share_of_batch(60, 2.0), 5, 8)
    (share,) = period.shares.values()
    assert (share.batches, share.tokens, share.seconds, share.cold) == (2, 160, 4.0, False)
    assert (share.rates, share.squares) == (50.0 + 30.0, 50.0**2 + 30.0**2)
    assert (period.batches, period.peak_memory_bytes, period.reserved_memory_bytes) == (2, 7, 9)
    assert period.tokens_per_second is None, "the other rank has ended none yet"
    both = period.with_batch(1, share_of_batch(30, 1.0, cold=True))
    assert both.tokens_per_second == 40.0 + 30.0
    assert (both.cold, both.warm_rate) == (True, None)
    assert (both.peak_memory_bytes, both.reserved_memory_bytes) == (7, 9)
    warm = both.with_batch(1, share_of_batch(20, 1.0), 11, 12)
    assert warm.shares[1] == share_of_batch(20, 1.0)
    assert (warm.cold, warm.warm_rate, warm.peak_memory_bytes) == (False, 60.0, 11)


def test_of_a_rank_that_does_not_exist_nothing_changes() -> None:
    state = RunState(ranks=(RankState(rank=0), RankState(rank=1)))
    assert replace_rank(state, 1, rows=5).ranks == (RankState(rank=0), RankState(rank=1, rows=5))
    for number in (-1, 2):
        assert replace_rank(state, number, rows=5) is state


@pytest.mark.parametrize(
    ("silence", "words", "follows"),
    [
        (
            RankSilent(rank=1, stage="at work", seconds=15, patience=60),
            "no step for 15 s",
            "in 45 s it is ended and its batch done again (--patience)",
        ),
        (
            RankSilent(rank=1, stage="loading", seconds=70.4, patience=60),
            "no progress in loading for 70 s",
            "in 0 s it is ended (--patience)",
        ),
        (
            RankSilent(rank=1, stage="at work", seconds=15, patience=None, process="stopped"),
            "no step for 15 s, its process is stopped",
            "",
        ),
        (
            RankSilent(rank=1, stage="waiting", seconds=15, patience=20, process="waiting in the kernel"),
            "its process is waiting in the kernel",
            "in 5 s it is ended (--patience)",
        ),
    ],
)
def test_a_silence_is_told_with_its_length_and_what_follows(silence: RankSilent, words: str, follows: str) -> None:
    assert silence_words(silence) == words
    assert silence_words(silence, outlook=True) == (f"{words}; {follows}" if follows else words)


def test_a_silence_grows_and_what_is_left_of_it_shrinks() -> None:
    silence = RankSilent(rank=1, stage="at work", seconds=15, patience=60)
    assert silence_words(silence, outlook=True, more=5).startswith("no step for 20 s; in 40 s ")


def test_the_rank_that_is_waited_for_is_the_one_that_is_silent_at_work_while_the_run_goes_on() -> None:
    loading, working = (
        RankSilent(rank=rank, stage=stage, seconds=9) for rank, stage in ((0, "loading"), (2, "at work"))
    )  # type: ignore[arg-type]
    state = RunState(ranks=(RankState(rank=0, silence=loading), RankState(rank=1), RankState(rank=2, silence=working)))
    assert silent_ranks(state) == [loading, working]
    assert waits_for(state) == 2
    assert waits_for(RunState(ranks=state.ranks[:2])) is None
    ended = protocol.RunEnded(at=1, status="stopped", exit_status=0, summary=summarise(state))
    assert silent_ranks(msgspec.structs.replace(state, ended=ended)) == []


def test_a_summary_counts_what_is_on_disk_over_the_seconds_of_all_supervisors() -> None:
    rank = RankState(
        rank=0,
        ready=scripted.ready(0, 0),
        prompts=5,
        batches=2,
        prompt_tokens=30,
        output_tokens=150,
        slots=100,
        padded_slots=25,
    )
    state = RunState(
        prompts=10, completed=6, failed=3, prompt_tokens=40, output_tokens=300, slots=1000, padded_slots=123,
        seconds_before=5.0, first_batch_at=100.0, last_result_at=110.0, ranks=(rank,),
    )  # fmt: skip
    figures = summarise(state)
    assert (figures.prompts, figures.completed, figures.failed) == (10, 6, 3)
    assert (figures.prompt_tokens, figures.output_tokens) == (40, 300)
    assert (figures.seconds, figures.tokens_per_second, figures.padding_waste) == (15.0, 20.0, 0.123)
    (one,) = figures.ranks
    assert (one.rank, one.device, one.prompts, one.batches) == (0, "cpu", 5, 2)
    assert (one.prompt_tokens, one.output_tokens, one.tokens_per_second, one.padding_waste) == (30, 150, 10.0, 0.25)
    unwritten = [record(1), record(2), record(3, error="bad")]
    assert (summarise(state, unwritten).completed, summarise(state, unwritten).failed) == (4, 2)
    nothing = summarise(RunState())
    assert (nothing.seconds, nothing.tokens_per_second) == (0.0, 0.0)
