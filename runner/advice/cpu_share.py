"""How much CPU the ranks got while they had a batch in hand, from the timeline. Pure functions of the state.

In percent of the cores that a rank's threads might use at the time. With GPUs the timeline has no CPU figures.
"""

from bisect import bisect_right
from operator import itemgetter
from statistics import fmean

from rankdeck.runner.advice.segments import end_of
from rankdeck.runner.state import RunState
from rankdeck.runner.state.timeline import WORK, Lane

LEAST_SECONDS = 8.0
"""A rank's CPU figure counts only if it was at work, with its CPU known, for at least this long."""

NOW_SECONDS = 10.0
"""The present is judged by this many seconds."""

STARVED = 0.75
"""A rank waits for a core if it gets less than this share of what the others get, or of what it could use."""

MOST_THREADS = 4
"""With more threads some wait for others in every step, so a low figure does not mean that the CPU was busy."""


def cpu_shares(state: RunState, since: float) -> dict[int, float]:
    """Mean percent for each rank that was at work long enough after `since`, on the timeline's clock."""
    timeline = state.timeline
    if timeline.busy_of != "CPU" or (timeline.busy and len(timeline.busy[-1].percents) != len(state.processes)):
        return {}
    first = bisect_right(timeline.busy, since + timeline.busy_step, key=lambda point: point.at)
    points, shares = timeline.busy[first:], {}
    for position, process in enumerate(state.processes):
        if process.rank >= len(timeline.lanes):
            continue
        work = _work(timeline.lanes[process.rank], since, end_of(state))
        # A point stands for the time since the previous point.
        at_work = [point for point in points if _within(work, point.at - timeline.busy_step, point.at)]
        known = [percent for point in at_work if (percent := point.percents[position]) is not None]
        if len(known) * timeline.busy_step >= LEAST_SECONDS:
            shares[process.rank] = fmean(known)
    return shares


def cores_words(state: RunState, rank: int) -> str:
    """The cores that a rank's threads may use now: `a core`, `2 cores`."""
    threads = state.timeline.threads(rank) or 1
    return "a core" if threads == 1 else f"{threads} cores"


def starved_words(state: RunState) -> str:
    """A sentence if all ranks now get less CPU than their threads could use; else empty."""
    shares = cpu_shares(state, end_of(state) - NOW_SECONDS - state.timeline.busy_step)
    at_work = sum(rank.batch is not None for rank in state.ranks)
    if not shares or len(shares) < at_work or max(shares.values()) >= 100 * STARVED:
        return ""
    if any((state.timeline.threads(rank) or 1) > MOST_THREADS for rank in shares):
        return ""
    some = next(iter(shares))
    whose, they = (f"Rank {some} gets", "it") if len(shares) == 1 else ("Each rank gets about", "they")
    return (
        f"{whose} {fmean(shares.values()):.0f}% of {cores_words(state, some)}, which {they} could use whole: "
        "something else is using the CPU."
    )


def _work(lane: Lane, since: float, end: float) -> list[tuple[float, float]]:
    """The times with a batch in hand that ended after `since`, in order, as (began, ended)."""
    open_now = lane.open is not None and lane.open.kind in WORK
    work = [(lane.open.began, end)] if open_now and lane.open is not None else []
    for span in reversed(lane.spans):
        if span.ended <= since:
            break
        if span.kind in WORK:
            work.append((span.began, span.ended))
    return work[::-1]


def _within(work: list[tuple[float, float]], began: float, ended: float) -> bool:
    """Whether there was work from `began` to `ended`, except for a moment between two batches."""
    covered = 0.0
    for start, end in reversed(work[: bisect_right(work, ended, key=itemgetter(0))]):
        if end <= began:
            break
        covered += min(end, ended) - max(start, began)
    return covered >= 0.9 * (ended - began)
