"""What an estimate of memory starts from: the shape of a model, from its files, and the size of the prompts.

Reads headers and the beginnings of files, never weights, and uses no network: a model that is not on this machine is
unknown until it is fetched. `runner.inputs.memory_estimate` does the estimating.
"""

import contextlib
import math
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from rankdeck.runner.inputs.demo_model import DemoModel, folder_in
from rankdeck.runner.inputs.memory_estimate import PromptSizes
from rankdeck.runner.inputs.model_config import DEMO, ModelShape, shape_from_config
from rankdeck.runner.inputs.prompts.files import records
from rankdeck.runner.inputs.prompts.problems import Problems, PromptError
from rankdeck.runner.inputs.quantization import read_model_config

HEADER_BYTES = 64 * 2**20
"""A file with a longer header is not a safetensors file."""

SAMPLE_BYTES = 4 * 2**20
"""How much of a prompt file is read."""

CHARACTERS_PER_TOKEN = 3.5
"""Roughly, for English prose; other scripts have fewer."""

UNKNOWN_PROMPT_TOKENS = 256


class Unknown(Exception):
    """The shape of a model is not known yet; the text says why."""


def demo_folder() -> Path:
    """Where the demo model is, once it was fetched."""
    return folder_in(platformdirs.user_cache_path("rankdeck"), DemoModel())


def shape_of(model: str) -> ModelShape:
    """The shape of the model that `--model` names.

    Raises:
        Unknown: the model is not on this machine, or its files do not say.
    """
    if model == "demo":
        folder = demo_folder()
        return _folder_shape(folder) if (folder / "config.json").is_file() else DEMO
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        folder = Path(model).expanduser()
        if (folder / "config.json").is_file():
            return _folder_shape(folder)
    return _folder_shape(_hub_folder(model))


def _hub_folder(model: str) -> Path:
    import huggingface_hub  # a third of a second, and only hub models need it

    try:
        found = huggingface_hub.try_to_load_from_cache(model, "config.json")
    except Exception:  # not a hub id: the check of the model says so
        found = None
    if not isinstance(found, str):
        raise Unknown("unknown until the model is fetched")
    return Path(found).parent


def _folder_shape(folder: Path) -> ModelShape:
    values = read_model_config(str(folder))
    if not values:
        raise Unknown("unknown: the model's config.json cannot be read")
    parameters, stored = _count(folder)
    try:
        return shape_from_config(values, parameters, stored)
    except ValueError as error:
        raise Unknown(f"unknown: {error}") from None


def _count(folder: Path) -> tuple[int | None, int | None]:
    """Parameters and bytes of the weights in `folder`, from the files' headers; None if files are missing."""
    try:
        paths = [folder / name for name in sorted(_weight_files(folder))]
        if not paths or not all(path.is_file() for path in paths):
            return None, None
        parameters = sum(math.prod(tensor["shape"]) for path in paths for tensor in _header(path).values())
        return parameters, sum(path.stat().st_size for path in paths)
    except (OSError, ValueError, TypeError, KeyError):
        return None, None


def _weight_files(folder: Path) -> set[str]:
    """The names of the files that the weights are in, as transformers picks them.

    A second copy is left out, such as the consolidated.safetensors beside them.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return {single.name}
    if index.is_file():
        return set(msgspec.json.decode(index.read_bytes())["weight_map"].values())
    return {path.name for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_model")}


def _header(path: Path) -> dict[str, Any]:
    """Dtype, shape and place of each tensor by name: eight bytes of length, little-endian, then JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > HEADER_BYTES:
            raise ValueError(f"{path}: no safetensors file")
        header: dict[str, Any] = msgspec.json.decode(file.read(length))
    header.pop("__metadata__", None)
    return header


def count_of(source: str, column: str | None = None, limit: int | None = None) -> int | None:
    """How many prompts a file has, by reading it like a run; None for a long file, or one that cannot be read."""
    if not sizes_of(source).whole:
        return None
    path = str(Path(source).expanduser())
    try:
        with contextlib.closing(records(path, column, None, Problems(path))) as found:
            return sum(1 for _ in islice(found, limit))
    except PromptError:
        return None


def sizes_of(source: str, limit: int | None = None) -> PromptSizes:
    """How many prompts a file has, and how long the longest is: from its first megabytes, a line being a prompt."""
    try:
        path = Path(source).expanduser()
        if not path.is_file() or path.suffix.lower() in (".parquet", ".gz"):
            raise OSError
        size = path.stat().st_size
        with path.open("rb") as file:
            text = file.read(SAMPLE_BYTES)
    except (OSError, RuntimeError, ValueError):
        return PromptSizes(limit or 1000, UNKNOWN_PROMPT_TOKENS, whole=False)
    lines = text.splitlines()
    longest = max((len(line.decode(errors="replace")) for line in lines), default=0)
    count = max(1, len(lines) if size <= len(text) else round(len(lines) * size / max(1, len(text))))
    if path.suffix.lower() == ".json":
        # A single document: its lines say nothing.
        return PromptSizes(limit or count, UNKNOWN_PROMPT_TOKENS, whole=False)
    return PromptSizes(min(limit or count, count), math.ceil(longest / CHARACTERS_PER_TOKEN), size <= len(text))
