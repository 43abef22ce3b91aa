"""What is converted of a GGUF folder, and where it goes. No model is read."""

import runpy
import sys
from types import SimpleNamespace

import pytest
import torch

from rankdeck.runner.engine import convert


@pytest.fixture
def done(monkeypatch):
    """What was asked of transformers, in order."""
    asked: list = []

    def stand_in(what):
        def from_pretrained(source, **how):
            quantization = how.pop("quantization_config", None)
            asked.append((what, source, how, getattr(quantization, "dequantize", None)))
            return SimpleNamespace(save_pretrained=lambda destination: asked.append((f"{what} saved", destination)))

        return from_pretrained

    for module in (convert, sys.modules["transformers"]):
        monkeypatch.setattr(module.AutoModelForCausalLM, "from_pretrained", stand_in("model"))
        monkeypatch.setattr(module.AutoTokenizer, "from_pretrained", stand_in("tokenizer"))
    return asked


@pytest.mark.parametrize("as_program", [False, True])
def test_model_and_tokenizer_of_the_one_file_are_saved_in_float32(tmp_path, monkeypatch, done, as_program):
    source, destination = tmp_path / "from", tmp_path / "to"
    source.mkdir()
    (source / "model-q8.gguf").touch()
    (source / "README").touch()
    if as_program:
        monkeypatch.setattr(sys, "argv", ["convert.py", str(source), str(destination)])
        monkeypatch.delitem(sys.modules, "rankdeck.runner.engine.convert")
        runpy.run_module("rankdeck.runner.engine.convert", run_name="__main__")
    else:
        convert.convert(source, destination)
    assert done == [
        ("model", source, {"gguf_file": "model-q8.gguf", "dtype": torch.float32}, True),
        ("model saved", destination),
        ("tokenizer", source, {"gguf_file": "model-q8.gguf"}, None),
        ("tokenizer saved", destination),
    ]


def test_a_folder_with_two_such_files_is_refused_before_anything_is_read(tmp_path, done):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="too many values"):
        convert.convert(tmp_path, tmp_path / "to")
    assert done == []
