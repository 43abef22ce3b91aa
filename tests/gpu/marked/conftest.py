"""Models of random weights, and the runs that the tests share: all are launched at once, a test waits for its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rankdeck.runner import start
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from tests import ROOT
from tests.gpu.marked.flights import BEYOND, DEVICE, GPUS, NEW_TOKENS, PROMPTS, Flight, first_gpu_alone

SPREAD = "0.3"
"""Of the weights: wide enough that an answer depends on its whole prompt."""


def make_model(folder: Path, *arguments: str) -> Path:
    command = [sys.executable, "-m", "tests.benchmarks.random_model", str(folder), "--size", "tiny", *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=120, cwd=ROOT)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights, whose tokenizer knows a token that the model has no embedding for."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_model(folder, "--device", "cpu", "--dtype", "float32", "--spread", SPREAD)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    rows = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    token = {"id": rows, "content": BEYOND, "special": True, "normalized": False}
    tokenizer["added_tokens"].append({**token, "single_word": False, "lstrip": False, "rstrip": False})
    words = tokenizer["model"]["vocab"]
    # A tokenizer numbers an added token after its last word: there must be as many words as rows.
    words |= {f"<unused {number}>": number for number in range(len(words), rows)}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def flights(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Flight]]:
    """The runs by name, under way."""
    folder = tmp_path_factory.mktemp("flights")
    prompts, with_beyond = folder / "prompts.txt", folder / "beyond.txt"
    prompts.write_text("".join(f"{prompt}\n" for prompt in PROMPTS), encoding="utf-8")
    with_beyond.write_text("".join(f"{prompt}\n" for prompt in [*PROMPTS[:5], f"a {BEYOND} b"]), encoding="utf-8")

    def settings(**different: object) -> RunConfig:
        values: dict[str, object] = {"prompts": str(prompts), "model": str(tiny_model), "device": DEVICE}
        values |= {"dtype": "float32", "batch_size": 8, "max_new_tokens": NEW_TOKENS, "ignore_eos": True}
        return RunConfig(**{**values, "max_restarts": 0, **different})  # type: ignore[arg-type]

    plan = SweepPlan(batch_sizes=[1, 8], ranks=[1], repeats=1, least_rounds=2, least_seconds=2.0)
    runs = {
        "shared": settings(ranks=2),
        "continuous": settings(engine="continuous"),
        "compiled": settings(compile=True, limit=16),
        "beyond": settings(prompts=str(with_beyond), batch_size=3),
        "sweep": settings(sweep=plan, batch_size=None),
        "cpu": settings(device="cpu"),
    }
    begun: dict[str, Flight] = {}
    try:
        with first_gpu_alone():
            for name, config in runs.items():
                begun[name] = Flight(start.launch(config, run_dir=folder / name))
        if GPUS > 1:
            for name, config in {"spread": settings(gpus_per_rank=2), "own": settings(ranks=2)}.items():
                begun[name] = Flight(start.launch(config, run_dir=folder / name))
        yield begun
    finally:
        for flight in begun.values():
            flight.end()


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """For commands: this checkout, and a place of their own."""
    return {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}


@pytest.fixture
def wide_model(tmp_path: Path) -> Path:
    """A tiny model with a million rows of embedding: a prompt's logits alone take 4 MiB."""
    return make_model(
        tmp_path / "wide", "--device", DEVICE, "--dtype", "float32", "--spread", SPREAD, "--rows", str(2**20)
    )
