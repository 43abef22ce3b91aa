"""A model's files are known again, and each that is another is named."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rankdeck.runner.inputs.checkpoint import fingerprint
from rankdeck.runner.inputs.checkpoint.fingerprint import SAMPLE_BYTES, SAMPLES, fingerprints, why_changed

BIG = SAMPLES * SAMPLE_BYTES * 10


BESIDE = ("results.json", "answers.jsonl", "notes.txt", "training_args.bin", "optimizer.pt", "trainer_log.json")
"""What others leave in a model's folder: no answer depends on it."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(os.urandom(BIG))
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "modeling_own.py"):
        (tmp_path / name).write_text(name)
    for name in ("README.md", "trainer_state.json", "hold", *BESIDE):
        (tmp_path / name).write_text("whatever")
    (tmp_path / "folder.json").mkdir()
    return tmp_path


def test_the_files_that_answers_depend_on_have_one_each(model: Path) -> None:
    found = fingerprints(model)
    assert list(found) == [
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "modeling_own.py",
        "tokenizer.json",
    ]
    assert all(len(value) == 16 for value in found.values())
    assert fingerprints(model) == found
    assert fingerprints(model / "config.json") == {"config.json": found["config.json"]}
    assert fingerprints(model / "no such") == {}


def test_a_model_that_is_as_it_was_has_not_changed_whatever_its_times_say(model: Path) -> None:
    known = fingerprints(model)
    os.utime(model / "model.safetensors", (1, 1))
    (model / "README.md").write_text("other words")
    assert why_changed(model, known) is None


def test_files_that_no_answer_depends_on_may_come_change_and_go(model: Path) -> None:
    known = fingerprints(model)
    for name in (*BESIDE, "other.json", "train.py"):
        (model / name).write_text("later")
    (model / "notes.txt").unlink()
    assert why_changed(model, known) is None


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.json"),
        *("special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model"),
        *("tokenizer.model.v3", "qwen.tiktoken", "source.spm", "model.safetensors.index.json", "model-2.safetensors"),
        *("pytorch_model.bin", "chat_template.jinja", "quantize_config.json", "hf_quant_config.json", "bpe.codes"),
    ],
)
def test_files_that_transformers_reads_count_as_they_come_as_they_change_and_as_they_go(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "preprocessor_config.json").touch()
    without = fingerprints(tmp_path)
    (tmp_path / name).write_text("one")
    known = fingerprints(tmp_path)
    assert name in str(why_changed(tmp_path, without))
    (tmp_path / name).write_text("other")
    assert name in str(why_changed(tmp_path, known))
    (tmp_path / name).unlink()
    assert name in str(why_changed(tmp_path, known))


@pytest.mark.parametrize("at", [0, BIG // 2, BIG - 1])
def test_weights_that_were_trained_further_are_others_though_they_are_as_large(model: Path, at: int) -> None:
    known = fingerprints(model)
    weights = bytearray((model / "model.safetensors").read_bytes())
    for place in range(at % SAMPLE_BYTES, BIG, 64):
        weights[place] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert why_changed(model, known) == (
        "model.safetensors of the model has changed since the run began, so its answers would mix two models; "
        "put the file back as before, or start a new run"
    )


@pytest.mark.parametrize("at", [0, BIG - 1])
def test_the_beginning_and_the_end_of_weights_count_to_the_byte(model: Path, at: int) -> None:
    known = fingerprints(model)
    with (model / "model.safetensors").open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))
    assert why_changed(model, known) is not None


def test_weights_of_another_length_and_files_that_came_or_went_are_named_three_of_them(model: Path) -> None:
    known = fingerprints(model)
    with (model / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    (model / "tokenizer.json").unlink()
    (model / "added_tokens.json").write_text("{}")
    (model / "config.json").write_text("other")
    said = why_changed(model, known)
    assert said is not None
    assert said.startswith(
        "added_tokens.json, config.json, model.safetensors and 1 more of the model have changed since"
    )
    assert said.endswith("put the files back as before, or start a new run")


def test_where_nothing_is_known_or_nothing_is_there_nothing_has_changed(model: Path) -> None:
    assert why_changed(model, {}) is None
    gone = f"the model's files are gone from {model / 'no such'}; put them back"
    assert why_changed(model / "no such", fingerprints(model)) == gone


def test_a_file_that_cannot_be_read_has_none(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> str:
        raise PermissionError

    monkeypatch.setattr(fingerprint, "_fingerprint", fail)
    assert fingerprints(model) == {}


@pytest.mark.parametrize("changed", ["embed", "layer.0", "layer.1", "norm", "head"])
def test_each_tensor_of_a_safetensors_file_counts(tmp_path: Path, changed: str) -> None:
    sizes = {"embed": 40_000, "layer.0": 3_000, "layer.1": 3_000, "norm": 8, "head": 500}
    tensors = {name: torch.arange(size, dtype=torch.float32) for name, size in sizes.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    known = fingerprints(tmp_path)
    tensors[changed] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    assert why_changed(tmp_path, known) is not None


def test_of_very_many_tensors_some_are_looked_at(tmp_path: Path) -> None:
    tensors = {f"expert.{number:04}": torch.zeros(100) for number in range(600)}
    save_file(tensors, tmp_path / "model.safetensors")
    size = (tmp_path / "model.safetensors").stat().st_size
    assert len(fingerprint._places(tmp_path / "model.safetensors", size)) <= 2 * 300 + SAMPLES
