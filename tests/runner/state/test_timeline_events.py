"""What each event changes in a timeline, lane by lane."""

import pytest
from msgspec.structs import replace

from rankdeck.runner import protocol
from rankdeck.runner.protocol import AnyEvent, DeviceSample, ProcessSample
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import Trial
from rankdeck.runner.state import timeline_reducer
from rankdeck.runner.state.timeline import (
    BUSY_POINTS,
    BUSY_SERIES,
    LEAST_OF_A_LANE,
    MOST_HOLDS,
    MOST_SPANS,
    BusyPoint,
    Hold,
    Lane,
    Span,
    Timeline,
    Work,
)
from tests.runner.state.test_state import finished, ready

CONFIG = RunConfig(prompts="p", ranks=2)
OLD = Span("ready", 1.0, 3.0)
BATCH = Span("batch", 5.0, 5.0, batch=3, rows=4, attempt=2)


def two(*opened: Span | None, **changes: object) -> Timeline:
    """Two lanes with a past; the supervisor's 1,000 s is 10 s here."""
    lanes = tuple(Lane(spans=(OLD,), open=span, threads=2) for span in (*opened, None, None)[:2])
    values = {"zero_at": 1000.0, "zero": 10.0, "attempt": 2, "lanes": lanes, "active": ((0.0, 2),), **changes}
    return Timeline(**values)  # type: ignore[arg-type]


def after(timeline: Timeline, *events: AnyEvent, now: float = 0.0, worked: float = 0.0) -> Timeline:
    for event in events:
        timeline = timeline_reducer.after(timeline, event, now, worked)
    return timeline


def span(timeline: Timeline, rank: int = 0) -> Span:
    """The newest span of a lane that is over."""
    assert timeline.lanes[rank].spans[:-1] == (OLD,)
    return timeline.lanes[rank].spans[-1]


def test_a_run_that_starts_has_a_clock_of_its_own_and_all_its_ranks_active() -> None:
    started = protocol.RunStarted(at=500.0, name="n", directory="/d", config=CONFIG, prompts=1)
    assert after(two(BATCH), started) == Timeline(zero_at=500.0, active=((0.0, 2),))


def test_a_run_that_is_taken_up_goes_on_from_its_last_event() -> None:
    before = two(BATCH, Span("loading", 6.0, 6.0), pauses=(Hold(2.0, 3.0, "x"), Hold(8.0, None, "y")))
    event = protocol.RunTakenUp(
        at=9000.0, config=replace(CONFIG, ranks=1), completed=0, failed=0, prompt_tokens=0, output_tokens=0
    )
    taken = after(before, event, now=1010.0)
    assert (taken.zero_at, taken.zero, taken.moment(9001.0)) == (9000.0, 20.0, 21.0)
    assert span(taken, 0) == replace(BATCH, kind="lost", ended=20.0)
    assert span(taken, 1) == Span("loading", 6.0, 20.0)
    assert [lane.open for lane in taken.lanes] == [None, None]
    assert taken.pauses == (Hold(2.0, 3.0, "x"), Hold(8.0, 20.0, "y"))
    assert taken.active == ((0.0, 2), (20.0, 1))
    assert taken.attempt == 2


def test_a_launch_ends_what_was_and_begins_a_lane_for_each_of_its_ranks() -> None:
    launched = after(two(BATCH), protocol.RanksLaunched(at=1005.0, attempt=3, world_size=3))
    assert launched.attempt == 3
    start = Span("starting", 15.0, 15.0, attempt=3)
    assert [lane.open for lane in launched.lanes] == [start] * 3
    assert span(launched) == replace(BATCH, kind="lost", ended=15.0)
    assert launched.lanes[2] == Lane(open=start)
    fewer = after(two(BATCH, BATCH), protocol.RanksLaunched(at=1005.0, attempt=3, world_size=1))
    assert [lane.open for lane in fewer.lanes] == [start, None]


def test_a_phase_ends_the_one_before_and_readiness_brings_the_threads() -> None:
    loading = after(
        two(Span("starting", 10.0, 10.0, attempt=2)), protocol.RankPhase(at=1002.0, rank=0, phase="loading")
    )
    assert span(loading) == Span("starting", 10.0, 12.0, attempt=2)
    assert loading.lanes[0].open == Span("loading", 12.0, 12.0, attempt=2)
    is_ready = after(loading, replace(ready(0, threads=7), at=1005.0))
    assert is_ready.lanes[0].spans[-1] == Span("loading", 12.0, 15.0, attempt=2)
    assert (is_ready.lanes[0].open, is_ready.lanes[0].threads) == (Span("ready", 15.0, 15.0, attempt=2), 7)
    assert is_ready.lanes[1] == two().lanes[1]
    together = after(is_ready, protocol.RanksReady(at=1006.0))
    assert together.lanes[0].spans[-1] == Span("ready", 15.0, 16.0, attempt=2)
    assert together.lanes[0].open is None
    at_work = after(two(BATCH), protocol.RankPhase(at=1002.0, rank=0, phase="loading"))
    assert span(at_work) == replace(BATCH, kind="stopped", ended=12.0)


def test_a_phase_that_took_no_time_leaves_no_span_and_a_batch_that_took_none_does() -> None:
    nothing = after(two(Span("importing", 12.0, 12.0)), protocol.RankPhase(at=1002.0, rank=0, phase="loading"))
    assert nothing.lanes[0].spans == (OLD,)
    waited = after(two(Span("ready", 12.0, 12.0)), protocol.RanksReady(at=1002.0))
    assert waited.lanes[0].spans == (OLD,)
    quick = after(two(replace(BATCH, began=12.0)), finished(0, 3, 1002.0))
    assert span(quick).seconds == 0.0
    earlier = after(two(replace(BATCH, began=12.0)), finished(0, 3, 1001.0))
    assert span(earlier).ended == 12.0, "clocks that were set back"


def test_a_batch_is_handed_out_and_done() -> None:
    started = after(two(), protocol.BatchStarted(at=1002.0, rank=1, batch=9, rows=5), worked=33.0)
    assert started.lanes[1].open == Span("batch", 12.0, 12.0, 9, 5, 2)
    assert started.lanes[0] == two().lanes[0]
    assert started.origins == ((33.0, 12.0),)
    again = after(started, protocol.BatchStarted(at=1003.0, rank=0, batch=10, rows=5), worked=34.0)
    assert again.origins == started.origins, "once for each supervisor"
    later = replace(started, zero=50.0, zero_at=5000.0)
    assert after(later, protocol.BatchStarted(at=5001.0, rank=0, batch=10, rows=5), worked=34.0).origins == (
        (33.0, 12.0),
        (34.0, 51.0),
    )
    done = after(started, finished(1, 9, 1004.0, rows=3))
    assert span(done, 1) == Span(
        "batch", 12.0, 14.0, 9, 3, 2, Work(9, 20, 0.1, 0.9, 10, 30, 50, 10)
    ), "of the rows that were generated"  # fmt: skip
    assert done.lanes[1].open is None


def test_a_batch_that_fails_has_its_rows_and_no_figures_and_its_rank_is_free() -> None:
    failed = after(two(BATCH), protocol.BatchFailed(at=1002.0, rank=0, batch=3, kind="error", error="e"))
    assert span(failed) == replace(BATCH, kind="failed", ended=12.0)
    assert failed.lanes[0].open is None


def test_a_rank_that_is_lost_loses_its_batch_and_is_down_from_then_on() -> None:
    lost = after(two(BATCH, Span("loading", 5.0, 5.0)), protocol.RankLost(at=1002.0, rank=0, cause="c"))
    assert span(lost) == replace(BATCH, kind="lost", ended=12.0)
    assert lost.lanes[0].open == Span("down", 12.0, 12.0, attempt=2)
    assert lost.lanes[1].open == Span("loading", 5.0, 5.0)
    loading = after(lost, protocol.RankLost(at=1003.0, rank=1, cause="c"))
    assert span(loading, 1) == Span("loading", 5.0, 13.0), "it had no batch to lose"


def test_rows_that_are_added_belong_to_the_batch_in_hand_and_an_account_is_a_span() -> None:
    added = after(two(BATCH), protocol.RowsAdded(at=1001.0, rank=0, batch=3, rows=5))
    assert added.lanes[0].open == replace(BATCH, rows=9)
    result = finished(0, 3, 0.0, rows=2).result
    closed = after(added, protocol.AccountClosed(at=1002.0, rank=0, batch=3, result=result))
    assert (span(closed).kind, span(closed).rows, span(closed).ended) == ("stint", 2, 12.0)
    assert closed.lanes[0].open == replace(BATCH, kind="stint", began=12.0, rows=9)
    last = after(closed, finished(0, 3, 1004.0))
    assert [one.kind for one in last.lanes[0].spans[1:]] == ["stint", "stint"], "its last account is one as well"
    assert last.lanes[0].spans[-1].began == 12.0


def test_nothing_comes_of_what_is_said_of_a_rank_without_a_batch_or_of_no_rank() -> None:
    quiet = two(None, Span("loading", 5.0, 5.0))
    result = finished(0, 3, 0.0).result
    for rank in (-1, 0, 1, 2):
        for event in (
            finished(rank, 3, 1002.0),
            protocol.BatchFailed(at=1002.0, rank=rank, batch=3, kind="error", error="e"),
        ):
            assert after(quiet, event) == quiet
    for rank in (-1, 0, 2):
        for event in (
            protocol.RowsAdded(at=1001.0, rank=rank, batch=3, rows=5),
            protocol.AccountClosed(at=1002.0, rank=rank, batch=3, result=result),
        ):
            assert after(quiet, event) is quiet
    for rank in (-1, 2):
        assert after(quiet, protocol.RankLost(at=1002.0, rank=rank, cause="c")).lanes == quiet.lanes
        assert after(quiet, protocol.RankPhase(at=1002.0, rank=rank, phase="loading")) == quiet
    assert after(quiet, protocol.Stopping(at=1002.0, now=True)) is quiet
    assert after(quiet, protocol.Tick(at=1002.0)) is quiet


def test_pauses_are_told_with_their_reasons_and_a_second_one_ends_the_first() -> None:
    paused = after(two(), protocol.Paused(at=1002.0, reason="full", asked=False))
    assert paused.pauses == (Hold(12.0, None, "full"),)
    other = after(paused, protocol.Paused(at=1004.0, reason="asked for", asked=True))
    assert other.pauses == (Hold(12.0, 14.0, "full"), Hold(14.0, None, "asked for"))
    resumed = after(other, protocol.Resumed(at=1009.0), protocol.Resumed(at=1010.0))
    assert resumed.pauses == (Hold(12.0, 14.0, "full"), Hold(14.0, 19.0, "asked for"))
    assert after(two(), protocol.Resumed(at=1009.0)).pauses == ()
    many = two(pauses=(Hold(1.0, 2.0, "old"),) * MOST_HOLDS)
    assert len(after(many, protocol.Paused(at=1002.0, reason="new", asked=True)).pauses) == MOST_HOLDS


def test_active_ranks_are_noted_when_they_change_by_hand_or_by_a_trial() -> None:
    turned = after(two(), protocol.ActiveRanksChanged(at=1002.0, active_ranks=2))
    assert turned.active == ((0.0, 2),)
    turned = after(turned, protocol.ActiveRanksChanged(at=1003.0, active_ranks=1))
    assert turned.active == ((0.0, 2), (13.0, 1))
    trial = Trial(number=1, repeat=1, active_ranks=2, batch_size=1)
    assert after(turned, protocol.TrialStarted(at=1004.0, trial=trial)).active[-1] == (14.0, 2)
    many = two(active=tuple((float(at), at % 2) for at in range(MOST_HOLDS)))
    assert len(after(many, protocol.ActiveRanksChanged(at=1003.0, active_ranks=5)).active) == MOST_HOLDS


def test_the_end_stops_what_is_in_hand_and_ends_a_pause() -> None:
    from rankdeck.runner.state import RunState, summarise

    ended = protocol.RunEnded(at=1002.0, status="stopped", exit_status=0, summary=summarise(RunState()))
    over = after(two(BATCH, Span("down", 5.0, 5.0), pauses=(Hold(8.0, None, "y"),)), ended)
    assert span(over, 0) == replace(BATCH, kind="stopped", ended=12.0)
    assert span(over, 1) == Span("down", 5.0, 12.0)
    assert [lane.open for lane in over.lanes] == [None, None]
    assert over.pauses == (Hold(8.0, 12.0, "y"),)


@pytest.mark.parametrize(("ranks", "most"), [(1, MOST_SPANS), (8, MOST_SPANS // 8), (64, LEAST_OF_A_LANE)])
def test_a_lane_has_its_part_of_all_spans_before_old_ones_are_joined(ranks: int, most: int) -> None:
    spans = tuple(Span("batch", float(at), at + 1.0, batch=at + 1) for at in range(most - 1))
    opened = Span("batch", float(most - 1), 0.0, batch=most)
    full = Timeline(zero_at=0.0, lanes=(Lane(spans=spans, open=opened), *[Lane()] * (ranks - 1)))
    at_most = after(full, finished(0, most, float(most)))
    assert len(at_most.lanes[0].spans) == most
    one_more = replace(full, lanes=(Lane(spans=at_most.lanes[0].spans, open=opened), *full.lanes[1:]))
    assert len(after(one_more, finished(0, most, float(most))).lanes[0].spans) <= most * 3 / 4


# --- how busy the devices are -------------------------------------------------------------------------


def gpus(at: float, *percents: float | None) -> protocol.Tick:
    devices = [DeviceSample(index=n, uuid=f"{n}", name="A", busy_percent=one) for n, one in enumerate(percents)]
    return protocol.Tick(at=at, devices=devices)


def cpus(at: float, *percents: tuple[int, float | None], devices: list[DeviceSample] | None = None) -> protocol.Tick:
    processes = [ProcessSample(rank=rank, cpu_percent=percent, rss_bytes=1) for rank, percent in percents]
    return protocol.Tick(at=at, processes=processes, devices=devices)


def test_gpus_are_busy_in_whole_percent_and_one_that_is_not_known_is_a_gap() -> None:
    busy = after(two(), gpus(1001.234, 41.6, None, 0.4))
    assert (busy.busy, busy.busy_of) == ((BusyPoint(11.23, (42, None, 0)),), "GPU")


def test_cores_count_only_where_there_are_no_gpus() -> None:
    found = after(two(), cpus(1001.0, (0, 150.0), (1, 900.0), (7, 50.0), (-1, 60.0), (1, None), devices=[]))
    assert (found.busy, found.busy_of) == ((BusyPoint(11.0, (75, 100, 50, 60, None)),), "CPU")
    assert len(after(found, cpus(1002.0, (0, 100.0))).busy) == 2
    with_gpus = after(two(), gpus(1001.0, 50.0))
    assert after(with_gpus, cpus(1002.0, (0, 100.0))) is with_gpus
    unknown = replace(two(), lanes=(Lane(), Lane()))
    assert after(unknown, cpus(1001.0, (0, 60.0))).busy[0].percents == (60,)


def test_a_point_comes_a_step_after_the_last_or_a_little_sooner() -> None:
    first = after(two(), gpus(1001.0, 10.0))
    assert after(first, gpus(1001.94, 20.0)) is first
    assert len(after(first, gpus(1001.96, 20.0)).busy) == 2


def test_of_many_devices_the_mean_is_kept() -> None:
    as_many = after(two(), gpus(1001.0, *[10.0] * BUSY_SERIES))
    assert len(as_many.busy[0].percents) == BUSY_SERIES
    more = after(two(), gpus(1001.0, *[10.0] * BUSY_SERIES, 180.0, None))
    assert more.busy[0].percents == (20,)


def test_a_long_run_has_half_as_many_points_of_twice_the_step() -> None:
    full = two(busy=tuple(BusyPoint(float(at), (at % 100,)) for at in range(BUSY_POINTS)))
    one_more = after(full, gpus(1990.0 + BUSY_POINTS, 50.0))
    assert (len(one_more.busy), one_more.busy_step) == (BUSY_POINTS // 2, 2.0)
    assert one_more.busy[0] == BusyPoint(1.0, (0,))
    room = replace(full, busy=full.busy[1:])
    assert (len(after(room, gpus(1990.0 + BUSY_POINTS, 50.0)).busy), room.busy_step) == (BUSY_POINTS, 1.0)
