"""Every setting of a run, validated with messages for people.

Knows what each setting means and which values go together. Does not know where a setting came from (flag, TOML file,
start screen), and looks at no file and no device: `runner.start` does.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

import msgspec

from rankdeck.runner.protocol.choices import near, not_one_of
from rankdeck.runner.protocol.sweep_plan import MAX_TRIAL_PROMPTS, MAX_TRIAL_SECONDS, MAX_TRIALS, SweepPlan

Dispatch = Literal["pull", "split"]
Order = Literal["length", "input"]
DeviceKind = Literal["auto", "cuda", "cpu"]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
EngineName = Literal["auto", "static", "continuous", "vllm"]
Attention = Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"]
Decoding = Literal["auto", "generate"]
Quantization = Literal["none", "bnb-8bit", "bnb-4bit", "int8"]

ENGINES = frozenset(get_args(EngineName)) - {"auto"}
"""The engines there are."""

CONTINUOUS_ENGINES = frozenset({"continuous", "vllm"})
"""Those whose rows come and go one by one: their batch size is how many rows they generate at once."""

STEPWISE_ENGINES = frozenset({"vllm"})
"""Those of them that rows are kept back of within a step, and whose rows stand still while the run is paused."""

VLLM_QUANTIZATIONS = frozenset({"none", "bnb-4bit"})
"""What vLLM can do to weights as it loads them."""

MAX_RANKS = 256
MAX_BATCH_SIZE = 65536
MAX_PER = 64
MAX_PATIENCE = 7 * 24 * 3600
MAX_RESTARTS = 1000
MAX_COUNT = 1_000_000_000
"""Anything above these limits is a typing error; that many ranks would bring a machine down."""

MAX_SEED = 2**32 - 1
"""NumPy, which is seeded too, takes 32 bits."""

LEAST_TEMPERATURE = 1e-6
"""Logits divided by less overflow."""

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong with a setting: which, what, and what to do."""

    setting: str
    message: str

    def __str__(self) -> str:
        return f"--{self.setting.replace('_', '-')}: {self.message}"


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one run, as run.json has them.

    `ranks` is the world size; `batch_size` counts prompts per batch and rank, None (`auto`) searches for the best size
    on the real work. Sampling values of None leave the model's own generation config alone; a run that samples has a
    `seed` from its launch on, and 0 counts where none was chosen. `max_restarts` is how often
    the ranks are launched again after one of them died. `patience` is for how many seconds a rank at work may have no
    step before it is ended, 20 times as many while its pace is not known: None for as many as its own pace suggests, 0
    for ever. With `sweep` the run is a sweep: it measures the plan's settings, and `ranks` is the most it needs.
    `ranks_per_gpu` is the most ranks a GPU takes, None for as many as `ranks` needs; `gpus_per_rank` is how many GPUs a
    rank's model is spread over. `gpu_memory_share` is how much of its GPUs a rank of vLLM takes, None for as much as is
    sensible. `quantization` is applied to weights as they are loaded. `trust_remote_code` lets a
    model's own Python run, which may do anything its user may.
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
    gpu_memory_share: float | None = None
    quantization: Quantization = "none"
    chat: bool = False
    trust_remote_code: bool = False
    do_sample: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    ignore_eos: bool = False
    decoding: Decoding = "auto"
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
    "decoding": Decoding,
    "quantization": Quantization,
}


_BOUNDS: dict[str, tuple[int, int]] = {
    "ranks": (1, MAX_RANKS),
    "batch_size": (1, MAX_BATCH_SIZE),
    "max_new_tokens": (1, MAX_COUNT),
    "max_restarts": (0, MAX_RESTARTS),
    "limit": (1, MAX_COUNT),
    "ranks_per_gpu": (1, MAX_PER),
    "gpus_per_rank": (1, MAX_PER),
    "top_k": (1, MAX_COUNT),
    "seed": (0, MAX_SEED),
}
"""The least and the most of every whole number; None, where a setting may be that, is within them."""


def check(config: RunConfig) -> list[Problem]:
    """All problems with `config` that can be seen without looking at the machine."""
    problems = [
        Problem(setting, said)
        for setting, bounds in _BOUNDS.items()
        if (value := getattr(config, setting)) is not None and (said := out_of_bounds(value, *bounds))
    ]
    problems += [
        Problem(setting, not_one_of(value, get_args(kind)))
        for setting, kind in _LITERALS.items()
        if (value := getattr(config, setting)) not in get_args(kind)
    ]
    if config.patience is not None and not 0 <= config.patience <= MAX_PATIENCE:
        said = f"must be from 0 (never) to {MAX_PATIENCE:,} seconds, not {config.patience:g}"
        problems.append(Problem("patience", said))
    if not config.model.strip():
        problems.append(Problem("model", "must name a model: demo, a local folder, or a hub id"))
    if config.name is not None and not RUN_NAME.fullmatch(config.name):
        said = "must be 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit"
        problems.append(Problem("name", f"{said}, not {config.name!r}"))
    problems += _check_placement(config)
    if config.attention.startswith("flash") and config.device == "cpu":
        problems.append(Problem("attention", f"{config.attention} needs an NVIDIA GPU; use sdpa"))
    if config.decoding != "auto" and config.engine in CONTINUOUS_ENGINES:
        said = f"belongs to the static engine; leave out this or --engine {config.engine}"
        problems.append(Problem("decoding", said))
    if config.engine == "vllm":
        problems += check_vllm(config)
    if config.gpu_memory_share is not None:
        problems += _check_memory_share(config, config.gpu_memory_share)
    problems += _check_sampling(config)
    if config.sweep is not None:
        problems += check_sweep(config, config.sweep)
    return problems


def out_of_bounds(value: float, least: float, most: float) -> str:
    """What to say of a number that is not from `least` to `most`; nothing if it is."""
    if value < least:
        return f"must be at least {least}, not {value}"
    return f"must be at most {most}, not {value}" if value > most else ""


def check_sweep(config: RunConfig, plan: SweepPlan) -> list[Problem]:
    """What is wrong with this plan for a sweep of a run with these settings."""
    problems = []
    if not plan.batch_sizes or not all(1 <= size <= MAX_BATCH_SIZE for size in plan.batch_sizes):
        problems.append(Problem("batch_sizes", f"must be numbers from 1 to {MAX_BATCH_SIZE}, as in 1,2,4,8"))
    if not plan.ranks or not all(1 <= ranks <= MAX_RANKS for ranks in plan.ranks):
        problems.append(Problem("ranks", f"must be numbers from 1 to {MAX_RANKS}, as in 1,2"))
    elif max(plan.ranks) > config.ranks:
        problems.append(Problem("ranks", f"{max(plan.ranks)} are to be measured, and the run has {config.ranks}"))
    if said := out_of_bounds(plan.repeats, 1, MAX_TRIALS):
        problems.append(Problem("repeats", said))
    if said := out_of_bounds(plan.least_rounds, 1, MAX_COUNT):
        problems.append(Problem("rounds", said))
    if not 0 <= plan.least_seconds <= MAX_TRIAL_SECONDS:
        problems.append(Problem("seconds", f"must be from 0 to {MAX_TRIAL_SECONDS:,}, not {plan.least_seconds}"))
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


def check_vllm(config: RunConfig) -> list[Problem]:
    """The settings of this run that vLLM does not have, each by name."""
    problems = []
    if config.attention != "auto":
        problems.append(Problem("attention", "vLLM chooses its attention itself; leave out this or --engine vllm"))
    if config.dispatch == "split":
        said = "vLLM ranks form no process group to gather in; leave out this or --engine vllm"
        problems.append(Problem("dispatch", said))
    if (config.ranks_per_gpu or 1) > 1:
        said = "a vLLM rank reserves its GPU's memory for itself; use a larger --batch-size instead"
        problems.append(Problem("ranks_per_gpu", said))
    if config.quantization not in VLLM_QUANTIZATIONS:
        said = (
            f"vLLM cannot quantise to {config.quantization} while loading; use a checkpoint that is already "
            "quantised, or leave out this or --engine vllm"
        )
        problems.append(Problem("quantization", said))
    elif config.quantization != "none" and config.device == "cpu":
        problems.append(Problem("quantization", f"vLLM quantises to {config.quantization} on NVIDIA GPUs only"))
    return problems


def _check_memory_share(config: RunConfig, share: float) -> list[Problem]:
    if not 0 < share <= 1:
        return [Problem("gpu_memory_share", f"must be above 0 and at most 1, not {share:g}")]
    if config.engine not in ("auto", "vllm"):
        said = f"is for --engine vllm; leave out this or --engine {config.engine}"
        return [Problem("gpu_memory_share", said)]
    if config.device == "cpu":
        return [Problem("gpu_memory_share", "is for NVIDIA GPUs; with --device cpu leave it out")]
    return []


def _check_placement(config: RunConfig) -> list[Problem]:
    problems = []
    for setting in ("ranks_per_gpu", "gpus_per_rank"):
        value = getattr(config, setting)
        if value is not None and value > 1 and config.device == "cpu":
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
    if config.temperature is not None and not LEAST_TEMPERATURE <= config.temperature < math.inf:
        said = f"must be above 0 and finite, not {config.temperature}; for greedy decoding leave out --do-sample"
        problems.append(Problem("temperature", said))
    if config.top_p is not None and not 0 < config.top_p <= 1:
        problems.append(Problem("top_p", f"must be above 0 and at most 1, not {config.top_p}"))
    return problems


def read(values: Mapping[str, Any]) -> tuple[RunConfig, list[Problem]]:
    """The settings in plain values (flags over a TOML file), and what of them cannot be read.

    A setting that cannot be read has its default, so that the rest can still be checked. A batch size may be the word
    `auto`.
    """
    fields = {field.name: field.type for field in msgspec.structs.fields(RunConfig)}
    problems: list[Problem] = []
    found: dict[str, Any] = {"prompts": ""}
    for name, value in values.items():
        if name not in fields:
            known = f"the settings are: {', '.join(sorted(fields))}"
            problems.append(Problem(name, f"there is no such setting; {known}{near(name, fields)}"))
            continue
        try:
            found[name] = _read_one(name, fields[name], value)
        except ValueError as error:
            problems.append(Problem(name, str(error)))
    return RunConfig(**found), problems


def _read_one(name: str, kind: Any, value: Any) -> Any:
    """A setting as a RunConfig has it. Raises ValueError, in words for people."""
    if name in _LITERALS and isinstance(value, str):
        if value not in get_args(kind):
            raise ValueError(not_one_of(value, get_args(kind)))
    elif name == "batch_size" and isinstance(value, str):
        if value == "auto":
            return None
        if not re.fullmatch(r"[+-]?[0-9]{1,20}", value.strip()):
            raise ValueError(f"must be a whole number or auto, not {value!r}")
        return int(value)
    elif name in _BOUNDS and isinstance(value, int) and (said := out_of_bounds(value, *_BOUNDS[name])):
        raise ValueError(said)  # before msgspec sees it, which takes 64 bits
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(_in_words(error, value)) from None


_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a string"}


def _in_words(error: msgspec.ValidationError, value: object) -> str:
    what, _, where = str(error).partition(" - at `$")
    expected = re.match(r"Expected `(\w+)", what)
    kind = _KINDS.get(expected[1]) if expected else None
    if where:  # inside a table
        return f"{where.strip('.`')}: {f'must be {kind}' if kind else what}"
    return f"must be {kind}, not {value!r}" if kind else what


def from_mapping(values: Mapping[str, Any]) -> RunConfig:
    """A RunConfig from plain values.

    Raises:
        ValueError: something cannot be read; a line for each, in words for people.
    """
    config, problems = read(values)
    if problems:
        raise ValueError("\n".join(map(str, problems)))
    return config
