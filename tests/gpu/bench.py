"""The bench that all steps share: the machine and its scale, the models made on it, and what a step's run is set to."""

import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from rankdeck.runner.protocol.config import RunConfig
from tests.benchmarks import random_model, sides
from tests.gpu.plan import Step

PROMPT_TOKENS = 64
"""At most this many in the longest of the short prompts, with these models' tokenizer."""

ROOM = 0.85
"""Share of the device's memory: a step that is estimated to need more is skipped."""


class StepError(Exception):
    """A step went wrong or took too long; the text says how."""


@dataclass(frozen=True)
class Bench:
    """What all steps share: the machine, its scale, and where things are."""

    folder: Path
    models: Path
    out: Path
    device: str
    gpus: int
    gpu: str
    dtype: str
    new_tokens: int
    least_seconds: float


@dataclass(frozen=True)
class Model:
    """A model that was made, and what random_model.py says of it."""

    folder: Path
    size: str
    copy_bytes_per_second: float
    memory_bytes: int | None


def make_model(bench: Bench, size: str, seconds: float) -> tuple[Model, dict[str, Any]]:
    """Make a model in its own process, so that this one never holds the device; also returns what that printed.

    Raises:
        StepError: it cannot be made.
    """
    folder = bench.models / f"random-{size}"
    command = [sys.executable, "-m", "tests.benchmarks.random_model", str(folder), "--size", size]
    command += ["--device", bench.device, "--dtype", bench.dtype]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise StepError(f"the {size} model was not ready after {seconds:.0f} s") from None
    if done.returncode != 0:
        raise StepError(f"the {size} model could not be made: {done.stderr[-1500:]}")
    said = msgspec.json.decode(done.stdout.splitlines()[-1])
    return Model(folder, size, said["copy_bytes_per_second"], said["memory_bytes"]), said


def why_not_here(bench: Bench, step: Step, model: Model) -> str | None:
    """Why the GPU cannot hold the ranks of a step at its smallest batch size; None if it can."""
    if model.memory_bytes is None:
        return None
    cache = min(step.batch_sizes) * (PROMPT_TOKENS + bench.new_tokens) * random_model.kv_bytes_per_token(model.size)
    needed = ranks_per_gpu(bench, step) * (2 * random_model.parameters(model.size) + 1.25 * cache)
    if needed <= ROOM * model.memory_bytes:
        return None
    return f"needs some {needed / 1e9:.0f} of {model.memory_bytes / 1e9:.0f} GB"


def ranks_of(bench: Bench, step: Step) -> tuple[int, ...]:
    """The numbers of ranks of a step; those of a step for several GPUs have one each."""
    return tuple(ranks for ranks in step.ranks if not step.least_gpus or ranks <= bench.gpus)


def ranks_per_gpu(bench: Bench, step: Step) -> int:
    return math.ceil(max(ranks_of(bench, step)) / max(1, bench.gpus))


def config(bench: Bench, step: Step, model: Model, prompts: int, **settings: Any) -> RunConfig:
    """A run of this step over so many prompts, at fixed length."""
    return RunConfig(
        prompts=str(write_prompts(bench.folder, prompts)),
        model=str(model.folder),
        ranks=max(ranks_of(bench, step)),
        ranks_per_gpu=ranks_per_gpu(bench, step) if bench.device == "cuda" else None,
        engine=step.engine,  # type: ignore[arg-type]
        decoding=step.decoding,  # type: ignore[arg-type]
        device=bench.device,  # type: ignore[arg-type]
        dtype=bench.dtype,  # type: ignore[arg-type]
        max_new_tokens=bench.new_tokens,
        ignore_eos=True,
        max_restarts=0,
        **settings,
    )


def write_prompts(folder: Path, count: int) -> Path:
    """A file of so many of the short prompts."""
    stories = sides.STORIES.read_text(encoding="utf-8").splitlines()
    path = folder / f"prompts-{count}.txt"
    path.write_text("".join(f"{stories[number % len(stories)]}\n" for number in range(count)), encoding="utf-8")
    return path
