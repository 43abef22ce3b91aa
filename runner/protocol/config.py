"""Every setting of a run, validated with messages for people.

Knows what each setting means and which values go together. Does not know where a setting came from (flag, TOML file,
start screen), and looks at no file and no device: `runner.start` does.
"""

import math
import re
from typing import Any, Literal, get_args

import msgspec

from rankdeck.runner.protocol.sweep_plan import MAX_TRIAL_PROMPTS, MAX_TRIAL_SECONDS, MAX_TRIALS, SweepPlan

Dispatch = Literal["pull", "split"]
Order = Literal["length", "input"]
DeviceKind = Literal["auto", "cuda", "cpu"]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
EngineName = Literal["auto", "static", "continuous"]
Attention = Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"]
Quantization = Literal["none", "bnb-8bit", "bnb-4bit", "int8"]

MAX_RANKS = 256
MAX_BATCH_SIZE = 65536
MAX_PER = 64
MAX_PATIENCE = 7 * 24 * 3600
"""Anything above these limits is a typing error; that many ranks would bring a machine down."""

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong with a setting: which, what, and what to do."""

    setting: str
    message: str

    def __str__(self) -> str:
        return f"--{self.setting.replace('_', '-')}: {self.message}"


class RunConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of one run, as run.json has them.

    `ranks` is the world size; `batch_size` counts prompts per batch and rank, None (`auto`) searches for the best size
    on the real work. Sampling values of None leave the model's own generation config alone. `max_restarts` is how often
    the ranks are launched again after one of them died. `patience` is for how many seconds a rank at work may have no
    step before it is ended: None for as many as its own pace suggests, 0 for ever. With `sweep` the run is a sweep: it
    measures the plan's settings, and `ranks` is the most it needs. `ranks_per_gpu` is the most ranks a GPU takes, None
    for as many as `ranks` needs; `gpus_per_rank` is how many GPUs a rank's model is spread over. `quantization` is
    applied to weights as they are loaded. `trust_remote_code` lets a model's own Python run, which may do anything its
    user may.
    """

    prompts: str
    model: str = "demo"
    ranks: int = 1
    batch_size: int | None = None
    max_new_tokens: int = 100
    dispatch: Dispatch = "pull"
    order: Order = "length"
    device: DeviceKind = "auto"
    dtype: DtypeName = "auto"
    engine: EngineName = "auto"
    ranks_per_gpu: int | None = None
    gpus_per_rank: int = 1
    quantization: Quantization = "none"
    chat: bool = False
    trust_remote_code: bool = False
    do_sample: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    ignore_eos: bool = False
    compile: bool = False
    attention: Attention = "auto"
    max_restarts: int = 3
    patience: float | None = None
    limit: int | None = None
    column: str | None = None
    output: str | None = None
    name: str | None = None
    sweep: SweepPlan | None = None

    @property
    def length_mode(self) -> str:
        """`fixed length` if end-of-sequence is ignored, else `natural length`."""
        return "fixed length" if self.ignore_eos else "natural length"

    @property
    def new_tokens(self) -> int:
        """The most output tokens of an answer in this run: those of a sweep may be cut shorter."""
        cut = self.sweep.trial_tokens if self.sweep is not None else None
        return self.max_new_tokens if cut is None else cut


_LITERALS: dict[str, Any] = {
    "dispatch": Dispatch,
    "order": Order,
    "device": DeviceKind,
    "dtype": DtypeName,
    "engine": EngineName,
    "attention": Attention,
    "quantization": Quantization,
}


def check(config: RunConfig) -> list[Problem]:
    """All problems with `config` that can be seen without looking at the machine."""
    problems: list[Problem] = []

    def refuse(setting: str, message: str) -> None:
        problems.append(Problem(setting, message))

    for setting, least in (("ranks", 1), ("batch_size", 1), ("max_new_tokens", 1), ("max_restarts", 0)):
        value = getattr(config, setting)
        if value is not None and value < least:
            refuse(setting, f"must be at least {least}, not {value}")
    if config.ranks > MAX_RANKS:
        refuse("ranks", f"must be at most {MAX_RANKS}, not {config.ranks}")
    if config.batch_size is not None and config.batch_size > MAX_BATCH_SIZE:
        refuse("batch_size", f"must be at most {MAX_BATCH_SIZE}, not {config.batch_size}")
    for setting, kind in _LITERALS.items():
        value = getattr(config, setting)
        if value not in get_args(kind):
            refuse(setting, f"must be one of {', '.join(get_args(kind))}, not {value!r}")
    if config.patience is not None and not 0 <= config.patience <= MAX_PATIENCE:
        refuse("patience", f"must be from 0 (never) to {MAX_PATIENCE:,} seconds, not {config.patience:g}")
    if config.limit is not None and config.limit < 1:
        refuse("limit", f"must be at least 1, not {config.limit}")
    if not config.model.strip():
        refuse("model", "must name a model: demo, a local folder, or a hub id")
    if config.name is not None and not RUN_NAME.fullmatch(config.name):
        refuse(
            "name",
            f"must be 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit, not {config.name!r}",
        )
    problems.extend(_check_placement(config))
    if config.attention.startswith("flash") and config.device == "cpu":
        refuse("attention", f"{config.attention} needs an NVIDIA GPU; use sdpa")
    if config.compile and config.engine == "continuous":
        refuse("compile", "is the static engine's; leave it or --engine continuous out")
    if config.compile and config.gpus_per_rank > 1:
        refuse("compile", "is for models on one GPU; leave it or --gpus-per-rank out")
    problems.extend(_check_sampling(config))
    if config.sweep is not None:
        problems.extend(check_sweep(config, config.sweep))
    return problems


def check_sweep(config: RunConfig, plan: SweepPlan) -> list[Problem]:
    """What is wrong with this plan for a sweep of a run with these settings."""
    problems = []
    if not plan.batch_sizes or not all(1 <= size <= MAX_BATCH_SIZE for size in plan.batch_sizes):
        problems.append(Problem("batch_sizes", f"must be numbers from 1 to {MAX_BATCH_SIZE}, as in 1,2,4,8"))
    if not plan.ranks or not all(1 <= ranks <= MAX_RANKS for ranks in plan.ranks):
        problems.append(Problem("ranks", f"must be numbers from 1 to {MAX_RANKS}, as in 1,2"))
    elif max(plan.ranks) > config.ranks:
        problems.append(Problem("ranks", f"{max(plan.ranks)} are to be measured, and the run has {config.ranks}"))
    for setting, value, least in (
        ("repeats", plan.repeats, 1),
        ("rounds", plan.least_rounds, 1),
        ("seconds", plan.least_seconds, 0),
    ):
        if not (math.isfinite(value) and value >= least):
            problems.append(Problem(setting, f"must be at least {least}, not {value}"))
    if plan.least_seconds > MAX_TRIAL_SECONDS:
        problems.append(Problem("seconds", f"must be at most {MAX_TRIAL_SECONDS:,} for a trial"))
    if not problems:
        prompts = plan.least_rounds * max(plan.ranks) * max(plan.batch_sizes)
        if prompts > MAX_TRIAL_PROMPTS:
            said = f"a trial would take {prompts:,} prompts, at most {MAX_TRIAL_PROMPTS:,} are possible"
            problems.append(Problem("rounds", said))
    if plan.trial_tokens is not None:
        if plan.trial_tokens < 1:
            problems.append(Problem("trial_tokens", f"must be at least 1, not {plan.trial_tokens}"))
        elif plan.outputs:
            problems.append(Problem("trial_tokens", "answers that are kept are not cut shorter; leave it out"))
        elif plan.trial_tokens > config.max_new_tokens:
            said = f"must be at most the {config.max_new_tokens} of --max-new-tokens, not {plan.trial_tokens}"
            problems.append(Problem("trial_tokens", said))
    trials = len(set(plan.batch_sizes)) * len(set(plan.ranks)) * max(1, plan.repeats)
    if trials > MAX_TRIALS:
        problems.append(Problem("repeats", f"{trials:,} trials are planned, at most {MAX_TRIALS:,} are possible"))
    if config.dispatch != "pull":
        problems.append(Problem("dispatch", "a sweep has all ranks draw from one line; leave it out"))
    return problems


def _check_placement(config: RunConfig) -> list[Problem]:
    problems = []
    for setting in ("ranks_per_gpu", "gpus_per_rank"):
        value = getattr(config, setting)
        if value is not None and not 1 <= value <= MAX_PER:
            problems.append(Problem(setting, f"must be from 1 to {MAX_PER}, not {value}"))
        elif value is not None and value > 1 and config.device == "cpu":
            problems.append(Problem(setting, "is for NVIDIA GPUs; with --device cpu give the number of --ranks alone"))
    if (config.ranks_per_gpu or 1) > 1 and config.gpus_per_rank > 1:
        said = "ranks share a GPU (--ranks-per-gpu) or have several each, not both; leave one out"
        problems.append(Problem("gpus_per_rank", said))
    return problems


def _check_sampling(config: RunConfig) -> list[Problem]:
    problems = [
        Problem(setting, "has no effect without --do-sample; add it")
        for setting in ("temperature", "top_p", "top_k")
        if getattr(config, setting) is not None and not config.do_sample
    ]
    if config.temperature is not None and not config.temperature > 0:
        problems.append(
            Problem("temperature", f"must be above 0, not {config.temperature}; for greedy leave --do-sample out")
        )
    if config.top_p is not None and not 0 < config.top_p <= 1:
        problems.append(Problem("top_p", f"must be above 0 and at most 1, not {config.top_p}"))
    if config.top_k is not None and config.top_k < 1:
        problems.append(Problem("top_k", f"must be at least 1, not {config.top_k}"))
    return problems


def from_mapping(values: dict[str, Any]) -> RunConfig:
    """A RunConfig from plain values (flags over a TOML file). A batch size may be the word `auto`.

    Raises:
        ValueError: an unknown setting, or a value of the wrong type, in words for people.
    """
    known = {field.name for field in msgspec.structs.fields(RunConfig)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"unknown setting {unknown[0]!r}; known are: {', '.join(sorted(known))}")
    values = {**values}
    if isinstance(size := values.get("batch_size"), str):
        if size != "auto" and not re.fullmatch(r"[+-]?\d+", size.strip()):
            raise ValueError(f"batch_size must be a number or auto, not {size!r}")
        values["batch_size"] = None if size == "auto" else int(size)
    try:
        return msgspec.convert(values, RunConfig)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        raise ValueError(f"{where.rstrip('`')}: {what}" if where else what) from None
