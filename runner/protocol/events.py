"""What the processes of a run say to one another: events, commands, records, and their framing.

One msgspec struct per line of JSON, tagged by `type`. Knows shapes only: no socket, no clock, no
policy. An *event* is something that happened and carries `at` (unix seconds, stamped by the
supervisor, so that one clock orders a run); events are what the journal holds and what every view
is made of. A *command* is something a viewer asks of the supervisor, or the supervisor of a rank.
"""

import hashlib
import re
from typing import Literal

import msgspec

from runner.protocol.config import RunConfig
from runner.protocol.sweep_plan import SweepPlan, Trial, TrialRecord

PROTOCOL_VERSION = 1

MAX_LINE_BYTES = 32 * 1024 * 1024
"""A longer line is no message of ours: the sender is cut off before it fills memory."""


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag=_snake):
    """Anything that travels: tagged by its class name in snake case."""


# --- records: values inside messages, and lines of the run directory's files ------------------


class Prompt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One prompt: `text`, or chat `messages` (role and content) to be put through the model's template."""

    index: int
    id: str
    text: str = ""
    messages: list[dict[str, str]] | None = None


FinishReason = Literal["stop", "length", "error"]


def prompt_text(prompt: Prompt) -> str:
    """What a record shows as the prompt: the text, or the messages a line each."""
    if prompt.messages is None:
        return prompt.text
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt.messages)


class OutputRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One line of outputs.jsonl. Token counts are real tokens; padding is never counted.

    `text` is the answer alone, special tokens left out. `error` is set exactly when
    `finish_reason` is `error`.
    """

    index: int
    id: str
    prompt: str
    text: str
    prompt_tokens: int
    output_tokens: int
    finish_reason: FinishReason
    error: str | None = None
    rank: int | None = None
    batch: int | None = None


class BatchResult(msgspec.Struct, frozen=True, kw_only=True):
    """The accounting of one batch: of the `rows` that were generated, prompts that could not be done left out.

    `slots` is the number of token positions of the batch, rows x padded prompt, and `row_steps`: the rows that
    were in the batch, summed over its steps (rows that have ended may leave it). `padded_slots` are those slots
    that hold no real token (left padding, and rows that had ended but were still there).
    `prefill_seconds` runs to the first new token, `decode_seconds` from there to the last;
    `seconds` is all of the batch, tokenising and decoding of text included. `step_seconds` has every decode
    step's own time, in trials of a sweep.
    """

    rows: int
    prompt_tokens: int
    output_tokens: int
    slots: int
    padded_slots: int
    steps: int
    prefill_seconds: float
    decode_seconds: float
    seconds: float
    row_steps: int | None = None
    peak_memory_bytes: int | None = None
    step_seconds: list[float] | None = None

    @property
    def decode_slots(self) -> int:
        """Token positions of new tokens: `row_steps`, or where that was not told, all rows in all steps."""
        return self.rows * self.steps if self.row_steps is None else self.row_steps


class DeviceSample(msgspec.Struct, frozen=True, kw_only=True):
    """What NVML says of one GPU at one moment. None means not available; `unavailable` says why.

    `busy_*` is utilization.gpu in percent: mean, least and most since the last sample.
    `energy_joules` is a counter that only grows: take differences.
    """

    index: int
    uuid: str
    name: str
    pci_bus_id: str | None = None
    busy_percent: float | None = None
    busy_min_percent: float | None = None
    busy_max_percent: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    energy_joules: float | None = None
    sm_clock_mhz: int | None = None
    sm_clock_max_mhz: int | None = None
    temperature_celsius: int | None = None
    slowdown_celsius: int | None = None
    throttle_reasons: list[str] | None = None
    sm_percent: float | None = None
    occupancy_percent: float | None = None
    tensor_percent: float | None = None
    dram_percent: float | None = None
    lost: bool = False
    unavailable: dict[str, str] = {}


class ProcessSample(msgspec.Struct, frozen=True, kw_only=True):
    """What the operating system says of one rank: CPU in percent of one core, resident memory."""

    rank: int
    cpu_percent: float | None
    rss_bytes: int | None


class StepsInFlight(msgspec.Struct, frozen=True, kw_only=True):
    """How far a rank is inside its batch: steps so far, and real output tokens so far of the rows still in it.

    A continuous rank says as well how many rows are in it, and which share of its key and value cache is in use.
    """

    rank: int
    batch: int
    step: int
    output_tokens: int
    rows: int | None = None
    cache_used: float | None = None


class RankSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One rank's share of a Summary. `idle` and `padding_waste` are shares from 0 to 1."""

    rank: int
    device: str
    prompts: int
    batches: int
    prompt_tokens: int
    output_tokens: int
    tokens_per_second: float
    padding_waste: float
    idle: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a run, as they stand in run.json.

    `seconds` runs from the first batch handed out with all ranks ready to the last result in;
    `tokens_per_second` is output tokens over those seconds.
    """

    prompts: int
    completed: int
    failed: int
    prompt_tokens: int
    output_tokens: int
    seconds: float
    tokens_per_second: float
    padding_waste: float
    length: str
    ranks: list[RankSummary]


# --- events -----------------------------------------------------------------------------------


class Event(Message, frozen=True, kw_only=True):
    """Something that happened, `at` unix seconds on the supervisor's clock (0 until it is stamped)."""

    at: float = 0.0


class RunStarted(Event, frozen=True, kw_only=True):
    """The supervisor is up. The first event of a journal. `asked_at`: the command was given (0 where not known)."""

    version: int = PROTOCOL_VERSION
    name: str
    directory: str
    config: RunConfig
    prompts: int
    done: int = 0
    asked_at: float = 0.0


class ModelProgress(Event, frozen=True, kw_only=True):
    """What happens to the model before any rank exists. `done` and `total` in bytes where known; `label` once found."""

    label: str | None = None
    phase: Literal["checking", "fetching", "converting", "found"]
    done: int | None = None
    total: int | None = None


class RanksLaunched(Event, frozen=True, kw_only=True):
    """`accelerate launch` was started, for the `attempt`-th time (from 1)."""

    attempt: int
    world_size: int
    restarts_left: int = 0


RankPhaseName = Literal["importing", "joining", "loading", "warming up"]


class RankPhase(Event, frozen=True, kw_only=True):
    """A rank on its way to being ready. A rank's first phase is its join."""

    rank: int
    phase: RankPhaseName


class RankReady(Event, frozen=True, kw_only=True):
    """A rank has its model. `device_uuid` is without NVML's `GPU-` prefix; bytes where a device has them.

    `weight_read_bytes` are the parameters that every decode step reads: all but an input embedding that is no
    output layer as well. `bandwidth_bytes_per_second` is that of a large copy, bytes read and written, in a
    sweep on rank 0. `engine_reason` says why it is this engine, where nobody asked for it.
    `device_uuids` has them all where a rank is spread over several GPUs; memory is their sum then.
    """

    rank: int
    device: str
    device_name: str
    dtype: str
    engine: str
    engine_reason: str = ""
    seconds: float
    parameters: int
    device_uuid: str | None = None
    pci_bus_id: str | None = None
    threads: int | None = None
    context_tokens: int | None = None
    generation: dict[str, str] = {}
    parameter_bytes: int | None = None
    weight_read_bytes: int | None = None
    kv_bytes_per_token: int | None = None
    memory_free_bytes: int | None = None
    memory_total_bytes: int | None = None
    bandwidth_bytes_per_second: float | None = None
    device_uuids: list[str] = []


class RanksReady(Event, frozen=True, kw_only=True):
    """Every rank passed the start barrier: from here on idle time counts."""


class BatchStarted(Event, frozen=True, kw_only=True):
    """A batch was handed to a rank; `batch` counts from 1 through the whole run.

    Of one that is not `kept` no outputs come: a trial's, of which a `warm_up` is not measured either.
    """

    rank: int
    batch: int
    rows: int
    warm_up: bool = False
    kept: bool = True


class RowsAdded(Event, frozen=True, kw_only=True):
    """A continuous rank was handed `rows` more prompts, into the batch it has in hand."""

    rank: int
    batch: int
    rows: int


class StintFinished(Event, frozen=True, kw_only=True):
    """A continuous rank's account of the time since the last one; its batch goes on.

    Of `result`, `rows` are those that ended in this time; tokens are those that were computed in it.
    """

    rank: int
    batch: int
    result: BatchResult


class Output(Event, frozen=True, kw_only=True):
    """One prompt is done."""

    record: OutputRecord


class BatchFinished(Event, frozen=True, kw_only=True):
    """All outputs of a batch have arrived, and this is what it took: of a continuous rank's, its last stint."""

    rank: int
    batch: int
    result: BatchResult


class BatchFailed(Event, frozen=True, kw_only=True):
    """A batch raised in its rank; the rank goes on. None of its prompts has an output from it."""

    rank: int
    batch: int
    kind: Literal["error", "out_of_memory"]
    error: str


class BatchSizeChanged(Event, frozen=True, kw_only=True):
    """The batch size from each rank's next batch on. `auto` while the search for the best size is on."""

    batch_size: int
    auto: bool
    reason: str


class ActiveRanksChanged(Event, frozen=True, kw_only=True):
    """How many ranks get batches from now on; the others keep their model loaded."""

    active_ranks: int


class RankCapped(Event, frozen=True, kw_only=True):
    """Out of memory: from now on this rank gets batches of at most `batch_size`."""

    rank: int
    batch_size: int


class Paused(Event, frozen=True, kw_only=True):
    """No batch is handed out until Resumed. `reason` is why; `asked` tells a person's wish from a need."""

    reason: str
    asked: bool


class Resumed(Event, frozen=True, kw_only=True):
    """Batches are handed out again."""


class SweepStarted(Event, frozen=True, kw_only=True):
    """The settings of `plan` are measured from now on, in the order of `trials`; records of trials stay valid."""

    plan: SweepPlan
    trials: list[Trial]
    bandwidth_bytes_per_second: float | None = None
    bandwidth_source: str | None = None


class TrialStarted(Event, frozen=True, kw_only=True):
    """A trial begins, with its warm-up; a second time if the run was paused in it."""

    trial: Trial


class TrialWarm(Event, frozen=True, kw_only=True):
    """The trial's warm-up is over: what comes now is measured."""

    trial: Trial


class TrialFinished(Event, frozen=True, kw_only=True):
    """A trial is over: measured, out of memory, skipped or failed."""

    record: TrialRecord


class SweepSettled(Event, frozen=True, kw_only=True):
    """No trial follows, and why: all are over, or the prompts are used up."""

    reason: str


class RunTakenUp(Event, frozen=True, kw_only=True):
    """`rankdeck resume`: a new supervisor goes on with the missing prompts, perhaps with other settings.

    The counts are those of outputs.jsonl, which is the truth where the journal lags behind it.
    """

    config: RunConfig
    completed: int
    failed: int
    prompt_tokens: int
    output_tokens: int


class RankLost(Event, frozen=True, kw_only=True):
    """A rank ended before it was told to. `cause` is the last meaningful line it left."""

    rank: int
    cause: str


class TelemetryStarted(Event, frozen=True, kw_only=True):
    """What is measured: the GPUs seen, or in one line why there are none."""

    gpus: int
    reason: str | None = None


class Tick(Event, frozen=True, kw_only=True):
    """Four times a second: the steps in flight, and the newest telemetry when there is a new one."""

    steps: list[StepsInFlight] = []
    devices: list[DeviceSample] | None = None
    processes: list[ProcessSample] | None = None


class LogLine(Event, frozen=True, kw_only=True):
    """A line of a log; `source` is `supervisor`, `launcher` or `rank N`. Data, never markup."""

    source: str
    text: str


class GatherChecked(Event, frozen=True, kw_only=True):
    """`split` dispatch: what gather_object brought, against what came over the socket."""

    records: int
    differing: list[int]


class Stopping(Event, frozen=True, kw_only=True):
    """A viewer asked the run to stop: after the batches in flight, or `now`."""

    now: bool


RunStatus = Literal["completed", "failed", "stopped"]


class RunEnded(Event, frozen=True, kw_only=True):
    """The last event. `exit_status` is the command's; `cause` is set when the run failed."""

    status: RunStatus
    exit_status: int
    summary: Summary
    cause: str | None = None


# --- from a rank to the supervisor, besides the events above -----------------------------------


class RankHello(Message, frozen=True, kw_only=True):
    """A rank's greeting. `attempt` tells a rank of this launch from a straggler of an earlier one."""

    version: int = PROTOCOL_VERSION
    rank: int
    world_size: int
    pid: int
    attempt: int


class Share(Message, frozen=True, kw_only=True):
    """`split` dispatch: what `split_between_processes` gave this rank, prompts `start` to `stop` (exclusive)."""

    rank: int
    start: int
    stop: int


class Steps(Message, frozen=True, kw_only=True):
    """Progress inside a batch, a few times a second; old ones may be dropped."""

    steps: StepsInFlight


class Stint(Message, frozen=True, kw_only=True):
    """A continuous rank's account of what it did since the last one; sent now and then, and when it has run dry."""

    rank: int
    result: BatchResult


class RankFailed(Message, frozen=True, kw_only=True):
    """A rank cannot go on: the error in one line, and its traceback for the log."""

    rank: int
    error: str
    traceback: str


class Gathered(Message, frozen=True, kw_only=True):
    """What gather_object brought the main process: (index, digest of the record), a part at a time until the `last`."""

    records: list[tuple[int, str]]
    last: bool


# --- from the supervisor to a rank --------------------------------------------------------------


class Work(Message, frozen=True, kw_only=True):
    """A batch to generate; for a continuous rank, more prompts for the rows that fall free.

    `measure` asks for the time of every decode step; without `keep` the records are not wanted, only the
    accounting; `max_new_tokens` cuts the batch short (a warm-up). `stream` is the number by which a continuous rank's
    batch goes, that of its first order; one that comes after that stream has failed was meant for it, and is dropped.
    """

    batch: int
    prompts: list[Prompt]
    measure: bool = False
    keep: bool = True
    max_new_tokens: int | None = None
    stream: int | None = None


class Cancel(Message, frozen=True, kw_only=True):
    """Abandon `batch` within a decode step; report nothing of it."""

    batch: int


class Limit(Message, frozen=True, kw_only=True):
    """To a continuous rank: so many rows at most are to be generated at once, from its next step on."""

    rows: int


class ShareCores(Message, frozen=True, kw_only=True):
    """On a CPU: so many ranks are at work and share the cores, from the next decode step on."""

    ranks: int


class Leave(Message, frozen=True, kw_only=True):
    """There is no more work. In `split` dispatch the ranks gather first."""

    gather: bool = False


# --- between a viewer and the supervisor --------------------------------------------------------


class ViewerHello(Message, frozen=True, kw_only=True):
    """A viewer's greeting; it is answered with a Snapshot, or Refused."""

    version: int = PROTOCOL_VERSION


class Refused(Message, frozen=True, kw_only=True):
    """The supervisor will not talk to this peer, and why."""

    reason: str


class Stop(Message, frozen=True, kw_only=True):
    """End the run: after the batches in flight, or `now`, abandoning them."""

    now: bool = False


class SetBatchSize(Message, frozen=True, kw_only=True):
    """Use this batch size from each rank's next batch on; None has the best size searched for."""

    batch_size: int | None


class SetActiveRanks(Message, frozen=True, kw_only=True):
    """Give batches to ranks 0 to `active_ranks` - 1 only."""

    active_ranks: int


class StartSweep(Message, frozen=True, kw_only=True):
    """Measure these settings on the prompts that are left, then go on at the chosen one; None ends a sweep."""

    plan: SweepPlan | None


class Pause(Message, frozen=True, kw_only=True):
    """Hand out no batch until Resume; those in flight are finished."""


class Resume(Message, frozen=True, kw_only=True):
    """Hand out batches again."""


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
    | StintFinished
    | Output
    | BatchFinished
    | BatchFailed
    | BatchSizeChanged
    | ActiveRanksChanged
    | RankCapped
    | Paused
    | Resumed
    | SweepStarted
    | TrialStarted
    | TrialWarm
    | TrialFinished
    | SweepSettled
    | RankLost
    | TelemetryStarted
    | Tick
    | LogLine
    | GatherChecked
    | Stopping
    | RunEnded
)

FromRank = (
    RankHello
    | RankPhase
    | RankReady
    | Share
    | Steps
    | Output
    | Stint
    | BatchFinished
    | BatchFailed
    | RankFailed
    | Gathered
    | LogLine
)
ToRank = Work | Limit | Cancel | ShareCores | Leave | Refused
Greeting = RankHello | ViewerHello
Command = Stop | SetBatchSize | SetActiveRanks | StartSweep | Pause | Resume


# --- framing ------------------------------------------------------------------------------------

_encoder = msgspec.json.Encoder()


def encode_line(message: msgspec.Struct) -> bytes:
    """One message as one line of JSON, newline included (JSON escapes newlines inside strings)."""
    return _encoder.encode(message) + b"\n"


def record_digest(record: OutputRecord) -> str:
    """A record's fingerprint, to tell whether two ways brought the same answer."""
    return hashlib.blake2b(_encoder.encode(record), digest_size=16).hexdigest()
