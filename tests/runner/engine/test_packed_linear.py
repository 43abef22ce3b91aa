"""Weights laid out beforehand for a CPU's matrix kernels: the same results, the same figures of the model."""

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.engine import loading, packed_linear
from rankdeck.runner.engine.packed_linear import PackedLinear, has_kernels, pack, unpack
from rankdeck.runner.protocol.config import RunConfig


def llama(tied: bool = True) -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=tied, attention_bias=True,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@given(
    rows=st.integers(1, 40),
    inside=st.integers(1, 80),
    out=st.integers(1, 80),
    bias=st.booleans(),
    dtype=st.sampled_from([dtype for dtype in (torch.float32, torch.bfloat16) if has_kernels(dtype)]),
)
def test_a_packed_layer_computes_what_the_layer_does(
    rows: int, inside: int, out: int, bias: bool, dtype: torch.dtype
) -> None:
    layer = torch.nn.Linear(inside, out, bias=bias, dtype=dtype)
    given_rows = torch.randn(rows, 2, inside, dtype=dtype)
    with torch.inference_mode():
        close = 1e-5 if dtype is torch.float32 else 3e-2
        torch.testing.assert_close(
            PackedLinear(layer, shared=False)(given_rows), layer(given_rows), atol=close, rtol=close
        )


@pytest.mark.parametrize("tied", [True, False])
def test_a_packed_model_computes_and_counts_what_it_did_before(tied: bool) -> None:
    model, packed = llama(tied), llama(tied)
    assert pack(packed) == 2 * 7 + 1
    ids = torch.arange(24).reshape(2, 12)
    with torch.inference_mode():
        torch.testing.assert_close(packed(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-4)
    assert packed.num_parameters() == model.num_parameters()
    assert packed.dtype == model.dtype
    assert packed.device == model.device
    embedding, output = packed.get_input_embeddings(), packed.get_output_embeddings()
    assert (embedding.weight is output.weight) == tied


@pytest.mark.parametrize("tied", [True, False])
def test_an_unpacked_model_has_every_weight_and_bias_it_had(tied: bool) -> None:
    model = llama(tied)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    assert {name for name in before if name.endswith("q_proj.bias")}, "there are biases to lose"
    pack(model)
    unpack(model)
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], parameter) for name, parameter in before.items())


def test_only_weights_that_others_use_too_are_held_twice() -> None:
    packed = llama(tied=True)
    pack(packed)
    held = {name for name, parameter in packed.named_parameters() if parameter.device.type != "meta"}
    assert {name for name in held if "proj.weight" in name} == set()
    assert "model.embed_tokens.weight" in held


def test_layers_of_other_types_stay_as_they_are() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8, dtype=torch.float64), torch.nn.ReLU())
    assert pack(model) == 0
    assert type(model[0]) is torch.nn.Linear


def test_a_cpu_that_has_the_kernels_of_one_precision_alone_packs_no_model_of_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask = torch.ops.mkldnn._reorder_linear_weight

    def without_bfloat16(weight: torch.Tensor, rows: int) -> torch.Tensor:
        if weight.dtype is torch.bfloat16:
            raise RuntimeError("bf16 path needs the cpu support avx_ne_convert or avx512bw")  # what torch says
        return ask(weight, rows)

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", without_bfloat16)
    assert not has_kernels(torch.bfloat16)
    assert pack(llama().to(torch.bfloat16)) == 0
    assert pack(llama()) > 0


def test_where_the_kernels_are_missing_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise NotImplementedError("no such operator")

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", missing)
    model = llama()
    assert pack(model) == 0
    assert not any(isinstance(module, PackedLinear) for module in model.modules())


def test_trying_the_kernels_uses_up_none_of_the_luck_of_a_seeded_run() -> None:
    model = llama()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    assert pack(model) > 0
    assert torch.equal(torch.rand(3), expected)


def test_kernels_that_compute_something_else_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda rows, *_: rows.new_zeros(*rows.shape[:-1], 32))
    assert pack(llama()) == 0


def test_a_model_that_is_loaded_for_the_cpu_is_packed(tmp_path, monkeypatch) -> None:
    llama().save_pretrained(tmp_path)
    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: type("T", (), {"pad_token_id": 0})
    )
    model = loading.load(RunConfig(prompts="p", device="cpu"), str(tmp_path), torch.device("cpu")).model
    assert any(isinstance(module, packed_linear.PackedLinear) for module in model.modules())


def test_a_torch_without_these_kernels_is_not_asked_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", lambda *_: pytest.fail("it is not there"))
    assert not has_kernels(torch.float32)
    assert pack(llama()) == 0


def test_layers_that_are_left_and_those_without_a_plain_weight_of_the_cpu_stay_as_they_are() -> None:
    model = llama()
    assert pack(model, leave=lambda name: name.endswith(("q_proj", "lm_head"))) == 2 * 6
    left = {name for name, module in model.named_modules() if type(module) is torch.nn.Linear}
    assert left == {"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "lm_head"}

    class Quantised(torch.nn.Linear):
        pass

    class Wrapped(torch.nn.Parameter):
        pass

    odd = torch.nn.Sequential(torch.nn.Linear(2, 2, device="meta"), Quantised(2, 2), torch.nn.Linear(2, 2))
    odd[2].weight = Wrapped(torch.zeros(2, 2))
    assert packed_linear.packable(odd) == {}
    assert pack(odd) == 0


def test_a_packed_layer_says_its_sizes_and_is_the_layer_again_when_it_is_unpacked() -> None:
    layer = torch.nn.Linear(6, 4)
    packed = PackedLinear(layer, shared=False)
    assert (packed.in_features, packed.out_features, packed.bias is layer.bias) == (6, 4, True)
    assert (packed._parameters["weight"].is_meta, packed._parameters["weight"].requires_grad) == (True, False)
    assert PackedLinear(layer, shared=True).weight is layer.weight
    again = packed.unpacked()
    assert (again.in_features, again.out_features, again.training, again.weight.requires_grad) == (6, 4, False, False)
    assert torch.equal(again.weight, layer.weight)
    assert again.bias is layer.bias
