"""Values inside messages, and lines of a run's files: prompts, outputs, samples, results, summaries."""

import hashlib
import json
from typing import Literal

import msgspec

Content = str | list[dict[str, str]]
"""The content of a chat message: text, or parts of text, each with `type` and `text`."""

Messages = list[dict[str, Content]]
"""Chat messages: each has `role`, a string, and `content`."""


class Prompt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One prompt: `text`, or chat `messages` (role and content) for the model's template."""

    index: int
    id: str
    text: str = ""
    messages: Messages | None = None


FinishReason = Literal["stop", "length", "error"]

UNUSABLE_LOGITS = "the model's logits are "
"""What the error of a record says whose row ended in logits that are no numbers; see `RunState.unusable_logits`."""


def prompt_text(prompt: Prompt) -> str:
    """The prompt as a record shows it: the text, or the messages, one a line."""
    if prompt.messages is None:
        return prompt.text
    return "\n".join(f"{message['role']}: {content_text(message['content'])}" for message in prompt.messages)


def content_text(content: Content) -> str:
    """The text of a message, its parts one after the other, as most chat templates join them."""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


class OutputRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One line of outputs.jsonl. Token counts are real tokens; padding is never counted.

    `text` is the answer alone, without special tokens. `error` is set exactly when `finish_reason` is `error`.
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
    """The account of one batch: of the `rows` that were generated, without prompts that could not be answered.

    `slots` counts the token positions of the batch: rows x padded prompt, plus `row_steps`, the rows in the batch
    summed over its steps (rows that have ended may leave it). `padded_slots` are the slots that hold no real token
    (left padding, and rows that had ended but stayed); None where the engine does not tell. `shared_tokens` are prompt
    tokens that took no slot, because another prompt begins with the same ones, whose keys and values were used.
    `prefill_seconds` runs to the first new token, `decode_seconds` from there to the last; `seconds` covers the whole
    batch, with tokenising and decoding of text. `step_seconds` has the time of every decode step, in trials of a sweep.
    `slots_read` sums over all decode steps the slots whose keys and values the rows then in the batch read, padding
    included. `peak_memory_bytes` is the most in tensors, `reserved_memory_bytes` the most held by torch's allocator,
    which no other process can use.
    """

    rows: int
    prompt_tokens: int
    output_tokens: int
    slots: int
    padded_slots: int | None
    steps: int
    prefill_seconds: float
    decode_seconds: float
    seconds: float
    row_steps: int | None = None
    peak_memory_bytes: int | None = None
    reserved_memory_bytes: int | None = None
    step_seconds: list[float] | None = None
    slots_read: int | None = None
    shared_tokens: int = 0

    @property
    def decode_slots(self) -> int:
        """Token positions of new tokens: `row_steps`, or if that is unknown, all rows in all steps."""
        return self.rows * self.steps if self.row_steps is None else self.row_steps

    @property
    def cache_slots(self) -> float:
        """`slots_read`, or if that is unknown, what it is if all rows stay in all steps and are equally wide.

        The cache grows by a slot per row and step: its mean is halfway.
        """
        if self.slots_read is not None:
            return self.slots_read
        return max(0, self.steps - 1) * (self.slots - self.decode_slots / 2)


class Experts(msgspec.Struct, frozen=True, kw_only=True):
    """The routed experts of a model, all layers together: the bytes of their parameters.

    Of the `count` in a layer each token uses `per_token`; None where that is not known.
    """

    bytes: int
    count: int | None
    per_token: int | None


class DeviceSample(msgspec.Struct, frozen=True, kw_only=True):
    """NVML's figures of one GPU or MIG device at one moment. None means not available; `unavailable` says why.

    `busy_*` is utilization.gpu in percent: mean, minimum and maximum since the last sample. `energy_joules` is a
    counter that only grows: take differences. What the driver reserves is neither used nor free memory. A MIG device
    has the clocks and the temperature of its GPU, and no power: that is drawn by all MIG devices of the GPU together.
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
    memory_free_bytes: int | None = None
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

    @property
    def is_mig(self) -> bool:
        """Whether it is a MIG device, a slice of a GPU."""
        return self.uuid.startswith("MIG-")


class ProcessSample(msgspec.Struct, frozen=True, kw_only=True):
    """The operating system's figures of one rank: CPU in percent of a core, resident memory."""

    rank: int
    cpu_percent: float | None
    rss_bytes: int | None


class StepsInFlight(msgspec.Struct, frozen=True, kw_only=True):
    """How far a rank is in its batch: steps so far, and real output tokens so far of the rows still in it.

    For a continuous rank also the rows in flight, the share of its key and value cache in use, and that of its prompts'
    tokens so far that were in the cache already, because another prompt begins with the same ones (both 0 to 1).
    """

    rank: int
    batch: int
    step: int
    output_tokens: int
    rows: int | None = None
    cache_used: float | None = None
    prefix_hits: float | None = None


class RankSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One rank's share of a Summary. `idle` and `padding_waste` are shares from 0 to 1; the latter None if unknown."""

    rank: int
    device: str
    prompts: int
    batches: int
    prompt_tokens: int
    output_tokens: int
    tokens_per_second: float
    padding_waste: float | None
    idle: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a run, as run.json has them.

    `seconds` runs from the first batch that was handed out, all ranks being ready, to the last result;
    `tokens_per_second` is output tokens over those seconds. `padding_waste` is None if no batch told of it.
    """

    prompts: int
    completed: int
    failed: int
    prompt_tokens: int
    output_tokens: int
    seconds: float
    tokens_per_second: float
    padding_waste: float | None
    length: str
    ranks: list[RankSummary]


def whole_record(line: bytes) -> OutputRecord:
    """The record that a line of outputs.jsonl is, unless the line was damaged.

    Raises:
        ValueError: it is none. A decoder that skips what it does not know would take two records that damage has run
            together for one, with the text of the other.
    """
    record = _record_decoder.decode(line)
    if msgspec.json.encode(record) != line.rstrip(b"\r\n"):  # of another version, or edited: looked at more closely
        json.loads(line.decode(), object_pairs_hook=_known_once)
    return record


_record_decoder = msgspec.json.Decoder(OutputRecord)


def _known_once(pairs: list[tuple[str, object]]) -> None:
    names = [name for name, _ in pairs]
    if strange := set(names) - set(OutputRecord.__struct_fields__):
        raise ValueError(f"a record has no `{sorted(strange)[0]}`")
    if len(set(names)) < len(names):
        raise ValueError("a key appears twice")


def record_digest(record: OutputRecord) -> str:
    """A record's fingerprint, to compare what two routes brought."""
    return hashlib.blake2b(msgspec.json.encode(record), digest_size=16).hexdigest()
