"""Models whose layers are not alike (Gemma 4) are described layer by layer, and answer as alone."""

from types import SimpleNamespace

import pytest
import transformers

from rankdeck.runner.engine.experts import experts_of
from rankdeck.runner.engine.generation import long_texts, vocabulary
from rankdeck.runner.engine.generation.layer_configs import layer_configs, value_of
from tests.runner.engine.lone import alone, static, texts_of, tiny

GEMMA_4 = {
    "num_hidden_layers": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "global_head_dim": 16,
    "sliding_window": 40,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 101,
    "num_kv_shared_layers": 0,
    "max_position_embeddings": 128,
}


@pytest.fixture
def model():
    return tiny("gemma4_text", **GEMMA_4)


def test_each_layer_has_its_own_config_and_what_differs_is_no_value_of_the_whole(model):
    text = model.config.get_text_config()
    assert [value_of(layer, "head_dim") for layer in layer_configs(text)] == [8] * 5 + [16]
    assert value_of(text, "head_dim") is None
    assert value_of(text, "num_hidden_layers") == 6
    assert value_of(text, "no_such_name") is None


def test_layers_that_are_alike_have_the_config_of_the_model():
    config = transformers.LlamaConfig(num_hidden_layers=3)
    assert [layer is config for layer in layer_configs(config)] == [True] * 3
    assert layer_configs(SimpleNamespace()) == []


def test_such_a_model_is_described_and_answers_as_alone(model):
    one = static(model)
    figures = one.describe()
    assert figures["kv_bytes_per_token"] == 2 * 2 * (5 * 8 + 16) * 4
    assert figures["context_tokens"] == 128
    assert experts_of(model) is None
    assert texts_of(one) == alone(tiny("gemma4_text", **GEMMA_4))


def test_a_bound_of_any_layer_is_one_of_the_model():
    """In a model that picks positions in some of its layers alone."""
    layers = [SimpleNamespace(index_topk=None), SimpleNamespace(index_topk=32)]

    class Text:
        is_heterogeneous, per_layer_config = True, layers

        @property
        def index_topk(self):
            raise RuntimeError("it is a per-layer attribute")

    assert long_texts.padded_up_to(SimpleNamespace(get_text_config=Text), 1000) == 32
    assert vocabulary.context_tokens(SimpleNamespace(get_text_config=Text)) is None
