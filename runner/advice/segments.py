"""A rank's whole time without holes: its spans, and what each gap between them was. Pure functions of the state.

Seconds are on the timeline's clock. A gap is `paused` or `inactive` if a pause or the number of active ranks explains
it, and `idle` if only the lack of a batch does.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from rankdeck.runner.state import RunState
from rankdeck.runner.state.timeline import WORK, Span, SpanKind, Timeline

GapKind = Literal["idle", "paused", "inactive"]


class Segment(NamedTuple):
    """A part of a rank's time: a span, or a gap if `span` is None. A `live` segment is not over.

    In a batch, `prefill` is the seconds from its start that went into the first new tokens.
    """

    kind: SpanKind | GapKind
    began: float
    ended: float
    span: Span | None = None
    prefill: float = 0.0
    live: bool = False
    reason: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def end_of(state: RunState) -> float:
    """Where the timeline ends at present: once all prompts are done, at the last result."""
    timeline = state.timeline
    at = state.ended.at if state.ended is not None else state.now
    over = state.prompts > 0 and state.done >= state.prompts
    if over and state.last_result_at is not None:
        at = state.last_result_at
    newest = max((lane.spans[-1].ended for lane in timeline.lanes if lane.spans), default=0.0)
    return max(timeline.moment(at), newest if over or state.ended is not None else 0.0)


def slowest_batch(mine: Sequence[Segment]) -> Segment | None:
    """The batch whose decode steps took longest for its rows; None before any batch is over."""
    done = [(each.span, each) for each in mine if each.kind in ("batch", "stint") and each.span is not None]
    steps = [
        (span.work.decode_seconds / (span.work.row_steps or span.work.steps), number)
        for number, (span, _) in enumerate(done)
        if span.work is not None and span.work.steps > 0
    ]
    return done[max(steps)[1]][1] if steps else None


def segments(state: RunState, rank: int) -> list[Segment]:
    """What a rank did from its first launch to now, in order of time; each segment begins where the last one ended."""
    timeline = state.timeline
    if not 0 <= rank < len(timeline.lanes):
        return []
    lane, end = timeline.lanes[rank], end_of(state)
    found: list[Segment] = []
    at = None
    for span in lane.spans:
        began, ended = span.began, span.ended
        if at is not None and began != at:
            if began > at:
                found.extend(_gap(timeline, rank, at, began))
            began = at if began < at else began
        at = ended if ended > began else began
        found.append(Segment(span.kind, began, at, span, _prefill(span)))
    if lane.open is not None:
        began = lane.open.began
        if at is not None and began > at:
            found.extend(_gap(timeline, rank, at, began))
        began = began if at is None else max(at, began)
        elapsed = max(0.0, end - began)
        span = lane.open
        found.append(Segment(span.kind, began, began + elapsed, span, _live_prefill(state, rank, elapsed), live=True))
    elif at is not None and end > at:
        found.extend(_gap(timeline, rank, at, end, live=state.ended is None))
    return found


def _prefill(span: Span) -> float:
    """Seconds of a single batch's prefill; 0 for joined batches and for accounts, in which prefills are scattered."""
    return span.work.prefill_seconds if span.kind == "batch" and span.joined == 1 and span.work is not None else 0.0


def _live_prefill(state: RunState, rank: int, elapsed: float) -> float:
    """Seconds of the open batch's prefill: known once the batch is over; until then, taken from the last batch."""
    lane = state.timeline.lanes[rank]
    if lane.open is None or lane.open.kind != "batch" or rank >= len(state.ranks):
        return 0.0
    if state.ranks[rank].phase == "prefill":
        return elapsed
    before = next((span for span in reversed(lane.spans) if span.kind == "batch"), None)
    return min(elapsed, _prefill(before)) if before is not None else 0.0


def _gap(timeline: Timeline, rank: int, began: float, ended: float, *, live: bool = False) -> Iterator[Segment]:
    """A gap in pieces, cut where a pause or the rank's inactivity began or ended."""
    if not timeline.pauses and len(timeline.active) < 2:
        yield Segment("idle", began, ended, live=live)
        return
    holds = [*_paused(timeline, ended), *_inactive(timeline, rank, ended)]
    edges = sorted({began, ended, *(edge for hold in holds for edge in hold[:2] if began < edge < ended)})
    pieces: list[Segment] = []
    for start, stop in pairwise(edges):
        kind, reason = next(
            ((kind, reason) for first, last, kind, reason in holds if first <= start and stop <= last), ("idle", "")
        )
        if pieces and (pieces[-1].kind, pieces[-1].reason) == (kind, reason):
            pieces[-1] = pieces[-1]._replace(ended=stop)
        else:
            pieces.append(Segment(kind, start, stop, reason=reason))
    if live and pieces:
        pieces[-1] = pieces[-1]._replace(live=True)
    yield from pieces


_Hold = tuple[float, float, GapKind, str]


def _paused(timeline: Timeline, end: float) -> Iterator[_Hold]:
    for hold in timeline.pauses:
        yield hold.began, end if hold.ended is None else hold.ended, "paused", hold.reason


def _inactive(timeline: Timeline, rank: int, end: float) -> Iterator[_Hold]:
    untils = [*(at for at, _ in timeline.active[1:]), end]
    for (at, ranks), until in zip(timeline.active, untils, strict=False):
        if rank >= ranks and until > at:
            yield at, until, "inactive", f"{ranks} active"


def idle_tail(state: RunState, rank: int) -> float:
    """Seconds at the end of the timeline in which a rank was idle."""
    timeline = state.timeline
    lane = timeline.lanes[rank]
    if lane.open is not None or not lane.spans or lane.spans[-1].kind not in WORK:
        return 0.0
    last = list(_gap(timeline, rank, lane.spans[-1].ended, end_of(state)))
    return last[-1].seconds if last and last[-1].kind == "idle" else 0.0


LATELY_SECONDS = 60.0
"""A rank is judged by its last minute: a mean over a long run would hide what it does now."""


def idle_lately(state: RunState, rank: int) -> float:
    """The share (0 to 1) of the last minute in which a rank had no batch though it should have had one.

    The time before the ranks were ready is not part of that minute, and pauses and inactivity are not idle. After the
    end it is the share of the whole run, as its summary has it.
    """
    timeline = state.timeline
    if state.ended is not None or not 0 <= rank < len(timeline.lanes) or state.ready_at is None:
        return state.idle(state.ranks[rank]) if 0 <= rank < len(state.ranks) else 0.0
    lane, end = timeline.lanes[rank], end_of(state)
    since = max(end - LATELY_SECONDS, timeline.moment(state.ready_at))
    held = _Held(timeline, rank, since, end)
    at, idle = end if lane.open is None else lane.open.began, 0.0
    for span in reversed(lane.spans):
        if at <= since:
            break
        start = max(span.ended, since)
        if at > start:
            idle += at - start - held.between(start, at)
        if span.gaps and span.ended > since:
            within = max(span.began, since)
            idle += max(0.0, min(span.gaps, span.ended - within) - held.between(within, span.ended))
        at = min(at, span.began)
    return min(1.0, idle / (end - since)) if end > since else 0.0


class _Held:
    """How long a rank was paused or inactive from `since` to `end`: computed once, asked for each gap."""

    def __init__(self, timeline: Timeline, rank: int, since: float, end: float) -> None:
        holds = [hold for hold in (*_paused(timeline, end), *_inactive(timeline, rank, end)) if hold[1] > since]
        self._ends, self._before = [since], [0.0]
        for began, ended, _, _ in sorted(holds):
            began = max(began, self._ends[-1])
            if ended > began:  # else it lies within one before it
                self._ends += began, ended
                self._before += self._before[-1], self._before[-1] + ended - began

    def between(self, began: float, ended: float) -> float:
        return self._until(ended) - self._until(began)

    def _until(self, at: float) -> float:
        """Seconds held from `since` to `at`; every other stretch between two of `_ends` is held."""
        place = bisect_right(self._ends, at) - 1
        return self._before[place] + (at - self._ends[place] if place % 2 else 0.0)
