"""A model's folder, looked into before any rank starts: all that is wrong with it at once, in words for people.

Reads small files and headers, and transformers' tables. What only loading can show is for the ranks to say.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rankdeck.runner.inputs.checkpoint import architecture, custom_code, folder, tokenizer, weights
from rankdeck.runner.inputs.checkpoint.json_file import BrokenFile, read_object
from rankdeck.runner.inputs.checkpoint.transformers_names import Names, installed_names
from rankdeck.runner.inputs.checkpoint.value_kinds import wrong_kinds
from rankdeck.runner.inputs.quantization import Package, installed

CONFIG, GENERATION = "config.json", "generation_config.json"
HEAD = "AutoModelForCausalLM"
PEFT = Package("peft", "peft")

FORCED = ("forced_bos_token_id", "forced_eos_token_id")
END = "eos_token_id"


class Findings(NamedTuple):
    """What was found in a folder: why it cannot be used, and what is worth a line all the same."""

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class _Checkpoint(NamedTuple):
    path: Path
    files: list[str]
    config: dict[str, Any]
    names: Names
    trusted: bool


def examine(
    path: Path,
    *,
    trust_remote_code: bool = False,
    chat: bool = False,
    weights_may_come: bool = False,
    names: Names | None = None,
) -> Findings:
    """What is wrong with the checkpoint in the folder `path`, and worth knowing.

    `chat` is whether prompts go through its chat template. With `weights_may_come` weights that are not there are still
    to be fetched. `names` are those of the transformers that loads it.
    """
    if said := folder.why_no_model(path):
        return Findings((said,))
    files = folder.names_in(path)
    if folder.is_pointer(path / CONFIG):
        return Findings((folder.why_pointers(path, folder.pointers(path, files, ())),))
    try:
        config = read_object(path / CONFIG)
    except BrokenFile as error:
        return Findings((str(error),))
    model = _Checkpoint(path, files, config, names or installed_names(), trust_remote_code)
    if surely := _why_another_kind(model):
        return Findings((f"{path}: {surely}",))
    chosen = weights.files_of(path, files, config)
    pointers = folder.pointers(path, files, chosen)
    problems = [folder.why_pointers(path, pointers)] if pointers else []
    first = weights.index_of(files, config)
    awaited = weights_may_come and not (chosen and all((path / name).is_file() for name in chosen))
    if not awaited and not {first, *chosen} & {*pointers}:
        foreign = trust_remote_code and HEAD in custom_code.auto_map(config)
        problems += weights.problems_of(path, files, config, foreign=foreign)
    found = [_adapter_findings(model), _tokenizer_findings(model, pointers, chat), _setting_findings(model, pointers)]
    problems += [said for each in found for said in each.problems]
    return Findings(tuple(problems), tuple(note for each in found for note in each.notes))


def vocabulary_of(config: Mapping[str, Any]) -> int | None:
    """How many tokens a config.json says that its model knows."""
    text = config.get("text_config")
    for values in (text if isinstance(text, dict) else {}, config):
        size = values.get("vocab_size")
        if isinstance(size, int) and not isinstance(size, bool) and size > 0:
            return size
    return None


def _why_another_kind(model: _Checkpoint) -> str | None:
    """Why this is no model for a run, whatever its files hold."""
    code, kind = custom_code.auto_map(model.config), model.config.get("model_type")
    needed = custom_code.needed_code(model.config, model.names)
    if needed and HEAD not in code and kind not in model.names.causal:
        return custom_code.why_no_head(code)
    if needed and not model.trusted:
        return custom_code.why_not_run(needed, kind, model.names)
    if model.trusted and HEAD in code:
        absent = sorted({custom_code.file_of(place) for place in code.values() if "--" not in place} - {*model.files})
        return (
            f"config.json names {folder.listed(absent)}, which is not there; fetch the model again" if absent else None
        )
    return architecture.why_not_causal(model.config, model.names, sentence_model=_is_sentence_model(model))


def _adapter_findings(model: _Checkpoint) -> Findings:
    """An adapter beside whole weights: transformers adds it if peft is there, and else says nothing."""
    adapter = "adapter_config.json" in model.files and any(name.startswith("adapter_model.") for name in model.files)
    if not adapter or weights.index_of(model.files, model.config) is None or installed(PEFT) is not None:
        return Findings()
    said = (
        "there is an adapter (adapter_config.json) beside the weights, which would be left out: merge the two with "
        "peft's merge_and_unload(), or pip install peft, or remove the adapter's files"
    )
    return Findings((f"{model.path}: {said}",))


def _is_sentence_model(model: _Checkpoint) -> bool:
    try:
        return "modules.json" in model.files and b"sentence_transformers" in (model.path / "modules.json").read_bytes()
    except OSError:
        return False


def _tokenizer_findings(model: _Checkpoint, pointers: list[str], chat: bool) -> Findings:
    path, files = model.path, model.files
    if any(name.startswith(("tokenizer", "vocab", "merges")) for name in pointers):
        return Findings()
    try:
        settings = read_object(path / tokenizer.SETTINGS) if tokenizer.SETTINGS in files else {}
    except BrokenFile:
        settings = {}  # said below
    if code := custom_code.needed_tokenizer_code(settings, model.config, model.names):
        if model.trusted:
            return Findings()
        kind = model.config.get("model_type")
        return Findings((f"{path}: its tokenizer is {custom_code.why_not_run(code, kind, model.names)}",))
    problems, notes = tokenizer.problems_of(path, files), []
    if chat and (said := tokenizer.why_no_chat(path, files, model.trusted)):
        problems.append(f"{path}: {said}")
    rows = vocabulary_of(model.config)
    try:
        read = tokenizer.read_tokenizer(path) if tokenizer.WHOLE_FILE in files else None
        if read is not None and rows is not None and (note := tokenizer.beyond(read, rows)):
            notes.append(note)
    except BrokenFile as error:
        problems.append(str(error))
    return Findings(tuple(problems), tuple(notes))


def _setting_findings(model: _Checkpoint, pointers: list[str]) -> Findings:
    """Settings whose values are of the wrong kind, and tokens that they name and the embedding has not."""
    try:
        readable = GENERATION in model.files and GENERATION not in pointers
        generation = read_object(model.path / GENERATION) if readable else {}
    except BrokenFile as error:
        return Findings((str(error),))
    rows = vocabulary_of(model.config)
    problems: list[str] = []
    notes: list[str] = []
    for file, values in ((CONFIG, model.config), (GENERATION, generation)):
        problems += (f"{model.path / file}: {said}; correct it there" for said in wrong_kinds(values))
    for setting in (*FORCED, END):
        file, values = (GENERATION, generation) if setting in generation else (CONFIG, model.config)
        past = [number for number in _numbers(values.get(setting)) if rows is not None and number >= rows]
        if not past or rows is None:
            continue
        said = f"{model.path / file}: {setting} {past[0]} is beyond the model's tokens, 0 to {rows - 1}"
        if setting == END:
            notes.append(f"{said}: no answer ends with it")
        else:
            problems.append(f"{said}; correct or remove it")
    return Findings(tuple(problems), tuple(notes))


def _numbers(value: object) -> Iterable[int]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, int) and not isinstance(each, bool)]
