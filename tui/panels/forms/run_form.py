"""The form of a new run as data: its fields, what they say, and the settings they add up to. Pure; knows no widget."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

import msgspec

from rankdeck.runner.protocol import config as settings
from rankdeck.runner.protocol.config import Problem, RunConfig
from rankdeck.tui.words.numbers import read_batch_size
from rankdeck.tui.words.text import cut_middle, visible


class Field(NamedTuple):
    """A setting as it is typed or chosen. `options` where there is a choice; `empty` is what an empty field means."""

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
"""What every run is asked for. Hints fit beside the labels at 80 columns."""

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
    Field("seed", "seed", "", "for sampling; each rank derives its own", empty="at random"),
    Field("max_restarts", "restarts", "3", "how often ranks are launched afresh"),
    Field("quantization", "quantization", "none", "of the weights, on loading", get_args(settings.Quantization)),
    Field("attention", "attention", "auto", "auto: as transformers chooses", get_args(settings.Attention)),
    Field("ranks_per_gpu", "ranks per GPU", "", "ranks that share a GPU at most", empty="as needed"),
    Field("gpus_per_rank", "GPUs per rank", "1", "for a model too large for one GPU"),
    Field("compile", "compile", "no", "static engine; worth it on long jobs only", NO_YES),
    Field("name", "run name", "", "letters, digits, '.', '_' and '-'", empty="automatic"),
    Field("output", "output", "", "where a copy of outputs.jsonl goes", empty="no copy"),
)
"""What most runs leave as it is."""

ALL = (*FIELDS, *MORE)
FIRST_VALUES = {field.setting: field.first for field in ALL}
LABELS = {field.setting: field.label for field in ALL}

_BY_FLAG = sorted(((f"--{name.replace('_', '-')}", label) for name, label in LABELS.items()), reverse=True)
"""The longest of those that begin alike first: --ranks-per-gpu before --ranks."""

_WHOLE = ("ranks", "max_new_tokens", "gpus_per_rank", "max_restarts")
_WHOLE_OR_NONE = ("limit", "top_k", "seed", "ranks_per_gpu")
_FRACTION_OR_NONE = ("temperature", "top_p")
_TEXT_OR_NONE = ("column", "output", "name")
_YES = tuple(field.setting for field in ALL if field.options == NO_YES)
_OF_ONE_RUN = ("output", "name")
"""What a second run with the same settings must not have."""


def read_config(typed: dict[str, str]) -> tuple[RunConfig, list[Problem]]:
    """The settings as typed, and what is wrong with the typing. A setting that is not there has its first value.

    What is no number counts as the first value, or as 1, so that the rest can be checked.
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
        problems.append(Problem("prompts", "name a file of prompts: .txt, .jsonl, .json, .csv or .parquet"))
    for name in _TEXT_OR_NONE:
        found[name] = values[name].strip() or None
    for name in _YES:
        found[name] = values[name] == "yes"
    for name in values.keys() - found.keys():
        found[name] = values[name].strip()
    return RunConfig(**found), problems


def set_values(values: Mapping[str, str], usual: Mapping[str, str]) -> list[str]:
    """`limit 4`, `fixed length yes`: what is not as usual, by the labels of the form. The further settings come first,
    which one may not see, and the long names last. Values are data, cut short and made harmless.
    """
    return [
        f"{_in_a_sentence(field.label)} {cut_middle(visible(values[field.setting]), 16) or 'none'}"
        for field in (*MORE, *reversed(FIELDS))
        if field.setting in values and values[field.setting] != usual.get(field.setting, field.first)
    ]


def _in_a_sentence(label: str) -> str:
    """`Prompt file` begins in lower case there; `GPUs per rank` does not."""
    return label if label[1:2].isupper() else label[0].lower() + label[1:]


def in_the_forms_words(message: str, value: str = "") -> str:
    """A message names flags of the command line, which here are fields, and a file, which stands right above it."""
    if value:
        message = message.removeprefix(f"{value}: ")
    for name, label in _BY_FLAG:
        message = message.replace(name, label)
    return message


def name_of(setting: str) -> str:
    """What a setting is called in the form; one that has no field there, by its own name."""
    return LABELS.get(setting, setting.replace("_", " "))


def first_mistake(problems: Sequence[Problem], values: Mapping[str, str]) -> tuple[str, str]:
    """The setting that stands first in the form, those without a field last, and what is wrong with it."""
    setting, message, *_ = msgspec.structs.astuple(
        min(problems, key=lambda problem: [*LABELS, problem.setting].index(problem.setting))
    )
    return setting, f"{name_of(setting)}: {visible(in_the_forms_words(message, values.get(setting, '')))}"


def _fraction(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def values_of(config: RunConfig) -> dict[str, str]:
    """What the fields say for these settings; what belongs to one run alone (its name, its copy) is left empty."""
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
