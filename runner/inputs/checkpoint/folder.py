"""What a folder is that was given as a model: a whole checkpoint, or something people take for one.

Looks at the names of files and at the beginnings of small ones. Does not know what is in config.json.
"""

import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from rankdeck.runner.inputs.checkpoint.json_file import BrokenFile, read_object

WANTED = "a model folder holds config.json, the weights (*.safetensors) and the tokenizer's files"

POINTER = b"version https://git-lfs.github.com/spec/"
POINTER_BYTES = 1024
"""A pointer is smaller, says its specification."""

SMALL_FILES = (
    *("*.json", "*.txt", "*.jinja", "*.py"),
    *("*.model", "*.model.v[0-9]*", "*.tiktoken", "*.spm", "*.bpe", "*.codes", "*.vocab"),
)
"""The files that transformers may read besides the weights: settings and code, then tokenizers; as the hub has it."""
NEVER_READ = frozenset({"trainer_state.json"})

OTHER_KINDS = (
    (r".*\.gguf", "GGUF files, which are llama.cpp's"),
    (r"consolidated\..*|params\.json", "weights in their maker's own format (consolidated.*)"),
    (r".*\.onnx", "ONNX files"),
    (r"tf_model.*\.h5", "TensorFlow's weights"),
    (r"flax_model.*\.msgpack", "Flax's weights"),
    (r"model_index\.json", "a diffusers pipeline, which makes images"),
    (r".*\.(pt|pth|ckpt|nemo|npz)", "files of other programs"),
)
"""What else a folder may hold, by the names of its files; the surest first."""


def names_in(folder: Path) -> list[str]:
    """The names of the files in `folder`, sorted; none if it cannot be read."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if not entry.is_dir())
    except OSError:
        return []


def why_no_model(path: Path) -> str | None:
    """Why `path`, which exists, is no model folder, and what to give instead; None if it has a config.json."""
    if not path.is_dir():
        return f"{path} is a file; give the folder it is in: {WANTED}"
    config = path / "config.json"
    if config.is_file():
        return None
    if config.is_symlink():
        return f"{config} is a link to {config.readlink()}, which is not there; fetch the model again"
    names = names_in(path)
    if "adapter_config.json" in names:
        return why_adapter(path)
    if snapshots := sorted(path.glob("snapshots/*/config.json")):
        repository = path.name.removeprefix("models--").replace("--", "/")
        return f"{path} is a model's place in the hub's cache; give {snapshots[0].parent}, or the hub id {repository}"
    if any(path.glob("models--*/snapshots")):
        return f"{path} is the hub's cache; give the hub id of one of its models, such as org/name"
    said = f"{path} has no config.json: {WANTED}, as save_pretrained() writes them"
    if below := sorted(path.glob("*/config.json")):
        return f"{said}; did you mean {below[0].parent}?"
    other = other_kind(names)
    return f"{said}; it has {other}" if other else said


def why_adapter(path: Path) -> str:
    """The words for a folder that has an adapter in place of weights."""
    try:
        values = read_object(path / "adapter_config.json")
    except BrokenFile as error:
        return str(error)
    kind, base = values.get("peft_type"), values.get("base_model_name_or_path")
    of = f"of {base}" if isinstance(base, str) and base else "of a model that it does not name"
    return (
        f"{path} is an adapter ({kind if isinstance(kind, str) else 'PEFT'}) {of}, not a model: merge the two with "
        "peft's merge_and_unload() and save_pretrained(), and give that folder; or give the base model"
    )


def other_kind(names: Iterable[str]) -> str | None:
    """What files of these names are, if they are no checkpoint of transformers."""
    listed = list(names)
    for pattern, what in OTHER_KINDS:
        found = [name for name in listed if re.fullmatch(pattern, name)]
        if found:
            return f"{what} ({found[0]})"
    return None


def is_small(name: str) -> bool:
    """Whether transformers may read a file of this name besides the weights."""
    return any(fnmatchcase(name, pattern) for pattern in SMALL_FILES)


def pointers(folder: Path, names: Iterable[str], weights: Collection[str]) -> list[str]:
    """Those of the files that transformers would read, the chosen `weights` among them, that are Git LFS pointers."""
    return [
        name
        for name in names
        if (name in weights or (is_small(name) and name not in NEVER_READ)) and is_pointer(folder / name)
    ]


def is_pointer(path: Path) -> bool:
    """Whether Git LFS left a few lines in place of the file."""
    try:
        if path.stat().st_size >= POINTER_BYTES or not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(POINTER)) == POINTER
    except OSError:
        return False


def why_pointers(folder: Path, found: list[str]) -> str:
    """The words for Git LFS pointers."""
    what = "is a Git LFS pointer, not the file itself" if len(found) == 1 else "are Git LFS pointers, not the files"
    return f"{listed(found)} {what}: run `git lfs pull` in {folder}"


def listed(names: Collection[str], most: int = 4) -> str:
    """The first few names, and how many more there are."""
    first = list(names)[:most]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more} more" if more else "")
