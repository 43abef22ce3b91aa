"""Every setting of a generation config means what it means for a prompt alone, or is said to be set aside."""

import json
from types import SimpleNamespace

import pytest
import transformers

from rankdeck.runner.engine.generation import settings
from rankdeck.runner.engine.generation.settings import OF_THE_RUN, ON_LOGITS, SET_ASIDE, WITHOUT_EFFECT
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from tests.runner.engine.lone import alone, static, texts_of, tiny, tokenizer
from tests.runner.engine.tiny import BOTH_WAYS

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


@BOTH_WAYS
@pytest.mark.parametrize("sampled", [False, True])
def test_with_all_of_them_a_run_gives_every_prompt_one_answer(tmp_path, model, sampled, way):
    own = {"eos_token_id": 2, "pad_token_id": 0, **WANTED, **WITHOUT}
    (tmp_path / settings.FILE).write_text(json.dumps(own))
    model.generation_config, lines = settings.read(str(tmp_path))
    assert len(lines) == len(WANTED)
    answers = texts_of(static(model, way, do_sample=sampled, seed=1))
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


def test_where_no_token_ends_an_answer_none_is_made_likelier(model):
    penalty = {"exponential_decay_length_penalty": [3, 1.1]}
    for own, run in ((penalty, {"ignore_eos": True}), ({**penalty, "eos_token_id": None}, {})):
        generation, lines = of_run(model, own, **run)
        assert generation.exponential_decay_length_penalty is None
        assert any("exponential_decay_length_penalty [3, 1.1], which is ignored" in line for line in lines)
    generation, lines = of_run(model, penalty)
    assert generation.exponential_decay_length_penalty == [3, 1.1]
    assert lines == []


@BOTH_WAYS
def test_a_model_that_says_not_to_use_a_cache_has_one_all_the_same(way):
    model = tiny(num_key_value_heads=2)
    expected = alone(model)
    model.generation_config.use_cache = False
    assert texts_of(static(model, way)) == expected


NO_EFFECT = {
    "num_beams": 1, "num_beam_groups": 1, "penalty_alpha": 0, "num_return_sequences": 1, "use_mtp": False,
    "cache_implementation": "dynamic", "token_healing": False,
}  # fmt: skip


@pytest.mark.parametrize("name", SET_ASIDE)
def test_a_setting_that_is_not_there_or_does_nothing_is_no_line(model, name):
    assert of_run(model, {name: None})[1] == []
    if name in NO_EFFECT:
        generation, lines = of_run(model, {name: NO_EFFECT[name]})
        assert lines == []
        assert getattr(generation, name) is None
    assert SET_ASIDE[name][0] == ((NO_EFFECT[name],) if name in NO_EFFECT else ())


def test_why_a_setting_is_left_out_is_said_with_it(model):
    search, speed = "rankdeck decodes greedily or samples", "it changes how fast answers come, not what they are"
    because = {
        **dict.fromkeys(("num_beams", "num_beam_groups", "constraints", "force_words_ids", "penalty_alpha"), search),
        **dict.fromkeys(("prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp", "speculation_type"), speed),
        "dola_layers": search,
        "num_return_sequences": "a prompt has one answer",
        "cache_implementation": "rows leave a cache as they end",
        "token_healing": "it would change the prompt",
        "max_time": "an answer would depend on the others of its batch",
    }
    assert {name: why for name, (_, why) in SET_ASIDE.items()} == because
    _, lines = of_run(model, {"max_time": 3.5})
    said = "the model's generation config has max_time 3.5, which is ignored: "
    assert lines == [said + "an answer would depend on the others of its batch"]


OWN = {"temperature": 0.3, "top_k": 9, "top_p": 0.8, "do_sample": True}


@pytest.mark.parametrize(
    ("run", "found"),
    [
        ({}, (False, None, None, None)),
        ({"temperature": 0.5, "top_k": 3, "top_p": 0.5}, (False, None, None, None)),
        ({"do_sample": True}, (True, 0.3, 9, 0.8)),
        ({"do_sample": True, "temperature": 0.5}, (True, 0.5, 9, 0.8)),
        ({"do_sample": True, "top_k": 3}, (True, 0.3, 3, 0.8)),
        ({"do_sample": True, "top_p": 0.5}, (True, 0.3, 9, 0.5)),
        ({"do_sample": True, "top_k": 0, "temperature": 2.0, "top_p": 1.0}, (True, 2.0, 0, 1.0)),
    ],
)
def test_a_run_that_samples_does_so_as_it_says_and_else_as_the_model_does(model, run, found):
    generation, _ = of_run(model, OWN, **run)
    assert (generation.do_sample, generation.temperature, generation.top_k, generation.top_p) == found
    assert model.generation_config.top_k == 9, "the model's own are not touched"


def test_the_length_of_an_answer_is_the_run_s_and_its_end_the_model_s(model):
    own = {"max_length": 20, "max_new_tokens": 5, "use_cache": False, "stop_strings": ["x"]}
    generation, lines = of_run(model, own)
    assert (generation.max_length, generation.max_new_tokens, generation.use_cache) == (None, 12, True)
    assert (generation.eos_token_id, generation.stop_strings, lines) == (2, ["x"], [])
    model.generation_config = transformers.GenerationConfig(eos_token_id=[7, 8])
    run = RunConfig(prompts="p", sweep=SweepPlan(batch_sizes=[1], ranks=[1], trial_tokens=4))
    generation, _ = settings.of_run(model, tokenizer(), run)
    assert (generation.max_new_tokens, generation.eos_token_id) == (4, [7, 8])
    model.generation_config = transformers.GenerationConfig()
    generation, lines = settings.of_run(model, tokenizer(), run)
    assert (generation.eos_token_id, tokenizer().eos_token_id) == (None, 2), "`generate` asks no tokenizer either"
    assert lines == [
        f"{settings.NO_END}; to end them at the tokenizer's {tokenizer().eos_token!r}, put "
        '"eos_token_id": 2 into generation_config.json'
    ]
    assert settings.of_run(model, SimpleNamespace(eos_token_id=None), run)[1] == [settings.NO_END]
    fixed = settings.of_run(model, tokenizer(), RunConfig(prompts="p", ignore_eos=True))
    assert (fixed[0].eos_token_id, fixed[1]) == (None, [])


def test_generate_is_given_what_ends_a_row_and_all_it_found(model):
    generation, _ = of_run(model, {"top_k": 9, "bos_token_id": 1}, do_sample=True)
    found = settings.bare(generation)
    assert (found.max_new_tokens, found.do_sample, found.eos_token_id, found.pad_token_id) == (12, True, 2, 0)
    assert (found.bos_token_id, found.use_cache, found.return_dict_in_generate, found.top_k) == (1, True, True, 0)
    greedy = settings.bare(of_run(model, {"top_k": 9})[0])
    assert greedy.top_k != 0, "a greedy one says nothing of it, and is not warned about"


def test_the_model_s_own_settings_come_back_after_an_error_too(model):
    model.generation_config = own = transformers.GenerationConfig()
    with pytest.raises(ValueError, match="a step"), settings.nothing_to_fill_in(model):
        raise ValueError("a step")
    assert model.generation_config is own


def test_what_a_file_says_without_effect_is_not_shown_to_transformers_which_might_refuse_it(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(
        settings.transformers.GenerationConfig, "from_dict", lambda values: given.append(values) or "made"
    )
    says = {
        "cache_config": 7,
        "early_stopping": 3,
        "_from_model_config": True,
        "num_beams": 4,
        "top_k": 5,
        "max_time": None,
    }
    (tmp_path / settings.FILE).write_text(json.dumps(says), encoding="utf-8")
    found, lines = settings.read(str(tmp_path))
    assert found == "made"
    assert given == [{"_from_model_config": True, "top_k": 5, "max_time": None}]
    assert [line.startswith("the model's generation config has num_beams 4, which") for line in lines] == [True]
