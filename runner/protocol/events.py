"""Events: what happened in a run. The journal holds them, and every view is made from them.

Each carries `at`, unix seconds stamped by the supervisor, so that a single clock orders a run. Shapes only: no socket,
no clock, no policy.
"""

from typing import Literal

import msgspec

from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.framing import PROTOCOL_VERSION, Message
from rankdeck.runner.protocol.records import (
    BatchResult,
    DeviceSample,
    Experts,
    OutputRecord,
    ProcessSample,
    StepsInFlight,
    Summary,
)
from rankdeck.runner.protocol.sweep_plan import SweepPlan, Trial, TrialRecord


class Event(Message, frozen=True, kw_only=True):
    """Something that happened, `at` unix seconds on the supervisor's clock (0 until it is stamped)."""

    at: float = 0.0


class RunStarted(Event, frozen=True, kw_only=True):
    """The supervisor is up. The first event of a journal. `asked_at` is when the command was given (0 if unknown)."""

    version: int = PROTOCOL_VERSION
    name: str
    directory: str
    config: RunConfig
    prompts: int
    done: int = 0
    asked_at: float = 0.0


class ModelProgress(Event, frozen=True, kw_only=True):
    """What happens to the model before any rank starts. `done` and `total` are bytes, if known; `label` once found."""

    label: str | None = None
    phase: Literal["checking", "fetching", "converting", "found"]
    done: int | None = None
    total: int | None = None


class RanksLaunched(Event, frozen=True, kw_only=True):
    """`accelerate launch` was started, for the `attempt`-th time (from 1)."""

    attempt: int
    world_size: int
    restarts_left: int = 0


RankPhaseName = Literal["importing", "joining", "loading", "compiling", "warming up"]


class RankPhase(Event, frozen=True, kw_only=True):
    """A rank has begun a phase of getting ready. The first one also says that the rank is there."""

    rank: int
    phase: RankPhaseName


class RankReady(Event, frozen=True, kw_only=True):
    """A rank has loaded its model. `device_uuid` is without NVML's `GPU-` prefix.

    `weight_read_bytes` are the parameters that a decode step reads: all but an input embedding that is not the output
    layer as well; `experts` are those among them of which a step reads only some. `bandwidth_bytes_per_second` is that
    of a large copy, bytes read and written, and `matrix_flops_per_second` that of a product of large matrices in the
    model's dtype, both of rank 0, measured while the others are quiet; on a CPU they are of its `threads` alone. These
    are its equal share of the `cores` with all ranks; while fewer are at work, each uses more (`ShareCores`).
    `engine_reason` says why this engine was chosen, if it was not asked for; by earlier runs, in which it had
    `engine_lead` times the tokens/s of the engine `engine_over`. For a rank that is spread over several
    GPUs `device_uuids` has all of them, and memory is their sum. Memory is the device's, with all that is on it; a rank
    that is held to a share of its GPU may still take `memory_left_bytes` of it. An engine that was loaded for so many
    rows at once generates `most_rows`, and no more.
    """

    rank: int
    device: str
    device_name: str
    dtype: str
    engine: str
    engine_reason: str = ""
    engine_lead: float | None = None
    engine_over: str = ""
    seconds: float
    parameters: int
    device_uuid: str | None = None
    pci_bus_id: str | None = None
    threads: int | None = None
    context_tokens: int | None = None
    generation: dict[str, str] = msgspec.field(default_factory=dict)
    parameter_bytes: int | None = None
    weight_read_bytes: int | None = None
    experts: Experts | None = None
    kv_bytes_per_token: int | None = None
    memory_free_bytes: int | None = None
    memory_total_bytes: int | None = None
    memory_left_bytes: int | None = None
    bandwidth_bytes_per_second: float | None = None
    matrix_flops_per_second: float | None = None
    device_uuids: list[str] = msgspec.field(default_factory=list)
    cores: int | None = None
    most_rows: int | None = None


class RanksReady(Event, frozen=True, kw_only=True):
    """Every rank passed the start barrier: idle time counts from here on."""


class BatchStarted(Event, frozen=True, kw_only=True):
    """A batch was handed to a rank; `batch` counts from 1 through the whole run.

    A batch that is not `kept` gives no outputs: it is a trial's. A `warm_up` is not measured either.
    """

    rank: int
    batch: int
    rows: int
    warm_up: bool = False
    kept: bool = True


class RowsAdded(Event, frozen=True, kw_only=True):
    """A continuous rank was handed `rows` more prompts, as part of the batch it has in hand."""

    rank: int
    batch: int
    rows: int


class AccountClosed(Event, frozen=True, kw_only=True, tag="stint_finished"):
    """A continuous rank's account of the time since its last one; its batch goes on.

    `result` has the rows that ended in that time, and the tokens that were computed in it.
    """

    rank: int
    batch: int
    result: BatchResult


class Output(Event, frozen=True, kw_only=True):
    """One prompt is done."""

    record: OutputRecord


class BatchFinished(Event, frozen=True, kw_only=True):
    """All outputs of a batch have arrived; `result` is its account, for a continuous rank the last one."""

    rank: int
    batch: int
    result: BatchResult


class BatchFailed(Event, frozen=True, kw_only=True):
    """A batch raised an error in its rank, and gave no more outputs; the rank goes on, unless it is `leaving`."""

    rank: int
    batch: int
    kind: Literal["error", "out_of_memory"]
    error: str
    leaving: bool = False


class BatchSizeChanged(Event, frozen=True, kw_only=True):
    """The batch size from each rank's next batch on. `auto` while the best size is being searched for."""

    batch_size: int
    auto: bool
    reason: str


class ActiveRanksChanged(Event, frozen=True, kw_only=True):
    """How many ranks get batches from now on; the others keep their model loaded."""

    active_ranks: int


class TurnRefused(Event, frozen=True, kw_only=True):
    """Somebody asked for another batch size or number of active ranks, and nothing was changed; `reason` says why."""

    reason: str


class RankCapped(Event, frozen=True, kw_only=True):
    """Out of memory: from now on this rank gets batches of at most `batch_size`."""

    rank: int
    batch_size: int


class Paused(Event, frozen=True, kw_only=True):
    """No batch is handed out until Resumed. `reason` says why; `asked` is True if a person asked for it."""

    reason: str
    asked: bool


class Resumed(Event, frozen=True, kw_only=True):
    """Batches are handed out again."""


class SweepStarted(Event, frozen=True, kw_only=True):
    """The settings of `plan` are measured from now on, in the order of `trials`; earlier records stay valid.

    `no_mbu` says why its trials will have no MBU, if they won't.
    """

    plan: SweepPlan
    trials: list[Trial]
    bandwidth_bytes_per_second: float | None = None
    bandwidth_source: str | None = None
    no_mbu: str | None = None


class TrialStarted(Event, frozen=True, kw_only=True):
    """A trial begins with its warm-up; again if the run was paused in it."""

    trial: Trial


class TrialWarm(Event, frozen=True, kw_only=True):
    """The trial's warm-up is over: what follows is measured."""

    trial: Trial


class TrialFinished(Event, frozen=True, kw_only=True):
    """A trial is over: measured, out of memory, skipped or failed."""

    record: TrialRecord


class SweepSettled(Event, frozen=True, kw_only=True):
    """No more trials follow; `reason` says why: all are over, or the prompts are used up."""

    reason: str


class RunTakenUp(Event, frozen=True, kw_only=True):
    """`rankdeck resume`: a new supervisor goes on with the missing prompts, perhaps with other settings.

    The counts are those of outputs.jsonl, which the journal may lag behind.
    """

    config: RunConfig
    completed: int
    failed: int
    prompt_tokens: int
    output_tokens: int


class RecordsLost(Event, frozen=True, kw_only=True):
    """Somebody has touched outputs.jsonl, and `records` of it are nowhere any more: their prompts are done again.

    The counts are those of what is left.
    """

    records: int
    completed: int
    failed: int
    prompt_tokens: int
    output_tokens: int


class RankLost(Event, frozen=True, kw_only=True):
    """A rank ended before it was told to. `cause` is the last meaningful line of its log."""

    rank: int
    cause: str


class RankSilent(Event, frozen=True, kw_only=True):
    """A rank has said nothing for `seconds`, unusually long. What its `process` does is None where it cannot be seen.

    After `patience` seconds of silence it is ended, and its batch done again; None for never.
    """

    rank: int
    stage: Literal["loading", "waiting", "at work"]
    seconds: float
    process: Literal["stopped", "waiting in the kernel", "running"] | None = None
    patience: float | None = None


class RankHeard(Event, frozen=True, kw_only=True):
    """A silent rank has said something again."""

    rank: int


class TelemetryStarted(Event, frozen=True, kw_only=True):
    """What is measured: the number of GPUs, or in one line why there are none."""

    gpus: int
    reason: str | None = None


class Tick(Event, frozen=True, kw_only=True):
    """Four times a second: the steps in flight, and telemetry if there is any new."""

    steps: list[StepsInFlight] = msgspec.field(default_factory=list)
    devices: list[DeviceSample] | None = None
    processes: list[ProcessSample] | None = None


class LogLine(Event, frozen=True, kw_only=True):
    """A line of a log; `source` is `supervisor`, `launcher` or `rank N`. Data, never markup."""

    source: str
    text: str


class GatherChecked(Event, frozen=True, kw_only=True):
    """`split` dispatch: how many records gather_object brought, and which differ from those sent over the socket."""

    records: int
    differing: list[int]


class Stopping(Event, frozen=True, kw_only=True):
    """Somebody asked the run to stop: after the batches in flight, or `now`."""

    now: bool


RunStatus = Literal["completed", "failed", "stopped"]


class RunEnded(Event, frozen=True, kw_only=True):
    """The last event. `exit_status` is the command's; `cause` is set when the run failed."""

    status: RunStatus
    exit_status: int
    summary: Summary
    cause: str | None = None


AnyEvent = (
    RunStarted
    | RunTakenUp
    | ModelProgress
    | RanksLaunched
    | RankPhase
    | RankReady
    | RanksReady
    | BatchStarted
    | RowsAdded
    | AccountClosed
    | Output
    | BatchFinished
    | BatchFailed
    | BatchSizeChanged
    | ActiveRanksChanged
    | TurnRefused
    | RankCapped
    | Paused
    | Resumed
    | SweepStarted
    | TrialStarted
    | TrialWarm
    | TrialFinished
    | SweepSettled
    | RecordsLost
    | RankLost
    | RankSilent
    | RankHeard
    | TelemetryStarted
    | Tick
    | LogLine
    | GatherChecked
    | Stopping
    | RunEnded
)
