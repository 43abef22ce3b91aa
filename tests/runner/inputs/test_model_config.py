"""The figures of a model are found under the names that models give them."""

from typing import Any

import pytest

from rankdeck.runner.inputs.model_config import ModelShape, context_in, shape_from_config
from tests.checkpoints import LLAMA


def context(**values: Any) -> int | None:
    return shape_from_config({**LLAMA, **values}, None).context


@pytest.mark.parametrize(
    "name",
    [
        *("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length"),
        *("max_target_positions", "context_length", "model_max_length", "max_seq_length", "seq_len", "n_context"),
        "max_context_length",
    ],
)
def test_the_context_is_found_under_each_of_its_names(name: str) -> None:
    assert context() is None
    assert context(**{name: 2048}) == 2048
    assert context(text_config={name: 4096}, **{name: 2048}) == 4096
    assert context(**{name: -1}) is context(**{name: True}) is None


@pytest.mark.parametrize(
    ("rope", "tokens"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 8192),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, 4096),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}}, 8192),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}}, 2048),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 512}}, 2048),
        ({"rope_parameters": {"rope_type": "linear", "factor": 1.5, "rope_theta": 1e4}}, 3072),
        ({"rope_parameters": {"rope_type": "default", "factor": 4.0}}, 2048),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 2048}}, 2048),
        ({"rope_scaling": {"type": "longrope", "factor": 8.0}}, 2048),
        ({"rope_scaling": {"type": "linear", "factor": "x"}}, 2048),
        ({"rope_scaling": {"type": "linear", "factor": 0.5}}, 2048),
        ({"rope_scaling": {"type": "linear"}}, 2048),
        ({"rope_scaling": {"type": "linear", "factor": 4, "original_max_position_embeddings": "x"}}, 2048),
        ({"rope_scaling": None}, 2048),
        ({"rope_scaling": "linear"}, 2048),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}}, 2048),
        ({"model_type": "opt", "rope_scaling": {"type": "linear", "factor": 4.0}}, 2048),
        ({"model_type": "gpt_neox", "rope_scaling": {"type": "linear", "factor": 4.0}}, 8192),
        ({"model_type": "gemma3", "rope_scaling": {"type": "linear", "factor": 8.0}}, 2048),
        ({"model_type": "gemma3_text", "rope_scaling": {"rope_type": "linear", "factor": 8.0}}, 2048),
    ],
)
def test_stretched_positions_have_room_for_more_tokens_than_the_training_had(rope: dict[str, Any], tokens: int) -> None:
    values = {"max_position_embeddings": 2048, **rope}
    assert context(**values) == context_in(values) == context_in({"text_config": values}) == tokens


def test_a_model_with_a_table_of_positions_has_no_more_whatever_else_its_config_says() -> None:
    stray = {"n_positions": 32, "rope_scaling": {"type": "linear", "factor": 4.0}}
    assert context(**stray) == context_in({"model_type": "gpt2", **stray}) == 32


def test_the_usual_name_goes_before_the_others() -> None:
    assert context(max_position_embeddings=4096, seq_length=2048) == 4096


def shape(parameters: int | None = None, stored: int | None = None, **values: Any) -> ModelShape:
    return shape_from_config({**SIZES, **values}, parameters, stored)


SIZES = {"num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 100}


@pytest.mark.parametrize(
    ("usual", "others"),
    [
        ("num_hidden_layers", ("n_layer", "num_layers")),
        ("hidden_size", ("n_embd", "d_model")),
        ("num_attention_heads", ("n_head", "num_heads")),
        ("intermediate_size", ("n_inner", "ffn_dim")),
    ],
)
def test_a_size_is_found_under_each_of_its_names_and_the_usual_one_goes_first(
    usual: str, others: tuple[str, ...]
) -> None:
    expected = shape(**{usual: 8})
    assert expected != shape(**{usual: 16})
    without = {name: value for name, value in SIZES.items() if name != usual}
    for other in others:
        assert shape_from_config({**without, other: 8}, None) == expected
        assert shape(**{usual: 8, other: 16}) == expected
        assert shape(**{usual: True, other: 8}) == shape(**{usual: 0, other: 8}) == expected


@pytest.mark.parametrize("name", SIZES)
def test_a_size_that_nothing_says_is_named(name: str) -> None:
    for nothing in (None, "8", 0, -1, True, 8.0):
        with pytest.raises(ValueError, match=f"its config.json has no {name}$"):
            shape(**{name: nothing})


def test_what_is_left_out_follows_from_the_rest() -> None:
    found = shape()
    assert (found.layers, found.hidden, found.vocabulary) == (3, 32, 100)
    assert (found.kv_heads, found.head_size, found.intermediate) == (4, 8, 128)
    assert (found.context, found.dtype, found.stored_bytes) == (None, None, None)
    assert (found.counted, found.quantised, found.tied, found.embedding_parameters) == (False, False, False, 3200)
    given = shape(num_key_value_heads=2, head_dim=16, intermediate_size=64)
    assert (given.kv_heads, given.head_size, given.intermediate) == (2, 16, 64)
    assert shape(num_attention_heads=64).head_size == 1


def test_parameters_that_are_not_counted_are_those_of_attention_three_matrices_and_two_embeddings() -> None:
    attention, matrices = 2 * 32 * 8 * (4 + 4), 3 * 32 * 128
    assert shape().parameters == 3 * (attention + matrices) + 2 * 3200
    assert shape(tie_word_embeddings=True).parameters == 3 * (attention + matrices) + 3200
    fewer = 2 * 32 * 16 * (4 + 2)
    assert shape(num_key_value_heads=2, head_dim=16).parameters == 3 * (fewer + matrices) + 2 * 3200
    for name in ("num_local_experts", "num_experts", "n_routed_experts"):
        assert shape(**{name: 5}).parameters == 3 * (attention + 5 * matrices) + 2 * 3200
        small = shape(**{name: 5}, moe_intermediate_size=10)
        assert small.parameters == 3 * (attention + 5 * 3 * 32 * 10) + 2 * 3200
        assert small.intermediate == 128
    assert shape(moe_intermediate_size=10).parameters == shape().parameters, "there are no experts"


def test_parameters_that_were_counted_are_believed() -> None:
    for counted in (0, 77):
        assert (shape(counted).parameters, shape(counted).counted) == (counted, True)


def test_only_a_quantised_checkpoint_is_as_large_as_its_files() -> None:
    assert (shape(7, 99).stored_bytes, shape(7, 99).quantised) == (None, False)
    quantised = shape(7, 99, quantization_config={"quant_method": "awq"})
    assert (quantised.stored_bytes, quantised.quantised) == (99, True)
    assert not shape(7, 99, quantization_config="awq").quantised


def test_the_dtype_and_whether_weights_are_tied_are_as_the_config_says() -> None:
    assert shape(torch_dtype="float16").dtype == "float16"
    assert shape(torch_dtype="float16", dtype="bfloat16").dtype == "bfloat16"
    assert shape(torch_dtype="float16", dtype=None).dtype == "float16"
    assert shape(dtype=5).dtype is None
    assert [shape(tie_word_embeddings=tied).tied for tied in (True, False, None, 1)] == [True, False, False, False]


def test_the_text_part_of_a_model_decides_and_what_it_leaves_out_is_taken_from_the_whole() -> None:
    text = {"hidden_size": 8, "num_attention_heads": 2, "dtype": "bfloat16", "tie_word_embeddings": True}
    found = shape(text_config=text, dtype="float32")
    assert (found.hidden, found.layers, found.dtype, found.tied) == (8, 3, "bfloat16", True)
    assert shape(text_config="none") == shape()
