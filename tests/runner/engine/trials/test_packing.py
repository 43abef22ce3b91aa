"""A model's weights are packed only where the whole model computes what it did before."""

import pytest
import torch

from rankdeck.runner.engine import packed_linear
from rankdeck.runner.engine.packed_linear import PackedLinear
from rankdeck.runner.engine.trials import packing
from tests.runner.engine.lone import alone, static, texts_of, tiny, tokenizer


def packed(model):
    return {name for name, module in model.named_modules() if isinstance(module, PackedLinear)}


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("mamba", {"state_size": 8}),
        ("falcon_mamba", {"state_size": 8}),
        ("jamba", {"num_key_value_heads": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2,
                   "mamba_d_state": 8, "use_mamba_kernels": False}),
    ],
)  # fmt: skip
def test_a_layer_whose_weight_the_model_reads_itself_stays_as_it_is(kind, more):
    model = tiny(kind, **more)
    expected = alone(model)
    assert packing.pack(model, tokenizer()) is None
    assert texts_of(static(model)) == expected
    assert not [name for name in packed(model) if name.endswith("dt_proj")]
    assert [name for name in packed(model) if name.endswith("in_proj")], "the others are packed"


class Reads(torch.nn.Module):
    """Reads the weight of one of its experts, and only in a cached step."""

    def __init__(self, mlp):
        super().__init__()
        self.mlp = mlp
        self.experts = torch.nn.ModuleList(torch.nn.Linear(32, 32, bias=False) for _ in range(3))

    def forward(self, hidden):
        if hidden.shape[1] > 1:
            return self.mlp(hidden)
        return self.mlp(hidden) + hidden @ self.experts[1].weight.T


def test_what_only_a_cached_step_reads_counts_for_all_layers_of_its_kind():
    model = tiny(num_key_value_heads=2)
    for layer in model.model.layers:
        layer.mlp = Reads(layer.mlp)
    expected = alone(model)
    assert packing.pack(model, tokenizer()) is None
    assert not [name for name in packed(model) if "experts" in name], "the tokens may choose another one"
    assert "model.layers.1.mlp.mlp.up_proj" in packed(model)
    assert texts_of(static(model)) == expected


def test_a_weight_that_is_read_where_no_trial_came_is_the_true_one():
    model = tiny(num_key_value_heads=2)
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    packing.pack(model, tokenizer())
    for name in packed(model):
        layer = model.get_submodule(name)
        assert torch.equal(layer.weight, weights[f"{name}.weight"])
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu", "meta"}, "it is made when asked for"


@pytest.mark.parametrize("fault", ["other numbers", "raises"])
def test_a_model_that_computes_something_else_when_packed_is_unpacked_and_says_so(monkeypatch, fault):
    model = tiny(num_key_value_heads=2)
    expected, before = alone(model), {name: parameter.clone() for name, parameter in model.named_parameters()}
    forward, calls = PackedLinear.forward, []

    def wrong(self, rows):
        calls.append(self)
        if fault == "raises":
            raise RuntimeError("could not execute a primitive")
        return forward(self, rows) * 1.1

    monkeypatch.setattr(packed_linear, "has_kernels", lambda dtype: True)
    monkeypatch.setattr(PackedLinear, "forward", wrong)
    said = packing.pack(model, tokenizer())
    cause = "they gave other logits" if fault == "other numbers" else "RuntimeError: could not execute a primitive"
    assert said == f"the weights are not packed for this CPU, so it is slower; the trial failed: {cause}"
    assert calls
    assert packed(model) == set()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert texts_of(static(model)) == expected


def test_running_out_of_memory_is_not_taken_for_a_difference(monkeypatch):
    def full(self, rows):
        raise MemoryError

    monkeypatch.setattr(packed_linear, "has_kernels", lambda dtype: True)
    monkeypatch.setattr(PackedLinear, "forward", full)
    with pytest.raises(MemoryError):
        packing.pack(tiny(num_key_value_heads=2), tokenizer())


def test_tied_weights_stay_tied_when_packed_and_when_unpacked():
    model = tiny(num_key_value_heads=2, tie_word_embeddings=True)
    packing.pack(model, tokenizer())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    packed_linear.unpack(model)
    assert type(model.lm_head) is torch.nn.Linear
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_watching_leaves_layers_as_they_were():
    model = tiny(num_key_value_heads=2)
    with packing._watched(model) as read:
        assert model.lm_head.weight is not None
    assert read == {"lm_head"}
    assert {type(module) for name, module in model.named_modules() if name.endswith("proj")} == {torch.nn.Linear}
    assert "on_read" not in vars(model.lm_head)
