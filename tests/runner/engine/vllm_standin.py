"""The stand-in for vLLM on the path, and engines on it, for the tests of the rank's side."""

import sys
from pathlib import Path

import pytest
import torch

from rankdeck.runner.engine.vllm.engine import VllmEngine
from rankdeck.runner.engine.vllm.outline import outline
from rankdeck.runner.protocol.config import RunConfig
from tests import ROOT
from tests.runner.engine.lone import tiny, tokenizer

PACKAGES = ROOT / "tests" / "standin" / "packages"


@pytest.fixture
def standin(monkeypatch):
    """`import vllm` is the stand-in, in this test alone."""
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "vllm"}
    monkeypatch.syspath_prepend(str(PACKAGES))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Path:
    """The folder of a tiny model."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def by_vllm(standin, saved, tmp_path):
    """Makes an engine of the stand-in on the tiny model, warmed up; `own` are settings of the model itself."""

    def make(own=None, *, folder=saved, phases=None, **settings) -> VllmEngine:
        config = RunConfig(prompts="p", **{"max_new_tokens": 12, "engine": "vllm", "device": "cpu", **settings})
        cpu = torch.device("cpu")
        loaded = outline(config, str(folder), cpu)
        for name, value in (own or {}).items():
            setattr(loaded.model.generation_config, name, value)
        told = [].append if phases is None else phases.append
        engine = VllmEngine(loaded, config, str(folder), tmp_path / "scratch", told)
        engine.warm_up()
        return engine

    return make
