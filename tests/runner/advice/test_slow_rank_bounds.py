"""A slow rank, a starved one, gaps and idle ends at their bounds: lanes written out by hand, and every sentence."""

import msgspec
import pytest

from rankdeck.runner import protocol
from rankdeck.runner.advice import cpu_share, slow_rank
from rankdeck.runner.advice.cpu_share import cores_words, cpu_shares, starved_words
from rankdeck.runner.advice.findings import Finding, findings, ranks_words, rounds
from rankdeck.runner.advice.segments import end_of, idle_tail, segments, slowest_batch
from rankdeck.runner.advice.slow_rank import DecodePace, similar_rows, slow_rank_words, slow_ranks, step_words
from rankdeck.runner.protocol import ProcessSample
from rankdeck.runner.state import Mark, RankState, RunState, StepMark, summarise
from rankdeck.runner.state.timeline import BusyPoint, Hold, Lane, Span, Timeline, Work
from tests.runner.advice.test_advice import ready


def done(
    began: float, *, steps: int = 10, pace: float = 0.1, rows: int = 16, kind: str = "batch", joined: int = 1
) -> Span:
    """A batch whose steps took `pace` seconds each; it ends with the last of them."""
    work = Work(steps=steps, row_steps=steps * rows if kind == "stint" else 0, decode_seconds=steps * pace)
    return Span(kind, began, began + steps * pace, rows=rows * joined, work=work, joined=joined)  # type: ignore[arg-type]


def state_of(*lanes: list[Span] | Lane, now: float = 100.0, over: bool = False, **changes: object) -> RunState:
    """A run of these lanes whose clock began at 0; `over` if it has ended."""
    made = tuple(lane if isinstance(lane, Lane) else Lane(spans=tuple(lane)) for lane in lanes)
    state = RunState(
        now=now,
        ready_at=0.0,
        first_batch_at=0.0,
        phase="running",
        prompts=1000,
        batch_size=16,
        active_ranks=len(made),
        attempt=1,
        ranks=tuple(RankState(rank=rank, ready=ready(rank)) for rank in range(len(made))),
        timeline=Timeline(lanes=made, active=((0.0, len(made)),)),
    )
    state = msgspec.structs.replace(state, **changes)
    if over:
        ended = protocol.RunEnded(at=now, status="completed", exit_status=0, summary=summarise(state))
        state = msgspec.structs.replace(state, ended=ended)
    return state


# --- which rank is slow ---


@pytest.mark.parametrize(("pace", "slow"), [(0.125, True), (0.1249, False), (0.08, False)])
def test_a_rank_is_slow_from_a_quarter_more_on(pace, slow):
    lanes = [[done(0, pace=one), done(10, pace=one)] for one in (0.1, 0.1, pace)]
    assert slow_ranks(state_of(*lanes, over=True)) == (frozenset([2]) if slow else frozenset())


@pytest.mark.parametrize(
    ("batches", "steps", "enough"), [(1, 23, False), (1, 24, True), (2, 2, True), (3, 1, True), (1, 2, False)]
)
def test_two_batches_or_two_dozen_steps_are_enough_to_judge_by(batches, steps, enough):
    lanes = [[done(10 * number, steps=steps, pace=pace) for number in range(batches)] for pace in (0.1, 0.3)]
    assert bool(slow_ranks(state_of(*lanes, over=True))) is enough


def test_joined_batches_count_for_as_many_as_they_are_and_with_the_rows_of_one():
    lanes = [[done(0, steps=4, joined=2, pace=pace)] for pace in (0.1, 0.3)]
    found = slow_rank.slow_rank(state_of(*lanes, over=True))
    assert found is not None
    assert (found.rank, found.batches, found.steps) == (1, 2, 4)
    other = [[done(0, steps=4, joined=2)], [done(0, steps=30, rows=32, pace=0.3)]]
    assert slow_rank.slow_rank(state_of(*other, over=True)) is None, "16 rows are not 32"


def test_the_cost_of_a_slow_rank_is_set_against_the_median_of_the_others_in_batches_with_as_many_rows():
    lanes = [
        [done(0, steps=20, pace=0.1), done(10, steps=20, rows=64, pace=0.2)],
        [done(0, steps=20, pace=0.2), done(10, steps=20, rows=64, pace=0.2)],
        [done(0, steps=20, pace=0.3)],
        [done(0, steps=20, pace=0.4), done(20, steps=20, rows=64, pace=0.5)],
    ]
    found = slow_rank.slow_rank(state_of(*lanes, over=True))
    assert found is not None
    assert (found.rank, found.batches, found.steps, found.since) == (3, 2, 40, 0.0)
    assert found.decode_seconds == pytest.approx(20 * 0.4 + 20 * 0.5)
    assert found.expected_seconds == pytest.approx(20 * 0.2 + 20 * 0.2)
    assert found.ratio == pytest.approx(18 / 8)


def test_only_batches_and_accounts_with_decode_steps_are_compared():
    for kind in ("lost", "failed", "stopped", "loading"):
        lanes = [[done(0, steps=50, pace=pace, kind=kind)] for pace in (0.1, 0.3)]
        assert slow_rank.slow_rank(state_of(*lanes, over=True)) is None, kind
    for nothing in (Work(), Work(steps=50), Work(decode_seconds=3.0), None):
        lanes = [[done(0, steps=50)], [Span("batch", 0, 9, rows=16, work=nothing)]]
        assert slow_rank.slow_rank(state_of(*lanes, over=True)) is None
    stints = [[done(0, steps=50, pace=pace, kind="stint")] for pace in (0.1, 0.3)]
    assert slow_ranks(state_of(*stints, over=True)) == {1}


def test_a_batch_whose_steps_took_no_time_makes_the_others_no_slower():
    lanes = [[done(0, steps=50, pace=pace)] for pace in (0.1, 0.0, 0.12)]
    assert slow_ranks(state_of(*lanes, over=True)) == frozenset(), "1.2 times as long as the only other one"


def test_accounts_are_compared_by_the_rows_that_were_in_their_steps():
    few = done(0, steps=50, rows=16, kind="stint")
    many = msgspec.structs.replace(done(0, steps=50, pace=0.3, rows=64, kind="stint"), rows=16)
    assert slow_rank.slow_rank(state_of([few], [many], over=True)) is None


def test_rows_are_alike_within_a_quarter():
    assert [similar_rows(rows) for rows in (0, 1, 2, 16, 17, 32)] == [0, 0, 3, 12, 13, 16]
    assert (slow_rank.SLOWER, slow_rank.SIMILAR_ROWS) == (1.25, 1.25)


def test_while_a_run_goes_on_its_last_batches_count_from_where_the_slowest_has_enough():
    """Three batches of each rank, or 48 steps: what was long ago is over."""
    early = [done(10 * number, pace=0.3) for number in range(4)]
    late = [done(100 + 10 * number) for number in range(3)]
    calm = [done(10 * number) for number in range(4)] + late
    lanes = [calm, [*early, *late]]
    assert slow_ranks(state_of(*lanes, now=140)) == frozenset()
    assert slow_ranks(state_of(*lanes, now=140, over=True)) == {1}
    two = [calm[:4] + late[:2], [*early, *late[:2]]]
    found = slow_rank.slow_rank(state_of(*two, now=130))
    assert found is not None, "two batches go back to the last one before"
    assert (found.since, found.batches) == (30.0, 3), "those that ended after the third last began"
    long = [[*calm[:4], done(100, steps=48)], [*early, done(100, steps=48)]]
    assert slow_ranks(state_of(*long, now=140)) == frozenset()
    short = [[*calm[:4], done(100, steps=47)], [*early, done(100, steps=47)]]
    assert slow_rank.slow_rank(state_of(*short, now=140)) is not None


def test_an_inactive_rank_does_not_keep_what_is_long_over():
    early = [done(10 * number, pace=0.3) for number in range(4)]
    late = [done(100 + 10 * number) for number in range(3)]
    calm = [done(10 * number) for number in range(4)]
    state = state_of([*calm, *late], [*early, *late], calm, now=140)
    assert slow_ranks(state) == {1}
    assert slow_ranks(msgspec.structs.replace(state, active_ranks=2)) == frozenset()


def in_hand(paces: list[float], *, steps: int = 100, **changes: object) -> RunState:
    """A batch in flight on each rank, of which so many steps were reported."""
    state = state_of(*(Lane(open=Span("batch", 10, 10, rows=16)) for _ in paces))
    ranks = tuple(
        msgspec.structs.replace(
            state.ranks[rank],
            **{
                "first_step": StepMark(20.0, 1),
                "last_step": StepMark(20.0 + steps * pace, 1 + steps, steps * 16),
                **changes,
            },
        )
        for rank, pace in enumerate(paces)
    )
    return msgspec.structs.replace(state, ranks=ranks)


def test_a_batch_in_flight_is_judged_by_its_steps_so_far():
    assert slow_ranks(in_hand([0.1, 0.1, 0.3])) == {2}
    assert slow_ranks(in_hand([0.1, 0.3], batch_kept=False)) == frozenset()
    assert slow_ranks(in_hand([0.1, 0.3], first_step=None)) == frozenset()
    assert slow_ranks(in_hand([0.5, 1.5], steps=24)) == {1}
    assert slow_ranks(in_hand([0.5, 1.5], steps=23)) == frozenset(), "no whole batch, and too few steps"
    assert slow_ranks(in_hand([0.25, 0.75], steps=24)) == {1}, "six seconds"
    assert slow_ranks(in_hand([0.24, 0.75], steps=24)) == frozenset(), "the other one has too few seconds to compare"


def test_a_few_steps_in_flight_count_beside_whole_batches():
    """Eight steps and six seconds; fewer say nothing yet."""
    for steps, judged in ((8, True), (7, False)):
        state = in_hand([1.0, 3.0], steps=steps)
        before = tuple(
            msgspec.structs.replace(lane, spans=(done(0, steps=20, pace=pace),))
            for lane, pace in zip(state.timeline.lanes, (1.0, 1.0), strict=True)
        )
        timeline = msgspec.structs.replace(state.timeline, lanes=before)
        found = slow_ranks(msgspec.structs.replace(state, timeline=timeline))
        assert bool(found) is judged


def test_the_median_leaves_out_the_rank_itself_once():
    assert slow_rank._median_without([1.0, 2.0, 2.0, 5.0], 2.0) == 2.0
    assert slow_rank._median_without([1.0, 2.0, 5.0], 5.0) == 1.5
    assert slow_rank._median_without([3.0], 3.0) is None


# --- its sentence ---


@pytest.mark.parametrize(
    ("batches", "since", "where"),
    [
        (0, 0.0, "the batch it has in hand"),
        (0, 9.0, "the batch it has in hand"),
        (1, 0.0, "its batch"),
        (1, 9.0, "its last batch"),
        (3, 0.0, "its 3 batches"),
        (3, 9.0, "its last 3 batches"),
    ],
)
def test_a_slow_rank_is_told_with_both_paces_and_what_it_cost(batches, since, where):
    pace = DecodePace(2, batches, 50, 7.5, 2.5, since)
    said = "Rank 2 is slow: 150 ms per decode step, 3.0 x {} 50 ms, which cost 5.0 s in {}."
    assert slow_rank_words(state_of([], [], []), pace) == said.format("the others'", where)
    assert slow_rank_words(state_of([], []), pace) == said.format("the other rank's", where)


@pytest.mark.parametrize(
    ("seconds", "words"), [(1.25, "1250 ms"), (0.01, "10 ms"), (0.00999, "10.0 ms"), (0.0054, "5.4 ms")]
)
def test_a_step_is_told_with_a_decimal_below_ten_milliseconds(seconds, words):
    assert step_words(seconds) == words


def with_cpu(state: RunState, *percents: int | None, seconds: int = 60, threads: int | None = 1) -> RunState:
    """The same run on a CPU, all ranks at work, whose ranks got these percents of their cores for so long."""
    processes = tuple(ProcessSample(rank=rank, cpu_percent=1.0, rss_bytes=None) for rank in range(len(percents)))
    end = end_of(state)
    lanes = tuple(
        msgspec.structs.replace(lane, open=Span("batch", 0.0, 0.0, rows=16), threads=threads)
        for lane in state.timeline.lanes
    )
    timeline = msgspec.structs.replace(
        state.timeline, lanes=lanes, busy_of="CPU", busy_step=1.0,
        busy=tuple(BusyPoint(end - before, percents) for before in range(seconds - 1, -1, -1)),
    )  # fmt: skip
    return msgspec.structs.replace(state, processes=processes, timeline=timeline)


SLOW = DecodePace(1, 2, 50, 7.5, 2.5)
PACE = "It takes 150 ms per decode step, 3.0 x "


@pytest.mark.parametrize(
    ("percents", "over", "cause"),
    [
        ((80, 59), False, "something else is using its CPU; it gets 59% of a core, the other rank 80%. "),
        ((80, 60), False, ""),
        ((80, 59), True, "something else was using its CPU; it got 59% of a core, the other rank 80%. "),
        ((80, 50, 60), False, "something else is using its CPU; it gets 50% of a core, the others 70%. "),
        ((80, None), False, ""),
        ((None, 50), False, ""),
    ],
)
def test_a_slow_rank_that_gets_less_of_the_cpu_is_told_why(percents, over, cause):
    state = with_cpu(state_of(*([] for _ in percents), over=over), *percents)
    words = slow_rank_words(state, SLOW)
    assert words.startswith(f"Rank 1 is slow: {cause}" + ("It takes " if cause else "150 ms"))


# --- how much CPU ranks get ---


def test_a_share_counts_with_eight_seconds_of_work_whose_cpu_is_known():
    state = state_of([], [])
    assert cpu_shares(with_cpu(state, 50, 60, seconds=8), 0.0) == {0: 50.0, 1: 60.0}
    assert cpu_shares(with_cpu(state, 50, 60, seconds=7), 0.0) == {}
    assert cpu_shares(with_cpu(state, 50, None), 0.0) == {0: 50.0}
    working = with_cpu(state, 50, 60)
    assert cpu_shares(working, 91.0) == {0: 50.0, 1: 60.0}, "eight points lie after the step that follows"
    assert cpu_shares(working, 92.0) == {}
    idle = msgspec.structs.replace(working.timeline, lanes=tuple(Lane() for _ in range(2)))
    assert cpu_shares(msgspec.structs.replace(working, timeline=idle), 0.0) == {}
    on_gpus = msgspec.structs.replace(working.timeline, busy_of="GPU")
    assert cpu_shares(msgspec.structs.replace(working, timeline=on_gpus), 0.0) == {}
    another = msgspec.structs.replace(working, processes=working.processes[:1])
    assert cpu_shares(another, 0.0) == {}, "figures of other processes"


def test_a_moment_between_two_batches_is_still_work_and_more_is_not():
    state = with_cpu(state_of([]), 50)
    for gap, counted in ((0.09, True), (0.11, False)):
        # The point at 50.0 stands for the second before it.
        spans = (Span("batch", 0.0, 49.0 + 0.5), Span("stint", 49.5 + gap, 100.0))
        timeline = msgspec.structs.replace(state.timeline, lanes=(Lane(spans=spans),))
        point = timeline.busy[[one.at for one in timeline.busy].index(50.0)]
        work = cpu_share._work(timeline.lanes[0], 0.0, 100.0)
        assert work == [(0.0, 49.5), (49.5 + gap, 100.0)]
        assert cpu_share._within(work, point.at - 1, point.at) is counted


def test_work_is_batches_of_every_end_and_the_one_in_hand():
    spans = tuple(
        Span(kind, 10.0 * at, 10.0 * at + 9)
        for at, kind in enumerate(("batch", "loading", "lost", "down", "failed", "stopped", "ready"))
    )
    lane = Lane(spans=spans, open=Span("batch", 80.0, 0.0))
    assert cpu_share._work(lane, 0.0, 99.0) == [(0, 9), (20, 29), (40, 49), (50, 59), (80.0, 99.0)]
    assert cpu_share._work(lane, 49.0, 99.0) == [(50, 59), (80.0, 99.0)], "what had ended by then is left out"
    loading = msgspec.structs.replace(lane, open=Span("loading", 80.0, 0.0))
    assert cpu_share._work(loading, 55.0, 99.0) == [(50, 59)]


@pytest.mark.parametrize(
    ("percents", "threads", "words"),
    [
        ((50, 70), 1, "Each rank gets about 60% of a core, which they could use whole: something else is using the "
                      "CPU."),
        ((50,), 2, "Rank 0 gets 50% of 2 cores, which it could use whole: something else is using the CPU."),
        ((50, 74), 4, "Each rank gets about 62% of 4 cores, which they could use whole: something else is using the "
                      "CPU."),
        ((50, 74), 5, ""),
        ((50, 75), 1, ""),
    ],
)  # fmt: skip
def test_ranks_that_all_get_too_little_are_told_of(percents, threads, words):
    assert starved_words(with_cpu(state_of(*([] for _ in percents)), *percents, threads=threads)) == words


def test_a_rank_that_does_not_say_how_many_threads_it_has_has_one():
    state = with_cpu(state_of([]), 50, threads=None)
    assert starved_words(state).startswith("Rank 0 gets 50% of a core, ")


def test_one_rank_whose_cpu_is_not_known_keeps_all_from_being_judged_while_it_is_at_work():
    state = with_cpu(state_of([], []), 50, None)
    assert starved_words(state).startswith("Rank 0 gets")
    at_work = tuple(msgspec.structs.replace(rank, batch=1) for rank in state.ranks)
    assert starved_words(msgspec.structs.replace(state, ranks=at_work)) == ""


def test_the_present_is_judged_by_ten_seconds():
    state = with_cpu(state_of([]), 50)
    timeline = state.timeline
    busy = tuple(BusyPoint(point.at, (90,)) if point.at <= 90.0 else point for point in timeline.busy)
    state = msgspec.structs.replace(state, timeline=msgspec.structs.replace(timeline, busy=busy))
    assert starved_words(state).startswith("Rank 0 gets 50%")


def test_threads_are_told_as_cores():
    state = state_of(Lane(threads=None), Lane(threads=1), Lane(threads=3))
    assert [cores_words(state, rank) for rank in range(3)] == ["a core", "a core", "3 cores"]


# --- segments ---


def parts(state: RunState, rank: int = 0) -> list[tuple[str, float, float, bool]]:
    return [(part.kind, part.began, part.ended, part.live) for part in segments(state, rank)]


def test_segments_follow_each_other_without_holes_even_where_spans_overlap():
    lane = Lane(spans=(Span("loading", 1, 5), Span("batch", 4, 8), Span("batch", 9, 12)), open=Span("batch", 11, 0))
    assert parts(state_of(lane, now=20.0)) == [
        ("loading", 1, 5, False),
        ("batch", 5, 8, False),
        ("idle", 8, 9, False),
        ("batch", 9, 12, False),
        ("batch", 12, 20.0, True),
    ]
    assert segments(state_of(lane), 1) == segments(state_of(lane), -1) == []


def test_the_last_gap_is_live_until_the_run_ends():
    spans = [Span("batch", 1, 5)]
    assert parts(state_of(spans, now=9.0))[-1] == ("idle", 5, 9.0, True)
    assert parts(state_of(spans, now=9.0, over=True))[-1] == ("idle", 5, 9.0, False)
    assert parts(state_of(spans, now=5.0)) == [("batch", 1, 5, False)]


def test_a_gap_says_what_it_was_and_a_pause_comes_before_inactivity():
    spans = (Span("batch", 0, 10), Span("batch", 30, 40))
    timeline = Timeline(
        lanes=(Lane(), Lane(spans=spans)),
        pauses=(Hold(12, 15, "asked for"), Hold(15, 16, "asked for"), Hold(45, None, "disk")),
        active=((0, 2), (20, 1), (25, 1), (26, 2)),
    )
    state = msgspec.structs.replace(state_of([], []), timeline=timeline, now=50.0)
    found = [(part.kind, part.began, part.ended, part.reason) for part in segments(state, 1) if part.span is None]
    assert found == [
        ("idle", 10, 12, ""),
        ("paused", 12, 16, "asked for"),
        ("idle", 16, 20, ""),
        ("inactive", 20, 26, "1 active"),
        ("idle", 26, 30, ""),
        ("idle", 40, 45, ""),
        ("paused", 45, 50, "disk"),
    ]
    assert segments(state, 1)[-1].live


def test_the_prefill_of_a_batch_is_its_own_and_while_it_lasts_that_of_the_last_one():
    work = Work(steps=3, prefill_seconds=2.0, decode_seconds=1.0)
    spans = (
        Span("batch", 0, 4, work=work),
        Span("stint", 4, 8, work=work),
        Span("batch", 8, 12, work=work, joined=2),
        Span("batch", 12, 16, work=work),
        Span("lost", 16, 17),
    )
    state = state_of(Lane(spans=spans, open=Span("batch", 20, 0)), now=21.0)
    assert [part.prefill for part in segments(state, 0) if part.span is not None] == [2.0, 0.0, 0.0, 2.0, 0.0, 1.0]
    later = msgspec.structs.replace(state, now=25.0)
    assert segments(later, 0)[-1].prefill == 2.0
    (rank,) = later.ranks
    begun = msgspec.structs.replace(later, ranks=(msgspec.structs.replace(rank, phase="prefill"),))
    assert segments(begun, 0)[-1].prefill == 5.0
    first = state_of(Lane(open=Span("batch", 20, 0)), now=25.0)
    assert segments(first, 0)[-1].prefill == 0.0
    loading = state_of(Lane(spans=spans, open=Span("loading", 20, 0)), now=25.0)
    assert segments(loading, 0)[-1].prefill == 0.0


def test_the_timeline_ends_at_the_last_result_once_all_prompts_are_done():
    lanes = [[Span("batch", 0, 10)]]
    going_on = state_of(*lanes, now=30.0, last_result_at=12.0, completed=990, failed=9)
    assert end_of(going_on) == 30.0
    done_ = msgspec.structs.replace(going_on, failed=10)
    assert end_of(done_) == 12.0
    assert end_of(msgspec.structs.replace(done_, last_result_at=5.0)) == 10.0, "a batch ends after its last answer"
    assert end_of(msgspec.structs.replace(done_, last_result_at=None)) == 30.0
    ended = state_of(*lanes, now=40.0, over=True)
    assert end_of(msgspec.structs.replace(ended, now=99.0)) == 40.0


def test_the_slowest_batch_has_the_longest_step_for_its_rows():
    spans = (
        Span("batch", 0, 1, work=Work(steps=10, row_steps=100, decode_seconds=3.0)),
        Span("stint", 1, 2, work=Work(steps=10, row_steps=10, decode_seconds=2.0)),
        Span("lost", 2, 3, work=Work(steps=1, row_steps=1, decode_seconds=9.0)),
        Span("batch", 3, 4, work=Work(steps=0, decode_seconds=9.0)),
        Span("batch", 4, 5),
    )
    found = slowest_batch(segments(state_of(list(spans)), 0))
    assert found is not None
    assert found.span == spans[1]
    without = Span("batch", 0, 1, work=Work(steps=10, decode_seconds=3.0))
    found = slowest_batch(segments(state_of([without, spans[1]]), 0))
    assert found is not None
    assert found.span == without, "rows are not known: by its steps"
    assert slowest_batch(segments(state_of([spans[2], spans[3], spans[4]]), 0)) is None


# --- findings ---


def over(*ends: float, prompts: int = 1000, rows: int = 16, **changes: object) -> RunState:
    """A run that is over; each rank had one batch, from 0 to its end."""
    lanes = [[Span("batch", 0.0, end, rows=rows)] for end in ends]
    last = max(ends)
    return state_of(*lanes, now=last, completed=prompts, last_result_at=last, **{"prompts": prompts, **changes})


def told(state: RunState, kind: str) -> list[Finding]:
    return [finding for finding in findings(state) if finding.kind == kind]


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((100.0, 95.1), None),
        ((100.0, 95.0), "Rank 1 idle at the end, 5.0 s: 2% of all ranks' time."),
        ((4.0, 3.51), None),
        ((4.0, 3.5), "Rank 1 idle at the end, 0.5 s: 6% of all ranks' time."),
        ((100.0, 90.0, 80.0), "Ranks 1 and 2 idle at the end, up to 20.0 s: 10% of all ranks' time."),
        ((100.0, 81.9, 80.0), "Ranks 1 and 2 idle at the end, 20.0 s: 13% of all ranks' time."),
        ((100.0, 82.0, 80.0), "Ranks 1 and 2 idle at the end, up to 20.0 s: 13% of all ranks' time."),
        ((100.0, 97.0, 80.0), "Rank 2 idle at the end, 20.0 s: 8% of all ranks' time."),
    ],
)
def test_an_idle_end_is_told_from_half_a_second_and_a_twentieth_of_the_run_on(ends, text):
    assert [found.text for found in told(over(*ends), "tail")] == ([] if text is None else [text])


def test_an_end_is_idle_only_after_work_and_once_all_is_done():
    state = over(100.0, 80.0)
    assert told(state, "tail")[0].ranks == (1,)
    assert told(msgspec.structs.replace(state, completed=999), "tail") == []
    assert told(msgspec.structs.replace(state, active_ranks=1), "tail") == []
    assert told(msgspec.structs.replace(state, active_ranks=9), "tail") == told(state, "tail"), "more than have lanes"
    lanes = state.timeline.lanes
    down = msgspec.structs.replace(lanes[1], spans=(*lanes[1].spans, Span("down", 80, 81)))
    timeline = msgspec.structs.replace(state.timeline, lanes=(lanes[0], down))
    assert idle_tail(msgspec.structs.replace(state, timeline=timeline), 1) == 0.0
    paused = msgspec.structs.replace(state.timeline, pauses=(Hold(90, None, "disk"),))
    assert idle_tail(msgspec.structs.replace(state, timeline=paused), 1) == 0.0
    resumed = msgspec.structs.replace(state.timeline, pauses=(Hold(85, 90, "disk"),))
    assert idle_tail(msgspec.structs.replace(state, timeline=resumed), 1) == 10.0


def round_lanes(*rows: tuple[int, ...]) -> list[list[Span]]:
    """A lane for each rank with a batch of so many rows in each round; a round takes ten seconds."""
    return [[Span("batch", 10.0 * at, 10.0 * at + 10, rows=number) for at, number in enumerate(lane)] for lane in rows]


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([(16, 4)], "Round 2 of 2 was 25% full, yet took 50% of the run."),
        ([(16, 16, 8)], "Round 3 of 3 was 50% full, yet took 33% of the run."),
        ([(16, 14)], None),
        ([(16, 13)], "Round 2 of 2 was 81% full, yet took 50% of the run."),
        ([(13, 12)], "Both rounds were 78% full, 12 of 16 prompts a rank."),
        ([(12, 12, 12)], "All 3 rounds were 75% full, 12 of 16 prompts a rank."),
        ([(12, 12, 12, 12)], "All 4 rounds were 75% full, 12 of 16 prompts a rank."),
        ([(12,)], None),
        ([(12, 12, 12, 12, 12)], None),
        ([(16, 16), (16,)], "Round 2 of 2 was 50% full, yet took 50% of the run."),
    ],
)
def test_rounds_that_were_not_full_are_told_with_how_full_they_were(rows, text):
    lanes = round_lanes(*rows)
    last = 10.0 * max(map(len, rows))
    done_ = sum(map(sum, rows))
    state = state_of(*lanes, now=last, prompts=done_, completed=done_, last_result_at=last, ready_at=None)
    assert [found.text for found in told(state, "rounds")] == ([] if text is None else [text])


def test_rounds_have_the_batches_of_all_ranks_and_the_last_may_be_under_way():
    lanes = [*map(Lane, ((Span("batch", 0, 9, rows=16), Span("lost", 9, 10)), (Span("batch", 1, 10, rows=12),)))]
    lanes[0] = msgspec.structs.replace(lanes[0], open=Span("batch", 10, 0, rows=4))
    state = state_of(*lanes, now=15.0)
    first, second = rounds(state)
    assert first == (1, 0, 10, 28, 32, True)
    assert second == (2, 10, 15.0, 4, 32, False)
    assert (first.full, second.full) == (28 / 32, 4 / 32)


@pytest.mark.parametrize(
    "why_not",
    [
        {"attempt": 2},
        {"auto": True},
        {"active_ranks": 0},
        *(
            {"marks": (Mark(elapsed=1.0, kind=kind, text=""),)}
            for kind in ("batch size", "active ranks", "trial", "taken up", "memory")
        ),
    ],
    ids=str,
)
def test_rounds_mean_nothing_once_a_knob_was_turned_or_a_rank_was_lost(why_not):
    state = state_of(*round_lanes((16, 4)))
    assert len(rounds(state)) == 2
    assert rounds(msgspec.structs.replace(state, **why_not)) == []
    paused = msgspec.structs.replace(state, marks=(Mark(elapsed=1.0, kind="pause", text=""),))
    assert len(rounds(paused)) == 2


def test_many_or_joined_batches_are_no_rounds():
    assert len(rounds(state_of(*round_lanes((16,) * 5)))) == 5
    assert rounds(state_of(*round_lanes((16,) * 6))) == []
    joined = [msgspec.structs.replace(span, joined=2) for span in round_lanes((16, 16))[0]]
    assert rounds(state_of(joined)) == []


@pytest.mark.parametrize("ended", [True, False])
def test_lost_ranks_are_told_with_what_they_cost_all(ended):
    again = [Span("loading", 22, 26, attempt=2), Span("ready", 26, 30, attempt=2), Span("batch", 30, 100, attempt=2)]
    first = [Span("loading", 0, 5), Span("batch", 5, 10), Span("lost", 10, 20), *again]
    second = [Span("batch", 5, 18), Span("down", 18, 22), *again]
    state = state_of(first, second, now=100.0, over=ended)
    (found,) = told(state, "rank lost")
    so_far = "" if ended else " so far"
    # 10 s in vain and 8 s of launching again, 4 s away and 8 s: 15 s on the mean.
    assert found.text == (
        f"Rank 1 was lost: batches in vain and launching the ranks again took 15.0 s, 15% of the run{so_far}."
    )
    assert found.ranks == (1,)
    both = state_of([Span("down", 18, 22), *again], second, [Span("down", 18, 22)], now=100.0)
    (found,) = told(both, "rank lost")
    assert found.text.startswith("Ranks 0 to 2 were lost: ")
    assert told(state_of(first, [Span("batch", 5, 18)]), "rank lost") == [], "its own batch was lost, it was not"


def test_a_rank_that_is_still_away_costs_until_now():
    lane = Lane(spans=(Span("batch", 0, 10),), open=Span("down", 10, 0))
    again = Lane(spans=(Span("down", 10, 20),), open=Span("loading", 20, 0, attempt=2))
    (found,) = told(state_of(lane, again, now=40.0), "rank lost")
    assert "took 30.0 s, 75% of the run so far." in found.text


def test_findings_come_in_this_order_and_rounds_not_beside_a_slow_rank():
    spans = [Span("down", 0, 5), done(5, steps=50), done(10, steps=20, rows=4)]
    slow = [done(5, steps=50, pace=0.3)]
    state = state_of(spans, slow, now=40.0, prompts=36, completed=33, failed=3, last_result_at=40.0, unusable_logits=3)
    assert [found.kind for found in findings(state)] == ["logits", "rank lost", "slow rank", "tail"]
    equal = msgspec.structs.replace(
        state,
        timeline=msgspec.structs.replace(
            state.timeline, lanes=(state.timeline.lanes[0], Lane(spans=(done(5, steps=50),)))
        ),
    )
    assert [found.kind for found in findings(equal)] == ["logits", "rank lost", "rounds", "tail"]


def test_logits_that_are_no_numbers_are_told_whole():
    found_model = protocol.ModelProgress(phase="found", label="org/model")
    state = state_of([], unusable_logits=1234, completed=4000, failed=1234, model=found_model)
    (found,) = told(state, "logits")
    assert found.text == (
        "1,234 of 5,234 prompts ended in NaN logits: org/model computes in bfloat16. Try --dtype float32. "
        "If NaN there too, the weights are damaged."
    )
    unknown = msgspec.structs.replace(state, ranks=(RankState(rank=0),))
    assert told(unknown, "logits")[0].text.endswith("computes in its dtype. Its weights are damaged: fetch them again.")


def test_six_ranks_are_named_and_seven_counted():
    assert ranks_words([0, 2, 4, 6, 8, 10]) == "ranks 0, 2, 4, 6, 8 and 10"
    assert ranks_words([0, 2, 4, 6, 8, 10, 12]) == "7 ranks"
    assert ranks_words(list(range(3, 12))) == "ranks 3 to 11"
