"""Which rank is slow, by its decode steps beside those of the others at like rows. Pure functions of the state."""

from collections import defaultdict
from functools import cache
from math import log
from statistics import median
from typing import NamedTuple

from rankdeck.runner.advice.cpu_share import STARVED, cores_words, cpu_shares
from rankdeck.runner.state import RunState
from rankdeck.runner.state.timeline import Span, Timeline

SLOWER = 1.25
"""So many times the others' seconds per decode step make a rank a slow one."""

LEAST_BATCHES, LEAST_STEPS = 2, 24
"""One batch is evidence enough where it has so many decode steps: a small job has no more of them."""

STEPS_IN_FLIGHT, SECONDS_IN_FLIGHT = 8, 6.0
"""A batch in flight counts from so many steps on, that took so long: its steps are heard of a few times a second."""

RECENT_BATCHES, RECENT_STEPS = 3, 48
"""While a run goes on its ranks are judged by the newest so many batches or steps of each: by what is slow now."""

LIKE_ROWS = 1.25
"""Batches whose rows differ by no more than this are compared."""


class DecodePace(NamedTuple):
    """A rank's decode steps beside those of the others at like rows, in seconds."""

    rank: int
    batches: int
    steps: int
    decode_seconds: float
    expected_seconds: float

    @property
    def ratio(self) -> float:
        return self.decode_seconds / self.expected_seconds


@cache
def like_rows(rows: int) -> int:
    """Batches with the same number are alike in rows."""
    return round(log(max(1, rows)) / log(LIKE_ROWS))


def paces(state: RunState, since: float = 0.0) -> list[DecodePace]:
    """Of every rank that can be compared: its decode seconds, and what they were at the median rank's pace.

    Of the batches that ended after `since`, on the timeline's clock, and of those in flight.
    """
    done: dict[int, dict[int, _Sums]] = defaultdict(lambda: defaultdict(_Sums))
    for rank, lane in enumerate(state.timeline.lanes):
        for span in lane.spans:
            if (rows := _mean_rows(span)) is not None and span.work is not None and span.ended > since:
                work = span.work
                row_steps = work.row_steps or rows * work.steps
                done[like_rows(rows)][rank].add(span.joined, work.steps, row_steps, work.decode_seconds)
    totals: dict[int, _Sums] = defaultdict(_Sums)
    for by_rank in done.values():
        for rank, sums in by_rank.items():
            if others := [other.step_seconds for number, other in by_rank.items() if number != rank]:
                totals[rank].take(sums, sums.steps * median(others))
    flying = _in_flight(state)
    for rank, (rows, sums) in flying.items():
        beside = {number: other for number, other in done[rows].items() if other.alike(sums)}
        beside |= {number: other for number, (alike, other) in flying.items() if alike == rows and other.alike(sums)}
        if others := [other.step_seconds for number, other in beside.items() if number != rank]:
            totals[rank].take(sums, sums.steps * median(others))
    return [
        DecodePace(rank, sums.batches, sums.steps, sums.seconds, sums.expected)
        for rank, sums in totals.items()
        if (sums.batches >= LEAST_BATCHES or sums.steps >= LEAST_STEPS) and sums.expected > 0
    ]


class _Sums:
    """Decode steps of like batches: how many, of how many rows together, their seconds, and what others' pace made."""

    def __init__(self) -> None:
        self.batches = self.steps = self.row_steps = 0
        self.seconds = self.expected = 0.0

    def add(self, batches: int, steps: int, row_steps: int, seconds: float) -> None:
        self.batches, self.steps = self.batches + batches, self.steps + steps
        self.row_steps, self.seconds = self.row_steps + row_steps, self.seconds + seconds

    def take(self, other: "_Sums", expected: float) -> None:
        self.add(other.batches, other.steps, other.row_steps, other.seconds)
        self.expected += expected

    @property
    def step_seconds(self) -> float:
        return self.seconds / self.steps

    def alike(self, other: "_Sums") -> bool:
        """Whether as many rows were decoded at once: they leave when they have ended, and steps get quicker."""
        mine, theirs = self.row_steps / self.steps, other.row_steps / other.steps
        return max(mine, theirs) <= LIKE_ROWS * min(mine, theirs)


def _in_flight(state: RunState) -> dict[int, tuple[int, _Sums]]:
    """What batches in flight have done so far, as `like_rows` and sums of no whole batch; not of streams of rows."""
    found = {}
    for rank, lane in zip(state.ranks, state.timeline.lanes, strict=False):
        first, last = rank.first_step, rank.last_step
        if lane.open is None or lane.open.kind != "batch" or first is None or last is None or not rank.batch_kept:
            continue
        steps, seconds, sums = last.step - first.step, last.at - first.at, _Sums()
        if steps >= STEPS_IN_FLIGHT and seconds >= SECONDS_IN_FLIGHT:
            sums.add(0, steps, max(1, last.row_steps - first.row_steps), seconds)
            found[rank.rank] = like_rows(lane.open.rows), sums
    return found


def _mean_rows(span: Span) -> int | None:
    """Rows at once of a span with decode steps; None where there is nothing to compare."""
    if (
        span.work is None
        or span.work.steps <= 0
        or span.work.decode_seconds <= 0
        or span.kind not in ("batch", "stint")
    ):
        return None
    return round(span.work.row_steps / span.work.steps) if span.kind == "stint" else span.rows // span.joined


class Slow(NamedTuple):
    """The slowest rank, where it is slow, and that in a sentence, with its cause where the CPU tells it."""

    rank: int
    text: str


class Compared(NamedTuple):
    """Ranks whose decode steps can be compared, and the one among them that is slow."""

    ranks: frozenset[int]
    slow: Slow | None


_last: tuple[tuple[Timeline, int, bool] | None, Compared] = (None, Compared(frozenset(), None))
"""The newest answer: views ask several times a second, and spans come and go once a batch."""


def compare(state: RunState) -> Compared:
    """Who is slow by its decode steps, if anybody: while a run goes on now, at its end in all of it."""
    global _last
    key, answer = _last
    now = (state.timeline, state.active_ranks, state.ended is None)
    if key is None or key[0] is not now[0] or key[1:] != now[1:]:
        since = _recent(state) if state.ended is None else 0.0
        compared = paces(state, since)
        answer = Compared(frozenset(pace.rank for pace in compared), _slowest(state, compared, since))
        _last = (now, answer)
    return answer


def slow_rank(state: RunState) -> Slow | None:
    """The rank that is slow by its decode steps; None where none is, or too little can be compared."""
    return compare(state).slow


def _recent(state: RunState) -> float:
    """Since when the ranks are judged: where the first of them began what is evidence enough."""
    began = []
    flying = _in_flight(state)
    for rank, lane in enumerate(state.timeline.lanes[: state.active_ranks]):
        steps = flying[rank][1].steps if rank in flying else 0
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


def _slowest(state: RunState, compared: list[DecodePace], since: float) -> Slow | None:
    # Whoever is compared with one slow rank alone looks fast; the slow one looks slow beside anybody.
    slow = max(compared, key=lambda pace: pace.ratio, default=None)
    if slow is None or slow.ratio < SLOWER:
        return None
    mine, theirs = slow.decode_seconds / slow.steps, slow.expected_seconds / slow.steps
    others = "the other rank's" if len(state.ranks) == 2 else "the others'"
    if not slow.batches:
        where = "the batch it has in hand"
    else:
        last = "last " if since > 0 else ""
        where = f"its {last}{slow.batches} batches" if slow.batches > 1 else f"its {last}batch"
    pace = (
        f"{step_words(mine)} per decode step, {slow.ratio:.1f} x {others} {step_words(theirs)}, "
        f"which cost {slow.decode_seconds - slow.expected_seconds:.1f} s in {where}."
    )
    cause = _cause(state, slow.rank, since)
    return Slow(slow.rank, f"Rank {slow.rank} is slow: " + (f"{cause}. It takes {pace}" if cause else pace))


def _cause(state: RunState, slow: int, since: float) -> str:
    """Where the processes' CPU over the same time tells it: a rank that got less of it waited for a core."""
    shares = cpu_shares(state, since)
    others = [share for rank, share in shares.items() if rank != slow]
    if slow not in shares or not others or shares[slow] >= STARVED * median(others):
        return ""
    uses, gets = ("is using", "gets") if state.ended is None else ("was using", "got")
    beside = "the other rank" if len(others) == 1 else "the others"
    return (
        f"something else {uses} its CPU; it {gets} {shares[slow]:.0f}% of {cores_words(state, slow)}, "
        f"{beside} {median(others):.0f}%"
    )


def step_words(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"
