"""Reduces ticks: steps of batches in flight, telemetry and throughput. Pure, like the whole reducer."""

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.protocol import DeviceSample, ProcessSample
from rankdeck.runner.state.batches import replace_rank, total_now
from rankdeck.runner.state.load import LOWERED_CLOCK, POWER_CAPS, Load, clamped_cpu, known_mean, known_sum
from rankdeck.runner.state.periods import KnobPeriod
from rankdeck.runner.state.rank_gpus import match_rank_to_gpus
from rankdeck.runner.state.run import DeviceState, HistoryPoint, RankState, RunState, StepMark
from rankdeck.runner.state.settings import circumstances
from rankdeck.runner.state.votes import held_after, vote

RATE_WINDOW_SECONDS = 5.0
"""Current tokens/s is the mean over this many seconds: long enough to span a prefill, short enough to follow a knob."""

HISTORY_POINTS = 512
"""The chart's history is thinned by merging neighbours once it holds more points than this."""

BUSY_HISTORY = 60

LOADS = 12
"""So many of the newest samples of the load are kept, to judge what a run is bound by now."""

RECENT_SECONDS = 15.0
"""An energy counter that was read longer ago than this says nothing about the power now."""


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
                prefix_hits=flight.prefix_hits,
            )
    if event.devices is not None or event.processes is not None:
        before = {device.sample.uuid: device.sample for device in state.devices}
        since = event.at - state.sampled_at
        state = msgspec.structs.replace(state, samples=state.samples + 1, sampled_at=event.at)
        if event.devices is not None:
            state = _devices(state, event.devices)
        if event.processes is not None:
            state = _processes(state, event.processes)
        state = _loaded(state, _load(state, event, before, since))
    return _measure(state)


def _step_mark(rank: RankState, at: float, step: int) -> StepMark:
    """The newest decode step of a rank's batch; a step that was reported before keeps its time."""
    last = rank.last_step
    if last is None:
        return StepMark(at, step)
    return last if step <= last.step else StepMark(at, step, last.row_steps + rank.rows * (step - last.step))


def _processes(state: RunState, samples: list[ProcessSample]) -> RunState:
    before = {sample.rank: history for sample, history in zip(state.processes, state.cpu_history, strict=False)}
    samples = [
        msgspec.structs.replace(sample, cpu_percent=clamped_cpu(sample.cpu_percent, state.threads(sample.rank)))
        for sample in samples
    ]
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


def _load(state: RunState, event: protocol.Tick, before: dict[str, DeviceSample], since: float) -> Load:
    """The load of the devices in use by this tick's samples; `since` is the seconds from the samples `before`."""
    at_work = [rank.rank for rank in state.ranks if rank.batch is not None]
    found = Load(event.at, at_work=sum(rank < state.active_ranks for rank in at_work), active=state.active_ranks)
    if event.processes is not None:
        shares = [
            sample.cpu_percent / threads
            for sample in state.processes
            if sample.rank in at_work and sample.cpu_percent is not None and (threads := state.threads(sample.rank))
        ]
        found = msgspec.structs.replace(found, cpu=known_mean(shares))
    used = [
        device.sample
        for device in (state.devices if event.devices is not None else ())
        if any(rank < state.active_ranks for rank in device.ranks) and not device.sample.lost
    ]
    if not used:
        return found
    return msgspec.structs.replace(
        found,
        busy=known_mean(sample.busy_percent for sample in used),
        dram=known_mean(sample.dram_percent for sample in used),
        tensor=known_mean(sample.tensor_percent for sample in used),
        watts=known_sum([_watts(sample, before.get(sample.uuid), since) for sample in used]),
        capped=known_mean(_capped(sample) for sample in used),
    )


def _capped(sample: DeviceSample) -> float | None:
    """1 if a power limit lowers the clock notably, 0 if not; None if the GPU gives no reasons for throttling."""
    if sample.throttle_reasons is None:
        return None
    clock, most = sample.sm_clock_mhz, sample.sm_clock_max_mhz
    lowered = not clock or not most or clock < LOWERED_CLOCK * most
    return float(lowered and not POWER_CAPS.isdisjoint(sample.throttle_reasons))


def _watts(sample: DeviceSample, before: DeviceSample | None, since: float) -> float | None:
    """Mean power since the sample `before`, by the energy counter; else the power at this moment."""
    now, then = sample.energy_joules, before.energy_joules if before is not None else None
    if now is not None and then is not None and now > then and 0 < since <= RECENT_SECONDS:
        return (now - then) / since
    return sample.power_watts


def _loaded(state: RunState, load: Load) -> RunState:
    """The state with one more sample of the load, and by what the run is bound then.

    A sample is of the time since the one before. So it is of a period if both were taken while nothing else was at
    work, and counts for its figures if all active ranks had a batch of it in hand at both.
    """
    number, before = state.period_number, state.loads[-1:]
    inside = _within(state, number)
    whole = inside and state.sampled_in == number
    load = msgspec.structs.replace(load, period=number if whole else None)
    state = msgspec.structs.replace(state, loads=(*state.loads, load)[-LOADS:], sampled_in=number if inside else None)
    all_were = any(one.at_work == one.active for one in before)
    if whole and all_were and state.periods and _all_at_work(state, state.periods[-1]):
        last = msgspec.structs.replace(state.periods[-1], load=state.periods[-1].load.plus(load))
        state = msgspec.structs.replace(state, periods=(*state.periods[:-1], last))
    return _bound(state)


def _within(state: RunState, number: int) -> bool:
    """Whether all batches in hand began in this period, and go on: another than an active rank gets none."""
    if state.paused is not None and state.stepwise and not state.sweeping:
        return False
    return all(rank.begun_in == number for rank in state.ranks if rank.batch is not None)


def _bound(state: RunState) -> RunState:
    """The state with the verdict that is held after its newest sample."""
    if state.phase != "running" or state.paused is not None or state.sweeping:
        return state
    # Each sample beside the batches of its own setting.
    cases = {number: circumstances(state, number) for number in {load.period for load in state.loads}}
    votes = [vote(load, cases[load.period]) for load in state.loads]
    return msgspec.structs.replace(state, held=held_after(state.held, state.loads, votes, state.period_number))


def _all_at_work(state: RunState, period: KnobPeriod) -> bool:
    """Whether every active rank, and no other, has a batch of this period in hand."""
    at_work = [rank for rank in state.ranks if rank.batch is not None]
    here = all(rank.batch_period == period.number for rank in at_work)
    return here and len(at_work) == state.active_ranks


def _measure(state: RunState) -> RunState:
    """The state with the current throughput, its peak, and the next point of the history if it is due."""
    if not state.window or state.ended is not None:
        return state
    window = (*state.window, total_now(state, state.now))
    # Keep one point at or before the start of the window, to measure from.
    while len(window) > 2 and window[1].at <= state.now - RATE_WINDOW_SECONDS:
        window = window[1:]
    span = state.now - window[0].at
    # A rank's tokens in flight are gone when its batch fails: that is no negative speed.
    gains = [max(0, now - then) for then, now in zip(window[0].ranks, window[-1].ranks, strict=False)]
    rates = tuple(gain / span for gain in gains) if span > 0 else ()
    rate = sum(rates)
    peak = max(state.rate_peak, rate) if span >= RATE_WINDOW_SECONDS * 0.8 else state.rate_peak
    elapsed = state.seconds
    history, step = state.history, state.history_step
    if not history or elapsed - history[-1].elapsed >= step:
        history = (*history, _point(state, elapsed, rate))
        if len(history) > HISTORY_POINTS:
            history, step = _thin(history), step * 2
    return msgspec.structs.replace(
        state, window=window, rank_rates=rates, rate_now=rate, rate_peak=peak, history=history, history_step=step
    )


def _point(state: RunState, elapsed: float, rate: float) -> HistoryPoint:
    """The next point of the history: its load is the mean of the samples kept since the previous point.

    If none has come since then, the newest one stands in, unless it is too old.
    """
    before = state.history[-1].elapsed if state.history else 0.0
    since = state.now - (elapsed - before) + 0.001  # unix seconds are not more exact than that
    recent = [load for load in state.loads if load.at > since]
    recent = recent or [load for load in state.loads[-1:] if load.at > state.now - state.history_step - 0.5]
    busy = known_mean(load.shown_busy for load in recent)
    dram = known_mean(load.dram for load in recent)
    return HistoryPoint(elapsed, rate, *(None if mean is None else round(mean, 1) for mean in (busy, dram)))


def _thin(history: tuple[HistoryPoint, ...]) -> tuple[HistoryPoint, ...]:
    """Half as many points: the mean of each pair, at the later of its two times."""
    return tuple(
        HistoryPoint(
            later.elapsed,
            (earlier.tokens_per_second + later.tokens_per_second) / 2,
            known_mean((earlier.busy, later.busy)),
            known_mean((earlier.dram, later.dram)),
        )
        for earlier, later in zip(history[::2], history[1::2], strict=False)
    )
