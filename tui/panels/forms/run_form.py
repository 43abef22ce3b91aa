"""The form of a new run as data: its fields, the settings they add up to, and mistakes in what was typed.

Pure; knows no widget, and not what else may be wrong with settings.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

import msgspec

from rankdeck.runner.inputs.prompts.kinds import NAME_ONE
from rankdeck.runner.protocol import config as settings
from rankdeck.runner.protocol.config import Problem, RunConfig
from rankdeck.tui.words.numbers import read_batch_size
from rankdeck.tui.words.text import cut_middle, visible


class Field(NamedTuple):
    """A setting to type, or to choose from `options`. `first` is its default, `empty` what an empty field means."""

    setting: str
    label: str
    first: str
    hint: str
    options: tuple[str, ...] = ()
    empty: str = ""


NO_YES = ("no", "yes")

FIELDS = (
    Field("model", "Model", "demo", "demo, a folder, or a hub id"),
    Field("prompts", "Prompt file", "", "{start.file} chooses one"),
    Field("ranks", "Ranks", "1", "as a rule one for each GPU"),
    Field("batch_size", "Batch size", "auto", "per batch and rank, or auto"),
    Field("max_new_tokens", "New tokens", "100", "output tokens at most"),
    Field("engine", "Engine", "auto", "auto goes by measurements", get_args(settings.EngineName)),
)
"""The settings always shown. Hints fit beside the labels at 80 columns."""

_OWN = "the model's own"

MORE = (
    Field("device", "device", "auto", "where ranks run; auto: the GPUs, if any", get_args(settings.DeviceKind)),
    Field("dtype", "dtype", "auto", "of the weights; auto: float32 on a CPU", get_args(settings.DtypeName)),
    Field("dispatch", "dispatch", "pull", "ranks ask for batches, or each has its share", get_args(settings.Dispatch)),
    Field("order", "order", "length", "longest first, so little padding; or as in the file", get_args(settings.Order)),
    Field("limit", "limit", "", "only the first so many prompts", empty="all prompts"),
    Field("column", "column", "", "of a .csv or .parquet: the one with the prompts"),
    Field("chat", "chat", "no", "plain prompts through the chat template", NO_YES),
    Field("ignore_eos", "fixed length", "no", "end-of-sequence is ignored; for measuring", NO_YES),
    Field("do_sample", "sampling", "no", "instead of greedy decoding", NO_YES),
    Field("temperature", "temperature", "", "with sampling", empty=_OWN),
    Field("top_p", "top-p", "", "with sampling", empty=_OWN),
    Field("top_k", "top-k", "", "with sampling", empty=_OWN),
    Field("seed", "seed", "", "for sampling; the same gives the same answers again", empty="at random"),
    Field("max_restarts", "restarts", "3", "how often ranks are launched afresh"),
    Field("patience", "patience", "", "seconds without a step, until a rank is ended", empty="by its pace"),
    Field("quantization", "quantization", "none", "of the weights, on loading", get_args(settings.Quantization)),
    Field("attention", "attention", "auto", "auto: as transformers chooses", get_args(settings.Attention)),
    Field("ranks_per_gpu", "ranks per GPU", "", "ranks that share a GPU at most", empty="as needed"),
    Field("gpus_per_rank", "GPUs per rank", "1", "for a model too large for one GPU"),
    Field("gpu_memory_share", "GPU memory", "", "vLLM: share of the GPU's memory a rank reserves", empty="0.9"),
    Field("decoding", "decoding", "auto", "static engine: its own loop, or generate", get_args(settings.Decoding)),
    Field("trust_remote_code", "trust its code", "no", "run Python that the model brings, as you", NO_YES),
    Field("name", "run name", "", "letters, digits, '.', '_' and '-'", empty="automatic"),
    Field("output", "output", "", "where a copy of outputs.jsonl goes", empty="no copy"),
)
"""The further settings, which most runs leave at their defaults."""

ALL = (*FIELDS, *MORE)
FIRST_VALUES = {field.setting: field.first for field in ALL}
LABELS = {field.setting: field.label for field in ALL}

_BY_FLAG = sorted(((f"--{name.replace('_', '-')}", label) for name, label in LABELS.items()), reverse=True)
"""Reversed, so that --ranks-per-gpu comes before --ranks, which it begins with."""

_WHOLE = ("ranks", "max_new_tokens", "gpus_per_rank", "max_restarts")
_WHOLE_OR_NONE = ("limit", "top_k", "seed", "ranks_per_gpu")
_FRACTION_OR_NONE = ("temperature", "top_p", "patience", "gpu_memory_share")
_TEXT_OR_NONE = ("column", "output", "name")
_YES = tuple(field.setting for field in ALL if field.options == NO_YES)
_OF_ONE_RUN = ("output", "name")
"""Not copied into another run: two runs cannot share them."""


def read_config(typed: dict[str, str]) -> tuple[RunConfig, list[Problem]]:
    """The settings as typed, and what cannot be read. A setting missing from `typed` has its default.

    A number that cannot be read counts as 1 or None, so that the rest can still be checked.
    """
    values = {**FIRST_VALUES, **typed}
    problems: list[Problem] = []
    found: dict[str, Any] = {}
    for name in (*_WHOLE, *_WHOLE_OR_NONE, *_FRACTION_OR_NONE):
        text = values[name].strip()
        if not text and name not in _WHOLE:
            found[name] = None
            continue
        try:
            found[name] = _fraction(text) if name in _FRACTION_OR_NONE else int(text)
        except ValueError:
            found[name] = 1 if name in _WHOLE else None
            what = "number" if name in _FRACTION_OR_NONE else "whole number"
            said = f"must be a {what}, not {visible(text)!r}" if text else f"needs a {what}"
            problems.append(Problem(name, said))
    found["batch_size"] = None
    try:
        found["batch_size"] = read_batch_size(values["batch_size"])
    except ValueError as error:
        problems.append(Problem("batch_size", str(error)))
    if not values["prompts"].strip():
        problems.append(Problem("prompts", NAME_ONE))
    for name in _TEXT_OR_NONE:
        found[name] = values[name].strip() or None
    for name in _YES:
        found[name] = values[name] == "yes"
    for name in values.keys() - found.keys():
        found[name] = values[name].strip()
    return RunConfig(**found), problems


def set_values(values: Mapping[str, str], usual: Mapping[str, str]) -> list[str]:
    """`limit 4`, `fixed length yes`: the values that differ from `usual`, by the labels of the form.

    The further settings, which may be out of sight, come first, long names last. Values are cut short and escaped.
    """
    return [
        f"{_in_a_sentence(field.label)} {cut_middle(visible(values[field.setting]), 16) or 'none'}"
        for field in (*MORE, *reversed(FIELDS))
        if field.setting in values and values[field.setting] != usual.get(field.setting, field.first)
    ]


def _in_a_sentence(label: str) -> str:
    """`Prompt file` in lower case, but not `GPUs per rank`."""
    return label if label[1:2].isupper() else label[0].lower() + label[1:]


def in_the_forms_words(message: str, value: str = "") -> str:
    """Replace the command line's flags in a message by labels; drop the `value` it begins with, shown just above."""
    if value:
        message = message.removeprefix(f"{value}: ")
    for name, label in _BY_FLAG:
        message = message.replace(name, label)
    return message


def name_of(setting: str) -> str:
    """The label of a setting, or its own name if it has no field."""
    return LABELS.get(setting, setting.replace("_", " "))


def first_mistake(problems: Sequence[Problem], values: Mapping[str, str]) -> tuple[str, str]:
    """The first setting of the form that is wrong, those without a field last, and a line that says what is wrong."""
    first = min(problems, key=lambda problem: [*LABELS, problem.setting].index(problem.setting))
    words = in_the_forms_words(first.message, values.get(first.setting, ""))
    return first.setting, f"{name_of(first.setting)}: {visible(words)}"


def _fraction(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def values_of(config: RunConfig) -> dict[str, str]:
    """The values of the fields for these settings. The run's name and the path of its copy are left empty."""
    values = {}
    for name, value in msgspec.structs.asdict(config).items():
        if name not in FIRST_VALUES:
            continue
        if name == "batch_size":
            values[name] = "auto" if value is None else str(value)
        elif name in _YES:
            values[name] = "yes" if value else "no"
        else:
            values[name] = "" if value is None or name in _OF_ONE_RUN else str(value)
    return values
