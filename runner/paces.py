"""Which rank is slow, by its decode steps beside those of the others at like rows. Pure functions of the state."""

from collections import defaultdict
from functools import cache
from math import log
from statistics import fmean, median
from typing import NamedTuple

from runner.lanes import end_of
from runner.state import RunState
from runner.timeline import WORK, Span, Timeline

SLOWER = 1.25
"""So many times the others' seconds per decode step make a rank a slow one."""

CPU_SAMPLES = 10
"""Seconds over which the CPU that a slow rank gets is compared with the others'."""

AT_WORK = 0.9
"""Of those seconds a rank must have had a batch in hand, or what it got says nothing about who else wants the CPU."""

STARVED = 0.75
"""A slow rank that gets less than this share of the others' CPU waits for a core."""

LEAST_BATCHES = 2
RECENT_BATCHES = 3
"""While a run goes on its ranks are judged by what they did since each began so many batches: what is slow now."""

MOST_THREADS = 4
"""Of more, some wait for the others in every step: what CPU such a rank gets says little about who else wants it."""

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
        if batches >= LEAST_BATCHES and expected > 0
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
    """The slowest rank, where it is slow, and that in a sentence."""

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
        recent = state.ended is None
        compared = paces(state, _recent(state) if recent else 0.0)
        answer = Compared(frozenset(pace.rank for pace in compared), _slowest(compared, recent=recent))
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


def _slowest(compared: list[Pace], *, recent: bool) -> Slow | None:
    if len(compared) < 2:
        return None
    slow = max(compared, key=lambda pace: pace.ratio)
    # Whoever is compared with one slow rank alone looks fast; the slow one looks slow beside anybody.
    if slow.ratio < SLOWER:
        return None
    mine, theirs = slow.decode_seconds / slow.steps, slow.expected_seconds / slow.steps
    others = "the other rank's" if len(compared) == 2 else "the others'"
    more = slow.decode_seconds - slow.expected_seconds
    batches = f"last {slow.batches}" if recent else f"{slow.batches}"
    return Slow(
        slow.rank,
        f"Rank {slow.rank} is slow: {step_words(mine)} per decode step, {slow.ratio:.1f} x {others} "
        f"{step_words(theirs)}; its {batches} batches took {more:.1f} s longer.",
    )


def slow_words(state: RunState, slow: Slow) -> str:
    """The sentence, and where the processes' CPU tells it the cause: a rank that gets less of it waits for a core."""
    shares = {} if state.devices else _cpu_shares(state)
    others = [share for rank, share in shares.items() if rank != slow.rank]
    if slow.rank not in shares or not others or shares[slow.rank] >= STARVED * median(others):
        return slow.text
    beside = "the other rank's" if len(others) == 1 else "the others'"
    return (
        f"{slow.text} Its process gets {shares[slow.rank]:.0f}% of a core, {beside} {median(others):.0f}%: "
        "something else is using the CPU."
    )


def starved_words(state: RunState) -> str:
    """Where all ranks alike get less CPU than their threads could use: that, and why; else nothing."""
    shares = {} if state.devices else _cpu_shares(state)
    lanes = state.timeline.lanes
    threads = {lanes[rank].threads for rank in shares if rank < len(lanes)}
    each = threads.pop() if len(threads) == 1 else None
    if each is None or each > MOST_THREADS or max(shares.values()) >= 100 * STARVED * each:
        return ""
    whose = f"Rank {next(iter(shares))} gets" if len(shares) == 1 else "Each rank gets about"
    cores = "a core" if each == 1 else f"{each} cores"
    return (
        f"{whose} {fmean(shares.values()) / each:.0f}% of {cores}, which {'it' if len(shares) == 1 else 'they'} "
        "could use whole: something else is using the CPU."
    )


def _cpu_shares(state: RunState) -> dict[int, float]:
    """CPU % of the last seconds, of the ranks that have a batch in hand and had one all the time."""
    shares = {}
    for sample, history in zip(state.processes, state.cpu_history, strict=False):
        known = [share for share in history[-CPU_SAMPLES:] if share is not None]
        if len(known) == CPU_SAMPLES and _at_work(state, sample.rank):
            shares[sample.rank] = fmean(known)
    return shares


def _at_work(state: RunState, rank: int) -> bool:
    if rank >= min(len(state.ranks), len(state.timeline.lanes)) or state.ranks[rank].batch is None:
        return False
    lane, end = state.timeline.lanes[rank], end_of(state)
    began, worked = end - CPU_SAMPLES, 0.0
    for span in reversed(lane.spans):
        if span.ended <= began:
            break
        worked += (span.ended - max(began, span.began)) * (span.kind in WORK)
    if lane.open is not None and lane.open.kind in WORK:
        worked += end - max(began, lane.open.began)
    return worked >= AT_WORK * CPU_SAMPLES


def step_words(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"
