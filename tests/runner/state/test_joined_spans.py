"""Spans that stand for several: their figures are sums, their kind is that of the longer."""

import pytest

from rankdeck.runner.state.timeline import BusyPoint, Span, Timeline, Work, _joined, halved, mean


def test_a_joined_span_has_the_sums_the_first_batch_and_the_time_between() -> None:
    one = Span("batch", 1.0, 3.0, batch=4, rows=2, work=Work(1, 2, 0.25, 0.5, 3, 4, 10, 5), joined=2, gaps=0.5)
    other = Span("batch", 3.25, 5.0, batch=7, rows=3, work=Work(10, 20, 1.0, 2.0, 30, 40, 30, 5), joined=3, gaps=0.125)
    joined = _joined(one, other)
    assert joined == Span(
        "batch", 1.0, 5.0, batch=4, rows=5, work=Work(11, 22, 1.25, 2.5, 33, 44, 40, 10), joined=5, gaps=0.875
    )
    assert joined.work is not None
    assert (joined.work.padding_waste, Work().padding_waste) == (0.25, None)
    assert joined.seconds == 4.0


def test_the_longer_one_says_what_it_was_and_the_work_is_that_of_whichever_has_some() -> None:
    short, long = Span("lost", 0.0, 1.0, attempt=1, work=Work(5)), Span("failed", 1.0, 3.0, batch=9, attempt=2)
    for one, other, kind, attempt in ((short, long, "failed", 2), (long, short, "failed", 2)):
        joined = _joined(one, other)
        assert (joined.kind, joined.attempt, joined.batch, joined.work) == (kind, attempt, 9, Work(5))
    assert _joined(short, Span("failed", 1.0, 2.0)).kind == "lost", "of two as long the first"
    assert _joined(Span("lost", 0.0, 2.0), Span("lost", 1.0, 3.0)).gaps == 0.0, "spans that overlap have none between"


def test_what_is_unknown_counts_in_no_mean() -> None:
    assert mean([1.0, None, 3.0]) == 2.0
    assert mean([None]) is mean([]) is None
    assert mean([0.0]) == 0.0


def test_half_as_many_points_have_the_mean_of_each_pair_at_its_later_time() -> None:
    points = (
        BusyPoint(1.0, (10, None, None)), BusyPoint(2.0, (21, 40, None)), BusyPoint(3.0, (0, 0, 100)),
        BusyPoint(4.0, (50, 0, 100)), BusyPoint(5.0, (99, 99, 99)),
    )  # fmt: skip
    assert halved(points) == (BusyPoint(2.0, (16, 40, None)), BusyPoint(4.0, (25, 0, 100)))


@pytest.mark.parametrize(("elapsed", "moment"), [(0.0, 7.0), (5.0, 12.0), (10.0, 100.0), (14.0, 104.0)])
def test_seconds_of_work_are_counted_on_from_each_supervisors_first_batch(elapsed: float, moment: float) -> None:
    timeline = Timeline(origins=((0.0, 7.0), (10.0, 100.0)))
    assert timeline.of_work(elapsed) == moment
    assert timeline.first_batch == 7.0
    assert (Timeline().first_batch, Timeline().of_work(3.0)) == (None, 3.0)


def test_a_moment_is_counted_on_and_never_goes_back() -> None:
    timeline = Timeline(zero_at=1000.0, zero=20.0)
    assert [timeline.moment(at) for at in (999.0, 1000.0, 1001.12345)] == [20.0, 20.0, 21.1235]
