"""Settings that act on logits or end a row mean what they mean for the prompt alone, however rows are padded."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
import transformers

from rankdeck.runner.engine import rows
from rankdeck.runner.engine.generation import logit_rules
from rankdeck.runner.engine.static import BY_GENERATE, ONE_BY_ONE
from tests.runner.engine.lone import CPU, MIXED, VOCABULARY, alone, engine, static, texts_of, tiny, tokenizer
from tests.runner.engine.tiny import BOTH_WAYS, prompts

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


@BOTH_WAYS
@pytest.mark.parametrize("name", SETTINGS)
def test_each_answer_is_that_of_the_prompt_alone(model, written, name, way):
    model.generation_config = ending(written, {})
    without = alone(model)
    model.generation_config = ending(written, SETTINGS[name](written))
    expected = alone(model)
    one = static(model, way)
    assert texts_of(one) == expected
    assert one.why_rows_stay is None, "rows leave all the same"
    assert (without == expected) == (name in NO_CHANGE), "the test needs a setting that shows"


@BOTH_WAYS
def test_padding_that_is_also_a_token_of_answers_is_not_penalised(model, written, way):
    said = max(VOCABULARY[4:], key="".join(written).count)
    own = {"repetition_penalty": 4.0, "pad_token_id": ids(said)[0]}
    model.generation_config = transformers.GenerationConfig(**{**PLAIN, **own})
    assert texts_of(static(model, way)) == alone(model)


def test_rows_of_one_length_that_are_left_of_a_wider_batch_are_seen_without_their_padding(model):
    generation = transformers.GenerationConfig(**PLAIN, min_new_tokens=3)
    batch = logit_rules.LogitRules(model, tokenizer(), generation, CPU).of_batch({1: [5, 6, 7], 4: [8, 9, 10]}, 12)
    of_rows = batch.for_rows([1, 4], width=8)
    padded = torch.tensor([[0] * 5 + [5, 6, 7], [0] * 5 + [8, 9, 10]])
    for new, may_end in ((2, False), (3, True)):
        so_far = torch.cat([padded, torch.full((2, new), 11)], dim=1)
        scores = of_rows(so_far, torch.zeros(2, len(VOCABULARY)))
        assert scores[:, PLAIN["eos_token_id"]].isfinite().tolist() == [may_end] * 2


@pytest.mark.parametrize(
    "own",
    [
        {"repetition_penalty": 3.0},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 3},
        {"bad_words_ids": [[5, 6], [6, 6, 5], [7]]},
        {"sequence_bias": [[[5, 5], 4.0], [[6, 5, 7], -4.0]]},
        {"min_length": 7},
        {"exponential_decay_length_penalty": [2, 1.6]},
        {"repetition_penalty": 0.4, "no_repeat_ngram_size": 2},
    ],
    ids=str,
)
def test_logits_of_a_padded_row_are_those_of_the_row_alone_whatever_it_repeats(model, own):
    generation = transformers.GenerationConfig(**PLAIN, **own, max_new_tokens=12)
    asked = {0: [5, 5, 6], 1: [6], 2: [5, 6, 6, 5, 5]}
    of_rows = logit_rules.LogitRules(model, tokenizer(), generation, CPU).of_batch(asked, 12).for_rows(list(asked), 6)
    random = torch.Generator().manual_seed(1)
    so_far = torch.tensor([[0] * (6 - len(prompt)) + prompt for prompt in asked.values()])
    for _ in range(12):
        scores = torch.randn(len(asked), len(VOCABULARY), generator=random)
        found = of_rows(so_far, scores.clone())
        for row, prompt in asked.items():
            alone_so_far = so_far[row : row + 1, 6 - len(prompt) :]
            wanted = scores[row : row + 1].clone()
            for processor in logit_rules.prepared(model, generation, torch.tensor([prompt])).processors:
                wanted = processor(alone_so_far, wanted)
            assert torch.equal(found[row], wanted[0])
        so_far = torch.cat([so_far, torch.randint(5, 8, (len(asked), 1), generator=random)], dim=1)


@BOTH_WAYS
def test_a_trial_of_fewer_tokens_than_the_run_has_rules_for_its_own_number(model, written, way):
    model.generation_config = ending(written, {"eos_token_id": 2, "forced_eos_token_id": 2})
    records = static(model, way).generate(prompts(*MIXED), max_new_tokens=5).records
    assert [record.text for record in records] == alone(model, new=5)
    assert {record.finish_reason for record in records} == {"stop"}


@BOTH_WAYS
def test_several_settings_act_in_the_order_of_generate(model, written, way):
    own = {
        "repetition_penalty": 1.7,
        "no_repeat_ngram_size": 2,
        "min_length": 14,
        "bad_words_ids": [ids(written[2][:2])],
    }
    model.generation_config = ending(written, own)
    assert texts_of(static(model, way)) == alone(model)


@BOTH_WAYS
def test_sampled_rows_are_drawn_from_what_the_settings_leave_of_their_own_logits(model, written, way):
    own = {"top_k": 1, "no_repeat_ngram_size": 1, "min_length": 20}
    model.generation_config = ending(written, own)
    expected = alone(model)
    assert texts_of(static(model, way, do_sample=True, seed=1)) == expected


@BOTH_WAYS
def test_answers_that_a_stop_string_ends_say_so_and_have_all_tokens_up_to_it(model, written, way):
    model.generation_config = transformers.GenerationConfig(**PLAIN, stop_strings=[written[0][4:6]])
    one, stays = static(model, way), static(model, "generate")
    records = one.generate(prompts(*MIXED)).records
    assert (records[0].text, records[0].finish_reason, records[0].output_tokens) == (written[0][:6], "stop", 6)
    stays.why_rows_stay = "the test wants it"
    assert stays.generate(prompts(*MIXED)).records == records


@BOTH_WAYS
def test_a_processor_that_nobody_knows_is_given_one_row_at_a_time_unpadded(model, written, monkeypatch, way):
    seen = []

    class NewLogitsProcessor(transformers.LogitsProcessor):
        def __call__(self, input_ids, scores):
            seen.append(input_ids.shape)
            return scores

    prepare = logit_rules.prepared

    def with_another(model, generation, ids):
        found = prepare(model, generation, ids)
        if generation.return_dict_in_generate:  # what `generate` is given: it would have one only by the model's code
            return found
        return dataclasses.replace(found, processors=[*found.processors, NewLogitsProcessor()])

    monkeypatch.setattr(logit_rules, "prepared", with_another)
    model.generation_config = transformers.GenerationConfig(**PLAIN)
    one = static(model, way)
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


# --- the rows of a call, with processors and criteria that are made up ---


class Adds(transformers.LogitsProcessor):
    """Adds to the logits; takes note of the tokens it is shown."""

    def __init__(self, number, seen=None):
        self.number, self.seen = number, [] if seen is None else seen

    def __call__(self, ids, scores):
        self.seen.append(ids.tolist())
        return scores + self.number


def row_rules(parts, pads, *, processors=("some",), whole=False, by_row=False, stop_strings=None):
    rules = SimpleNamespace(processors=processors, whole=whole, by_row=by_row, stop_strings=stop_strings)
    made = [(logit_rules.Prepared(applied, criteria, None), places) for applied, criteria, places in parts]
    return logit_rules.RowRules(made, pads, rules)


IDS = torch.tensor([[0, 0, 5, 6], [0, 7, 8, 9], [0, 0, 3, 4]])
SCORES = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def test_each_part_is_done_unpadded_by_its_own_processors_in_their_order():
    doubled = lambda ids, scores: scores * 2  # noqa: E731
    short, long = Adds(10), Adds(100)
    one = row_rules([([short, doubled], [], [0, 2]), ([doubled, long], [], [1])], [2, 1, 2])
    for _ in range(2):
        assert one(IDS, SCORES).tolist() == [[22.0, 24.0], [106.0, 108.0], [30.0, 32.0]]
    assert short.seen == [[[5, 6], [3, 4]]] * 2
    assert long.seen == [[[7, 8, 9]]] * 2
    assert SCORES.tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "what was given is not changed"


def test_rows_of_one_part_are_done_at_once_without_their_padding():
    all_alike = Adds(1)
    one = row_rules([([all_alike], [], [0, 1, 2])], [1, 1, 1])
    assert one(IDS, SCORES).tolist() == (SCORES + 1).tolist()
    assert all_alike.seen == [IDS[:, 1:].tolist()]


def test_where_only_the_kinds_of_tokens_count_padding_is_the_row_s_own_last_token():
    tokens = Adds(1)
    one = row_rules([([tokens], [], [0, 1, 2])], [2, 1, 2], whole=True)
    assert one(IDS, SCORES).tolist() == (SCORES + 1).tolist()
    assert tokens.seen == [[[6, 6, 5, 6], [9, 7, 8, 9], [4, 4, 3, 4]]]
    unpadded = row_rules([([tokens], [], [0, 1, 2])], [0, 0, 0], whole=True)
    unpadded(IDS, SCORES)
    assert tokens.seen[-1] == IDS.tolist()


def test_without_processors_logits_are_as_they_were():
    assert row_rules([([], [], [0, 1, 2])], [2, 1, 2], processors=())(IDS, SCORES) is SCORES


def test_a_row_ends_by_a_stop_string_or_by_a_criterion_of_its_own_and_padding_is_no_text():
    asked = []

    def stop_strings(ids, scores):
        asked.append(ids.tolist())
        return torch.tensor([True, False, False])

    def third(ids, scores):
        asked.append(ids.tolist())
        return torch.tensor([True])

    never = lambda ids, scores: torch.tensor([False])  # noqa: E731
    parts = [([], [never], [0]), ([], [never], [1]), ([], [never, third], [2])]
    one = row_rules(parts, [2, 1, 2], by_row=True, stop_strings=stop_strings)
    assert one.ended(IDS, SCORES).tolist() == [True, False, True]
    nothing = logit_rules.NO_TOKEN
    assert asked == [[[nothing, nothing, 5, 6], [nothing, 7, 8, 9], [nothing, nothing, 3, 4]], [[3, 4]]]
    assert row_rules(parts, [2, 1, 2], by_row=True).ended(IDS, SCORES).tolist() == [False, False, True]
    assert row_rules(parts, [2, 1, 2], by_row=False).ended(IDS, SCORES) is None
    assert row_rules([([], [], [0, 1, 2])], [2, 1, 2], by_row=True).ended(IDS, SCORES) is None


@pytest.mark.parametrize(
    ("processors", "more", "parts"),
    [
        ([], {}, None),
        ([], {"stop_strings": True}, [[0, 1, 2, 3]]),
        (["TopKLogitsWarper", "RepetitionPenaltyLogitsProcessor"], {"whole": True}, [[0, 1, 2, 3]]),
        (["MinLengthLogitsProcessor"], {}, [[0, 2], [1, 3]]),
        (["NewLogitsProcessor"], {"by_row": True}, [[0], [1], [2], [3]]),
        ([], {"by_row": True}, [[0], [1], [2], [3]]),
    ],
)
def test_rows_are_done_together_as_far_as_the_rules_let_them_and_each_part_is_prepared_once(processors, more, parts):
    made = []

    def prepare(generation, prompt):
        made.append((generation, prompt))
        return logit_rules.Prepared([], [], None)

    rules = SimpleNamespace(
        **{"processors": processors, "whole": not processors, "by_row": False, "stop_strings": None, **more},
        prepare=prepare,
    )
    batch = logit_rules.BatchRules(rules, {7: [1, 2], 4: [3], 9: [5, 6], 1: [8]}, "generation")
    found = batch.for_rows([7, 4, 9, 1], 5)
    assert (None if found is None else [places for _, places in found._parts]) == parts
    if parts is not None:
        assert found._pads == [3, 4, 3, 4]
        first = [[[1, 2], [3], [5, 6], [8]][part[0]] for part in parts]
        assert made == [("generation", prompt) for prompt in first]
        batch.for_rows([1, 9], 5)
        assert len(made) == len(parts), "for the rows that stay nothing is prepared again"


@pytest.mark.parametrize(
    ("own", "whole", "by_row", "ends"),
    [
        ({}, True, False, False),
        ({"repetition_penalty": 1.5}, True, False, False),
        ({"suppress_tokens": [9]}, True, False, False),
        ({"min_new_tokens": 3}, False, False, False),
        ({"no_repeat_ngram_size": 2, "repetition_penalty": 1.5}, False, False, False),
        ({"guidance_scale": 1.5}, False, True, False),
        ({"stop_strings": ["a"]}, True, False, True),
    ],
)
def test_how_rows_are_done_follows_from_the_kinds_of_processors(model, own, whole, by_row, ends):
    generation = transformers.GenerationConfig(**PLAIN, **own)
    rules = logit_rules.LogitRules(model, tokenizer(), generation, CPU)
    assert (rules.whole, rules.by_row, rules.ends_rows) == (whole, by_row, ends)
    assert (rules.stop_strings is not None) == ends
    assert generation.stop_strings == own.get("stop_strings")
    batch = rules.of_batch({0: [5]}, 3)
    assert (batch.generation.max_new_tokens, batch.prompts) == (3, {0: [5]})
    assert generation.max_new_tokens is None, "the run's own is not touched"


def test_criteria_that_nobody_knows_are_asked_row_by_row_and_those_of_the_engine_are_not(model, monkeypatch):
    class Odd(transformers.StoppingCriteria):
        def __call__(self, ids, scores):
            return torch.zeros(len(ids), dtype=torch.bool)

    criteria = type(model)._get_stopping_criteria

    def with_another(self, *given, **named):
        return transformers.StoppingCriteriaList([*criteria(self, *given, **named), Odd()])

    generation = transformers.GenerationConfig(**PLAIN, max_new_tokens=4, max_time=9.0)
    assert logit_rules.prepared(model, generation, torch.tensor([[5]])).criteria == []
    monkeypatch.setattr(type(model), "_get_stopping_criteria", with_another)
    rules = logit_rules.LogitRules(model, tokenizer(), generation, CPU)
    assert (rules.by_row, rules.ends_rows) == (True, True)


def test_the_penalty_of_repeated_tokens_counts_those_of_the_prompt_too(model):
    generation = transformers.GenerationConfig(**PLAIN, repetition_penalty=2.0)
    (penalty,) = logit_rules.prepared(model, generation, torch.tensor([[5]])).processors
    scores = torch.ones(1, len(VOCABULARY))
    assert penalty(torch.tensor([[5]]), scores)[0, 5] == 0.5
    assert penalty.prompt_ignore_length is None


def test_memory_that_runs_out_as_settings_are_tried_is_not_the_settings_fault(model, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(logit_rules, "_tried", full)
    with pytest.raises(torch.OutOfMemoryError):
        logit_rules.LogitRules(model, tokenizer(), transformers.GenerationConfig(**PLAIN), CPU)


class Louder(transformers.LogitsProcessor):
    """Adds to some logits, so that acting twice shows; by how many tokens there are, so that padding shows."""

    def __call__(self, input_ids, scores):
        louder = scores.clone()
        louder[:, 10:20] += 0.1 * input_ids.shape[1]
        return louder


def with_own_processor(model):
    """The model with code of its own that acts on logits whenever it generates."""
    prepare = type(model)._get_logits_processor
    model._get_logits_processor = lambda *args, **more: transformers.LogitsProcessorList(
        [*prepare(model, *args, **more), Louder()]
    )
    return model


@pytest.mark.parametrize("own", [{}, {"repetition_penalty": 3.0, "min_new_tokens": 6}], ids=str)
def test_what_a_models_own_code_does_to_logits_is_done_once_and_row_by_row(written, own):
    other = with_own_processor(tiny(num_key_value_heads=2))
    other.generation_config = ending(written, own)
    expected = alone(other)
    one = static(other)
    assert texts_of(one) == expected
    notes = one.take_notes()
    assert logit_rules.OWN in notes
    assert f"{BY_GENERATE}: {ONE_BY_ONE}" in notes


@pytest.mark.parametrize("settings", [{}, {"do_sample": True}, {"do_sample": True, "top_k": 5, "temperature": 0.5}])
def test_a_model_without_such_code_has_no_processors_of_its_own(model, settings):
    model.generation_config = transformers.GenerationConfig(**PLAIN)
    assert not static(model, **settings)._rules.has_own
