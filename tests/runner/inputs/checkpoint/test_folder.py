"""A folder that is no model says what it is, and what to give instead."""

import json
from pathlib import Path

import pytest

from rankdeck.runner.inputs.checkpoint import folder
from tests import checkpoints
from tests.checkpoints import POINTER


def test_a_model_folder_is_one(tmp_path: Path) -> None:
    assert folder.why_no_model(checkpoints.whole(tmp_path / "model")) is None


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "has no config.json: a model folder holds config.json, the weights"),
        (["m.Q4_K_M.gguf"], "it has GGUF files, which are llama.cpp's (m.Q4_K_M.gguf)"),
        (["consolidated.00.pth", "tokenizer.model"], "it has weights in their maker's own format"),
        (["params.json", "tekken.json"], "it has weights in their maker's own format"),
        (["model.onnx"], "it has ONNX files"),
        (["model_index.json"], "it has a diffusers pipeline"),
        (["model.ckpt"], "it has files of other programs (model.ckpt)"),
    ],
)
def test_another_kind_of_folder_is_told_by_its_files(tmp_path: Path, names: list[str], said: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert said in (folder.why_no_model(tmp_path) or "")


def test_an_adapter_names_its_base_model_and_how_to_merge_them(tmp_path: Path) -> None:
    values = {"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-3.1-8B"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(values))
    (tmp_path / "adapter_model.safetensors").touch()
    assert folder.why_no_model(tmp_path) == (
        f"{tmp_path} is an adapter (LORA) of meta-llama/Llama-3.1-8B, not a model: merge the two with peft's "
        "merge_and_unload() and save_pretrained(), and give that folder; or give the base model"
    )
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "is an adapter (PEFT) of a model that it does not name" in (folder.why_no_model(tmp_path) or "")
    (tmp_path / "adapter_config.json").write_text("{")
    assert "adapter_config.json:1:2 is not valid JSON" in (folder.why_no_model(tmp_path) or "")


def test_the_hubs_cache_and_a_models_place_in_it_are_told(tmp_path: Path) -> None:
    place = tmp_path / "hub" / "models--org--name"
    snapshot = place / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    checkpoints.whole(snapshot)
    assert folder.why_no_model(place) == (
        f"{place} is a model's place in the hub's cache; give {snapshot}, or the hub id org/name"
    )
    assert "is the hub's cache; give the hub id of one of its models" in (folder.why_no_model(tmp_path / "hub") or "")
    assert folder.why_no_model(snapshot) is None


def test_a_link_into_a_cache_that_was_cleared_names_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to("../../blobs/0123")
    said = f"{tmp_path / 'config.json'} is a link to ../../blobs/0123, which is not there; fetch the model again"
    assert folder.why_no_model(tmp_path) == said


def test_a_folder_of_one_model_names_that(tmp_path: Path) -> None:
    inner = checkpoints.whole(tmp_path / "model")
    assert (folder.why_no_model(tmp_path) or "").endswith(f"did you mean {inner}?")
    assert "is a file; give the folder it is in" in (folder.why_no_model(inner / "config.json") or "")


def test_pointers_are_found_among_the_files_that_are_read_and_nowhere_else(tmp_path: Path) -> None:
    read = [
        "config.json",
        "merges.txt",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer.model",
        "chat_template.jinja",
    ]
    others = ["pytorch_model.bin", "model.onnx", "trainer_state.json", "picture.png"]
    for name in (*read, *others):
        (tmp_path / name).write_bytes(POINTER)
    found = folder.pointers(tmp_path, folder.names_in(tmp_path), ["model.safetensors"])
    assert found == sorted(read)
    (tmp_path / "config.json").write_bytes(POINTER + b" " * 1024)
    assert not folder.is_pointer(tmp_path / "config.json"), "longer than any pointer"


def test_the_words_for_pointers_name_the_folder_and_the_command(tmp_path: Path) -> None:
    assert folder.why_pointers(tmp_path, ["a.json"]) == (
        f"a.json is a Git LFS pointer, not the file itself: run `git lfs pull` in {tmp_path}"
    )
    said = folder.why_pointers(tmp_path, list("abcdef"))
    assert said.startswith("a, b, c, d and 2 more are Git LFS pointers, not the files: run ")


def test_the_files_that_transformers_reads_besides_the_weights_are_known_by_their_names() -> None:
    small = (
        "config.json", "merges.txt", "chat_template.jinja", "modeling_x.py", "tokenizer.model", "tokenizer.model.v3",
        "qwen.tiktoken", "source.spm", "vocab.bpe", "bpe.codes", "x.vocab",
    )  # fmt: skip
    assert [name for name in small if not folder.is_small(name)] == []
    large = (
        "model.safetensors",
        "pytorch_model.bin",
        "model.gguf",
        "README.md",
        "tokenizer.model.old",
        "json",
        "a.JSON",
    )
    assert [name for name in large if folder.is_small(name)] == []


def test_a_pointer_is_smaller_than_a_kibibyte_and_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for size, is_one in ((1023, True), (1024, False)):
        path.write_bytes(POINTER.ljust(size))
        assert folder.is_pointer(path) == is_one
    path.write_bytes(POINTER[1:])
    assert not folder.is_pointer(path)
    assert not folder.is_pointer(tmp_path)
    assert not folder.is_pointer(tmp_path / "nowhere")


def test_names_are_those_of_files_in_order_and_none_where_there_is_no_folder(tmp_path: Path) -> None:
    for name in ("b", "a.json"):
        (tmp_path / name).touch()
    (tmp_path / "c.gguf").mkdir()
    (tmp_path / "d").symlink_to("nowhere")
    assert folder.names_in(tmp_path) == ["a.json", "b", "d"]
    assert folder.names_in(tmp_path / "nowhere") == []
    assert "GGUF" not in (folder.why_no_model(tmp_path) or ""), "a folder is no file of weights"


@pytest.mark.parametrize(("count", "said"), [(0, ""), (1, "a"), (4, "a, b, c, d"), (5, "a, b, c, d and 1 more")])
def test_four_names_are_listed_and_the_rest_is_counted(count: int, said: str) -> None:
    assert folder.listed(list("abcdefgh")[:count]) == said
    assert folder.listed(list("abc"), 2) == "a, b and 1 more"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["x.gguf", "consolidated.00.pth"], "GGUF files, which are llama.cpp's (x.gguf)"),
        (["model.onnx", "params.json"], "weights in their maker's own format (consolidated.*) (params.json)"),
        (["tf_model.00001.h5"], "TensorFlow's weights (tf_model.00001.h5)"),
        (["flax_model.msgpack"], "Flax's weights (flax_model.msgpack)"),
        (["model_index.json"], "a diffusers pipeline, which makes images (model_index.json)"),
        *(([f"x.{end}"], f"files of other programs (x.{end})") for end in ("pt", "pth", "ckpt", "nemo", "npz")),
        (["x.gguf.txt", "my_params.json", "pytorch_model.bin", "x.h5"], None),
        ([], None),
    ],
)
def test_the_surest_of_other_kinds_is_named_with_its_first_file(names: list[str], said: str | None) -> None:
    assert folder.other_kind(names) == said
    assert folder.other_kind(iter(names)) == said


def test_an_adapter_goes_before_what_else_a_folder_may_be(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": 5, "base_model_name_or_path": ""}))
    checkpoints.whole(tmp_path / "below")
    assert (folder.why_no_model(tmp_path) or "").startswith(
        f"{tmp_path} is an adapter (PEFT) of a model that it does not name, not a model: "
    )
