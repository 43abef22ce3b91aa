"""Weights that are not there, not whole or of another model are told before anything is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest

from rankdeck.runner.inputs.checkpoint import weights
from rankdeck.runner.inputs.checkpoint.folder import names_in
from rankdeck.runner.inputs.checkpoint.safetensors_file import Tensor
from tests import checkpoints
from tests.checkpoints import LLAMA, SHAPES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoints.whole(tmp_path / "model")


def problems(folder: Path, **more: Any) -> list[str]:
    return weights.problems_of(folder, names_in(folder), json.loads((folder / "config.json").read_text()), **more)


def problem(folder: Path) -> str:
    (said,) = problems(folder)
    return said


def tensors(**changes: list[int] | None) -> dict[str, Tensor]:
    """Those of a whole model, some with another shape, some left out."""
    shapes = {**SHAPES, **changes}
    return {name: Tensor("F16", shape, (0, 0)) for name, shape in shapes.items() if shape is not None}


def test_whole_weights_are_right_in_one_file_in_several_and_as_torch_saves_them(folder: Path) -> None:
    assert problems(folder) == []
    checkpoints.sharded(folder)
    assert problems(folder) == []
    for file in folder.glob("model*"):
        file.unlink()
    import torch

    torch.save({}, folder / "pytorch_model.bin")
    assert problems(folder) == []


# --- files --------------------------------------------------------------------------------------


def test_a_file_that_the_index_names_and_is_not_there_is_named(folder: Path) -> None:
    first, second = checkpoints.sharded(folder)
    second.unlink()
    index = folder / "model.safetensors.index.json"
    assert problem(folder) == f"{index} names 2 files, and {second.name} is not there; fetch the model again"
    first.unlink()
    assert f"and {first.name}, {second.name} are not there" in problem(folder)


def test_a_tensor_that_is_not_in_the_file_that_the_index_says_is_named(folder: Path) -> None:
    _, second = checkpoints.sharded(folder)
    checkpoints.safetensors(second, {"lm_head.weight": [8, 4]})
    said = problem(folder)
    assert said.startswith(f"{second} lacks model.layers.")
    assert "and 3 more" in said
    assert "which model.safetensors.index.json says are in it" in said


def test_every_file_that_is_cut_short_is_named(folder: Path) -> None:
    for file in checkpoints.sharded(folder):
        file.write_bytes(file.read_bytes()[:-1])
    assert [said.split(" is cut short")[0] for said in problems(folder)] == [
        str(folder / f"model-0000{number}-of-00002.safetensors") for number in (1, 2)
    ]


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": [1]}'])
def test_an_index_that_is_none_is_told(folder: Path, content: str) -> None:
    checkpoints.sharded(folder)
    (folder / "model.safetensors.index.json").write_text(content)
    assert "index.json has no weight_map" in problem(folder)


def test_files_that_torch_saved_in_parts_are_all_looked_at_by_their_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "b.bin", "b": "a.bin", "c": "b.bin"}}))
    assert weights.files_of(folder, names_in(folder), {}) == ["a.bin", "b.bin"]
    assert problem(folder) == f"{index} names 2 files, and a.bin, b.bin are not there; fetch the model again"
    (folder / "a.bin").write_bytes(b"\x80\x02 as torch saved before 1.6")
    (folder / "b.bin").write_bytes(b"PK\x03\x04")
    assert problem(folder) == f"{folder / 'b.bin'} is cut short; fetch it again"
    (folder / "a.bin").write_bytes(b"")
    assert problems(folder) == [
        f"{folder / 'a.bin'} is empty; fetch it again", f"{folder / 'b.bin'} is cut short; fetch it again"
    ]  # fmt: skip


def test_a_single_file_that_is_not_there_and_a_broken_index_are_told(folder: Path) -> None:
    checkpoints.change(folder / "config.json", transformers_weights="other.safetensors")
    assert problem(folder) == f"{folder}: other.safetensors is not there; fetch the model again"
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text("{")
    checkpoints.change(folder / "config.json", transformers_weights="")
    assert problem(folder).startswith(f"{index}:1:2 is not valid JSON")
    assert weights.files_of(folder, names_in(folder), {}) == []
    assert weights.files_of(folder, [], {}) == []
    assert weights.files_of(folder, ["pytorch_model.bin"], {}) == ["pytorch_model.bin"]
    assert weights.index_of(["pytorch_model.bin.index.json", "pytorch_model.bin"], {}) == "pytorch_model.bin"
    assert weights.index_of([], {"transformers_weights": 5}) is None


def test_the_single_file_goes_before_an_index_and_another_name_before_both(folder: Path) -> None:
    there = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"]
    assert weights.index_of(there, {}) == "model.safetensors"
    assert weights.index_of(there[1:], {}) == "model.safetensors.index.json"
    assert weights.index_of(there[2:], {}) == "pytorch_model.bin"
    assert weights.index_of(there, {"transformers_weights": "other.safetensors"}) == "other.safetensors"
    checkpoints.change(folder / "config.json", transformers_weights="other.safetensors")
    assert "other.safetensors is not there" in problem(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", " is empty"),
        (b"PK\x03\x04 and no end", " is cut short"),
        (b"<html>", " is not a torch.save file"),
    ],
)
def test_a_pickled_file_that_is_none_is_told(folder: Path, content: bytes, said: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    assert problem(folder).startswith(f"{folder / 'pytorch_model.bin'}{said}")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "has no weights: model.safetensors, or model.safetensors.index.json with the files that it names"),
        (("m-q4.gguf",), "it has GGUF files, which are llama.cpp's (m-q4.gguf)"),
        (("consolidated.00.pth", "params.json"), "their maker's own format (consolidated.*) (consolidated.00.pth)"),
        (("consolidated.safetensors", "params.json"), "their maker's own format"),
        (("model.onnx",), "it has ONNX files (model.onnx)"),
        (("tf_model.h5",), "it has TensorFlow's weights"),
        (("flax_model.msgpack",), "it has Flax's weights"),
        (("model.fp16.safetensors",), "it has model.fp16.safetensors; transformers takes only those names"),
        (("training_args.bin",), "; fetch the model again, with its weights"),
        (("a.bin", "b.bin", "training_args.bin"), "it has a.bin, b.bin; transformers takes only those names"),
        (("pytorch_model-00001-of-00002.bin", "x.gguf"), "pytorch_model-00001-of-00002.bin and its like need"),
        (("model-00001-of-00002.safetensors",), "need model.safetensors.index.json, which is not there"),
    ],
)
def test_a_folder_without_weights_says_what_else_it_has(folder: Path, names: tuple[str, ...], said: str) -> None:
    (folder / "model.safetensors").unlink()
    for name in names:
        (folder / name).write_bytes(b"x")
    assert said in problem(folder)


# --- what the headers say -----------------------------------------------------------------------


def test_a_layer_that_is_left_out_is_named(folder: Path) -> None:
    without = {name: None for name in SHAPES if ".layers.0." in name}
    assert weights.misfits(tensors(**without), LLAMA) == [
        "the weights of model.layers.0 are missing; fetch the model again"
    ]
    last = {name: None for name in SHAPES if ".layers.1." in name}
    assert "model.layers.1 are missing" in weights.misfits(tensors(**last), LLAMA)[0]
    assert "model.layers.2, model.layers.3 are" in weights.misfits(tensors(), {**LLAMA, "num_hidden_layers": 4})[0]
    more = {"model.layers.2.mtp.weight": [1], "vision.layers.0.x": [1], "model.layers.0.ffn.0.x": [1]}
    assert weights.misfits(tensors(**more), LLAMA) == [], "a layer more, an encoder of pictures with fewer"


def test_a_head_that_is_missing_is_named_unless_it_is_the_embedding() -> None:
    without = tensors(**{"lm_head.weight": None})
    (said,) = weights.misfits(without, LLAMA)
    assert said.startswith("the weights have no lm_head.weight, and tie_word_embeddings in config.json is false")
    assert weights.misfits(without, {**LLAMA, "tie_word_embeddings": True}) == []
    nested = {"text_config": {**LLAMA, "tie_word_embeddings": True}}
    assert weights.misfits(without, nested) == []
    unsaid = {name: value for name, value in LLAMA.items() if name != "tie_word_embeddings"}
    assert weights.misfits(without, unsaid) == [], "only its class knows"


@pytest.mark.parametrize("head", ["score.weight", "classifier.weight", "qa_outputs.weight", "v_head.summary.weight"])
def test_the_head_of_a_classifier_in_place_of_a_language_models_is_named(head: str) -> None:
    (said,) = weights.misfits(tensors(**{"lm_head.weight": None, head: [2, 4]}), {**LLAMA, "tie_word_embeddings": None})
    assert said.startswith(f"the weights have no lm_head, which makes the tokens; there is {head}: it classifies")
    assert weights.misfits(tensors(**{head: [2, 4]}), LLAMA) == [], "beside an lm_head it is an extra"
    tied = tensors(**{"lm_head.weight": None, head: [2, 4]})
    assert weights.misfits(tied, {**LLAMA, "tie_word_embeddings": True}) == []


def test_an_embedding_of_another_size_is_named_with_both() -> None:
    (said,) = weights.misfits(tensors(**{"model.embed_tokens.weight": [9, 4]}), LLAMA)
    assert said == (
        "model.embed_tokens.weight is 9 x 4, and config.json says vocab_size 8: they are of different models"
    )
    (said,) = weights.misfits(tensors(), {**LLAMA, "hidden_size": 6})
    assert "model.embed_tokens.weight is 8 x 4, and config.json says vocab_size 8 and hidden_size 6" in said
    assert weights.misfits(tensors(), {**LLAMA, "hidden_size": 6, "word_embed_proj_dim": 4}) == []
    assert weights.misfits(tensors(**{"model.embed_tokens.weight": [16, 4]}), {**LLAMA, "model_type": "mllama"}) == []
    assert weights.misfits(tensors(), {**LLAMA, "hidden_size": 6, "quantization_config": {}}) == []


def test_weights_that_mlx_packed_are_told() -> None:
    packed = {
        **{name: Tensor("U32", [4, 1], (0, 16)) for name in ("model.embed_tokens.weight", "lm_head.weight")},
        "model.embed_tokens.scales": Tensor("F16", [4, 1], (0, 8)),
    }
    said = weights.misfits(packed, {"model_type": "llama", "quantization": {"bits": 4}})
    assert said == ["the weights are quantised by MLX, for Apple's computers; take the model they were made from"]


def test_of_a_model_with_its_own_python_names_and_sizes_say_nothing(folder: Path) -> None:
    checkpoints.safetensors(folder / "model.safetensors", {"anything.weight": [3], "score.weight": [1]})
    assert problems(folder)
    assert problems(folder, foreign=True) == []
    (folder / "model.safetensors").write_bytes(b"x")
    assert problems(folder, foreign=True)


@pytest.mark.parametrize(
    "name",
    [
        *("word_embed_proj_dim", "input_embedding_size", "embedding_size", "embedding_dim", "embed_dim", "d_embed"),
    ],
)
def test_a_model_that_says_the_width_of_its_embedding_is_not_measured_by_its_layers(name: str) -> None:
    assert weights.misfits(tensors(), {**LLAMA, "hidden_size": 6, name: 4}) == []
    assert len(weights.misfits(tensors(), {**LLAMA, "vocab_size": 9, name: 4})) == 1, "its rows are"


def test_sizes_are_judged_by_what_the_text_model_says_and_only_of_plain_weights() -> None:
    nested = {"vocab_size": 99, "text_config": {"vocab_size": 8, "hidden_size": 4}, "tie_word_embeddings": True}
    assert weights.misfits(tensors(), nested) == []
    assert len(weights.misfits(tensors(), {**nested, "text_config": {"vocab_size": 9}})) == 1
    for kind in ("mllama", "moshi"):
        assert weights.misfits(tensors(), {**LLAMA, "model_type": kind, "vocab_size": 9}) == []
    for vocabulary in (None, "8", []):
        assert weights.misfits(tensors(), {**LLAMA, "vocab_size": vocabulary, "hidden_size": 6}) == []
    for dtype, wrong in (("F64", 1), ("F32", 1), ("F16", 1), ("BF16", 1), ("U8", 0), ("I8", 0), ("F8_E4M3", 0)):
        changed = {**tensors(), "model.embed_tokens.weight": Tensor(dtype, [9, 4], (0, 0))}
        assert len(weights.misfits(changed, LLAMA)) == wrong, dtype
    assert weights.misfits(tensors(**{"model.embed_tokens.weight": [2, 2, 2]}), LLAMA) == []


def test_of_several_embeddings_the_one_with_the_shortest_name_is_that_of_the_text() -> None:
    found = tensors(**{"model.vision.embed_tokens.weight": [3, 3]})
    assert weights.embedding_of(found) == ("model.embed_tokens.weight", "model.")
    assert weights.embedding_of({}) is None
    for name in ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings"):
        assert weights.embedding_of({f"x.{name}.weight": found["lm_head.weight"]}) == (f"x.{name}.weight", "x.")
        assert weights.embedding_of({f"x.my{name}.weight": found["lm_head.weight"]}) is None


def test_only_what_mlx_writes_is_taken_for_its_own() -> None:
    packed = {
        "model.embed_tokens.weight": Tensor("U32", [4, 1], (0, 16)),
        "model.embed_tokens.scales": Tensor("F16", [4, 1], (0, 8)),
        "lm_head.weight": Tensor("F16", [4, 1], (0, 8)),
    }
    assert len(weights.misfits(packed, {"quantization": {}})) == 1
    assert weights.misfits(packed, {"quantization_config": {}}) == []
    without = {name: tensor for name, tensor in packed.items() if not name.endswith("scales")}
    assert weights.misfits(without, {"quantization": {}}) == []


def test_a_base_models_weights_are_told_whichever_part_of_the_config_says_that_the_head_is_its_own() -> None:
    without = tensors(**{"lm_head.weight": None})
    said = ["the weights have no lm_head.weight, and tie_word_embeddings in config.json is false: is it a base model?"]
    sizes = {"vocab_size": 8, "hidden_size": 4}
    assert weights.misfits(without, {**sizes, "text_config": {"tie_word_embeddings": False}}) == said
    assert weights.misfits(without, {**sizes, "tie_word_embeddings": False, "text_config": {}}) == said
    both = {**sizes, "tie_word_embeddings": True, "text_config": {"tie_word_embeddings": False}}
    assert weights.misfits(without, both) == []
