"""A sweep's plan, its trials and their results: values in events and in run.json.

Pure shapes. A *trial* is one setting (active ranks, batch size) measured once: a warm-up batch per rank, which is
thrown away, then whole rounds. A *cell* is all trials of one setting.
"""

from typing import Literal

import msgspec

MAX_TRIALS = 2000
"""A longer plan is a typing error: at a few seconds a trial it would take hours."""


MAX_TRIAL_PROMPTS = 1_000_000
"""A trial's prompts are chosen before it begins, and as many are kept in memory."""

MAX_TRIAL_SECONDS = 24 * 3600


class SweepPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a sweep measures: every batch size with every number of active ranks, `repeats` times in shuffled order.

    A trial lasts at least `least_rounds` rounds and `least_seconds` seconds. With `outputs` the answers are kept, and
    after the sweep the prompts that are left are done at the chosen setting. Without, answers may be cut at
    `trial_tokens` output tokens, fewer than in the run that the setting is for.
    """

    batch_sizes: list[int]
    ranks: list[int]
    repeats: int = 3
    least_rounds: int = 2
    least_seconds: float = 5.0
    outputs: bool = False
    trial_tokens: int | None = None
    seed: int = 0


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One setting to be measured; `number` is its place in the sweep's order. It and `repeat` count from 1."""

    number: int
    repeat: int
    active_ranks: int
    batch_size: int


TrialOutcome = Literal["measured", "out_of_memory", "skipped", "failed"]
"""`skipped`: a smaller batch on as many ranks has run out of memory already."""


class TrialResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a trial measured, without its warm-up. None where it is not available.

    `seconds` runs from the first measured batch handed out to the last one finished; tokens/s are over those seconds,
    of output tokens, and of prompt and output tokens together (`total`). `prefill_seconds` and `batch_seconds` are
    means per batch, `step_ms` the decode milliseconds per step at the 50th, 90th and 99th percentile. `padding_waste`,
    `idle` and `mbu` are shares from 0 to 1; `mbu` covers decode steps only. `busy_percent`, `dram_percent` and
    `tensor_percent` are means over the GPUs at work, `power_watts` is their sum. `peak_memory_bytes` is the largest of
    `rank_peak_memory_bytes`, `reserved_memory_bytes` the largest reserve of any rank.
    """

    rounds: int
    batches: int
    seconds: float
    prompt_tokens: int
    output_tokens: int
    tokens_per_second: float
    total_tokens_per_second: float
    rank_tokens_per_second: list[float]
    prefill_seconds: float
    batch_seconds: float
    step_ms: tuple[float, float, float] | None
    padding_waste: float | None
    idle: float
    peak_memory_bytes: int | None = None
    rank_peak_memory_bytes: list[int | None] = []
    reserved_memory_bytes: int | None = None
    busy_percent: float | None = None
    dram_percent: float | None = None
    tensor_percent: float | None = None
    power_watts: float | None = None
    tokens_per_joule: float | None = None
    mbu: float | None = None


class TrialRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A trial that is over: how it ended, and its result, or the reason why there is none."""

    trial: Trial
    outcome: TrialOutcome
    result: TrialResult | None = None
    reason: str | None = None


class SweepState(msgspec.Struct, frozen=True, kw_only=True):
    """Where a sweep stands: part of the state of its run. `since` is when the current trial began (unix seconds).

    `took` has the seconds of every trial that was run, with its warm-up, by number. `measuring` is False during the
    trial's warm-up. `bandwidth_bytes_per_second` is the device's peak memory bandwidth, and `bandwidth_source` says
    where that figure comes from; `no_mbu` says why trials have no MBU. `settled` says why no more trials follow, once
    that is so.
    """

    plan: SweepPlan
    trials: tuple[Trial, ...]
    records: tuple[TrialRecord, ...] = ()
    current: Trial | None = None
    since: float = 0.0
    took: dict[int, float] = {}
    measuring: bool = False
    bandwidth_bytes_per_second: float | None = None
    bandwidth_source: str | None = None
    no_mbu: str | None = None
    settled: str | None = None

    @property
    def left(self) -> int:
        """How many trials are not over."""
        return len(self.trials) - len(self.records)

    @property
    def ended_early(self) -> bool:
        """Whether it was ended while trials were left; trials that were skipped for lack of memory are over."""
        return self.settled is not None and self.left > 0


WARM_UP_TOKENS, WARM_UP_SHARE = 16, 0.25
"""A warm-up has all rows of its batch, as wide as any of the trial, so that clocks are up, but few decode steps. Only
where a GPU has not done so many rows yet it has all steps: its memory grows to the last of them."""


def warm_up_tokens(new_tokens: int) -> int:
    """Output tokens of each row of a short warm-up before trials whose answers have `new_tokens`."""
    return min(WARM_UP_TOKENS, max(1, int(new_tokens * WARM_UP_SHARE)))
