"""The files of a checkpoint's weights: which ones transformers takes, whether they are whole, what they lack.

Reads their headers alone. That no weight is missing only the model's class can say, when it is loaded.
"""

import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rankdeck.runner.inputs.checkpoint.folder import listed, other_kind, why_adapter
from rankdeck.runner.inputs.checkpoint.json_file import BrokenFile, read_object
from rankdeck.runner.inputs.checkpoint.safetensors_file import Tensor, tensors_of

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
LOOKED_FOR = (SINGLE, INDEX, PICKLED, PICKLED_INDEX)
"""In this order, as in transformers."""

EMBEDDING = re.compile(r"(.*\b)(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings)\.weight")
"""The input embedding, as most models call it, with what stands before its name."""
LAYER = re.compile(r"(.*?)\b(layers|h|blocks|layer)\.(\d+)\..*")
HEAD = re.compile(
    r".*\b(lm_head|embed_out|output_projection|proj_out|pred_layer|lm_loss|predictions)\b.*|(head|output)\..*"
)
"""The last layer of a language model, as they call it."""
OTHER_HEAD = re.compile(r"(score|classifier|qa_outputs|v_head|value_head|reward_head|regression_head)\..*")

MORE_ROWS = frozenset({"mllama", "moshi"})
"""Model types whose embedding has more rows than the vocabulary has tokens."""
OTHER_WIDTHS = (
    "word_embed_proj_dim",
    "input_embedding_size",
    "embedding_size",
    "embedding_dim",
    "embed_dim",
    "d_embed",
)
"""The settings of models whose embedding is as wide as they say, not as their layers."""


def index_of(names: Iterable[str], config: Mapping[str, Any]) -> str | None:
    """The file that transformers begins with, an index or the weights; None if there is none of the right name."""
    there, named = set(names), config.get("transformers_weights")
    if isinstance(named, str) and named:
        return named
    return next((name for name in LOOKED_FOR if name in there), None)


def files_of(folder: Path, names: Iterable[str], config: Mapping[str, Any]) -> list[str]:
    """The files of weights that transformers takes; those of a broken index are unknown."""
    first = index_of(names, config)
    if first is None or not first.endswith(".index.json"):
        return [] if first is None else [first]
    try:
        return sorted(set(_weight_map(folder / first).values()))
    except BrokenFile:
        return []


def problems_of(folder: Path, names: Iterable[str], config: Mapping[str, Any], *, foreign: bool = False) -> list[str]:
    """What is wrong with the weights in a folder, as far as it can be told without the model's class.

    `foreign` is whether the model's own Python loads them: then their names and sizes say nothing.
    """
    there = list(names)
    first = index_of(there, config)
    if first is None:
        return [why_none(folder, there)]
    weight_map: dict[str, str] = {}
    try:
        if first.endswith(".index.json"):
            weight_map = _weight_map(folder / first)
    except BrokenFile as error:
        return [str(error)]
    files = sorted(set(weight_map.values())) or [first]
    if missing := [name for name in files if not (folder / name).is_file()]:
        need = f"{folder / first} names {len(files)} files, and " if weight_map else f"{folder}: "
        return [f"{need}{listed(missing)} {'is' if len(missing) == 1 else 'are'} not there; fetch the model again"]
    if not first.endswith((".safetensors", ".safetensors.index.json")):
        return [said for name in files if (said := _why_not_pickled(folder / name))]
    problems, tensors = [], {}
    for name in files:
        try:
            held = tensors_of(folder / name)
        except BrokenFile as error:
            problems.append(str(error))
            continue
        tensors.update(held)
        absent = [tensor for tensor, file in weight_map.items() if file == name and tensor not in held]
        if absent:
            problems.append(f"{folder / name} lacks {listed(absent, 2)}, which {first} says are in it; fetch it again")
    if problems or foreign:
        return problems
    return [f"{folder}: {said}" for said in misfits(tensors, config)]


def why_none(folder: Path, names: list[str]) -> str:
    """The words for a folder without weights that transformers would take: what else it has."""
    if "adapter_config.json" in names:
        return why_adapter(folder)
    others = [name for name in names if name.endswith((".safetensors", ".bin")) and name != "training_args.bin"]
    shards = [name for name in others if re.search(r"-\d{5}-of-\d{5}\.", name)]
    if shards:
        what = f"{shards[0]} and its like need {INDEX}, which is not there; fetch the model again"
    elif (kind := other_kind(names)) is not None:
        what = f"it has {kind}; give a folder, or a hub id, with the weights for transformers"
    elif others:
        what = f"it has {listed(others)}; transformers takes only those names"
    else:
        what = "fetch the model again, with its weights"
    return f"{folder} has no weights: {SINGLE}, or {INDEX} with the files that it names; {what}"


def misfits(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> list[str]:
    """What the tensors lack, or where they are not of the sizes that config.json gives. Pure."""
    text = config.get("text_config")
    values = {**config, **text} if isinstance(text, dict) else dict(config)
    return [
        *_missing_layers(tensors, values),
        *_missing_head(tensors, config, values),
        *([] if config.get("model_type") in MORE_ROWS else _wrong_sizes(tensors, values)),
        *_packed_by_mlx(tensors, config),
    ]


def embedding_of(tensors: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """The name of the input embedding and what stands before it; None if it has another name."""
    found = [(name, match[1]) for name in tensors if (match := EMBEDDING.fullmatch(name))]
    return min(found, key=lambda pair: len(pair[0]), default=None)


def _missing_layers(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> list[str]:
    """Layers in between that are left out; at the end, of those beside the input embedding."""
    numbers: dict[str, set[int]] = {}
    for name in tensors:
        if match := LAYER.fullmatch(name):
            numbers.setdefault(match[1] + match[2], set()).add(int(match[3]))
    embedding, count = embedding_of(tensors), values.get("num_hidden_layers")
    said = []
    for prefix, found in numbers.items():
        beside = embedding is not None and prefix.rpartition(".")[0] == embedding[1].rstrip(".")
        whole = count if beside and isinstance(count, int) else 0
        missing = [number for number in range(max(whole, max(found) + 1)) if number not in found]
        if missing:
            names = listed([f"{prefix}.{number}" for number in missing])
            said.append(f"the weights of {names} are missing; fetch the model again")
    return said


def _missing_head(tensors: Mapping[str, Tensor], config: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    if any(HEAD.fullmatch(name) for name in tensors):
        return []
    tied = True in (config.get("tie_word_embeddings"), values.get("tie_word_embeddings"))
    others = [name for name in tensors if OTHER_HEAD.fullmatch(name)]
    if others and not tied:
        what = f"there is {others[0]}: it classifies or scores, and is no causal language model"
        return [f"the weights have no lm_head, which makes the tokens; {what}"]
    embedding = embedding_of(tensors)
    untied = not tied and False in (config.get("tie_word_embeddings"), values.get("tie_word_embeddings"))
    if untied and embedding is not None and embedding[0].endswith("embed_tokens.weight"):
        return [
            "the weights have no lm_head.weight, and tie_word_embeddings in config.json is false: is it a base model?"
        ]
    return []


def _wrong_sizes(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> list[str]:
    embedding = embedding_of(tensors)
    if embedding is None or "quantization_config" in values:
        return []
    name, _ = embedding
    shape, rows, columns = tensors[name].shape, values.get("vocab_size"), values.get("hidden_size")
    if len(shape) != 2 or not isinstance(rows, int):
        return []
    width = columns if isinstance(columns, int) and not any(key in values for key in OTHER_WIDTHS) else shape[1]
    if shape == [rows, width] or tensors[name].dtype not in ("F64", "F32", "F16", "BF16"):
        return []
    wanted = f"vocab_size {rows}" + (f" and hidden_size {width}" if shape[1] != width else "")
    return [f"{name} is {shape[0]} x {shape[1]}, and config.json says {wanted}: they are of different models"]


def _packed_by_mlx(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> list[str]:
    """Apple's MLX packs weights into 32-bit words and says so where transformers does not look."""
    packed = [name for name, tensor in tensors.items() if tensor.dtype == "U32" and name.endswith(".weight")]
    if not packed or "quantization" not in config or f"{packed[0][:-6]}scales" not in tensors:
        return []
    return ["the weights are quantised by MLX, for Apple's computers; take the model they were made from"]


def _weight_map(path: Path) -> dict[str, str]:
    """The file of each tensor, as an index has it.

    Raises:
        BrokenFile: it is no index.
    """
    found = read_object(path).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise BrokenFile(f"{path} has no weight_map, which says where each weight is; fetch it again")
    return found


def _why_not_pickled(path: Path) -> str | None:
    """Why a file of `torch.save` cannot be read, as far as it shows. Since torch 1.6 they are zip files."""
    try:
        with path.open("rb") as file:
            first = file.read(4)
        if not first:
            return f"{path} is empty; fetch it again"
        if first.startswith(b"PK") and not zipfile.is_zipfile(path):
            return f"{path} is cut short; fetch it again"
        if not first.startswith((b"PK", b"\x80")):
            return f"{path} is not a torch.save file; fetch it again"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return None
