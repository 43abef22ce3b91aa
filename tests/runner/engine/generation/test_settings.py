"""Every setting of a generation config means what it means for a prompt alone, or is said to be set aside."""

import json

import pytest
import transformers

from rankdeck.runner.engine.generation import settings
from rankdeck.runner.engine.generation.settings import OF_THE_RUN, ON_LOGITS, SET_ASIDE, WITHOUT_EFFECT
from rankdeck.runner.protocol.config import RunConfig
from tests.runner.engine.lone import alone, static, texts_of, tiny, tokenizer

WANTED = {
    "num_beams": 3,
    "num_beam_groups": 2,
    "constraints": ["x"],
    "force_words_ids": [[5]],
    "penalty_alpha": 0.6,
    "dola_layers": "low",
    "num_return_sequences": 3,
    "prompt_lookup_num_tokens": 4,
    "assistant_early_exit": 1,
    "use_mtp": True,
    "speculation_type": "dflash",
    "cache_implementation": "offloaded",
    "token_healing": True,
    "max_time": 0.1,
}
WITHOUT = {
    "early_stopping": True, "length_penalty": 2.0, "diversity_penalty": 0.5, "num_assistant_tokens": 3,
    "is_assistant": True, "low_memory": True, "output_scores": True, "output_attentions": True,
    "compile_config": {"mode": "default"}, "disable_compile": True, "prefill_chunk_size": 2, "max_cache_len": 9,
    "decoder_start_token_id": 4, "cache_config": {"nbits": 4},
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return tiny(num_key_value_heads=2)


def test_every_field_of_transformers_generation_config_has_its_place_and_only_one():
    parts = (OF_THE_RUN, ON_LOGITS, WITHOUT_EFFECT, frozenset(SET_ASIDE))
    assert sum(map(len, parts)) == len(frozenset.union(*parts))
    fields = {name for name in vars(transformers.GenerationConfig()) if not name.startswith("__")}
    assert fields - settings.KNOWN == set(), "a new setting: how does it go with many rows at once?"


def of_run(model, own, **run):
    model.generation_config = transformers.GenerationConfig(eos_token_id=2, pad_token_id=0)
    for name, value in own.items():
        setattr(model.generation_config, name, value)
    return settings.of_run(model, tokenizer(), RunConfig(prompts="p", **{"max_new_tokens": 12, **run}))


def test_nothing_that_acts_on_logits_or_counts_tokens_reaches_generate(model):
    generation, _ = of_run(model, {"min_length": 9, "repetition_penalty": 2.0, "forced_eos_token_id": 2})
    given = settings.bare(generation).to_diff_dict()
    assert set(given) - {"transformers_version"} <= {*settings.REACH_GENERATE, "return_dict_in_generate"}
    assert settings.bare(of_run(model, {}, do_sample=True)[0]).top_k == 0, "it is 50 where nobody says anything"


def test_what_generate_would_fill_in_from_the_models_own_config_is_hidden_from_it(model):
    model.generation_config = own = transformers.GenerationConfig(forced_eos_token_id=2, eos_token_id=2, pad_token_id=0)
    with settings.nothing_to_fill_in(model):
        assert model.generation_config.forced_eos_token_id is None
    assert model.generation_config is own


def test_there_is_a_value_here_for_every_setting_that_is_set_aside():
    assert set(WANTED) == set(SET_ASIDE)


@pytest.mark.parametrize("name", WANTED)
def test_another_way_to_search_is_set_aside_with_a_line_that_names_it(model, name):
    generation, lines = of_run(model, {name: WANTED[name]})
    said = f"the model's generation config has {name} {WANTED[name]}, which is ignored: "
    assert [line.startswith(said) for line in lines] == [True]
    assert getattr(generation, name) is None


@pytest.mark.parametrize("sampled", [False, True])
def test_with_all_of_them_a_run_gives_every_prompt_one_answer(tmp_path, model, sampled):
    own = {"eos_token_id": 2, "pad_token_id": 0, **WANTED, **WITHOUT}
    (tmp_path / settings.FILE).write_text(json.dumps(own))
    model.generation_config, lines = settings.read(str(tmp_path))
    assert len(lines) == len(WANTED)
    answers = texts_of(static(model, do_sample=sampled, seed=1))
    model.generation_config = transformers.GenerationConfig(eos_token_id=2, pad_token_id=0)
    if not sampled:
        assert answers == alone(model)
    assert len(answers) == 6


@pytest.mark.parametrize("text", ["{", "[]", '{"cache_config": 7, "early_stopping": 3, "max_new_tokens": -4}'])
def test_a_file_that_is_no_generation_config_is_named(tmp_path, text):
    (tmp_path / settings.FILE).write_text(text)
    with pytest.raises(ValueError, match=str(tmp_path / settings.FILE)):
        settings.read(str(tmp_path))


def test_a_folder_without_one_leaves_it_to_transformers(tmp_path):
    assert settings.read(str(tmp_path)) == (None, [])


def test_a_setting_that_only_a_newer_transformers_knows_is_kept_and_named(model, monkeypatch):
    monkeypatch.setattr(settings, "KNOWN", settings.KNOWN - {"top_h"})
    generation, lines = of_run(model, {"top_h": 0.4})
    assert generation.top_h == 0.4
    assert ["top_h, which rankdeck does not know" in line for line in lines] == [True]


def test_at_a_fixed_length_no_stop_string_ends_an_answer(model):
    generation, _ = of_run(model, {"stop_strings": ["x"]}, ignore_eos=True)
    assert (generation.stop_strings, generation.eos_token_id) == (None, None)


def test_a_model_that_says_not_to_use_a_cache_has_one_all_the_same():
    model = tiny(num_key_value_heads=2)
    expected = alone(model)
    model.generation_config.use_cache = False
    assert texts_of(static(model)) == expected
