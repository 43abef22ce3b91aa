"""How much of the CPU ranks got while they had a batch in hand, by the timeline. Pure functions of the state.

In percent of the cores that a rank's threads could use; there is none where GPUs are watched.
"""

from bisect import bisect_right
from operator import itemgetter
from statistics import fmean

from rankdeck.runner.advice.segments import end_of
from rankdeck.runner.state import RunState
from rankdeck.runner.state.timeline import WORK, Lane

LEAST_SECONDS = 8.0
"""So long a rank must have been at work with its CPU known, or that says nothing about who else wants it."""

NOW_SECONDS = 10.0
"""What is said of now is of so many seconds."""

STARVED = 0.75
"""A rank that gets less than this share of what the others get, or of what it could use, waits for a core."""

MOST_THREADS = 4
"""Of more, some wait for the others in every step: what CPU such a rank gets says little about who else wants it."""


def cpu_shares(state: RunState, since: float) -> dict[int, float]:
    """Mean percent of each rank that was at work for long enough after `since`, on the timeline's clock."""
    timeline = state.timeline
    if timeline.busy_of != "CPU" or (timeline.busy and len(timeline.busy[-1].percents) != len(state.processes)):
        return {}
    first = bisect_right(timeline.busy, since + timeline.busy_step, key=lambda point: point.at)
    points, shares = timeline.busy[first:], {}
    for position, process in enumerate(state.processes):
        if process.rank >= len(timeline.lanes):
            continue
        work = _work(timeline.lanes[process.rank], since, end_of(state))
        # A point stands for the time since the one before it.
        at_work = [point for point in points if _within(work, point.at - timeline.busy_step, point.at)]
        known = [percent for point in at_work if (percent := point.percents[position]) is not None]
        if len(known) * timeline.busy_step >= LEAST_SECONDS:
            shares[process.rank] = fmean(known)
    return shares


def cores_words(state: RunState, rank: int) -> str:
    """`a core`, `2 cores`: what a rank's threads could use."""
    threads = state.timeline.lanes[rank].threads or 1
    return "a core" if threads == 1 else f"{threads} cores"


def starved_words(state: RunState) -> str:
    """Where all ranks alike get less CPU now than their threads could use: that, and why; else nothing."""
    shares = cpu_shares(state, end_of(state) - NOW_SECONDS - state.timeline.busy_step)
    at_work = sum(rank.batch is not None for rank in state.ranks)
    if not shares or len(shares) < at_work or max(shares.values()) >= 100 * STARVED:
        return ""
    if any((state.timeline.lanes[rank].threads or 1) > MOST_THREADS for rank in shares):
        return ""
    some = next(iter(shares))
    whose, they = (f"Rank {some} gets", "it") if len(shares) == 1 else ("Each rank gets about", "they")
    return (
        f"{whose} {fmean(shares.values()):.0f}% of {cores_words(state, some)}, which {they} could use whole: "
        "something else is using the CPU."
    )


def _work(lane: Lane, since: float, end: float) -> list[tuple[float, float]]:
    """When it had a batch in hand after `since`, one after the other."""
    open_now = lane.open is not None and lane.open.kind in WORK
    work = [(lane.open.began, end)] if open_now and lane.open is not None else []
    for span in reversed(lane.spans):
        if span.ended <= since:
            break
        if span.kind in WORK:
            work.append((span.began, span.ended))
    return work[::-1]


def _within(work: list[tuple[float, float]], began: float, ended: float) -> bool:
    """Whether there was work from `began` to `ended`, but for the moment between two batches."""
    covered = 0.0
    for start, end in reversed(work[: bisect_right(work, ended, key=itemgetter(0))]):
        if end <= began:
            break
        covered += min(end, ended) - max(start, began)
    return covered >= 0.9 * (ended - began)
