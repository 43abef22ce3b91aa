"""The routed experts of a loaded model are told from the parameters that every token uses."""

import contextlib
import inspect
from types import SimpleNamespace

import msgspec
import pytest
import torch
import transformers

from rankdeck.runner.engine.experts import decode_products, decoding_in_groups, experts_of
from rankdeck.runner.protocol import Experts, RankReady
from tests.runner.engine.lone import alone, static, texts_of, tiny
from tests.runner.engine.tiny import BOTH_WAYS, make

TINY = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "layers", "count", "per_token", "width"),
    [
        (transformers.MixtralConfig(**TINY, num_local_experts=8, num_experts_per_tok=2), 2, 8, 2, 24),
        (
            transformers.Qwen3MoeConfig(
                **TINY, head_dim=8, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=12, mlp_only_layers=[0]
            ),
            1, 6, 3, 12,
        ),
        (
            transformers.Qwen2MoeConfig(
                **TINY, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=12,
                shared_expert_intermediate_size=40,
            ),
            2, 6, 3, 12,
        ),
        (
            transformers.DeepseekV3Config(
                **TINY, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=12, first_k_dense_replace=1,
                n_group=1, topk_group=1, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4,
                v_head_dim=8,
            ),
            1, 8, 2, 12,
        ),
    ],
    ids=["Mixtral", "Qwen3-MoE with a dense layer", "Qwen2-MoE with a shared expert", "DeepSeek-V3"],
)  # fmt: skip
def test_experts_are_found_and_neither_routers_nor_shared_experts_are_among_them(
    config, layers, count, per_token, width
):
    found = experts_of(transformers.AutoModelForCausalLM.from_config(config))
    assert found is not None
    assert (found.count, found.per_token) == (count, per_token)
    assert found.bytes == layers * count * 3 * width * 16 * 4, "gate, up and down projection in float32"


def test_the_biases_of_an_expert_are_read_with_it():
    config = transformers.GptOssConfig(**TINY, head_dim=8, num_local_experts=4, num_experts_per_tok=2)
    found = experts_of(transformers.AutoModelForCausalLM.from_config(config))
    assert found is not None
    assert found.bytes == 2 * 4 * (3 * 24 * 16 + 2 * 24 + 16) * 4


def test_experts_one_after_another_in_a_list_are_found_as_well():
    model = torch.nn.Module()
    model.config = transformers.MixtralConfig(**TINY, num_local_experts=4, num_experts_per_tok=2)
    model.experts = torch.nn.ModuleList(torch.nn.Linear(3, 5, bias=False) for _ in range(4))
    model.shared_experts = torch.nn.Linear(3, 50)
    found = experts_of(model)
    assert found is not None
    assert found.bytes == 4 * 15 * 4


def test_a_dense_model_has_none():
    assert experts_of(transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**TINY))) is None


def test_experts_that_are_no_parameters_are_not_taken_for_dense():
    model = torch.nn.Module()
    model.config = transformers.MixtralConfig(**TINY, num_local_experts=4, num_experts_per_tok=2)
    found = experts_of(model)
    assert found is not None
    assert found.per_token is None


def test_a_rank_that_is_ready_tells_its_experts():
    config = transformers.MixtralConfig(**TINY, num_local_experts=4, num_experts_per_tok=2)
    model = transformers.AutoModelForCausalLM.from_config(config)
    told = make(model).describe()
    facts = {"rank": 0, "device": "cpu", "device_name": "CPU", "engine": "static", "seconds": 1.0}
    sent = msgspec.json.decode(msgspec.json.encode(RankReady(**facts, **told)), type=RankReady)
    assert sent.experts == experts_of(model)
    assert sent.experts is not None
    assert sent.weight_read_bytes is not None
    assert sent.weight_read_bytes > sent.experts.bytes


@pytest.mark.parametrize(("rows", "in_groups"), [(1, False), (4, False), (5, True), (64, True)])
def test_decoding_copies_experts_for_its_rows_only_while_these_are_fewer_than_all(rows, in_groups):
    config = transformers.MixtralConfig(**TINY, num_local_experts=8, num_experts_per_tok=2)
    mixtral = transformers.AutoModelForCausalLM.from_config(config)
    own = mixtral._optimize_model_for_decode
    with decoding_in_groups(mixtral, experts_of(mixtral), rows):
        assert (mixtral._optimize_model_for_decode == own) is not in_groups
    assert mixtral._optimize_model_for_decode == own


@pytest.mark.parametrize(("rows", "in_groups"), [(1, False), (4, False), (5, True), (64, True)])
def test_steps_outside_generate_have_the_products_that_generate_would_use_for_as_many_rows(rows, in_groups):
    config = transformers.MixtralConfig(**TINY, num_local_experts=8, num_experts_per_tok=2)
    mixtral, did = transformers.AutoModelForCausalLM.from_config(config), []

    @contextlib.contextmanager
    def optimised():
        did.append("in")
        yield
        did.append("out")

    mixtral._optimize_model_for_decode = optimised
    with decode_products(mixtral, experts_of(mixtral), rows):
        assert did == ([] if in_groups else ["in"])
    assert did == ([] if in_groups else ["in", "out"])
    with decode_products(mixtral, None, rows):
        assert did == ([] if in_groups else ["in", "out"]), "a model without experts has one way"


@BOTH_WAYS
def test_a_mixture_of_experts_is_run_either_way_and_answers_as_alone(way):
    shape = {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    expected = alone(tiny("mixtral", **shape))
    assert texts_of(static(tiny("mixtral", **shape), way)) == expected


def test_transformers_still_changes_over_in_the_place_that_is_taken():
    source = inspect.getsource(transformers.GenerationMixin._optimize_model_for_decode)
    assert "batched_mm" in source


def test_a_mixture_of_experts_answers_in_groups_as_it_did():
    config = transformers.MixtralConfig(**TINY, num_local_experts=4, num_experts_per_tok=2, eos_token_id=None)
    torch.manual_seed(0)
    mixtral = transformers.AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(3, 32, (6, 4))
    asked = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    expected = mixtral.generate(ids, **asked)
    with decoding_in_groups(mixtral, experts_of(mixtral), len(ids)):
        assert torch.equal(mixtral.generate(ids, **asked), expected)


class Shape:
    """A model whose config has these settings, with one expert's weight unless `found` is false."""

    def __init__(self, found: bool = True, ffn=None, **settings) -> None:
        text = SimpleNamespace(**settings, **({} if ffn is None else {"ffn_config": SimpleNamespace(**ffn)}))
        self.config = SimpleNamespace(get_text_config=lambda: text)
        self._found = found

    def named_parameters(self):
        yield "layers.0.shared_experts.weight", torch.zeros(100)
        yield "layers.0.experts_router.weight", torch.zeros(100)
        if self._found:
            yield "layers.0.experts.3.weight", torch.zeros(5)


@pytest.mark.parametrize(
    ("count", "per_token"),
    [
        ("num_experts", "num_experts_per_tok"),
        ("num_local_experts", "top_k_experts"),
        ("n_routed_experts", "moe_topk"),
        ("moe_num_experts", "moe_top_k"),
        ("num_experts", "num_experts_per_token"),
    ],
)
def test_how_many_experts_there_are_and_are_used_has_many_names(count, per_token):
    found = Experts(bytes=20, count=8, per_token=2)
    assert experts_of(Shape(**{count: 8, per_token: 2})) == found
    assert experts_of(Shape(ffn={count: 8, per_token: 2})) == found, "dbrx has a config of its own for them"
    assert experts_of(Shape(**{count: None, per_token: "two"}, ffn={count: 8, per_token: 2})) == found


def test_a_model_is_dense_if_it_has_no_experts_or_one_and_none_of_their_weights():
    assert experts_of(Shape(found=False)) is None
    assert experts_of(Shape(found=False, num_experts=1, num_experts_per_tok=1)) is None
    assert experts_of(Shape(found=False, num_experts=2, num_experts_per_tok=1)) == Experts(
        bytes=0, count=2, per_token=None
    )
    assert experts_of(Shape()) == Experts(bytes=20, count=None, per_token=None)


@pytest.mark.parametrize(
    "experts", [None, Experts(bytes=1, count=None, per_token=2), Experts(bytes=1, count=8, per_token=None)]
)
def test_a_model_of_whose_experts_too_little_is_known_decodes_as_transformers_has_it(experts):
    one = SimpleNamespace()
    with decoding_in_groups(one, experts, 1000):
        assert vars(one) == {}


def test_after_a_batch_that_raised_decoding_is_as_before():
    one = SimpleNamespace()

    def decode():
        with one._optimize_model_for_decode():
            raise ValueError("a step")

    with pytest.raises(ValueError, match="a step"), decoding_in_groups(one, Experts(bytes=1, count=8, per_token=2), 5):
        decode()
    assert vars(one) == {}
