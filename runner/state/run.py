"""The state of a run as one immutable value: everything that any view shows of it.

Made from events by `runner.state.reducer.apply`; no view keeps figures of its own. The texts of outputs are not part of
it, so that ten million prompts fit: a view that lists them collects the Output events, and outputs.jsonl has the rest.
"""

from typing import Literal

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.protocol import AnyEvent, DeviceSample, ProcessSample, RankReady
from rankdeck.runner.protocol.config import CONTINUOUS_ENGINES, STEPWISE_ENGINES, RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepState
from rankdeck.runner.scheduling.rounds import EvenRounds
from rankdeck.runner.state.costs import CostPoint
from rankdeck.runner.state.load import Load, threads_in_use
from rankdeck.runner.state.loading_time import LoadingTime
from rankdeck.runner.state.periods import KnobPeriod
from rankdeck.runner.state.timeline import Timeline
from rankdeck.runner.state.votes import Held

Phase = Literal["starting", "model", "launching", "loading", "running", "stopping", "ended"]

RankStage = Literal[
    "starting",
    "importing",
    "joining",
    "loading",
    "compiling",
    "warming up",
    "ready",
    "prefill",
    "decoding",
    "waiting",
    "left",
    "lost",
]


class StepMark(msgspec.Struct, frozen=True, array_like=True):
    """When a batch in flight was reported to be at a decode step, in unix seconds.

    `row_steps` sums the rows over all steps since the first reported one: rows leave when they end.
    """

    at: float
    step: int
    row_steps: int = 0


class RankState(msgspec.Struct, frozen=True, kw_only=True):
    """One rank: its phase, the batch it has in hand, and its totals. Seconds and unix times as in events.

    `rows` counts the prompts in hand without a record; `batch_rows` those that its batch began with. A continuous rank
    generates only `rows_at_once` of its rows at a time, and `cache_used` is the share (0 to 1) of its key and value
    cache that these take, `prefix_hits` that of its prompts' tokens that were there already; `accounts` counts those
    closed in its batch. `first_step` and `last_step` are the first and the newest step reported of the batch.
    `warm_rows` are the rows of the largest batch that it has ended since it was launched; 0 before the first.
    `batch_period` is the number of the period that its batch counts for, `begun_in` that of the one it began in,
    whoever else was at work then. `silence` is set while it says nothing for unusually long.
    """

    rank: int
    phase: RankStage = "starting"
    phase_since: float = 0.0
    ready: RankReady | None = None
    batch: int | None = None
    rows: int = 0
    step: int = 0
    first_step: StepMark | None = None
    last_step: StepMark | None = None
    in_flight_tokens: int = 0
    batch_started_at: float = 0.0
    batch_rows: int = 0
    batch_period: int | None = msgspec.field(default=None, name="batch_stretch")
    batch_kept: bool = True
    begun_in: int | None = None
    rows_at_once: int | None = None
    cache_used: float | None = None
    prefix_hits: float | None = None
    account_started_at: float = msgspec.field(default=0.0, name="stint_started_at")
    accounts: int = msgspec.field(default=0, name="stints")
    cap: int | None = None
    warm_rows: int = 0
    batches: int = 0
    prompts: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    slots: int = 0
    padded_slots: int = 0
    busy_seconds: float = 0.0
    peak_memory_bytes: int | None = None
    reserved_memory_bytes: int | None = None
    cause: str | None = None
    silence: protocol.RankSilent | None = None

    @property
    def device(self) -> str:
        return self.ready.device if self.ready else "?"

    @property
    def continuous(self) -> bool:
        return self.ready is not None and self.ready.engine in CONTINUOUS_ENGINES

    @property
    def stepwise(self) -> bool:
        """Whether a turn or a pause reaches it within a step: it need not wait for rows to end."""
        return self.ready is not None and self.ready.engine in STEPWISE_ENGINES

    @property
    def padding_waste(self) -> float | None:
        """Share of token slots that held no real token, 0 to 1; None if no batch has told."""
        return self.padded_slots / self.slots if self.slots else None


class DeviceState(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU's newest sample, its busy % over the last minute (None for a missing sample), and its ranks."""

    sample: DeviceSample
    busy_history: tuple[float | None, ...] = ()
    ranks: tuple[int, ...] = ()


class HistoryPoint(msgspec.Struct, frozen=True, array_like=True):
    """Throughput at `elapsed` seconds since the first batch, in output tokens/s, and the load at that time.

    `busy` and `dram` are percent, the mean over the GPUs in use; without GPU figures `busy` is that of the processors.
    """

    elapsed: float
    tokens_per_second: float
    busy: float | None = None
    dram: float | None = None


class Total(msgspec.Struct, frozen=True, array_like=True):
    """Output tokens of each rank up to the unix time `at`, those in flight included."""

    at: float
    ranks: tuple[int, ...]


MarkKind = Literal["batch size", "active ranks", "pause", "memory", "rank lost", "taken up", "trial"]


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """A mark on the chart's time axis, `elapsed` seconds after the first batch, with a short text for people."""

    elapsed: float
    kind: MarkKind
    text: str


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the log, at `moment` seconds on the timeline's clock; None if its time is unknown."""

    source: str
    text: str
    moment: float | None = None


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that any view shows of a run.

    `samples` counts the samples of GPUs and processes, one a second; every history ends with the newest of them.
    `rounds` is the scheduler's plan for the batches still to be cut, as far as events show it.
    `refusal` is the newest turn of a knob that was refused; None after one that was not.
    `unusable_logits` counts the failed prompts whose logits were no numbers.
    `cpu_history` has the CPU % of the last minute, by position in `processes`. `loads` has the newest samples of the
    load since the ranks were ready or went on after a pause, `sampled_in` the number of the period that all batches in
    hand at the newest of them began in, and `held` by what the run is bound, by these samples. `measured_lengths` is
    `lengths` as it was when the newest batch of `costs` ended. `rank_rates` has each rank's output tokens/s over the
    same seconds as `rate_now`, which is their sum.
    """

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
    loss: protocol.RankLost | None = None
    refusal: protocol.TurnRefused | None = None
    batch_size: int = 1
    auto: bool = False
    active_ranks: int = 0
    paused: str | None = None
    rounds: EvenRounds = EvenRounds()
    periods: tuple[KnobPeriod, ...] = msgspec.field(default=(), name="stretches")
    costs: tuple[CostPoint, ...] = ()
    lengths: tuple[int, ...] = ()
    measured_lengths: tuple[int, ...] = ()
    sweep: SweepState | None = None
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
    unusable_logits: int = 0
    output_tokens: int = 0
    prompt_tokens: int = 0
    rate_now: float = 0.0
    rate_peak: float = 0.0
    rank_rates: tuple[float, ...] = ()
    window: tuple[Total, ...] = ()
    history: tuple[HistoryPoint, ...] = ()
    history_step: float = 1.0
    samples: int = 0
    sampled_at: float = 0.0
    loads: tuple[Load, ...] = ()
    sampled_in: int | None = None
    held: Held = Held()
    devices: tuple[DeviceState, ...] = ()
    cpu_history: tuple[tuple[float | None, ...], ...] = ()
    processes: tuple[ProcessSample, ...] = ()
    telemetry_reason: str | None = None
    log: tuple[LogEntry, ...] = ()
    gather: protocol.GatherChecked | None = None
    ended: protocol.RunEnded | None = None
    loading: LoadingTime = LoadingTime()
    timeline: Timeline = Timeline()

    @property
    def model_label(self) -> str:
        """The model's usual name once it is found; until then the name in the config."""
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
        """Seconds from the first batch to now, or to the last result once all are in.

        In a resumed run the time between its supervisors is left out.
        """
        here = max(0.0, self._clock_end - self.first_batch_at) if self.first_batch_at is not None else 0.0
        return self.seconds_before + here

    @property
    def _clock_end(self) -> float:
        """The end of the working time so far: the last result once there is nothing left to do."""
        over = self.ended is not None or (self.prompts > 0 and self.done >= self.prompts)
        return self.last_result_at if over and self.last_result_at is not None else self.now

    @property
    def elapsed(self) -> float:
        """Seconds since the supervisor started, loading included."""
        return max(0.0, (self.ended.at if self.ended else self.now) - self.started_at)

    @property
    def rate_mean(self) -> float:
        """Output tokens/s since the first batch, including those in flight."""
        return (self.output_tokens + self.in_flight_tokens) / self.seconds if self.seconds > 0 else 0.0

    @property
    def continuous(self) -> bool:
        """Whether rows come and go one by one; then there are no rounds."""
        return any(rank.continuous for rank in self.ranks)

    @property
    def stepwise(self) -> bool:
        """Whether turns and pauses reach all ranks within a step."""
        return bool(self.ranks) and all(rank.stepwise for rank in self.ranks)

    @property
    def padding_waste(self) -> float | None:
        """As of a rank, of all of them."""
        return self.padded_slots / self.slots if self.slots else None

    @property
    def sweeping(self) -> bool:
        """Whether a sweep is measuring trials."""
        return self.sweep is not None and self.sweep.settled is None

    @property
    def done_share(self) -> float:
        """Share of the prompts that are done, 0 to 1; in a sweep, of its trials."""
        if self.sweep is not None and (self.sweeping or not self.sweep.plan.outputs):
            return len(self.sweep.records) / len(self.sweep.trials) if self.sweep.trials else 0.0
        return min(1.0, self.done / self.prompts) if self.prompts else 0.0

    @property
    def progress(self) -> float:
        """`done_share`, with batches in flight counted by tokens: it moves with every step."""
        if not self.prompts or (self.sweep is not None and (self.sweeping or not self.sweep.plan.outputs)):
            return self.done_share
        in_flight = 0.0
        if self.config is not None:
            in_flight = sum(min(rank.rows, rank.in_flight_tokens / self.config.new_tokens) for rank in self.ranks)
        return min(1.0, (self.done + in_flight) / self.prompts)

    @property
    def pending(self) -> int:
        """Prompts without a record that no rank has in hand: those that a knob can still affect."""
        return max(0, self.prompts - self.done - sum(rank.rows for rank in self.ranks if rank.batch is not None))

    @property
    def period_number(self) -> int:
        """The number of the present period of unchanged knobs."""
        return self.periods[-1].number if self.periods else 0

    def threads(self, rank: int) -> int | None:
        """How many threads a rank may use now, which is more while fewer share the cores; None on a GPU."""
        ready = self.ranks[rank].ready if 0 <= rank < len(self.ranks) else None
        if ready is None:
            return None
        sharing = sum(one.batch is not None or one.rank < self.active_ranks for one in self.ranks)
        return threads_in_use(ready.threads, ready.cores, len(self.ranks), sharing)

    def idle(self, rank: RankState) -> float:
        """Share of a rank's time since all ranks were ready with no batch in hand, 0 to 1."""
        if self.ready_at is None:
            return 0.0
        end = self._clock_end
        span = end - self.ready_at
        busy = rank.busy_seconds + (max(0.0, end - rank.batch_started_at) if rank.batch is not None else 0.0)
        return min(1.0, max(0.0, 1 - busy / span)) if span > 0 else 0.0

    def rank_rate(self, rank: RankState) -> float:
        """A rank's output tokens/s now; over all ranks they add up to `rate_now`. After the end, over the run."""
        if self.ended is not None:
            return self.mean_rank_rate(rank)
        return self.rank_rates[rank.rank] if rank.rank < len(self.rank_rates) else 0.0

    def mean_rank_rate(self, rank: RankState) -> float:
        """A rank's output tokens/s since the first batch; over all ranks they add up to `rate_mean`."""
        return (rank.output_tokens + rank.in_flight_tokens) / self.seconds if self.seconds > 0 else 0.0


class Snapshot(protocol.Message, frozen=True, kw_only=True):
    """The whole state: what a viewer gets first, and again after it has fallen too far behind."""

    state: RunState


ToViewer = AnyEvent | Snapshot | protocol.Refused
