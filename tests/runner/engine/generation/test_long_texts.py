"""Models that treat long texts in another way: rows beyond that length are with rows of their own length alone."""

from types import SimpleNamespace

import pytest
import transformers

from rankdeck.runner.engine.generation.long_texts import padded_up_to, words
from rankdeck.runner.engine.static import BY_GENERATE, OTHER
from rankdeck.runner.engine.trials.rehearsal import WORDS
from tests.runner.engine.lone import alone, engine, static, texts_of, tiny

LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 24}
KINDS = {
    "phi3": {
        "max_position_embeddings": 256,
        "original_max_position_embeddings": 24,
        "num_key_value_heads": 4,
        "rope_parameters": {**LONG, "short_factor": [1.0] * 4, "long_factor": [9.0] * 4},
    },
    "minimax_m3_vl_text": {
        "index_block_size": 8,
        "index_topk_blocks": 3,
        "index_n_heads": 4,
        "index_head_dim": 8,
        "head_dim": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "llama4_text": {
        "floor_scale": 24,
        "attn_scale": 3.0,
        "attn_temperature_tuning": True,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "num_local_experts": 2,
        "intermediate_size_mlp": 64,
        "no_rope_layers": [0, 1],
        "max_position_embeddings": 256,
    },
    "inkling_text": {
        "log_scaling_n_floor": 24,
        "log_scaling_alpha": 3.0,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
    },
    "doge": {"keep_window_size": 24, "num_key_value_heads": 2, "max_position_embeddings": 256},
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_on_both_sides_of_that_length_get_the_answers_they_get_alone(kind):
    expected = alone(tiny(kind, **KINDS[kind]))
    one = static(tiny(kind, **KINDS[kind]))
    assert texts_of(one) == expected
    notes = one.take_notes()
    assert words(24) in notes
    padded, *alike = one._parts({0: 3, 1: 5, 2: 40, 3: 40, 4: 9}, new_tokens=8)
    if WORDS["equal"] in notes:  # Doge, in transformers 5.17: no padding at all
        assert (padded, alike) == ([0], [[1], [2, 3], [4]])
    else:
        assert (padded, alike) == ([0, 1, 4], [[2, 3]]), "short ones are padded as ever"


DYNAMIC = {
    "max_position_embeddings": 64,
    "rope_parameters": {"rope_type": "dynamic", "factor": 8.0, "rope_theta": 10000.0},
}


def test_a_text_after_a_longer_one_gets_the_answer_it_gets_alone():
    """transformers leaves the positions stretched until a short text comes."""
    texts = ["long " * 60, "a text of some length, " * 5, "and another of less, " * 4, "short", "long again " * 9]
    expected = [text for each in texts for text in alone(tiny(**DYNAMIC), [each])]
    one = static(tiny(**DYNAMIC))
    assert one.context_tokens == 8 * 64
    assert [text for each in texts for text in texts_of(one, [each])] == expected
    assert texts_of(one, texts) == expected


def test_such_a_model_is_neither_run_in_the_decode_loop_nor_batched_continuously():
    found, why = engine(tiny("phi3", **KINDS["phi3"]), kind="continuous")
    assert (found.name, "computes a long text in another way" in why) == ("static", True)
    assert texts_of(found) == alone(tiny("phi3", **KINDS["phi3"]))
    assert (
        f"{BY_GENERATE}: {OTHER}" in static(tiny("phi3", **KINDS["phi3"]), way="generate", decoding="auto").take_notes()
    )


def test_that_length_is_found_under_all_its_names():
    def up_to(context=1000, **settings):
        return padded_up_to(transformers.LlamaConfig(max_position_embeddings=500, **settings), context)

    assert up_to() is None
    assert up_to(index_topk=64) == 64
    assert up_to(index_topk=64, keep_window_size=32) == 32
    assert up_to(index_block_size=8, index_topk_blocks=4) == 32
    assert up_to(index_block_size=8) is None
    assert up_to(log_scaling_n_floor=99) == 99
    assert up_to(floor_scale=98.0, attn_temperature_tuning=True) == 98
    assert up_to(floor_scale=98, attn_temperature_tuning=False) is None
    assert up_to(context=64, index_topk=64) is None, "no row is longer"
    assert up_to(context=None, index_topk=64) == 64
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert up_to(rope_parameters=dynamic) == 500
    assert up_to(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}) is None


def test_what_is_said_of_such_a_length_has_the_length():
    said = "beyond 4,096 tokens with their answers, rows of equal length only: padded, this model gives other answers"
    assert words(4096) == said


def config(rope=None, **settings):
    text = SimpleNamespace(rope_parameters=rope, **settings)
    return SimpleNamespace(get_text_config=lambda: text)


@pytest.mark.parametrize(
    ("rope", "settings", "most"),
    [
        ({"rope_type": "longrope", "original_max_position_embeddings": 24}, {"max_position_embeddings": 99}, 24),
        ({"rope_type": "longrope"}, {"original_max_position_embeddings": 25, "max_position_embeddings": 99}, 25),
        ({"rope_type": "dynamic", "original_max_position_embeddings": 0}, {"max_position_embeddings": 99}, 99),
        ({"full": {"rope_type": "default"}, "local": {"rope_type": "dynamic"}}, {"max_position_embeddings": 99}, 99),
        ({"rope_type": "linear"}, {"max_position_embeddings": 99}, None),
        ({"rope_type": "dynamic"}, {}, None),
        (None, {"index_topk": 0}, None),
        (None, {"index_topk": "many"}, None),
        (None, {"index_topk": 64}, 64),
        (None, {"keep_window_size": 64}, 64),
        (None, {"index_block_size": 8, "index_topk_blocks": None}, None),
        (None, {"floor_scale": 64, "log_scaling_n_floor": 32}, 32),
    ],
)
def test_the_least_of_all_bounds_counts_and_of_a_rope_its_own_first(rope, settings, most):
    assert padded_up_to(config(rope, **settings), None) == most


def test_a_bound_that_no_row_can_reach_is_none():
    one = config(index_topk=64)
    assert [padded_up_to(one, context) for context in (None, 63, 64, 65)] == [64, None, None, 64]
