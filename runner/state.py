"""The state of a run as one immutable value, and the pure reducer that events drive.

The supervisor, the dashboard, the plain view, replay and the tests all hold a RunState and call
`apply(state, event)`; nobody keeps figures of their own. Knows no clock and no I/O: time is the
`at` of the events. Texts of outputs are not kept here, so that ten million prompts fit; a view
that lists them gathers the Output events, and outputs.jsonl has the rest.
"""

from typing import Literal

import msgspec

from runner import protocol
from runner.config import RunConfig
from runner.devices import match_rank_to_gpu
from runner.protocol import AnyEvent, DeviceSample, LogLine, ProcessSample, RankReady, Summary
from runner.stretches import Stretch, turn

Phase = Literal["starting", "model", "launching", "loading", "running", "stopping", "ended"]

RankPhase = Literal[
    "starting",
    "importing",
    "joining",
    "loading",
    "warming up",
    "ready",
    "prefill",
    "decoding",
    "waiting",
    "left",
    "lost",
]

RATE_WINDOW_SECONDS = 5.0
"""tokens/s *now* is the mean over this many seconds: long enough to span a prefill, short enough to follow a knob."""

HISTORY_POINTS = 512
"""The chart's history is thinned by merging neighbours once it holds more points than this."""

BUSY_HISTORY = 60
LOG_LINES = 1000
MAX_MARKS = 100


class RankState(msgspec.Struct, frozen=True, kw_only=True):
    """One rank: where it is, the batch in its hand, and its totals. Seconds and unix times as in events."""

    rank: int
    phase: RankPhase = "starting"
    phase_since: float = 0.0
    ready: RankReady | None = None
    batch: int | None = None
    rows: int = 0
    step: int = 0
    in_flight_tokens: int = 0
    batch_started_at: float = 0.0
    batch_stretch: int | None = None
    cap: int | None = None
    batches: int = 0
    prompts: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    slots: int = 0
    padded_slots: int = 0
    busy_seconds: float = 0.0
    peak_memory_bytes: int | None = None
    cause: str | None = None

    @property
    def device(self) -> str:
        return self.ready.device if self.ready else "?"

    @property
    def padding_waste(self) -> float:
        """Share of token slots that held no real token, 0 to 1."""
        return self.padded_slots / self.slots if self.slots else 0.0


class DeviceState(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU's newest sample, its busy % of the last minute (None where a sample is missing), and its ranks."""

    sample: DeviceSample
    busy_history: tuple[float | None, ...] = ()
    ranks: tuple[int, ...] = ()


class HistoryPoint(msgspec.Struct, frozen=True, array_like=True):
    """Throughput at `elapsed` seconds since the first batch, in output tokens/s."""

    elapsed: float
    tokens_per_second: float


MarkKind = Literal["batch size", "active ranks", "pause", "memory", "rank lost", "taken up"]


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """Something on the chart's time axis, `elapsed` seconds since the first batch; `text` is short and for people."""

    elapsed: float
    kind: MarkKind
    text: str


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything any view shows of a run."""

    name: str = ""
    directory: str = ""
    config: RunConfig | None = None
    prompts: int = 0
    phase: Phase = "starting"
    started_at: float = 0.0
    now: float = 0.0
    model: protocol.ModelProgress | None = None
    attempt: int = 0
    restarts_left: int = 0
    batch_size: int = 1
    auto: bool = False
    active_ranks: int = 0
    paused: str | None = None
    stretches: tuple[Stretch, ...] = ()
    marks: tuple[Mark, ...] = ()
    seconds_before: float = 0.0
    slots: int = 0
    padded_slots: int = 0
    ranks: tuple[RankState, ...] = ()
    ready_at: float | None = None
    first_batch_at: float | None = None
    last_result_at: float | None = None
    completed: int = 0
    failed: int = 0
    output_tokens: int = 0
    prompt_tokens: int = 0
    rate_now: float = 0.0
    rate_peak: float = 0.0
    window: tuple[tuple[float, int], ...] = ()
    history: tuple[HistoryPoint, ...] = ()
    history_step: float = 1.0
    devices: tuple[DeviceState, ...] = ()
    processes: tuple[ProcessSample, ...] = ()
    telemetry_reason: str | None = None
    log: tuple[LogLine, ...] = ()
    gather: protocol.GatherChecked | None = None
    ended: protocol.RunEnded | None = None

    @property
    def model_label(self) -> str:
        """What people call the model, once it is found; until then what was asked for."""
        label = self.model.label if self.model is not None else None
        return label or (self.config.model if self.config is not None else "")

    @property
    def done(self) -> int:
        """Prompts that have a record, error records included."""
        return self.completed + self.failed

    @property
    def in_flight_tokens(self) -> int:
        return sum(rank.in_flight_tokens for rank in self.ranks)

    @property
    def seconds(self) -> float:
        """From the first batch handed out to now, or to the last result once no more are to come.

        Of a run that was taken up again, the time between its supervisors is left out.
        """
        here = max(0.0, self._clock_end - self.first_batch_at) if self.first_batch_at is not None else 0.0
        return self.seconds_before + here

    @property
    def _clock_end(self) -> float:
        """Where the clocks of the work stand: at the last result once there is nothing left to do."""
        over = self.ended is not None or (self.prompts > 0 and self.done >= self.prompts)
        return self.last_result_at if over and self.last_result_at is not None else self.now

    @property
    def elapsed(self) -> float:
        """Seconds since the supervisor started, loading included."""
        return max(0.0, (self.ended.at if self.ended else self.now) - self.started_at)

    @property
    def rate_mean(self) -> float:
        """Output tokens/s since the first batch, those in flight included."""
        return (self.output_tokens + self.in_flight_tokens) / self.seconds if self.seconds > 0 else 0.0

    @property
    def padding_waste(self) -> float:
        return self.padded_slots / self.slots if self.slots else 0.0

    @property
    def progress(self) -> float:
        """Share of the work done, 0 to 1, batches in flight counted by their steps."""
        if not self.prompts:
            return 0.0
        in_flight = 0.0
        if self.config is not None:
            in_flight = sum(rank.rows * min(1.0, rank.step / self.config.max_new_tokens) for rank in self.ranks)
        return min(1.0, (self.done + in_flight) / self.prompts)

    @property
    def eta_seconds(self) -> float | None:
        """Seconds left at the pace so far; None before there is a pace."""
        if self.phase not in ("running", "stopping") or not 0.02 <= self.progress < 1 or self.seconds < 1:
            return None
        return self.seconds * (1 - self.progress) / self.progress

    def idle(self, rank: RankState) -> float:
        """Share of a rank's time since all ranks were ready with no batch in hand, 0 to 1."""
        if self.ready_at is None:
            return 0.0
        end = self._clock_end
        span = end - self.ready_at
        busy = rank.busy_seconds + (max(0.0, end - rank.batch_started_at) if rank.batch is not None else 0.0)
        return min(1.0, max(0.0, 1 - busy / span)) if span > 0 else 0.0

    def rank_rate(self, rank: RankState) -> float:
        """A rank's output tokens/s since the first batch; the ranks' rates add up to `rate_mean`."""
        return (rank.output_tokens + rank.in_flight_tokens) / self.seconds if self.seconds > 0 else 0.0


def _replace_rank(state: RunState, number: int, **changes: object) -> RunState:
    if not 0 <= number < len(state.ranks):
        return state
    ranks = list(state.ranks)
    ranks[number] = msgspec.structs.replace(ranks[number], **changes)
    return msgspec.structs.replace(state, ranks=tuple(ranks))


def apply(state: RunState, event: AnyEvent) -> RunState:
    """The state after `event`. Pure; unknown ranks and late events change nothing."""
    if isinstance(event, protocol.RunTakenUp):
        state = _taken_up(state, event)
    state = msgspec.structs.replace(state, now=max(state.now, event.at))
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
        case protocol.RankCapped():
            return _replace_rank(state, event.rank, cap=event.batch_size)
        case protocol.Paused():
            return _mark(msgspec.structs.replace(state, paused=event.reason), "pause", "paused")
        case protocol.Resumed():
            return _mark(msgspec.structs.replace(state, paused=None), "pause", "resumed")
        case protocol.RankLost():
            state = _batch_over(state, event.rank, event.at)
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
    state = msgspec.structs.replace(
        state,
        seconds_before=state.seconds,
        config=event.config,
        phase="starting",
        completed=event.completed,
        failed=event.failed,
        prompt_tokens=event.prompt_tokens,
        output_tokens=event.output_tokens,
        batch_size=event.config.batch_size or 1,
        active_ranks=event.config.ranks,
        auto=False,
        paused=None,
        ready_at=None,
        first_batch_at=None,
        last_result_at=None,
        window=(),
        devices=(),
        processes=(),
        ended=None,
    )
    return _mark(_turn(state, auto=False, reason=""), "taken up", "taken up again")


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
        "cause": None,
    }
    ranks = tuple(
        msgspec.structs.replace(before.get(number, RankState(rank=number)), **fresh)
        for number in range(event.world_size)
    )
    return msgspec.structs.replace(
        state, attempt=event.attempt, restarts_left=event.restarts_left, ranks=ranks, phase="launching", window=()
    )


def _mark(state: RunState, kind: MarkKind, text: str) -> RunState:
    mark = Mark(elapsed=state.seconds, kind=kind, text=text)
    return msgspec.structs.replace(state, marks=(*state.marks, mark)[-MAX_MARKS:])


def _turn(state: RunState, *, auto: bool, reason: str) -> RunState:
    began = state.seconds if state.stretches else 0.0
    stretches = turn(state.stretches, began, state.batch_size, state.active_ranks, auto=auto, reason=reason)
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
        batch_stretch=_whole(state),
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


def _batch_finished(state: RunState, event: protocol.BatchFinished) -> RunState:
    if not 0 <= event.rank < len(state.ranks):
        return state
    rank, result = state.ranks[event.rank], event.result
    peaks = [peak for peak in (rank.peak_memory_bytes, result.peak_memory_bytes) if peak is not None]
    state = _replace_rank(
        state,
        event.rank,
        batches=rank.batches + 1,
        slots=rank.slots + result.slots,
        padded_slots=rank.padded_slots + result.padded_slots,
        peak_memory_bytes=max(peaks) if peaks else None,
    )
    state = msgspec.structs.replace(
        state, slots=state.slots + result.slots, padded_slots=state.padded_slots + result.padded_slots
    )
    if (
        rank.batch_stretch is not None
        and rank.batch_stretch == state.stretches[-1].number
        and rank.batch == event.batch
    ):
        seconds = max(0.0, event.at - rank.batch_started_at)
        last = state.stretches[-1].with_batch(event.rank, result.output_tokens, seconds, result.peak_memory_bytes)
        state = msgspec.structs.replace(state, stretches=(*state.stretches[:-1], last))
    return msgspec.structs.replace(_batch_over(state, event.rank, event.at), last_result_at=event.at)


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
            )
    if event.devices is not None:
        state = _devices(state, event.devices)
    if event.processes is not None:
        state = msgspec.structs.replace(state, processes=tuple(event.processes))
    return _measure(state)


def _devices(state: RunState, samples: list[DeviceSample]) -> RunState:
    before = {device.sample.uuid: device.busy_history for device in state.devices}
    owners: dict[int, list[int]] = {}
    for rank in state.ranks:
        if rank.ready is not None:
            position = match_rank_to_gpu(rank.ready.device_uuid, rank.ready.pci_bus_id, samples)
            if position is not None:
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
    return msgspec.structs.replace(state, ended=event, phase="ended", rate_now=0.0, ranks=ranks)


def summarise(state: RunState) -> Summary:
    """The figures of a run so far, as run.json holds them."""
    seconds = state.seconds_before
    if state.first_batch_at is not None and state.last_result_at is not None:
        seconds += max(0.0, state.last_result_at - state.first_batch_at)

    def rate(tokens: int) -> float:
        return round(tokens / seconds, 3) if seconds > 0 else 0.0

    return Summary(
        prompts=state.prompts,
        completed=state.completed,
        failed=state.failed,
        prompt_tokens=state.prompt_tokens,
        output_tokens=state.output_tokens,
        seconds=round(seconds, 3),
        tokens_per_second=rate(state.output_tokens),
        padding_waste=round(state.padding_waste, 4),
        length=state.config.length_mode if state.config else "natural length",
        ranks=[
            protocol.RankSummary(
                rank=rank.rank,
                device=rank.device,
                prompts=rank.prompts,
                batches=rank.batches,
                prompt_tokens=rank.prompt_tokens,
                output_tokens=rank.output_tokens,
                tokens_per_second=rate(rank.output_tokens),
                padding_waste=round(rank.padding_waste, 4),
                idle=round(state.idle(rank), 4),
            )
            for rank in state.ranks
        ],
    )


class Snapshot(protocol.Message, frozen=True, kw_only=True):
    """The whole state: what a viewer gets first, and again when it had fallen too far behind."""

    state: RunState


ToViewer = AnyEvent | Snapshot | protocol.Refused
