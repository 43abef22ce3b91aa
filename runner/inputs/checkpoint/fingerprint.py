"""Whether a model's files are those a run began with: two models must not answer one file of prompts.

Small files count whole, weights by their size and samples of each tensor: what was trained further differs nearly
everywhere in the tensors that were trained. Does not know what the files mean.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from rankdeck.runner.inputs.checkpoint.json_file import BrokenFile
from rankdeck.runner.inputs.checkpoint.safetensors_file import tensors_of

WEIGHTS = (".safetensors", ".bin", ".gguf")

READ = re.compile(
    r".*\.(safetensors|gguf|jinja|py|model(\.v\d+\w*)?|tiktoken|spm|bpe|codes|vocab)"
    r"|pytorch_model.*\.bin"
    r"|(config|generation_config|(pre)?processor_config|chat_template|special_tokens_map|added_tokens|byte_maps"
    r"|quantize_config|hf_quant_config|quant_config|adapter_config|.*\.index|tokenizer.*|.*vocab.*)\.json"
    r"|(merges|.*vocab.*)\.txt"
)
"""The files that transformers reads of a model. Others may come and go: what a training or an evaluation notes beside
it, or a run's own outputs."""

SAMPLES = 64
SAMPLE_BYTES = 1024
MOST_TENSORS = 512
"""Tensors of a file that are looked at: more reads would take seconds on a cold disk."""


def fingerprints(model: Path) -> dict[str, str]:
    """A fingerprint of each file, by name, of a model in a folder or in one file; none of what cannot be read."""
    found = {}
    for path in sorted(_files(model)):
        try:
            found[path.name] = _fingerprint(path)
        except OSError:
            continue
    return found


def why_changed(model: Path, known: Mapping[str, str]) -> str | None:
    """What is wrong with a model whose files had these fingerprints when the run began; None if they have them still.

    Without any known there is nothing to compare.
    """
    if not known:
        return None
    now = fingerprints(model)
    if not now:
        return f"the model's files are gone from {model}; put them back"
    changed = sorted(
        name
        for name in known.keys() | now.keys()
        # No code that was there could know of code that came later.
        if known.get(name) != now.get(name) and (name in known or not name.endswith(".py"))
    )
    if not changed:
        return None
    names = ", ".join(changed[:3]) + (f" and {len(changed) - 3:,} more" if len(changed) > 3 else "")
    have, file = ("has", "file") if len(changed) == 1 else ("have", "files")
    return (
        f"{names} of the model {have} changed since the run began, so its answers would mix two models; "
        f"put the {file} back as before, or start a new run"
    )


def _files(model: Path) -> Iterator[Path]:
    if model.is_file():
        yield model
    elif model.is_dir():
        for path in model.iterdir():
            if READ.fullmatch(path.name) and path.is_file():
                yield path


def _fingerprint(path: Path) -> str:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        if path.suffix not in WEIGHTS or size <= SAMPLES * SAMPLE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
        digest = hashlib.sha256(str(size).encode())
        for place in _places(path, size):
            file.seek(place)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def _places(path: Path, size: int) -> list[int]:
    """Where samples begin: all over the file, and at the beginning and in the middle of its tensors."""
    places = {sample * (size - SAMPLE_BYTES) // (SAMPLES - 1) for sample in range(SAMPLES)}
    if path.suffix == ".safetensors":
        with contextlib.suppress(BrokenFile):
            tensors = list(tensors_of(path).values())
            data = size - max((tensor.data_offsets[1] for tensor in tensors), default=0)
            for tensor in tensors[:: len(tensors) // MOST_TENSORS + 1]:
                begin, end = tensor.data_offsets
                places |= {data + begin, data + (begin + end) // 2}
    return sorted(places)
