"""The pure reducer: the state of a run after each event.

The supervisor, the dashboard, the plain view, replay and the tests all call `apply(state, event)`. Knows
no clock and no I/O: time is the `at` of the events.
"""

import msgspec

from runner import loading_time, protocol, timeline_events
from runner.costs import CostPoint, with_batch, with_length
from runner.devices import match_rank_to_gpus
from runner.protocol import AnyEvent, DeviceSample, ProcessSample
from runner.state import DeviceState, HistoryPoint, Mark, MarkKind, RankState, RunState
from runner.stretches import turn
from runner.trials import SweepState

RATE_WINDOW_SECONDS = 5.0
"""tokens/s *now* is the mean over this many seconds: long enough to span a prefill, short enough to follow a knob."""

HISTORY_POINTS = 512
"""The chart's history is thinned by merging neighbours once it holds more points than this."""

BUSY_HISTORY = 60
LOG_LINES = 1000
MAX_MARKS = 100


def _replace_rank(state: RunState, number: int, **changes: object) -> RunState:
    if not 0 <= number < len(state.ranks):
        return state
    ranks = list(state.ranks)
    ranks[number] = msgspec.structs.replace(ranks[number], **changes)
    return msgspec.structs.replace(state, ranks=tuple(ranks))


def apply(state: RunState, event: AnyEvent) -> RunState:
    """The state after `event`. Pure; unknown ranks and late events change nothing."""
    lanes = timeline_events.after(state.timeline, event, state.now, state.seconds)
    if isinstance(event, protocol.RunTakenUp):
        state = _taken_up(state, event)
    loading = loading_time.after(state.loading, event)
    state = msgspec.structs.replace(state, now=max(state.now, event.at), loading=loading, timeline=lanes)
    match event:
        case protocol.RunStarted():
            return RunState(
                name=event.name,
                directory=event.directory,
                config=event.config,
                prompts=event.prompts,
                active_ranks=event.config.ranks,
                batch_size=event.config.batch_size or 1,
                started_at=event.at,
                now=event.at,
                loading=loading,
                timeline=lanes,
            )
        case protocol.RunTakenUp():
            return state
        case protocol.ModelProgress():
            return msgspec.structs.replace(state, model=event, phase="model")  # the last one, found, has the label
        case protocol.RanksLaunched():
            return _launched(state, event)
        case protocol.RankPhase():
            state = msgspec.structs.replace(state, phase="loading")
            return _replace_rank(state, event.rank, phase=event.phase, phase_since=event.at)
        case protocol.RankReady():
            return _replace_rank(state, event.rank, phase="ready", phase_since=event.at, ready=event)
        case protocol.RanksReady():
            # Idle time counts from the first time on: a relaunch is no work, and shows as such.
            ready_at = state.ready_at if state.ready_at is not None else event.at
            return msgspec.structs.replace(state, ready_at=ready_at, phase="running")
        case protocol.BatchStarted():
            return _batch_started(state, event)
        case protocol.RowsAdded():
            rank = state.ranks[event.rank] if 0 <= event.rank < len(state.ranks) else None
            return _replace_rank(state, event.rank, rows=rank.rows + event.rows) if rank else state
        case protocol.StintFinished():
            return _stint_finished(state, event)
        case protocol.Output():
            return _output(state, event)
        case protocol.BatchFinished():
            return _batch_finished(state, event)
        case protocol.BatchFailed():
            state = _batch_over(state, event.rank, event.at)
            if event.kind == "out_of_memory":
                state = _mark(state, "memory", f"rank {event.rank} out of memory")
            return state
        case protocol.BatchSizeChanged():
            return _batch_size(state, event)
        case protocol.ActiveRanksChanged():
            state = msgspec.structs.replace(state, active_ranks=event.active_ranks)
            return _mark(_turn(state, auto=state.auto, reason=""), "active ranks", f"{event.active_ranks} active")
        case protocol.SweepStarted() | protocol.TrialStarted() | protocol.TrialWarm():
            return _sweep(state, event)
        case protocol.TrialFinished() | protocol.SweepSettled():
            return _sweep(state, event)
        case protocol.RankCapped():
            return _replace_rank(state, event.rank, cap=event.batch_size)
        case protocol.Paused():
            state = _between_stretches(state)
            return _mark(msgspec.structs.replace(state, paused=event.reason), "pause", "paused")
        case protocol.Resumed():
            state = _between_stretches(state)
            return _mark(msgspec.structs.replace(state, paused=None), "pause", "resumed")
        case protocol.RankLost():
            state = msgspec.structs.replace(_batch_over(state, event.rank, event.at), loss=event)
            state = _replace_rank(state, event.rank, phase="lost", phase_since=event.at, cause=event.cause)
            return _mark(state, "rank lost", f"rank {event.rank} lost")
        case protocol.TelemetryStarted():
            return msgspec.structs.replace(state, telemetry_reason=event.reason)
        case protocol.Tick():
            return _tick(state, event)
        case protocol.LogLine():
            return msgspec.structs.replace(state, log=(*state.log, event)[-LOG_LINES:])
        case protocol.GatherChecked():
            return msgspec.structs.replace(state, gather=event)
        case protocol.Stopping():
            return msgspec.structs.replace(state, phase="stopping")
        case protocol.RunEnded():
            return _ended(state, event)


def _taken_up(state: RunState, event: protocol.RunTakenUp) -> RunState:
    """History and totals stay; clocks and knobs start anew, and the counts are those of outputs.jsonl.

    Called before the event's time is taken over: the time since the last event was nobody's work.
    """
    sweep = state.sweep
    if sweep is not None:
        # A sweep that was started in a run is not gone on with; one that is the run, is.
        settled = sweep.settled or ("the run was taken up again" if event.config.sweep is None else None)
        sweep = msgspec.structs.replace(sweep, current=None, settled=settled)
    # What a sweep throws away is in no file: its tokens are counted here alone.
    thrown_away = event.config.sweep is not None and not event.config.sweep.outputs
    state = msgspec.structs.replace(
        state,
        seconds_before=state.seconds,
        config=event.config,
        phase="starting",
        completed=event.completed,
        failed=event.failed,
        prompt_tokens=state.prompt_tokens if thrown_away else event.prompt_tokens,
        output_tokens=state.output_tokens if thrown_away else event.output_tokens,
        batch_size=event.config.batch_size or 1,
        active_ranks=event.config.ranks,
        auto=False,
        paused=None,
        loss=None,
        ready_at=None,
        first_batch_at=None,
        last_result_at=None,
        window=(),
        devices=(),
        processes=(),
        cpu_history=(),
        ended=None,
        sweep=sweep,
    )
    return _mark(_turn(state, auto=False, reason=""), "taken up", "taken up again")


SweepEvent = (
    protocol.SweepStarted | protocol.TrialStarted | protocol.TrialWarm | protocol.TrialFinished | protocol.SweepSettled
)


def _sweep(state: RunState, event: SweepEvent) -> RunState:
    sweep = state.sweep
    if isinstance(event, protocol.SweepStarted):
        # The same plan once more, not settled yet, is the same sweep taken up: what was measured stays.
        same = sweep if sweep is not None and sweep.plan == event.plan and sweep.settled is None else None
        fresh = SweepState(
            plan=event.plan,
            trials=tuple(event.trials),
            records=tuple(record for record in same.records if record.outcome != "failed") if same else (),
            took=same.took if same else {},
            bandwidth_bytes_per_second=event.bandwidth_bytes_per_second,
            bandwidth_source=event.bandwidth_source,
        )
        return msgspec.structs.replace(state, sweep=fresh)
    if sweep is None:
        return state
    match event:
        case protocol.TrialStarted():
            trial = event.trial
            state = msgspec.structs.replace(
                state,
                sweep=msgspec.structs.replace(sweep, current=trial, since=event.at, measuring=False),
                batch_size=trial.batch_size,
                active_ranks=trial.active_ranks,
                auto=False,
            )
            state = _turn(state, auto=False, reason="", trial=True)
            return _mark(state, "trial", f"{trial.active_ranks} x {trial.batch_size}")
        case protocol.TrialWarm():
            return msgspec.structs.replace(state, sweep=msgspec.structs.replace(sweep, measuring=True))
        case protocol.TrialFinished():
            took = sweep.took
            if sweep.current is not None:
                took = {**took, event.record.trial.number: max(0.0, event.at - sweep.since)}
            sweep = msgspec.structs.replace(sweep, records=(*sweep.records, event.record), current=None, took=took)
            return msgspec.structs.replace(state, sweep=sweep)
        case protocol.SweepSettled():
            sweep = msgspec.structs.replace(sweep, settled=event.reason, current=None)
            return msgspec.structs.replace(state, sweep=sweep)


def _launched(state: RunState, event: protocol.RanksLaunched) -> RunState:
    """New ranks; where ranks of the same number were there before, their totals go on."""
    before = {rank.rank: rank for rank in state.ranks}
    fresh = {
        "phase": "starting",
        "phase_since": event.at,
        "ready": None,
        "batch": None,
        "rows": 0,
        "step": 0,
        "in_flight_tokens": 0,
        "rows_at_once": None,
        "cache_used": None,
        "cause": None,
    }
    ranks = tuple(
        msgspec.structs.replace(before.get(number, RankState(rank=number)), **fresh)
        for number in range(event.world_size)
    )
    return msgspec.structs.replace(
        state,
        attempt=event.attempt,
        restarts_left=event.restarts_left,
        ranks=ranks,
        phase="launching",
        window=(),
        rate_now=0.0,
    )


def _mark(state: RunState, kind: MarkKind, text: str) -> RunState:
    mark = Mark(elapsed=state.seconds, kind=kind, text=text)
    return msgspec.structs.replace(state, marks=(*state.marks, mark)[-MAX_MARKS:])


def _turn(state: RunState, *, auto: bool, reason: str, trial: bool = False) -> RunState:
    began = state.seconds if state.stretches else 0.0
    stretches = turn(
        state.stretches, began, state.batch_size, state.active_ranks, auto=auto, reason=reason, trial=trial
    )
    return msgspec.structs.replace(state, stretches=stretches)


def _batch_size(state: RunState, event: protocol.BatchSizeChanged) -> RunState:
    same = state.stretches and state.batch_size == event.batch_size
    state = msgspec.structs.replace(state, batch_size=event.batch_size, auto=event.auto)
    if same:  # the search settled where it stands: the stretch goes on, with the reason
        last = msgspec.structs.replace(state.stretches[-1], auto=event.auto, reason=event.reason)
        return msgspec.structs.replace(state, stretches=(*state.stretches[:-1], last))
    first = not state.stretches
    state = _turn(state, auto=event.auto, reason=event.reason)
    return state if first else _mark(state, "batch size", f"batch size {event.batch_size}")


def _whole(state: RunState) -> int | None:
    """The stretch that a batch starting now can belong to: None while a rank that is no longer active is at work."""
    strangers = any(rank.batch is not None and rank.rank >= state.active_ranks for rank in state.ranks)
    return state.stretches[-1].number if state.stretches and not strangers else None


def _batch_started(state: RunState, event: protocol.BatchStarted) -> RunState:
    state = _replace_rank(
        state,
        event.rank,
        phase="prefill",
        phase_since=event.at,
        batch=event.batch,
        rows=event.rows,
        step=0,
        in_flight_tokens=0,
        batch_started_at=event.at,
        batch_stretch=None if event.warm_up else _whole(state),
        batch_kept=event.kept,
        stint_started_at=event.at,
        stints=0,
    )
    if state.first_batch_at is None:
        state = msgspec.structs.replace(state, first_batch_at=event.at)
    if not state.window:
        state = msgspec.structs.replace(state, window=((event.at, state.output_tokens + state.in_flight_tokens),))
    return state


def _output(state: RunState, event: protocol.Output) -> RunState:
    record = event.record
    error = record.finish_reason == "error"
    state = msgspec.structs.replace(
        state,
        completed=state.completed + (not error),
        failed=state.failed + error,
        output_tokens=state.output_tokens + record.output_tokens,
        prompt_tokens=state.prompt_tokens + record.prompt_tokens,
        last_result_at=event.at,
    )
    if not error and state.config is not None:
        lengths = with_length(state.lengths, record.output_tokens, state.config.max_new_tokens)
        state = msgspec.structs.replace(state, lengths=lengths)
    if record.rank is None or not 0 <= record.rank < len(state.ranks):
        return state
    rank = state.ranks[record.rank]
    # The row's tokens move from "in flight" to "done", so that the sum never counts them twice.
    return _replace_rank(
        state,
        rank.rank,
        prompts=rank.prompts + 1,
        prompt_tokens=rank.prompt_tokens + record.prompt_tokens,
        output_tokens=rank.output_tokens + record.output_tokens,
        rows=max(0, rank.rows - 1),
        in_flight_tokens=max(0, rank.in_flight_tokens - record.output_tokens),
    )


def _between_stretches(state: RunState) -> RunState:
    """A pause stands still in the middle of a continuous rank's stint: it is not counted."""
    ranks = tuple(
        msgspec.structs.replace(rank, batch_stretch=None) if rank.continuous else rank for rank in state.ranks
    )
    return msgspec.structs.replace(state, ranks=ranks)


def _stint_finished(state: RunState, event: protocol.StintFinished) -> RunState:
    """A continuous rank's account: a whole stint counts for its stretch as a whole batch does."""
    if not 0 <= event.rank < len(state.ranks):
        return state
    state = _computed(state, event)
    rank = state.ranks[event.rank]
    seconds = max(0.0, event.at - rank.stint_started_at)
    state = _measured(state, event, seconds)
    return _replace_rank(
        state, event.rank, batch_stretch=_whole(state), stint_started_at=event.at, stints=rank.stints + 1
    )


def _batch_finished(state: RunState, event: protocol.BatchFinished) -> RunState:
    if not 0 <= event.rank < len(state.ranks):
        return state
    state = _computed(state, event)
    rank = state.ranks[event.rank]
    state = _replace_rank(state, event.rank, batches=rank.batches + 1)
    if not rank.batch_kept and state.sweep is not None and not state.sweep.plan.outputs:
        state = _unkept(state, event)
    if not rank.stints:  # else it is the end of a continuous rank's batch, with ever fewer rows
        state = _measured(state, event, max(0.0, event.at - rank.batch_started_at))
    return msgspec.structs.replace(_batch_over(state, event.rank, event.at), last_result_at=event.at)


Accounted = protocol.BatchFinished | protocol.StintFinished


def _computed(state: RunState, event: Accounted) -> RunState:
    """The token slots of a batch or stint, and its memory."""
    rank, result = state.ranks[event.rank], event.result
    peaks = [peak for peak in (rank.peak_memory_bytes, result.peak_memory_bytes) if peak is not None]
    state = _replace_rank(
        state,
        event.rank,
        slots=rank.slots + result.slots,
        padded_slots=rank.padded_slots + result.padded_slots,
        peak_memory_bytes=max(peaks) if peaks else None,
    )
    return msgspec.structs.replace(
        state, slots=state.slots + result.slots, padded_slots=state.padded_slots + result.padded_slots
    )


def _measured(state: RunState, event: Accounted, seconds: float) -> RunState:
    """The stretch with what a setting brought in `seconds`, if all of it lies in the stretch; and what it cost."""
    rank, result = state.ranks[event.rank], event.result
    whole = rank.batch_stretch is not None and rank.batch_stretch == state.stretches[-1].number
    if result.rows <= 0 or not whole or rank.batch != event.batch:
        return state
    last = state.stretches[-1].with_batch(event.rank, result.output_tokens, seconds, result.peak_memory_bytes)
    state = msgspec.structs.replace(state, stretches=(*state.stretches[:-1], last))
    if rank.batch_kept and rank.continuous and not last.trial:
        return state  # rows come and go: it is no batch of so many
    return msgspec.structs.replace(state, costs=with_batch(state.costs, _cost(state.active_ranks, result, seconds)))


def _unkept(state: RunState, event: protocol.BatchFinished) -> RunState:
    """The tokens of a batch of which no outputs come: they were generated, and count as such."""
    rank, result = state.ranks[event.rank], event.result
    state = _replace_rank(
        state,
        event.rank,
        prompt_tokens=rank.prompt_tokens + result.prompt_tokens,
        output_tokens=rank.output_tokens + result.output_tokens,
    )
    return msgspec.structs.replace(
        state,
        prompt_tokens=state.prompt_tokens + result.prompt_tokens,
        output_tokens=state.output_tokens + result.output_tokens,
    )


def _cost(active_ranks: int, result: protocol.BatchResult, seconds: float) -> CostPoint:
    return CostPoint(
        active_ranks=active_ranks,
        rows=result.rows,
        batches=1,
        steps=result.steps,
        row_steps=result.decode_slots,
        prompt_slots=result.slots - result.decode_slots,
        prompt_tokens=result.prompt_tokens,
        output_tokens=result.output_tokens,
        prefill_seconds=result.prefill_seconds,
        decode_seconds=result.decode_seconds,
        seconds=seconds,
    )


def _batch_over(state: RunState, number: int, at: float) -> RunState:
    if not 0 <= number < len(state.ranks):
        return state
    rank = state.ranks[number]
    busy = max(0.0, at - rank.batch_started_at) if rank.batch is not None else 0.0
    return _replace_rank(
        state,
        number,
        phase="waiting",
        phase_since=at,
        batch=None,
        rows=0,
        step=0,
        in_flight_tokens=0,
        rows_at_once=None,
        cache_used=None,
        busy_seconds=rank.busy_seconds + busy,
    )


def _tick(state: RunState, event: protocol.Tick) -> RunState:
    for flight in event.steps:
        known = 0 <= flight.rank < len(state.ranks)
        if known and state.ranks[flight.rank].batch == flight.batch and flight.step > 0:
            state = _replace_rank(
                state,
                flight.rank,
                phase="decoding",
                step=flight.step,
                in_flight_tokens=flight.output_tokens,
                rows_at_once=flight.rows,
                cache_used=flight.cache_used,
            )
    if event.devices is not None or event.processes is not None:
        state = msgspec.structs.replace(state, samples=state.samples + 1)
    if event.devices is not None:
        state = _devices(state, event.devices)
    if event.processes is not None:
        state = _processes(state, event.processes)
    return _measure(state)


def _processes(state: RunState, samples: list[ProcessSample]) -> RunState:
    before = {sample.rank: history for sample, history in zip(state.processes, state.cpu_history, strict=False)}
    history = tuple((*before.get(sample.rank, ()), sample.cpu_percent)[-BUSY_HISTORY:] for sample in samples)
    return msgspec.structs.replace(state, processes=tuple(samples), cpu_history=history)


def _devices(state: RunState, samples: list[DeviceSample]) -> RunState:
    before = {device.sample.uuid: device.busy_history for device in state.devices}
    owners: dict[int, list[int]] = {}
    for rank in state.ranks:
        if rank.ready is not None:
            for position in match_rank_to_gpus(rank.ready, samples):
                owners.setdefault(position, []).append(rank.rank)
    devices = tuple(
        DeviceState(
            sample=sample,
            busy_history=(*before.get(sample.uuid, ()), sample.busy_percent)[-BUSY_HISTORY:],
            ranks=tuple(owners.get(position, ())),
        )
        for position, sample in enumerate(samples)
    )
    return msgspec.structs.replace(state, devices=devices)


def _measure(state: RunState) -> RunState:
    """Throughput now, its peak, and the next point of the history."""
    if not state.window or state.ended is not None:
        return state
    total = state.output_tokens + state.in_flight_tokens
    window = (*state.window, (state.now, total))
    # Keep one point at or beyond the window's far edge, to measure from.
    while len(window) > 2 and window[1][0] <= state.now - RATE_WINDOW_SECONDS:
        window = window[1:]
    (then, tokens_then), span = window[0], state.now - window[0][0]
    rate = max(0.0, (total - tokens_then) / (state.now - then)) if span > 0 else 0.0
    peak = max(state.rate_peak, rate) if span >= RATE_WINDOW_SECONDS * 0.8 else state.rate_peak
    elapsed = state.seconds
    history, step = state.history, state.history_step
    if not history or elapsed - history[-1].elapsed >= step:
        history = (*history, HistoryPoint(elapsed, rate))
        if len(history) > HISTORY_POINTS:
            history, step = _thin(history), step * 2
    return msgspec.structs.replace(
        state, window=window, rate_now=rate, rate_peak=peak, history=history, history_step=step
    )


def _thin(history: tuple[HistoryPoint, ...]) -> tuple[HistoryPoint, ...]:
    """Half as many points: each pair becomes its mean, at the later of its two times."""
    pairs = zip(history[::2], history[1::2], strict=False)
    return tuple(HistoryPoint(b.elapsed, (a.tokens_per_second + b.tokens_per_second) / 2) for a, b in pairs)


def _ended(state: RunState, event: protocol.RunEnded) -> RunState:
    # A rank with a batch still in hand was stopped inside it: what it had is not counted.
    for rank in state.ranks:
        if rank.batch is not None:
            state = _batch_over(state, rank.rank, event.at)
    ranks = tuple(
        rank if rank.phase == "lost" else msgspec.structs.replace(rank, phase="left", phase_since=event.at)
        for rank in state.ranks
    )
    sweep = msgspec.structs.replace(state.sweep, current=None) if state.sweep is not None else None
    return msgspec.structs.replace(state, ended=event, phase="ended", rate_now=0.0, ranks=ranks, sweep=sweep)
