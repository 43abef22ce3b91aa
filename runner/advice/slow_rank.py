"""Which rank is slow: its decode steps against those of the others at similar rows. Pure functions of the state.

The only definition of a slow rank: advice, findings and every list of ranks use it. Nothing is kept between calls.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from math import log
from operator import attrgetter
from statistics import median
from typing import NamedTuple

from rankdeck.runner.advice.cpu_share import STARVED, cores_words, cpu_shares
from rankdeck.runner.state import RunState
from rankdeck.runner.state.timeline import Span

SLOWER = 1.25
"""A rank is slow when its decode steps take this many times as long as the others'."""

LEAST_BATCHES, LEAST_STEPS = 2, 24
"""Either is enough to judge a rank by. A small job has only one batch for each rank."""

STEPS_IN_FLIGHT, SECONDS_IN_FLIGHT = 8, 6.0
"""A batch in flight counts once it has both. Its steps are reported only a few times a second, hence the seconds."""

RECENT_BATCHES, RECENT_STEPS = 3, 48
"""A running job is judged by what is slow now: each rank's newest batches, up to either of these."""

SIMILAR_ROWS = 1.25
"""Batches are compared when their rows differ by at most this factor."""


class DecodePace(NamedTuple):
    """One rank's decode steps in the batches that could be compared, in seconds.

    `expected_seconds` is what the same steps would have taken at the median pace of the other ranks. Only batches that
    ended after `since` count, in seconds on the timeline's clock; 0 counts them all.
    """

    rank: int
    batches: int
    steps: int
    decode_seconds: float
    expected_seconds: float
    since: float = 0.0

    @property
    def ratio(self) -> float:
        return self.decode_seconds / self.expected_seconds


def similar_rows(rows: int) -> int:
    """Batches are compared within a class of similar rows; this is its number."""
    return round(log(max(1, rows)) / _LOG_SIMILAR)


_LOG_SIMILAR = log(SIMILAR_ROWS)


def slow_rank(state: RunState) -> DecodePace | None:
    """The rank whose decode steps are slow: now while the run goes on, over the whole run once it has ended.

    None where no rank is slow, or too little can be compared. With 64 ranks this takes a fraction of a millisecond, and
    about 3 ms over the whole of a run that has ended.
    """
    in_flight = _in_flight(state)
    since = _recent(state, in_flight) if state.ended is None else 0.0
    # A rank compared only with a slow one looks fast; the slow one looks slow beside any other. So one at a time.
    slowest = max(_paces(state, since, in_flight), key=lambda pace: pace.ratio, default=None)
    return slowest if slowest is not None and slowest.ratio >= SLOWER else None


def slow_ranks(state: RunState) -> frozenset[int]:
    """The number of the slow rank, for lists of ranks; empty where none is slow."""
    slow = slow_rank(state)
    return frozenset() if slow is None else frozenset([slow.rank])


class _Sums:
    """Decode steps added up: batches, steps, rows summed over the steps, seconds, and seconds at the others' pace."""

    def __init__(self) -> None:
        self.batches = self.steps = self.row_steps = 0
        self.seconds = self.expected = 0.0

    def add(self, batches: int, steps: int, row_steps: int, seconds: float) -> None:
        self.batches, self.steps = self.batches + batches, self.steps + steps
        self.row_steps, self.seconds = self.row_steps + row_steps, self.seconds + seconds

    def compare(self, other: "_Sums", step_seconds: float) -> None:
        """Add `other`, whose steps take the other ranks `step_seconds`."""
        self.add(other.batches, other.steps, other.row_steps, other.seconds)
        self.expected += other.steps * step_seconds

    @property
    def step_seconds(self) -> float:
        return self.seconds / self.steps

    @property
    def step_rows(self) -> float:
        """Mean rows of a step: rows leave a batch when they end, and its steps get quicker."""
        return self.row_steps / self.steps


_InFlight = dict[int, tuple[int, _Sums]]
"""By rank: the class of rows and the steps so far of the batch in flight."""


def _paces(state: RunState, since: float, in_flight: _InFlight) -> list[DecodePace]:
    done: dict[int, dict[int, _Sums]] = defaultdict(lambda: defaultdict(_Sums))
    classes: dict[int, int] = {}
    for rank, lane in enumerate(state.timeline.lanes):
        first = bisect_right(lane.spans, since, key=attrgetter("ended"))
        for span in lane.spans[first:]:
            if (rows := _mean_rows(span)) is not None and span.work is not None:
                if rows not in classes:
                    classes[rows] = similar_rows(rows)
                work = span.work
                row_steps = work.row_steps or rows * work.steps
                done[classes[rows]][rank].add(span.joined, work.steps, row_steps, work.decode_seconds)
    totals: dict[int, _Sums] = defaultdict(_Sums)
    for by_rank in done.values():
        ordered = sorted(sums.step_seconds for sums in by_rank.values())
        for rank, sums in by_rank.items():
            if (theirs := _median_without(ordered, sums.step_seconds)) is not None:
                totals[rank].compare(sums, theirs)
    _compare_in_flight(totals, done, in_flight)
    return [
        DecodePace(rank, sums.batches, sums.steps, sums.seconds, sums.expected, since)
        for rank, sums in totals.items()
        if (sums.batches >= LEAST_BATCHES or sums.steps >= LEAST_STEPS) and sums.expected > 0
    ]


def _compare_in_flight(totals: dict[int, _Sums], done: dict[int, dict[int, _Sums]], in_flight: _InFlight) -> None:
    """Add batches in flight to `totals`, each against batches, in flight or done, with about as many rows a step."""
    found: dict[int, list[tuple[int, float, float]]] = defaultdict(list)  # rank, rows of a step, its seconds
    for rows, by_rank in done.items():
        found[rows] += [(rank, sums.step_rows, sums.step_seconds) for rank, sums in by_rank.items()]
    for rank, (rows, sums) in in_flight.items():
        found[rows].append((rank, sums.step_rows, sums.step_seconds))
    similar: dict[tuple[int, float], list[float]] = {}
    for rank, (rows, sums) in in_flight.items():
        here = rows, sums.step_rows
        if here not in similar:  # most ranks have equally many rows
            least, most = sums.step_rows / SIMILAR_ROWS, sums.step_rows * SIMILAR_ROWS
            # A rank's batch in flight comes after those it has done, and replaces them here.
            newest = {number: seconds for number, at_once, seconds in found[rows] if least <= at_once <= most}
            similar[here] = sorted(newest.values())
        if (theirs := _median_without(similar[here], sums.step_seconds)) is not None:
            totals[rank].compare(sums, theirs)


def _median_without(ordered: list[float], value: float) -> float | None:
    """The median of `ordered` without one `value` that is in it, with no new sort; None if nothing is left."""
    place = bisect_left(ordered, value)
    rest = ordered[:place] + ordered[place + 1 :]
    return median(rest) if rest else None


def _in_flight(state: RunState) -> _InFlight:
    """What batches in flight have done so far, counted as no whole batch. Continuous ranks have none."""
    found = {}
    for rank, lane in zip(state.ranks, state.timeline.lanes, strict=False):
        first, last = rank.first_step, rank.last_step
        if lane.open is None or lane.open.kind != "batch" or first is None or last is None or not rank.batch_kept:
            continue
        steps, seconds, sums = last.step - first.step, last.at - first.at, _Sums()
        if steps >= STEPS_IN_FLIGHT and seconds >= SECONDS_IN_FLIGHT:
            sums.add(0, steps, max(1, last.row_steps - first.row_steps), seconds)
            found[rank.rank] = similar_rows(lane.open.rows), sums
    return found


def _mean_rows(span: Span) -> int | None:
    """Rows decoded at once in a span; None where it has no decode steps to compare."""
    if (
        span.work is None
        or span.work.steps <= 0
        or span.work.decode_seconds <= 0
        or span.kind not in ("batch", "stint")
    ):
        return None
    return round(span.work.row_steps / span.work.steps) if span.kind == "stint" else span.rows // span.joined


def _recent(state: RunState, in_flight: _InFlight) -> float:
    """The time from which the ranks are judged: the earliest start among the recent batches of all of them."""
    began = []
    for rank, lane in enumerate(state.timeline.lanes[: state.active_ranks]):
        steps = in_flight[rank][1].steps if rank in in_flight else 0
        if steps >= RECENT_STEPS and lane.open is not None:
            began.append(lane.open.began)
            continue
        batches = 0
        for span in reversed(lane.spans):
            if _mean_rows(span) is not None and span.work is not None:
                batches, steps = batches + span.joined, steps + span.work.steps
                if batches >= RECENT_BATCHES or steps >= RECENT_STEPS:
                    began.append(span.began)
                    break
    return min(began, default=0.0)


def slow_rank_words(state: RunState, slow: DecodePace) -> str:
    """The slow rank in a sentence: both paces, what it cost, and the cause where the CPU shows it."""
    mine, theirs = slow.decode_seconds / slow.steps, slow.expected_seconds / slow.steps
    others = "the other rank's" if len(state.ranks) == 2 else "the others'"
    if not slow.batches:
        where = "the batch it has in hand"
    else:
        last = "last " if slow.since > 0 else ""
        where = f"its {last}{slow.batches} batches" if slow.batches > 1 else f"its {last}batch"
    pace = (
        f"{step_words(mine)} per decode step, {slow.ratio:.1f} x {others} {step_words(theirs)}, "
        f"which cost {slow.decode_seconds - slow.expected_seconds:.1f} s in {where}."
    )
    cause = _cause(state, slow)
    return f"Rank {slow.rank} is slow: " + (f"{cause}. It takes {pace}" if cause else pace)


def _cause(state: RunState, slow: DecodePace) -> str:
    """Why it is slow: it got less CPU than the others over the same time, so it waited for a core. Else empty."""
    shares = cpu_shares(state, slow.since)
    others = [share for rank, share in shares.items() if rank != slow.rank]
    if slow.rank not in shares or not others or shares[slow.rank] >= STARVED * median(others):
        return ""
    uses, gets = ("is using", "gets") if state.ended is None else ("was using", "got")
    beside = "the other rank" if len(others) == 1 else "the others"
    return (
        f"something else {uses} its CPU; it {gets} {shares[slow.rank]:.0f}% of {cores_words(state, slow.rank)}, "
        f"{beside} {median(others):.0f}%"
    )


def step_words(seconds: float) -> str:
    """`54 ms`, and with a decimal below 10 ms."""
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"
