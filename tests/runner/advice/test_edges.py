"""Where advice and findings begin and end: values just inside and just outside each rule."""

import msgspec
import pytest

from rankdeck.runner import protocol
from rankdeck.runner.advice import advice
from rankdeck.runner.advice.findings import findings, ranks_words
from rankdeck.runner.advice.segments import idle_tail, segments, slowest_batch
from rankdeck.runner.state import DeviceState, Mark, RankState, RunState
from rankdeck.runner.state.periods import KnobPeriod, RankShare
from rankdeck.runner.state.timeline import Span, Work
from tests import scripted_steering
from tests.runner.advice.test_advice import GIB, device, ready, running, said
from tests.runner.forecast.test_cost_model import point
from tests.runner.state.test_state import finished, output, play
from tests.runner.state.test_timeline import batch, launched


def kinds(state: RunState) -> list[str]:
    return [one.kind for one in advice.advise(state)]


# --- rounds and turns -------------------------------------------------------------------------------


@pytest.mark.parametrize(("prompts", "spoken"), [(16, False), (20, True), (68, False), (65, False), (52, True)])
def test_a_round_is_worth_saving_from_two_rounds_to_four(prompts, spoken):
    # One rank at batch size 16, or one that makes the last round needless.
    assert ("rounds" in kinds(running(1, prompts=prompts))) is spoken


def test_with_less_than_two_rounds_left_no_turn_is_advised():
    few = running(2, batch_size=2, prompts=1000, costs=(point(2, ranks=2), point(4, ranks=2)))
    assert kinds(few) == ["turn"]
    assert kinds(msgspec.structs.replace(few, completed=997)) == []
    assert kinds(msgspec.structs.replace(few, phase="stopping")) == []
    # A third rank would help with the last 30 prompts, too, but it would hardly have begun.
    measured = tuple(point(rows, ranks=ranks) for ranks in (2, 3) for rows in (8, 16))
    two = running(3, active_ranks=2, batch_size=16, costs=measured)
    assert kinds(msgspec.structs.replace(two, completed=860)) == ["turn"]
    assert kinds(msgspec.structs.replace(two, completed=970)) == []


def test_a_small_gain_is_no_turn_worth_a_word():
    flat = {"step": (0.02, 0.0005), "prefill": (0.0, 0.0), "rest": (0.0, 0.0)}
    # From 16 to 32 rows a step takes 28 ms and 36 ms: 55 % more. At 400 rows, next to nothing.
    worth = running(2, batch_size=16, prompts=10_000, costs=tuple(point(rows, ranks=2, **flat) for rows in (16, 32)))
    assert kinds(worth) == ["turn"]
    large = tuple(point(rows, ranks=2, **flat) for rows in (600, 1200))
    assert kinds(running(2, batch_size=600, prompts=100_000, costs=large)) == []


def test_nearly_full_memory_is_no_time_for_a_larger_batch():
    few = running(
        2, batch_size=2, costs=(point(2, ranks=2), point(4, ranks=2)), devices=(device(memory_used_bytes=77 * GIB),)
    )
    assert kinds(few) == ["memory"]


# --- idle -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "why",
    [
        {"attempt": 2},
        {"paused": "asked for"},
        {"phase": "stopping"},
        {"now": 19.0},
        *(
            {"marks": (Mark(elapsed=1.0, kind=kind, text=""),)}
            for kind in ("pause", "active ranks", "taken up", "trial")
        ),
    ],
    ids=str,
)
def test_idle_time_that_has_a_reason_is_no_advice(why):
    ranks = (running().ranks[0], RankState(rank=1, batches=4, busy_seconds=9.0))
    assert kinds(running(ranks=ranks)) == ["idle"]
    assert kinds(running(ranks=ranks, **why)) == []


def test_a_rank_with_a_single_batch_is_not_yet_called_idle():
    ranks = (running().ranks[0], RankState(rank=1, batches=1, busy_seconds=9.0))
    assert "idle" not in kinds(running(ranks=ranks))


# --- devices ----------------------------------------------------------------------------------------


def of(device_state: DeviceState, **changes: object) -> DeviceState:
    return msgspec.structs.replace(device_state, **changes)


def test_a_gpu_that_no_rank_is_on_is_nobodys_business():
    full, hot = device(memory_used_bytes=79 * GIB), device(throttle_reasons=["thermal slowdown"])
    lazy = device(busy=10.0, memory_used_bytes=GIB)
    for one in (full, hot, lazy):
        assert len(said(running(devices=(one,)))) == 1
        assert said(running(devices=(of(one, ranks=()),))) == []


def test_low_load_is_told_after_a_quarter_of_a_minute_and_from_known_samples_only():
    lazy = device(busy=10.0, memory_used_bytes=GIB)
    assert kinds(running(devices=(of(lazy, busy_history=(10.0,) * 15),))) == ["busy low"]
    assert kinds(running(devices=(of(lazy, busy_history=(10.0,) * 14),))) == []
    assert kinds(running(devices=(of(lazy, busy_history=(10.0,) * 14 + (None,) * 3),))) == []
    assert kinds(running(devices=(of(lazy, busy_history=(10.0,) * 5 + (90.0,) * 15),))) == [], (
        "what it did before is over"
    )


def test_a_harmless_throttle_does_not_hide_that_of_the_next_gpu():
    capped = device(index=0, throttle_reasons=["power cap"], sm_clock_mhz=1980, sm_clock_max_mhz=1980)
    hot = device(index=1, throttle_reasons=["power cap"], sm_clock_mhz=900, sm_clock_max_mhz=1980)
    assert said(running(devices=(capped, hot))) == ["GPU 1 is throttled (power cap) at 900 of 1980 MHz."]


def test_memory_beside_the_models_is_not_judged_before_every_rank_of_the_gpu_is_ready():
    crowded = ready(0, memory_total_bytes=80 * GIB, memory_free_bytes=40 * GIB)
    state = running()
    first = msgspec.structs.replace(state.ranks[0], ready=crowded)
    shared = of(device(), ranks=(0, 1))
    loading = msgspec.structs.replace(state.ranks[1], ready=None)
    assert kinds(running(ranks=(first, loading), devices=(shared,))) == []
    assert kinds(running(ranks=(first, state.ranks[1]), devices=(shared,))) == ["foreign process"]


# --- turns of a knob --------------------------------------------------------------------------------


def test_only_a_turn_by_hand_is_told_to_have_come_early():
    one, two = KnobPeriod(batch_size=4, active_ranks=1), KnobPeriod(batch_size=8, active_ranks=1)
    assert advice.early_turn(running(periods=(one, two))) == advice.KnobEffect(before=one, after=two)
    for before, after in (
        (msgspec.structs.replace(one, auto=True), two),
        (msgspec.structs.replace(one, trial=True), two),
        (one, msgspec.structs.replace(two, trial=True)),
    ):
        assert advice.early_turn(running(periods=(before, after))) is None
    measured = msgspec.structs.replace(one, shares={0: RankShare(1, 100, 1.0)})
    assert advice.early_turn(running(periods=(measured, two))) is None, "there is something to compare with"


def test_what_a_lost_rank_cost_counts_its_batch_in_vain() -> None:
    state = play(
        protocol.BatchStarted(at=10.0, rank=0, batch=1, rows=2),
        protocol.BatchStarted(at=10.0, rank=1, batch=2, rows=2),
        protocol.RankLost(at=16.0, rank=1, cause="killed"),
        protocol.RankLost(at=16.0, rank=0, cause="ended"),
        protocol.RanksLaunched(at=17.0, attempt=2, world_size=2),
        protocol.RanksReady(at=20.0),
        protocol.BatchStarted(at=20.0, rank=0, batch=3, rows=2),
        protocol.Tick(at=30.0),
        state=launched(),
    )
    (finding,) = [finding for finding in findings(state) if finding.kind == "rank lost"]
    assert "took 10.0 s, 50% of the run so far" in finding.text, "6 s in vain, 4 s until the ranks were ready again"


# --- the end of the timeline ------------------------------------------------------------------------


def ended(ends: list[float], *, active: int | None = None) -> RunState:
    """A batch of each rank from 10 s on, over at `ends`; all prompts are done."""
    state = launched(len(ends))
    for rank in range(len(ends)):
        state = play(protocol.BatchStarted(at=10.0, rank=rank, batch=rank + 1, rows=2), state=state)
    for rank, at in sorted(enumerate(ends), key=lambda one: one[1]):
        for row in (0, 1):
            state = play(output(2 * rank + row, 5, rank=rank, at=at), state=state)
        state = play(finished(rank, rank + 1, at), state=state)
    prompts = 2 * len(ends)
    return msgspec.structs.replace(state, prompts=prompts, active_ranks=active or len(ends))


def tails(state: RunState) -> list[str]:
    return [finding.text for finding in findings(state) if finding.kind == "tail"]


def test_of_unequal_idle_ends_the_longest_is_told_as_up_to():
    assert tails(ended([20.0, 16.0, 16.0])) == ["Ranks 1 and 2 idle at the end, 4.0 s: 27% of all ranks' time."]
    assert tails(ended([20.0, 16.0, 18.0])) == ["Ranks 1 and 2 idle at the end, up to 4.0 s: 20% of all ranks' time."]


def test_an_inactive_rank_is_not_idle_at_the_end():
    assert tails(ended([20.0, 16.0], active=1)) == []


def test_a_moment_at_the_end_is_no_finding():
    assert tails(ended([20.0, 19.7])) == []


def test_a_rank_with_a_batch_in_hand_has_no_idle_end():
    state = batch(launched(), 0, 1, 10.0, 14.0)
    state = play(protocol.BatchStarted(at=14.0, rank=0, batch=2, rows=2), protocol.Tick(at=20.0), state=state)
    assert idle_tail(state, 0) == 0.0


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ([3], "rank 3"),
        ([0, 2], "ranks 0 and 2"),
        ([1, 2], "ranks 1 and 2"),
        ([1, 2, 3], "ranks 1 to 3"),
        ([0, 1, 3], "ranks 0, 1 and 3"),
        (list(range(0, 14, 2)), "7 ranks"),
    ],
)
def test_ranks_in_words(ranks, words):
    assert ranks_words(ranks) == words


def test_the_slowest_batch_is_judged_by_its_steps_and_rows_not_by_its_length():
    state = launched(1)
    # Number 2 has many steps with many rows, number 3 few that took long.
    for number, rows, steps, seconds in ((1, 4, 10, 1.0), (2, 16, 100, 20.0), (3, 4, 10, 3.0)):
        span = Span(
            "batch", 10.0 * number, 10.0 * number + seconds, batch=number, rows=rows,
            work=Work(steps=steps, row_steps=steps * rows, decode_seconds=seconds),
        )  # fmt: skip
        lane = state.timeline.lanes[0]
        lane = msgspec.structs.replace(lane, spans=(*lane.spans, span))
        state = msgspec.structs.replace(state, timeline=msgspec.structs.replace(state.timeline, lanes=(lane,)))
    slowest = slowest_batch(segments(state, 0))
    assert slowest is not None
    assert slowest.span is not None
    assert slowest.span.batch == 3


def test_a_gap_is_cut_where_its_rank_was_inactive_or_all_were_paused():
    state = batch(launched(), 1, 1, 10.0, 12.0)
    state = play(
        protocol.ActiveRanksChanged(at=13.0, active_ranks=1),
        protocol.Paused(at=14.0, reason="asked for", asked=True),
        protocol.Resumed(at=15.0),
        protocol.ActiveRanksChanged(at=17.0, active_ranks=2),
        protocol.BatchStarted(at=18.0, rank=1, batch=2, rows=2),
        protocol.Tick(at=19.0),
        state=state,
    )
    after = [each for each in segments(state, 1) if each.began >= 12.0]
    assert [(each.kind, each.began, each.ended) for each in after] == [
        ("idle", 12.0, 13.0),
        ("inactive", 13.0, 14.0),
        ("paused", 14.0, 15.0),
        ("inactive", 15.0, 17.0),
        ("idle", 17.0, 18.0),
        ("batch", 18.0, 19.0),
    ]


def test_after_the_end_a_batch_size_that_still_brought_more_is_no_proof_of_the_best():
    rising = scripted_steering.knob_turned().ended(status="stopped").state
    (said,) = [one.text for one in advice.advise(rising) if one.kind == "still rising"]
    assert said == "Batch size 4 → 8 still brought +51%: try a larger one next time."
    assert "still rising" not in kinds(scripted_steering.knob_turned().state), "it goes on: there is a prediction"
    back = scripted_steering.knob_turned().size(16).rounds(2).size(64).rounds(2).ended(status="stopped").state
    sizes = {period.batch_size: period.warm_rate for period in back.periods}
    assert ("still rising" in kinds(back)) == (sizes[64] > 1.1 * sizes[16])
