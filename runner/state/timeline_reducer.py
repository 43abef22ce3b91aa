"""What each event changes in the timeline of a run. Pure: the time is the `at` of the events."""

from typing import Literal

from msgspec.structs import replace

from rankdeck.runner import protocol
from rankdeck.runner.protocol import AnyEvent, BatchResult
from rankdeck.runner.protocol.config import STEPWISE_ENGINES
from rankdeck.runner.state.timeline import (
    BUSY_POINTS,
    BUSY_SERIES,
    LEAST_OF_A_LANE,
    LOADING,
    MOST_HOLDS,
    MOST_SPANS,
    WORK,
    BusyPoint,
    Hold,
    Lane,
    Span,
    SpanKind,
    Timeline,
    Work,
    halved,
    mean,
    thinned,
)


def after(timeline: Timeline, event: AnyEvent, now: float, worked: float) -> Timeline:
    """The timeline after `event`; the same object if the event changes nothing.

    `now` is the time of the previous event, `worked` the seconds of work up to then.
    """
    match event:
        case protocol.Tick():
            return _busy(timeline, event)
        case protocol.RunStarted():
            return Timeline(zero_at=event.at, active=((0.0, event.config.ranks),))
        case protocol.RunTakenUp():
            here = timeline.moment(now)
            lanes = tuple(_closed(timeline, lane, here, "lost") for lane in timeline.lanes)
            timeline = replace(timeline, zero_at=event.at, zero=here, lanes=lanes, pauses=_resumed(timeline, here))
            return replace(timeline, active=_active(timeline, here, event.config.ranks))
    at = timeline.moment(event.at)
    match event:
        case protocol.RanksLaunched():
            return _launched(timeline, event, at)
        case protocol.RankPhase():
            return _next(timeline, event.rank, at, Span(event.phase, at, at, attempt=timeline.attempt))
        case protocol.RankReady():
            timeline = _next(timeline, event.rank, at, Span("ready", at, at, attempt=timeline.attempt))
            stepwise = event.engine in STEPWISE_ENGINES
            return _with_lane(timeline, event.rank, threads=event.threads, cores=event.cores, stepwise=stepwise)
        case protocol.RanksReady():
            return _all_closed(timeline, at)
        case protocol.BatchStarted():
            if not timeline.origins or timeline.origins[-1][1] < timeline.zero:
                timeline = replace(timeline, origins=(*timeline.origins, (worked, at)))
            span = Span("batch", at, at, event.batch, event.rows, timeline.attempt)
            return _next(timeline, event.rank, at, span)
        case protocol.RowsAdded():
            if (span_open := _open(timeline, event.rank)) is None:
                return timeline
            return _with_lane(timeline, event.rank, open=replace(span_open, rows=span_open.rows + event.rows))
        case protocol.AccountClosed():
            if (span_open := _open(timeline, event.rank)) is None:
                return timeline
            timeline = _done(timeline, event.rank, at, "stint", event.result)
            return _with_lane(timeline, event.rank, open=replace(span_open, kind="stint", began=at))
        case protocol.BatchFinished():
            span_open = _open(timeline, event.rank)
            kind: SpanKind = "stint" if span_open is not None and span_open.kind == "stint" else "batch"
            return _done(timeline, event.rank, at, kind, event.result)
        case protocol.BatchFailed():
            return _done(timeline, event.rank, at, "failed", None)
        case protocol.RankLost():
            timeline = _done(timeline, event.rank, at, "lost", None)
            return _next(timeline, event.rank, at, Span("down", at, at, attempt=timeline.attempt))
        case protocol.Paused():
            pauses = (*_resumed(timeline, at), Hold(at, None, event.reason))[-MOST_HOLDS:]
            return replace(timeline, pauses=pauses)
        case protocol.Resumed():
            return _standing_begin(replace(timeline, pauses=_resumed(timeline, at)), at)
        case protocol.Stopping():
            return _standing_begin(timeline, at)  # what is in hand is finished, pause or not
        case protocol.ActiveRanksChanged():
            return replace(timeline, active=_active(timeline, at, event.active_ranks))
        case protocol.TrialStarted():
            return replace(timeline, active=_active(timeline, at, event.trial.active_ranks))
        case protocol.RunEnded():
            timeline = replace(_all_closed(timeline, at, "stopped"), pauses=_resumed(timeline, at))
    return timeline


# --- lanes ------------------------------------------------------------------------------------


def _with_lane(timeline: Timeline, rank: int, **changes: object) -> Timeline:
    lanes = timeline.lanes
    if not 0 <= rank < len(lanes):
        return timeline
    return replace(timeline, lanes=(*lanes[:rank], replace(lanes[rank], **changes), *lanes[rank + 1 :]))


def _open(timeline: Timeline, rank: int) -> Span | None:
    return timeline.lanes[rank].open if 0 <= rank < len(timeline.lanes) else None


def _next(timeline: Timeline, rank: int, at: float, span: Span) -> Timeline:
    """End the rank's open span and begin `span`."""
    if not 0 <= rank < len(timeline.lanes):
        return timeline
    lane = _closed(timeline, timeline.lanes[rank], at, "stopped")
    return _with_lane(timeline, rank, spans=lane.spans, open=span)


def _done(timeline: Timeline, rank: int, at: float, kind: SpanKind, result: BatchResult | None) -> Timeline:
    """End the batch or account that the rank has in hand."""
    span = _open(timeline, rank)
    if span is None or span.kind not in WORK:
        return timeline
    rows = span.rows if result is None else result.rows
    span = replace(span, kind=kind, ended=max(at, span.began), rows=rows, work=_work(result))
    return _with_lane(timeline, rank, spans=_appended(timeline, timeline.lanes[rank].spans, span), open=None)


def _closed(timeline: Timeline, lane: Lane, at: float, unfinished: SpanKind | None = None) -> Lane:
    """The lane with its open span ended; an open batch becomes a span of the kind `unfinished`."""
    span = lane.open
    if span is None:
        return lane
    kind = unfinished if unfinished is not None and span.kind in WORK else span.kind
    span = replace(span, kind=kind, ended=max(at, span.began))
    return replace(lane, spans=_appended(timeline, lane.spans, span), open=None)


def _all_closed(timeline: Timeline, at: float, unfinished: SpanKind | None = None) -> Timeline:
    return replace(timeline, lanes=tuple(_closed(timeline, lane, at, unfinished) for lane in timeline.lanes))


def _launched(timeline: Timeline, event: protocol.RanksLaunched, at: float) -> Timeline:
    lanes = [_closed(timeline, lane, at, "lost") for lane in timeline.lanes]
    lanes += [Lane()] * (event.world_size - len(lanes))
    start = Span("starting", at, at, attempt=event.attempt)
    fresh = tuple(replace(lane, open=start if rank < event.world_size else None) for rank, lane in enumerate(lanes))
    return replace(timeline, attempt=event.attempt, lanes=fresh)


def _work(result: BatchResult | None) -> Work | None:
    if result is None:
        return None
    return Work(
        prompt_tokens=result.prompt_tokens,
        output_tokens=result.output_tokens,
        prefill_seconds=round(result.prefill_seconds, 4),
        decode_seconds=round(result.decode_seconds, 4),
        steps=result.steps,
        row_steps=result.decode_slots,
        slots=result.slots if result.padded_slots is not None else 0,
        padded_slots=result.padded_slots or 0,
    )


def _appended(timeline: Timeline, spans: tuple[Span, ...], span: Span) -> tuple[Span, ...]:
    if span.kind in (*LOADING, "ready") and span.ended <= span.began:
        return spans
    spans = (*spans, span)
    most = max(LEAST_OF_A_LANE, MOST_SPANS // max(1, len(timeline.lanes)))
    return spans if len(spans) <= most else thinned(spans, most)


# --- holds, and how busy the devices are ----------------------------------------------------------


def _resumed(timeline: Timeline, at: float) -> tuple[Hold, ...]:
    if not timeline.pauses or timeline.pauses[-1].ended is not None:
        return timeline.pauses
    return (*timeline.pauses[:-1], replace(timeline.pauses[-1], ended=at))


def _standing_begin(timeline: Timeline, at: float) -> Timeline:
    """Accounts that were opened in the pause that ends at `at` begin now, if their rows stood still."""
    if not timeline.pauses or timeline.pauses[-1].ended not in (None, at):
        return timeline
    paused_at = timeline.pauses[-1].began
    for before, after in zip(timeline.pauses[-2::-1], timeline.pauses[:0:-1], strict=False):
        if before.ended != after.began:
            break
        paused_at = before.began  # a pause that went over into the next, for another reason
    for rank, lane in enumerate(timeline.lanes):
        if lane.stepwise and lane.open is not None and lane.open.kind == "stint" and lane.open.began >= paused_at:
            timeline = _with_lane(timeline, rank, open=replace(lane.open, began=at))
    return timeline


def _active(timeline: Timeline, at: float, ranks: int) -> tuple[tuple[float, int], ...]:
    if timeline.active and timeline.active[-1][1] == ranks:
        return timeline.active
    return (*timeline.active, (at, ranks))[-MOST_HOLDS:]


def _busy(timeline: Timeline, event: protocol.Tick) -> Timeline:
    """The timeline with a point for the GPUs, or without GPUs for the ranks' processes, in percent of their threads."""
    values: list[float | None]
    of: Literal["GPU", "CPU"]
    if event.devices:
        values, of = [sample.busy_percent for sample in event.devices], "GPU"
    elif event.processes and (timeline.busy_of == "CPU" or not timeline.busy):
        values, of = [], "CPU"
        for sample in event.processes:
            most = timeline.threads(sample.rank) or 1
            values.append(None if sample.cpu_percent is None else min(100.0, sample.cpu_percent / most))
    else:
        return timeline
    at = timeline.moment(event.at)
    if timeline.busy and at - timeline.busy[-1].at < timeline.busy_step * 0.95:
        return timeline
    if len(values) > BUSY_SERIES:
        values = [mean(values)]
    percents = tuple(None if value is None else round(value) for value in values)
    busy, step = (*timeline.busy, BusyPoint(round(at, 2), percents)), timeline.busy_step
    if len(busy) > BUSY_POINTS:
        busy, step = halved(busy), step * 2
    return replace(timeline, busy=busy, busy_step=step, busy_of=of)
