"""Of the files in a model's folder those count that hold the weights which are loaded, and each once."""

import json
from pathlib import Path

import pytest

from rankdeck.runner.inputs import model_shape
from tests.runner.inputs.test_memory_estimate import LLAMA_CONFIG


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA_CONFIG, "quantization_config": {"quant_method": "gptq"}}))
    return tmp_path


def weights(folder: Path, name: str, parameters: int) -> int:
    """A file of weights without the weights; returns its size."""
    header = json.dumps({name: {"shape": [parameters]}}).encode()
    (folder / name).write_bytes(len(header).to_bytes(8, "little") + header)
    return (folder / name).stat().st_size


def counted(folder: Path) -> tuple[int | None, int | None]:
    return model_shape._count(folder)


@pytest.mark.parametrize("second", ["consolidated.safetensors", "adapter_model.safetensors"])
def test_beside_a_single_file_nothing_else_counts(folder: Path, second: str) -> None:
    size = weights(folder, "model.safetensors", 100)
    weights(folder, second, 100)
    assert counted(folder) == (100, size)
    shape = model_shape.shape_of(str(folder))
    assert (shape.parameters, shape.stored_bytes) == (100, size)


def test_beside_an_index_only_its_files_count_in_parameters_and_bytes(folder: Path) -> None:
    sizes = [weights(folder, f"model-0000{number}-of-00002.safetensors", 100) for number in (1, 2)]
    weights(folder, "consolidated.safetensors", 200)
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict(zip("ab", names, strict=True))})
    )
    assert counted(folder) == (200, sum(sizes))


def test_a_single_file_goes_before_an_index_as_in_transformers(folder: Path) -> None:
    size = weights(folder, "model.safetensors", 100)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    assert counted(folder) == (100, size)


def test_weights_of_other_names_count_and_an_adapter_never(folder: Path) -> None:
    size = weights(folder, "weights.safetensors", 100)
    weights(folder, "adapter_model.safetensors", 10)
    assert counted(folder) == (100, size)
    (folder / "weights.safetensors").unlink()
    assert counted(folder) == (None, None), "what it adapts is elsewhere"
