"""Settings that act on logits or end a row mean what they mean for the prompt alone, however rows are padded."""

import dataclasses

import pytest
import torch
import transformers

from rankdeck.runner.engine import rows
from rankdeck.runner.engine.generation import logit_rules
from tests.runner.engine.lone import CPU, MIXED, VOCABULARY, alone, engine, static, texts_of, tiny, tokenizer
from tests.runner.engine.tiny import prompts

PLAIN = {"eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 1}


@pytest.fixture(scope="module")
def model():
    return tiny(num_key_value_heads=2)


@pytest.fixture(scope="module")
def written(model):
    """What each prompt alone gets with no settings."""
    model.generation_config = transformers.GenerationConfig(**PLAIN)
    return alone(model)


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    """Prompts are prefilled in several groups, whose caches are joined."""
    monkeypatch.setitem(rows.GROUP_SLOTS, "cpu", 8)


def ids(text):
    return [VOCABULARY.index(char) for char in text]


def ends(written):
    """Tokens that are written early in some rows, and never in others: so that rows leave at different times."""
    return sorted({2, *ids(written[0][3] + written[2][5])})


SETTINGS = {
    "min_length": lambda w: {"min_length": 20},
    "min_new_tokens": lambda w: {"min_new_tokens": 6},
    "repetition_penalty": lambda w: {"repetition_penalty": 3.0},
    "encoder_repetition_penalty": lambda w: {"encoder_repetition_penalty": 3.0},
    "no_repeat_ngram_size": lambda w: {"no_repeat_ngram_size": 1},
    "encoder_no_repeat_ngram_size": lambda w: {"encoder_no_repeat_ngram_size": 1},
    "bad_words_ids": lambda w: {"bad_words_ids": [ids(w[1][1:3]), ids(w[3][4])]},
    "sequence_bias": lambda w: {"sequence_bias": [[ids(w[1][:2]), -50.0], [ids("a" + w[0][0]), -50.0]]},
    "a bias on what follows padding": lambda w: {
        "pad_token_id": ids("Q")[0],  # transformers 5.17 takes no bias on token 0
        "sequence_bias": [[ids("Qa" + w[0][0]), -50.0]],
    },
    "suppress_tokens": lambda w: {"suppress_tokens": ids(w[0][0] + w[5][1])},
    "begin_suppress_tokens": lambda w: {"begin_suppress_tokens": ids("".join(text[0] for text in w))},
    "forced_bos_token_id": lambda w: {"forced_bos_token_id": ids("Q")[0]},
    "forced_eos_token_id": lambda w: {"forced_eos_token_id": 2},
    "exponential_decay_length_penalty": lambda w: {"exponential_decay_length_penalty": [3, 1.6]},
    "guidance_scale": lambda w: {"guidance_scale": 1.8},
    "watermarking_config": lambda w: {"watermarking_config": {"bias": 9.0, "seeding_scheme": "selfhash"}},
    "stop_strings": lambda w: {"stop_strings": [w[4][3:5], w[3][2:4]]},
    "remove_invalid_values": lambda w: {"remove_invalid_values": True},
    "renormalize_logits": lambda w: {"renormalize_logits": True},
}
"""Each is made of what the model writes without any, so that it changes what it writes."""

NO_CHANGE = {"remove_invalid_values", "renormalize_logits", "a bias on what follows padding"}


def ending(written, own):
    return transformers.GenerationConfig(**{**PLAIN, "eos_token_id": ends(written), **own})


@pytest.mark.parametrize("name", SETTINGS)
def test_each_answer_is_that_of_the_prompt_alone(model, written, name):
    model.generation_config = ending(written, {})
    without = alone(model)
    model.generation_config = ending(written, SETTINGS[name](written))
    expected = alone(model)
    one = static(model)
    assert texts_of(one) == expected
    assert one.why_rows_stay is None, "rows leave all the same"
    assert (without == expected) == (name in NO_CHANGE), "the test needs a setting that shows"


def test_padding_that_is_also_a_token_of_answers_is_not_penalised(model, written):
    said = max(VOCABULARY[4:], key="".join(written).count)
    own = {"repetition_penalty": 4.0, "pad_token_id": ids(said)[0]}
    model.generation_config = transformers.GenerationConfig(**{**PLAIN, **own})
    assert texts_of(static(model)) == alone(model)


def test_rows_of_one_length_that_are_left_of_a_wider_batch_are_seen_without_their_padding(model):
    generation = transformers.GenerationConfig(**PLAIN, min_new_tokens=3)
    batch = logit_rules.LogitRules(model, tokenizer(), generation, CPU).of_batch({1: [5, 6, 7], 4: [8, 9, 10]}, 12)
    of_rows = batch.for_rows([1, 4], width=8)
    padded = torch.tensor([[0] * 5 + [5, 6, 7], [0] * 5 + [8, 9, 10]])
    for new, may_end in ((2, False), (3, True)):
        so_far = torch.cat([padded, torch.full((2, new), 11)], dim=1)
        scores = of_rows(so_far, torch.zeros(2, len(VOCABULARY)))
        assert scores[:, PLAIN["eos_token_id"]].isfinite().tolist() == [may_end] * 2


def test_a_trial_of_fewer_tokens_than_the_run_has_rules_for_its_own_number(model, written):
    model.generation_config = ending(written, {"eos_token_id": 2, "forced_eos_token_id": 2})
    records = static(model).generate(prompts(*MIXED), max_new_tokens=5).records
    assert [record.text for record in records] == alone(model, new=5)
    assert {record.finish_reason for record in records} == {"stop"}


def test_several_settings_act_in_the_order_of_generate(model, written):
    own = {
        "repetition_penalty": 1.7,
        "no_repeat_ngram_size": 2,
        "min_length": 14,
        "bad_words_ids": [ids(written[2][:2])],
    }
    model.generation_config = ending(written, own)
    assert texts_of(static(model)) == alone(model)


def test_sampled_rows_are_drawn_from_what_the_settings_leave_of_their_own_logits(model, written):
    own = {"top_k": 1, "no_repeat_ngram_size": 1, "min_length": 20}
    model.generation_config = ending(written, own)
    expected = alone(model)
    assert texts_of(static(model, do_sample=True, seed=1)) == expected


def test_answers_that_a_stop_string_ends_say_so_and_have_all_tokens_up_to_it(model, written):
    model.generation_config = transformers.GenerationConfig(**PLAIN, stop_strings=[written[0][4:6]])
    one = static(model)
    records = one.generate(prompts(*MIXED)).records
    assert (records[0].text, records[0].finish_reason, records[0].output_tokens) == (written[0][:6], "stop", 6)
    one.why_rows_stay = "the test wants it"
    assert one.generate(prompts(*MIXED)).records == records


def test_a_processor_that_nobody_knows_is_given_one_row_at_a_time_unpadded(model, written, monkeypatch):
    seen = []

    class NewLogitsProcessor(transformers.LogitsProcessor):
        def __call__(self, input_ids, scores):
            seen.append(input_ids.shape)
            return scores

    prepare = logit_rules.prepared

    def with_another(*arguments):
        found = prepare(*arguments)
        return dataclasses.replace(found, processors=[*found.processors, NewLogitsProcessor()])

    monkeypatch.setattr(logit_rules, "prepared", with_another)
    model.generation_config = transformers.GenerationConfig(**PLAIN)
    one = static(model)
    seen.clear()
    assert texts_of(one) == written
    assert {shape[0] for shape in seen} == {1}
    assert {shape[1] for shape in seen} >= {len(text) for text in MIXED}
    assert logit_rules.ONE_AT_A_TIME in one.take_notes()


@pytest.mark.parametrize("name", ["min_length", "stop_strings", "begin_suppress_tokens", "forced_eos_token_id"])
def test_the_continuous_engine_leaves_to_the_other_what_it_would_not_heed(model, written, name):
    model.generation_config = ending(written, SETTINGS[name](written))
    one, why = engine(model, "continuous")
    assert one.name == "static"
    assert why.startswith("continuous batching cannot be used here: its generation config ")


def test_both_engines_draw_from_the_50_likeliest_tokens_where_nobody_says_how_many(model):
    model.generation_config = transformers.GenerationConfig(**PLAIN)
    one, why = engine(model, "continuous", do_sample=True)
    (processor,) = one._prepared.processors
    one.close()
    assert (why, processor.top_k) == ("", 50)
    (processor,) = logit_rules.prepared(model, static(model, do_sample=True).generation, torch.tensor([[5]])).processors
    assert processor.top_k == 50


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ({"repetition_penalty": -1.0}, "strictly positive"),
        ({"bad_words_ids": [[9999]]}, "vocabulary size"),
        ({"sequence_bias": [[[9999, 1], -2.0]]}, "vocabulary size"),
        ({"suppress_tokens": "all"}, ""),
    ],
)
def test_settings_that_can_be_used_with_no_prompt_are_refused_before_any(model, own, why):
    model.generation_config = transformers.GenerationConfig(**PLAIN)
    for name, value in own.items():
        setattr(model.generation_config, name, value)
    with pytest.raises(
        ValueError, match=r"the model's generation config cannot be used: .*generation_config\.json"
    ) as said:
        static(model)
    assert why in str(said.value)
