"""Float32 on a GPU is said to be slow, with the cure, where there is one."""

import pytest
import torch

from rankdeck.runner.engine import loading
from tests.runner.engine.tiny import make


@pytest.mark.parametrize(
    ("capability", "tf32", "cures"),
    [
        ((6, 1), False, []),
        ((7, 5), False, ["--dtype float16"]),
        ((8, 0), False, ["--dtype bfloat16", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1"]),
        ((9, 0), False, ["--dtype bfloat16", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1"]),
        ((9, 0), True, []),
    ],
)
def test_the_cure_is_one_that_the_gpu_has(capability, tf32, cures):
    said = loading.float32_note(capability, tf32) or ""
    assert bool(said) == bool(cures)
    assert all(cure in said for cure in cures)


def test_an_engine_says_so_once_before_its_first_batch(model, monkeypatch):
    monkeypatch.setattr(loading, "dtype_note_of", lambda *_: "the weights are float32")
    one = make(model)
    assert one.take_notes() == ["the weights are float32"]
    assert one.take_notes() == []


@pytest.mark.parametrize(("kind", "dtype"), [("cpu", torch.float32), ("cuda", torch.bfloat16)])
def test_nothing_is_said_on_a_cpu_or_of_other_dtypes(monkeypatch, kind, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    weights = type("Model", (), {"dtype": dtype})
    assert loading.dtype_note_of(weights, torch.device(kind)) is None
    assert loading.dtype_note_of(type("Model", (), {"dtype": torch.float32}), torch.device("cuda")) is not None


def test_bfloat16_on_a_gpu_without_matrix_units_for_it_is_said_too(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    weights = type("Model", (), {"dtype": torch.bfloat16})
    assert "--dtype float16" in (loading.dtype_note_of(weights, torch.device("cuda")) or "")
