"""Which rank is slow, by its decode steps beside those of the others at like rows. Pure functions of the state."""

from collections import defaultdict
from functools import cache
from math import log
from statistics import fmean, median
from typing import NamedTuple

from runner.state import RunState
from runner.timeline import Span, Timeline

SLOWER = 1.25
"""So many times the others' seconds per decode step make a rank a slow one."""

CPU_SAMPLES = 10
"""Seconds over which the CPU that a slow rank gets is compared with the others'."""

STARVED = 0.75
"""A slow rank that gets less than this share of the others' CPU waits for a core."""

LEAST_BATCHES = 2
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


def paces(state: RunState) -> list[Pace]:
    """Of every rank that can be compared: its decode seconds, and what they were at the median rank's pace."""
    done: dict[int, dict[int, list[float]]] = defaultdict(dict)
    for rank, lane in enumerate(state.timeline.lanes):
        for span in lane.spans:
            if (rows := _mean_rows(span)) is None or span.work is None:
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


_last: tuple[Timeline | None, Slow | None] = (None, None)
"""The newest answer: views ask several times a second, and spans come and go once a batch."""


def slow_rank(state: RunState) -> Slow | None:
    """The rank that is slow by its decode steps; None where none is, or too little can be compared."""
    global _last
    timeline, answer = _last
    if timeline is not state.timeline:
        answer = _slowest(paces(state))
        _last = (state.timeline, answer)
    return answer


def _slowest(compared: list[Pace]) -> Slow | None:
    if len(compared) < 2:
        return None
    slow = max(compared, key=lambda pace: pace.ratio)
    # Whoever is compared with one slow rank alone looks fast; the slow one looks slow beside anybody.
    if slow.ratio < SLOWER:
        return None
    mine, theirs = slow.decode_seconds / slow.steps, slow.expected_seconds / slow.steps
    others = "the other rank's" if len(compared) == 2 else "the others'"
    more = slow.decode_seconds - slow.expected_seconds
    return Slow(
        slow.rank,
        f"Rank {slow.rank} is slow: {step_words(mine)} per decode step, {slow.ratio:.1f} x {others} "
        f"{step_words(theirs)}; its {slow.batches} batches took {more:.1f} s longer.",
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


def _cpu_shares(state: RunState) -> dict[int, float]:
    """CPU % of the last seconds, of the ranks that have a batch in hand."""
    shares = {}
    for sample, history in zip(state.processes, state.cpu_history, strict=False):
        at_work = sample.rank < len(state.ranks) and state.ranks[sample.rank].batch is not None
        known = [share for share in history[-CPU_SAMPLES:] if share is not None]
        if at_work and len(known) == CPU_SAMPLES:
            shares[sample.rank] = fmean(known)
    return shares


def step_words(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"
