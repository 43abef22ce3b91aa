"""The state's timeline: what each rank did when, in runs of any length; and the findings it leads to."""

from itertools import pairwise
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdeck.runner import protocol
from rankdeck.runner.advice.findings import findings, rounds
from rankdeck.runner.advice.segments import end_of, idle_tail, segments
from rankdeck.runner.advice.slow_rank import slow_rank
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.state import RunState, Snapshot, apply
from rankdeck.runner.state.timeline import BUSY_POINTS, LEAST_OF_A_LANE, MOST_SPANS, Span, Timeline, thinned
from tests import scripted, scripted_steering, scripted_timeline
from tests.runner.state.test_state import finished, play, ready


def launched(ranks: int = 2, at: float = 0.0) -> RunState:
    """Ranks ready ten seconds after the start, no batch yet."""
    config = RunConfig(prompts="p.txt", ranks=ranks, batch_size=2, max_new_tokens=10)
    return play(
        protocol.RunStarted(at=at, name="n", directory="/d", config=config, prompts=1000),
        protocol.RanksLaunched(at=at + 1, attempt=1, world_size=ranks),
        *(protocol.RankPhase(at=at + 2, rank=rank, phase="importing") for rank in range(ranks)),
        *(protocol.RankPhase(at=at + 5, rank=rank, phase="loading") for rank in range(ranks)),
        *(msgspec.structs.replace(ready(rank), at=at + 8 + rank) for rank in range(ranks)),
        protocol.RanksReady(at=at + 10),
    )


def batch(state: RunState, rank: int, number: int, began: float, ended: float, rows: int = 2) -> RunState:
    return play(
        protocol.BatchStarted(at=began, rank=rank, batch=number, rows=rows),
        finished(rank, number, ended, rows),
        state=state,
    )


def kinds(state: RunState, rank: int) -> list[str]:
    return [segment.kind for segment in segments(state, rank)]


# --- spans --------------------------------------------------------------------------------------


def test_a_lane_begins_with_the_loading_of_its_rank() -> None:
    state = launched()
    assert [(span.kind, span.began, span.ended) for span in state.timeline.lanes[0].spans] == [
        ("starting", 1, 2),
        ("importing", 2, 5),
        ("loading", 5, 8),
        ("ready", 8, 10),
    ]


def test_a_batch_is_a_span_with_its_figures_and_the_time_between_two_is_idle() -> None:
    state = batch(batch(launched(), 0, 1, 10, 14), 0, 2, 15, 18)
    span = state.timeline.lanes[0].spans[-1]
    assert (span.kind, span.batch, span.rows, span.began, span.ended) == ("batch", 2, 2, 15, 18)
    assert span.work is not None
    assert (span.work.output_tokens, span.work.steps, span.work.prefill_seconds) == (20, 10, 0.1)
    assert kinds(state, 0)[-3:] == ["batch", "idle", "batch"]


def test_a_batch_in_hand_grows_until_now() -> None:
    state = play(
        protocol.BatchStarted(at=10, rank=0, batch=1, rows=2),
        protocol.Tick(at=13),
        state=launched(),
    )
    last = segments(state, 0)[-1]
    assert (last.kind, last.live, last.seconds) == ("batch", True, 3)


def test_a_pause_and_an_inactive_rank_are_not_idle_time() -> None:
    state = play(protocol.Paused(at=15, reason="asked for", asked=True), state=batch(launched(), 1, 1, 10, 14))
    state = play(
        protocol.Resumed(at=20),
        protocol.ActiveRanksChanged(at=22, active_ranks=1),
        protocol.Tick(at=30),
        state=state,
    )
    gaps = [(segment.kind, segment.seconds) for segment in segments(state, 1) if segment.span is None]
    assert gaps == [("idle", 1), ("paused", 5), ("idle", 2), ("inactive", 8)]


def standing(timeline: Timeline) -> Timeline:
    lanes = tuple(msgspec.structs.replace(lane, stepwise=True) for lane in timeline.lanes)
    return msgspec.structs.replace(timeline, lanes=lanes)


def test_an_account_whose_rows_stood_still_begins_as_the_run_goes_on() -> None:
    begun = play(protocol.BatchStarted(at=10, rank=0, batch=1, rows=4), state=launched())
    state = msgspec.structs.replace(begun, timeline=standing(begun.timeline))
    result = protocol.BatchResult(
        rows=1, prompt_tokens=1, output_tokens=1, slots=2, padded_slots=None, steps=1, prefill_seconds=0,
        decode_seconds=1, seconds=1,
    )  # fmt: skip
    closed = protocol.AccountClosed(at=15.1, rank=0, batch=1, result=result)
    state = play(protocol.Paused(at=15, reason="asked for", asked=True), closed, protocol.Resumed(at=20), state=state)
    assert state.timeline.lanes[0].open is not None
    assert state.timeline.lanes[0].open.began == 20
    other = play(protocol.AccountClosed(at=21, rank=0, batch=1, result=result), protocol.Resumed(at=22), state=state)
    assert other.timeline.lanes[0].open is not None
    assert other.timeline.lanes[0].open.began == 21, "there was no pause"
    both = play(
        protocol.Paused(at=30, reason="the disk is full", asked=False),
        protocol.AccountClosed(at=30.1, rank=0, batch=1, result=result),
        protocol.Paused(at=35, reason="asked for", asked=True),
        protocol.Resumed(at=40),
        state=state,
    )
    assert both.timeline.lanes[0].open is not None
    assert both.timeline.lanes[0].open.began == 40, "one pause went over into the next"
    worked = play(protocol.Paused(at=15, reason="asked for", asked=True), closed, protocol.Resumed(at=20), state=begun)
    assert worked.timeline.lanes[0].open is not None
    assert worked.timeline.lanes[0].open.began == 15.1, "rows of other engines went on"


def test_after_a_lost_rank_its_batch_is_lost_and_both_ranks_load_again() -> None:
    state = scripted_timeline.lost_and_again().state
    for rank in (0, 1):
        found = kinds(state, rank)
        assert found.index("lost") < found.index("starting", found.index("lost")) < len(found)
    assert "down" in kinds(state, 1)
    assert "down" not in kinds(state, 0)
    again = [segment.span.attempt for segment in segments(state, 0) if segment.kind == "loading" and segment.span]
    assert again == [1, 2]


def test_each_account_of_a_continuous_rank_is_a_span() -> None:
    state = scripted_timeline.continuous().state
    stints = [span for span in state.timeline.lanes[1].spans if span.kind == "stint"]
    assert len(stints) == 20
    assert stints[0].work is not None
    assert stints[0].work.row_steps / stints[0].work.steps == 16


def test_the_timeline_of_a_resumed_run_goes_on_where_it_stopped() -> None:
    state = batch(launched(), 0, 1, 10, 14)
    assert state.config is not None
    taken_up = protocol.RunTakenUp(
        at=5000, config=state.config, completed=2, failed=0, prompt_tokens=6, output_tokens=20
    )
    state = play(taken_up, protocol.RanksLaunched(at=5001, attempt=2, world_size=2), state=state)
    state = batch(state, 0, 2, 5010, 5012)
    spans = state.timeline.lanes[0].spans
    assert (spans[-1].began, spans[-1].ended) == (24, 26)
    # The chart's clock knows only seconds of work: what it has at 4 s and later happened from 24 s on.
    assert state.timeline.of_work(3) == 13
    assert state.timeline.of_work(5) == 25


def test_a_batch_cut_off_by_the_end_of_its_supervisor_ends_with_the_last_event() -> None:
    state = play(protocol.BatchStarted(at=10, rank=0, batch=1, rows=2), protocol.Tick(at=12), state=launched())
    assert state.config is not None
    state = play(
        protocol.RunTakenUp(at=900, config=state.config, completed=0, failed=0, prompt_tokens=0, output_tokens=0),
        state=state,
    )
    span = state.timeline.lanes[0].spans[-1]
    assert (span.kind, span.ended) == ("lost", 12)


def test_busy_is_kept_for_each_gpu_and_without_gpus_for_the_cores_of_each_rank() -> None:
    with_gpus = scripted.running(2, gpus=2).state
    assert with_gpus.timeline.busy_of == "GPU"
    assert len(with_gpus.timeline.busy[-1].percents) == 2
    without = scripted.running(2).state
    assert without.timeline.busy_of == "CPU"
    assert without.timeline.busy[-1].percents == (96, 97)


def test_a_rank_that_uses_half_of_its_two_cores_is_half_busy() -> None:
    state = play(protocol.RanksLaunched(at=1.0, attempt=1, world_size=2), ready(0, threads=2), ready(1, threads=1))
    samples = [protocol.ProcessSample(rank=rank, cpu_percent=100.0, rss_bytes=1) for rank in (0, 1)]
    state = play(protocol.Tick(at=5.0, processes=samples), state=state)
    assert state.timeline.busy[-1].percents == (50, 100)


# --- however long -------------------------------------------------------------------------------


def long_run(batches: int, ranks: int) -> RunState:
    state = launched(ranks)
    number, at = 0, 10.0
    while number < batches:
        for rank in range(ranks):
            number += 1
            state = apply(state, protocol.BatchStarted(at=at, rank=rank, batch=number, rows=2))
        at += 1.0
        for rank in range(ranks):
            state = apply(state, finished(rank, number - ranks + rank + 1, at))
        sample = protocol.ProcessSample(rank=0, cpu_percent=50.0, rss_bytes=1)
        state = apply(state, protocol.Tick(at=at, processes=[sample]))
    return state


def test_a_hundred_thousand_batches_take_no_more_room_than_a_few_thousand() -> None:
    state = long_run(100_000, 8)
    spans = [span for lane in state.timeline.lanes for span in lane.spans]
    assert len(spans) <= MOST_SPANS
    assert sum(span.joined for span in spans if span.batch) == pytest.approx(100_000, abs=8 * 5)
    assert sum(span.work.output_tokens for span in spans if span.work) == 20 * 100_000
    assert len(state.timeline.busy) <= BUSY_POINTS
    newest = state.timeline.lanes[0].spans[-100:]
    assert all(span.joined == 1 for span in newest)
    whole = newest[-1].ended - 10
    # Old ones are of even length: none covers the better part of the run.
    assert max(span.seconds for span in spans) < whole / 50
    assert len(msgspec.json.encode(Snapshot(state=state).state.timeline)) < 500_000


def test_the_timeline_is_unchanged_by_a_snapshot() -> None:
    for script in (scripted_timeline.straggler(), scripted_timeline.lost_and_again(), scripted_timeline.many()):
        snapshot = script.snapshot()
        wire = protocol.encode_line(snapshot)
        assert msgspec.json.decode(wire, type=Snapshot).state.timeline == snapshot.state.timeline


def spans_at_random(chance: Random) -> tuple[Span, ...]:
    spans, at = [], 0
    for number in range(LEAST_OF_A_LANE + 1 + chance.randrange(60)):
        began = at + chance.randrange(3)
        at = began + chance.choice((0, 1, 5, 60))
        kind = chance.choice(("batch", "stint", "loading", "lost", "failed"))
        spans.append(Span(kind, began, at, batch=number + 1, rows=3))
    return tuple(spans)


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_joining_keeps_the_newest_the_sums_and_the_order(seed: int) -> None:
    spans, most = spans_at_random(Random(seed)), LEAST_OF_A_LANE
    thin = thinned(spans, most)
    assert len(thin) <= most * 3 // 4 + 2
    assert thin[-(most // 4) :] == spans[-(most // 4) :]
    assert sum(span.joined for span in thin) == len(spans)
    for kind in {span.kind for span in spans}:
        before, after = ([span for span in lane if span.kind == kind] for lane in (spans, thin))
        assert sum(span.joined for span in after) == len(before)
        assert sum(span.rows for span in after) == sum(span.rows for span in before)
        own = sum(span.seconds - span.gaps for span in after)
        assert own == pytest.approx(sum(span.seconds for span in before), abs=1e-3)
    assert all(one.ended <= other.began + 1e-9 for one, other in pairwise(thin))


def test_joined_spans_say_how_much_of_their_time_was_between_them() -> None:
    spans = tuple(Span("batch", 10.0 * at, 10.0 * at + 7, batch=at + 1, rows=2) for at in range(2 * LEAST_OF_A_LANE))
    thin = thinned(spans, LEAST_OF_A_LANE)
    joined = [span for span in thin if span.joined > 1]
    assert joined
    assert all(span.gaps == 3.0 * (span.joined - 1) for span in joined)


def test_in_a_long_run_a_lost_batch_and_the_loading_keep_their_kind() -> None:
    kinds = ["starting", "importing", "joining", "loading", "warming up", *["batch"] * 20, "lost", "down"]
    kinds += ["starting", "importing", "joining", "loading", "warming up", *["batch"] * LEAST_OF_A_LANE]
    spans = tuple(
        Span(kind, at, at + 1, batch=at, rows=16, attempt=1 if at < 27 else 2)  # type: ignore[arg-type]
        for at, kind in enumerate(kinds)
    )
    thin = thinned(spans, LEAST_OF_A_LANE)
    assert len(thin) <= LEAST_OF_A_LANE * 3 // 4
    assert [span.kind for span in thin if span.kind != "batch"] == [kind for kind in kinds if kind != "batch"]
    assert sum(span.joined for span in thin if span.kind == "batch") == 20 + LEAST_OF_A_LANE
    assert {span.attempt for span in thin} == {1, 2}


HAPPENINGS = ["start", "finish", "fail", "stint", "lost", "launch", "pause", "resume", "active", "phase"]
EVENTS = st.lists(
    st.tuples(st.sampled_from(HAPPENINGS),
              st.integers(0, 3), st.floats(0, 9)),
    max_size=60,
)  # fmt: skip


@settings(max_examples=60)
@given(EVENTS)
def test_whatever_happens_a_lane_has_no_holes_and_no_overlaps(steps: list[tuple[str, int, float]]) -> None:
    state, at, number = launched(3), 10.0, 0
    for what, rank, seconds in steps:
        at += seconds
        number += what == "start"
        event = {
            "start": protocol.BatchStarted(at=at, rank=rank, batch=number, rows=2),
            "finish": finished(rank, number, at),
            "fail": protocol.BatchFailed(at=at, rank=rank, batch=number, kind="error", error="e"),
            "stint": protocol.AccountClosed(at=at, rank=rank, batch=number, result=finished(rank, number, at).result),
            "lost": protocol.RankLost(at=at, rank=rank, cause="c"),
            "launch": protocol.RanksLaunched(at=at, attempt=2, world_size=3),
            "pause": protocol.Paused(at=at, reason="r", asked=True),
            "resume": protocol.Resumed(at=at),
            "active": protocol.ActiveRanksChanged(at=at, active_ranks=1 + rank % 3),
            "phase": protocol.RankPhase(at=at, rank=rank, phase="loading"),
        }[what]
        state = apply(state, event)  # type: ignore[arg-type]
    for rank in range(3):
        found = segments(state, rank)
        assert all(one.ended == pytest.approx(other.began) for one, other in pairwise(found))
        assert found[-1].ended == pytest.approx(end_of(state))


# --- what it shows ------------------------------------------------------------------------------


def texts(state: RunState) -> list[str]:
    return [finding.text for finding in findings(state)]


def test_a_slow_rank_is_named_with_its_factor_and_what_it_cost() -> None:
    slow, tail = texts(scripted_timeline.straggler().state)
    assert slow == (
        "Rank 2 is slow: 156 ms per decode step, 1.8 x the others' 86 ms, which cost 10.4 s in its 3 batches."
    )
    assert tail == "Ranks 0, 1 and 3 idle at the end, up to 6.4 s: 15% of all ranks' time."


def test_a_slow_rank_is_found_while_the_run_goes_on() -> None:
    state = scripted_timeline.many().state
    assert state.ended is None
    (found,) = findings(state)
    assert found.ranks == (5,)


def test_of_two_ranks_the_slow_one_is_named_and_not_the_fast_one() -> None:
    script = scripted_timeline.PacedScript(2, prompts=200, slow={0: 1.6}).begun().pull()
    assert texts(script.state)[0].startswith("Rank 0 is slow")


def test_batches_of_different_sizes_make_no_rank_slow() -> None:
    state = launched()
    for number in range(1, 9):
        state = batch(state, number % 2, number, 10 + number * 5, 14 + number * 5, rows=2 if number % 2 else 40)
    assert slow_rank(state) is None


def test_neither_equal_ranks_nor_a_single_one_are_slow() -> None:
    assert findings(scripted_timeline.PacedScript(4, prompts=640).begun().pull().ended().state) == ()
    assert findings(scripted.running(1).state) == ()


def test_the_articles_second_round_is_reported_with_its_cure() -> None:
    state = scripted_timeline.second_round().state
    assert texts(state) == [
        "Round 2 of 2 was 25% full, yet took 47% of the run. "
        "5 ranks at batch size 16 need 2 rounds for 100 prompts; batch size 20 needs 1."
    ]
    assert [(one.rows, one.places) for one in rounds(state)] == [(80, 80), (20, 80)]


def test_rounds_are_not_reported_beside_a_slow_rank_which_takes_fewer_batches() -> None:
    def kinds(slow: dict[int, float]) -> list[str]:
        state = scripted_timeline.PacedScript(5, slow=slow).begun().pull().ended().state
        return [found.kind for found in findings(state)]

    assert kinds({}) == ["rounds", "tail"]
    assert kinds({0: 1.8}) == ["slow rank", "tail"]


def test_even_rounds_that_are_not_full_are_reported() -> None:
    (text,) = texts(scripted_timeline.even_rounds().state)
    assert text.startswith("Both rounds were 62% full, 10 of 16 prompts a rank. 5 ranks at batch size 16 need 2 rounds")


def test_ranks_that_are_idle_at_the_end_are_reported_with_their_seconds() -> None:
    state = scripted_timeline.idle_end().state
    assert [round(idle_tail(state, rank), 1) for rank in range(3)] == [0.0, 3.1, 3.1]
    assert "Ranks 1 and 2 idle at the end, 3.1 s: 33% of all ranks' time." in texts(state)


def test_a_lost_rank_is_reported_with_what_it_cost() -> None:
    text = texts(scripted_timeline.lost_and_again().state)[0]
    assert text.startswith("Rank 1 was lost: batches in vain and launching the ranks again took 10.6 s, 43% of the run")


def test_there_are_no_findings_in_a_sweep_and_no_rounds_after_a_turn_of_a_knob() -> None:
    assert rounds(scripted_steering.knob_turned().state) == []
    assert rounds(scripted_timeline.continuous().state) == []
