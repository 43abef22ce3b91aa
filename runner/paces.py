"""Which rank is slow, by its decode steps beside those of the others at like rows. Pure functions of the state."""

from collections import defaultdict
from functools import cache
from math import log
from statistics import median
from typing import NamedTuple

from runner.cpu_share import STARVED, cores_words, cpu_shares
from runner.state import RunState
from runner.timeline import Span, Timeline

SLOWER = 1.25
"""So many times the others' seconds per decode step make a rank a slow one."""

LEAST_BATCHES, LEAST_STEPS = 2, 32
"""One batch is evidence enough where it has so many decode steps: a small job has no more of them."""

RECENT_BATCHES = 3
"""While a run goes on its ranks are judged by what they did since each began so many batches: what is slow now."""

LIKE_ROWS = 1.25
"""Batches whose rows differ by no more than this are compared."""


class Pace(NamedTuple):
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


def paces(state: RunState, since: float = 0.0) -> list[Pace]:
    """Of every rank that can be compared: its decode seconds, and what they were at the median rank's pace.

    Of the batches that ended after `since`, on the timeline's clock.
    """
    done: dict[int, dict[int, list[float]]] = defaultdict(dict)
    for rank, lane in enumerate(state.timeline.lanes):
        for span in lane.spans:
            if (rows := _mean_rows(span)) is None or span.work is None or span.ended <= since:
                continue
            sums = done[like_rows(rows)].setdefault(rank, [0, 0, 0.0])
            sums[0] += span.joined
            sums[1] += span.work.steps
            sums[2] += span.work.decode_seconds
    totals: dict[int, list[float]] = defaultdict(lambda: [0, 0, 0.0, 0.0])
    for by_rank in done.values():
        steps = {rank: sums[2] / sums[1] for rank, sums in by_rank.items()}
        for rank, sums in by_rank.items():
            others = [step for other, step in steps.items() if other != rank]
            if others:
                total = totals[rank]
                for position, value in enumerate((*sums, sums[1] * median(others))):
                    total[position] += value
    return [
        Pace(rank, int(batches), int(steps), seconds, expected)
        for rank, (batches, steps, seconds, expected) in totals.items()
        if (batches >= LEAST_BATCHES or steps >= LEAST_STEPS) and expected > 0
    ]


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
    """When the first of the active ranks' last few batches began."""
    began = []
    for lane in state.timeline.lanes[: state.active_ranks]:
        batches = 0
        for span in reversed(lane.spans):
            if _mean_rows(span) is not None:
                batches += span.joined
                if batches >= RECENT_BATCHES:
                    began.append(span.began)
                    break
    return min(began, default=0.0)


def _slowest(state: RunState, compared: list[Pace], since: float) -> Slow | None:
    if len(compared) < 2:
        return None
    slow = max(compared, key=lambda pace: pace.ratio)
    # Whoever is compared with one slow rank alone looks fast; the slow one looks slow beside anybody.
    if slow.ratio < SLOWER:
        return None
    mine, theirs = slow.decode_seconds / slow.steps, slow.expected_seconds / slow.steps
    others = "the other rank's" if len(compared) == 2 else "the others'"
    more = slow.decode_seconds - slow.expected_seconds
    last = "last " if since > 0 else ""
    batches = f"{last}{slow.batches} batches" if slow.batches > 1 else f"{last}batch"
    return Slow(
        slow.rank,
        f"Rank {slow.rank} is slow: {step_words(mine)} per decode step, {slow.ratio:.1f} x {others} "
        f"{step_words(theirs)}; its {batches} took {more:.1f} s longer.{_cause(state, slow.rank, since)}",
    )


def _cause(state: RunState, slow: int, since: float) -> str:
    """Where the processes' CPU over the same time tells it: a rank that got less of it waited for a core."""
    shares = cpu_shares(state, since)
    others = [share for rank, share in shares.items() if rank != slow]
    if slow not in shares or not others or shares[slow] >= STARVED * median(others):
        return ""
    gets, uses = ("gets", "is using") if state.ended is None else ("got", "was using")
    beside = "the other rank's" if len(others) == 1 else "the others'"
    return (
        f" Its process {gets} {shares[slow]:.0f}% of {cores_words(state, slow)}, {beside} {median(others):.0f}%: "
        f"something else {uses} the CPU."
    )


def step_words(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"
