"""Models of random weights, and the runs that the tests share: most are launched at once, a test waits for its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from tests import ROOT
from tests.gpu.marked.flights import BEYOND, DEVICE, GPUS, NEW_TOKENS, PROMPTS, Flights, first_gpu_alone

SPREAD = "0.3"
"""Of the weights: wide enough that an answer depends on its whole prompt."""


class Making:
    """A model that is being made."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.random_model", str(folder), "--size", "tiny"]
        command += ["--device", "cpu", "--dtype", "float32", "--spread", SPREAD, *arguments]
        self._folder = folder
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def made(self) -> Path:
        """Its folder, once it is there."""
        said, _ = self._process.communicate(timeout=120)
        assert self._process.returncode == 0, said
        return self._folder


@pytest.fixture(scope="session")
def began() -> float:
    """When the first of these tests began: others may have come before them."""
    return time.monotonic()


@pytest.fixture(scope="session")
def making(began: float, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Making]:
    """Both models, side by side."""
    folder = tmp_path_factory.mktemp("models")
    return {"tiny": Making(folder / "tiny"), "wide": Making(folder / "wide", "--rows", str(2**20))}


@pytest.fixture(scope="session")
def wide_model(making: dict[str, Making]) -> Path:
    """A tiny model with a million rows of embedding: a prompt's logits alone take 4 MiB."""
    return making["wide"].made()


@pytest.fixture(scope="session")
def tiny_model(making: dict[str, Making]) -> Path:
    """A model of random weights, whose tokenizer knows a token that the model has no embedding for."""
    folder = making["tiny"].made()
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
def flights(began: float, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flights]:
    """The runs by name."""
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
        "generate": settings(decoding="generate"),
        "beyond": settings(prompts=str(with_beyond), batch_size=3),
        "sweep": settings(sweep=plan, batch_size=None),
        "cpu": settings(device="cpu"),
    }
    on_several = {"spread": settings(gpus_per_rank=2), "own": settings(ranks=2)} if GPUS > 1 else {}
    # It takes nearly all of the memory that it finds: nothing else can start beside it.
    alone = {"continuous": settings(engine="continuous")}
    begun = Flights(folder, alone, began)
    try:
        with first_gpu_alone():
            for name, config in runs.items():
                begun.launch(name, config)
        for name, config in on_several.items():
            begun.launch(name, config)
        yield begun
    finally:
        begun.end()


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """For commands: this checkout, and a place of their own."""
    return {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
