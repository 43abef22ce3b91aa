"""Trials of a model in a half type, in float32."""

import pytest
import torch

from rankdeck.runner.engine import memory, packed_linear
from rankdeck.runner.engine.trials import exactly, rehearsal
from rankdeck.runner.engine.trials.likeness import Likeness
from rankdeck.runner.engine.trials.rehearsal import Found, rehearse
from tests.runner.engine.lone import CPU, tiny, tokenizer


def weights(model):
    return [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_is_in_float32_for_the_trial_and_has_its_own_tensors_afterwards(dtype):
    model = tiny(num_key_value_heads=2, tie_word_embeddings=True).to(dtype)
    before, ids = weights(model), torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        own = model(ids).logits

    def trial():
        assert model.dtype == torch.float32
        with torch.inference_mode():
            return model(ids).logits

    wide = exactly.tried(model, CPU, trial)
    assert wide.dtype == torch.float32
    assert torch.allclose(wide, own.float(), atol=0.3)
    assert not torch.equal(wide, own.float())
    assert (model.dtype, weights(model)) == (dtype, before)
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, own)


def test_packed_layers_are_laid_out_meanwhile_and_are_the_same_ones_afterwards():
    model = tiny(num_key_value_heads=2).to(torch.bfloat16)
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        expected = exactly.tried(model, CPU, lambda: model(ids).logits)
    packed_linear.pack(model)
    before = [id(module) for module in model.modules()]
    with torch.inference_mode():
        assert torch.equal(exactly.tried(model, CPU, lambda: model(ids).logits), expected)
    assert [id(module) for module in model.modules()] == before


def test_what_goes_wrong_in_float32_only_says_nothing_of_the_model():
    model = tiny(num_key_value_heads=2).to(torch.bfloat16)
    before = weights(model)

    def fails():
        raise RuntimeError("this kernel knows half types only")

    assert exactly.tried(model, CPU, fails) is None
    assert (model.dtype, weights(model)) == (torch.bfloat16, before)


def test_it_is_not_tried_without_the_room_nor_where_weights_are_no_floats_or_elsewhere(monkeypatch, tmp_path):
    def never():
        raise AssertionError

    model = tiny(num_key_value_heads=2)
    assert exactly.tried(model, CPU, never) is None, "float32 already"
    model = model.to(torch.bfloat16)
    assert exactly.tried(model, torch.device("cuda", 0), never) is None
    count = sum(parameter.numel() for parameter in model.parameters())
    monkeypatch.setattr(memory, "free_and_total", lambda devices: (128 * count - 1, 0))
    assert exactly.tried(model, CPU, never) is None
    monkeypatch.setattr(memory, "free_and_total", lambda devices: (128 * count, 0))
    assert exactly.tried(model, CPU, lambda: 7) == 7
    monkeypatch.setattr(exactly, "CONTAINER", tmp_path)
    (tmp_path / "memory.current").write_text("1000\n")
    for limit, found in (("max", 7), (f"{1000 + 128 * count}\n", 7), (f"{999 + 128 * count}\n", None)):
        (tmp_path / "memory.max").write_text(limit)
        assert exactly.tried(model, CPU, lambda: 7) == found
    model.lm_head.weight = torch.nn.Parameter(torch.ones(3, 3, dtype=torch.int8), requires_grad=False)
    assert exactly.tried(model, CPU, never) is None


# --- what it is for -------------------------------------------------------------------------------


def test_a_fault_that_rounding_hides_is_found(monkeypatch):
    monkeypatch.setattr(Likeness, "agree", lambda alike, one, other: not alike.exact or agree(alike, one, other))
    agree = rehearsal_agree()
    model = tiny("roformer", is_decoder=True).to(torch.bfloat16)
    assert rehearse(model, tokenizer(), 0, CPU).together == "equal"
    monkeypatch.setattr(exactly, "tried", lambda *_: None)
    assert rehearse(model, tokenizer(), 0, CPU).together == "padded", "the half type alone would let it pass"


def rehearsal_agree():
    original = Likeness(0.01, every=True, exact=True)

    def agree(alike, one, other):
        from rankdeck.runner.engine.trials.likeness import differences

        return bool((differences(one, other) <= original.tolerance).all())

    return agree


def test_what_one_of_two_findings_rules_out_is_ruled_out():
    one, other = Found("padded", "stays", True, False, loops=True), Found("equal", None, False, True)
    for both in (rehearsal._both(one, other), rehearsal._both(other, one)):
        assert both == Found("equal", "stays", False, True)
    free = Found("padded", None, True, False, loops=True)
    assert rehearsal._both(free, free).loops
