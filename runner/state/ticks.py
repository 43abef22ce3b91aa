"""Reduces ticks: steps of batches in flight, telemetry and throughput. Pure, like the whole reducer."""

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.protocol import DeviceSample, ProcessSample
from rankdeck.runner.state.batches import replace_rank
from rankdeck.runner.state.rank_gpus import match_rank_to_gpus
from rankdeck.runner.state.run import DeviceState, HistoryPoint, RankState, RunState, StepMark

RATE_WINDOW_SECONDS = 5.0
"""Current tokens/s is the mean over this many seconds: long enough to span a prefill, short enough to follow a knob."""

HISTORY_POINTS = 512
"""The chart's history is thinned by merging neighbours once it holds more points than this."""

BUSY_HISTORY = 60


def tick(state: RunState, event: protocol.Tick) -> RunState:
    """The state with each batch in flight at its new step, the tick's telemetry if it has any, and the throughput."""
    for flight in event.steps:
        known = 0 <= flight.rank < len(state.ranks)
        if known and state.ranks[flight.rank].batch == flight.batch and flight.step > 0:
            rank = state.ranks[flight.rank]
            here = _step_mark(rank, event.at, flight.step)
            state = replace_rank(
                state,
                flight.rank,
                phase="decoding",
                step=flight.step,
                first_step=rank.first_step or here,
                last_step=here,
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


def _step_mark(rank: RankState, at: float, step: int) -> StepMark:
    """The newest decode step of a rank's batch; a step that was reported before keeps its time."""
    last = rank.last_step
    if last is None:
        return StepMark(at, step)
    return last if step <= last.step else StepMark(at, step, last.row_steps + rank.rows * (step - last.step))


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
    """The state with the current throughput, its peak, and the next point of the history if it is due."""
    if not state.window or state.ended is not None:
        return state
    total = state.output_tokens + state.in_flight_tokens
    window = (*state.window, (state.now, total))
    # Keep one point at or before the start of the window, to measure from.
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
    """Half as many points: the mean of each pair, at the later of its two times."""
    pairs = zip(history[::2], history[1::2], strict=False)
    return tuple(HistoryPoint(b.elapsed, (a.tokens_per_second + b.tokens_per_second) / 2) for a, b in pairs)
