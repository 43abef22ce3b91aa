"""The decode loop gives each prompt the answer it gets alone, whatever the model; or it is not used, and says why.

Where steps are captured on a GPU, the same steps run here without a graph, over the same sizes: see `captured`.
"""

import pytest
import torch
import transformers

from rankdeck.runner.engine import rows
from tests.runner.engine.decoding.captured import capture
from tests.runner.engine.lone import MIXED, VOCABULARY, alone, static, texts_of, tiny
from tests.runner.engine.tiny import prompts, side_by_side

GROUPED = {"num_key_value_heads": 2}
KINDS = {
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": None},
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 8},
    "gemma": {**GROUPED, "head_dim": 8},
    "phi": {**GROUPED, "partial_rotary_factor": 0.5},
    "phi3": GROUPED,
    "gpt_neox": {"rotary_pct": 0.5},
    "olmo": GROUPED,
    "olmo2": GROUPED,
    "granite": GROUPED,
    "starcoder2": {**GROUPED, "sliding_window": None},
    "stablelm": GROUPED,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "mixtral": {**GROUPED, "num_local_experts": 4, "sliding_window": None},
}
OTHERS = {
    "gemma2": {**GROUPED, "head_dim": 8, "sliding_window": 8},
    "mistral": {**GROUPED, "sliding_window": 8},
    "mamba": {"state_size": 8},
    "bloom": {"n_head": 4, "n_layer": 2},
}
EARLY = [2, *(VOCABULARY.index(letter) for letter in "eY5")]
"""End-of-sequence tokens of which some rows write one early."""


WAYS = {
    "as on a CPU": lambda engine, _: engine,
    "as on a GPU": capture,
    "side by side": lambda engine, _: side_by_side(engine),
}


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Has an engine's loop run in this way."""
    return lambda engine: WAYS[request.param](engine, monkeypatch)


@pytest.fixture(autouse=True)
def in_passes(monkeypatch):
    """Prompts are prefilled in several passes, and, side by side, those of unlike lengths apart, however few."""
    monkeypatch.setitem(rows.PASS_TOKENS, "cpu", 40)
    monkeypatch.setitem(rows.GROUP_SLOTS, "cpu", 4)


@pytest.mark.parametrize("kind", KINDS)
def test_each_answer_is_that_of_the_prompt_alone(kind, way):
    model = tiny(kind, **KINDS[kind])
    engine = way(static(model))
    assert engine.take_notes() == []
    assert engine.in_loop
    assert texts_of(engine) == alone(model)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_leave_at_any_of_the_end_of_sequence_tokens(kind, way):
    model = tiny(kind, **KINDS[kind])
    free = alone(model)
    ends = "".join(text[len(text) // 3 :][:1] for text in free[1:4])
    model.generation_config.eos_token_id = [2, *(VOCABULARY.index(letter) for letter in ends)]
    engine = way(static(model))
    found = engine.generate(prompts(*MIXED))
    assert [record.text for record in found.records] == alone(model)
    assert len({record.output_tokens for record in found.records}) > 1


@pytest.mark.parametrize("kind", OTHERS)
def test_a_model_that_it_cannot_run_goes_by_generate_with_one_line_why(kind):
    model = tiny(kind, **OTHERS[kind])
    engine = static(model)
    assert not engine.in_loop
    assert sum("not by the decode loop" in note for note in engine.take_notes()) == 1
    assert texts_of(engine) == alone(model)


@pytest.mark.parametrize(
    "own",
    [
        {"min_new_tokens": 5},
        {"repetition_penalty": 1.4},
        {"no_repeat_ngram_size": 2},
        {"repetition_penalty": 1.2, "min_length": 12},
        {"suppress_tokens": [10, 11, 12]},
        {"stop_strings": ["e", "Y"]},
    ],
)
def test_settings_of_the_models_own_mean_what_they_mean_alone(own, way):
    model = tiny(**GROUPED)
    settings = transformers.GenerationConfig(eos_token_id=EARLY, pad_token_id=0, bos_token_id=1, **own)
    model.generation_config = settings
    expected = alone(model)
    model.generation_config = settings
    engine = way(static(model))
    assert engine.in_loop
    assert texts_of(engine) == expected


def test_eager_attention_too(way):
    model = tiny(attn_implementation="eager", **GROUPED)
    model.set_attn_implementation("eager")
    engine = way(static(model))
    assert engine.in_loop
    assert texts_of(engine) == alone(model)


@pytest.mark.parametrize("sampling", [{}, {"top_k": 7}, {"top_p": 0.8, "temperature": 0.7}])
def test_sampled_answers_depend_on_the_prompt_and_the_seed_alone(sampling, way):
    model = tiny(**GROUPED)
    settings = {"do_sample": True, "seed": 5, **sampling}
    by_generate = static(model, decoding="generate", **settings)
    expected = [by_generate.generate([prompt]).records[0].text for prompt in prompts(*MIXED)]
    engine = way(static(model, **settings))
    assert texts_of(engine) == expected
    assert [record.text for record in engine.generate(prompts(*MIXED)[::-1]).records] == expected[::-1]
    assert texts_of(way(static(model, **{**settings, "seed": 6}))) != expected


def test_a_batch_of_any_size_after_any_other(way):
    model = tiny(**GROUPED)
    model.generation_config.eos_token_id = EARLY
    expected = alone(model)
    engine = way(static(model))
    for few in ((0,), (3, 5), (0, 1, 2, 3, 4, 5), (4,), (1, 2, 5)):
        batch = [prompts(*MIXED)[at] for at in few]
        assert [record.text for record in engine.generate(batch).records] == [expected[at] for at in few]


def test_a_row_whose_logits_are_no_numbers_is_an_error_and_leaves_nothing_behind(way, monkeypatch):
    model = tiny(**GROUPED)
    engine = way(static(model))
    expected = texts_of(engine)
    layer, broken = model.model.layers[0], torch.tensor([[[float("nan")]]])
    normal = type(layer).forward

    def forward(self, hidden, *args, **kwargs):
        output = normal(self, hidden, *args, **kwargs)
        return output * broken if len(hidden) == 1 else output

    monkeypatch.setattr(type(layer), "forward", forward)
    assert engine.generate(prompts(MIXED[0])).records[0].error
    monkeypatch.setattr(type(layer), "forward", normal)
    assert texts_of(engine) == expected
