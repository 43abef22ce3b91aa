"""A sampled answer of the static engine depends on its prompt and the seed alone, and is drawn as the settings say."""

import random

import pytest
import torch
import transformers

from rankdeck.runner.engine import rows
from rankdeck.runner.engine.rows import Cancelled
from rankdeck.runner.protocol import Prompt
from rankdeck.runner.rank.worker import seed_rank
from tests.runner.engine.lone import MIXED, VOCABULARY, static, tiny
from tests.runner.engine.tiny import prompts

SAMPLED = {"do_sample": True, "seed": 7, "temperature": 0.8}
ENDS = [VOCABULARY.index(char) for char in "aeiou,.;:{}()"]
"""So many tokens end a row that rows leave at different times."""

ASKED = [Prompt(index=index * 31, id=str(index), text=text) for index, text in enumerate(MIXED * 2)]


@pytest.fixture(scope="module")
def model():
    return tiny(num_key_value_heads=2)


def sampling(model, **settings):
    """An engine that draws from all tokens, and whose rows end at different times."""
    own = {"eos_token_id": ENDS, "pad_token_id": 0, "bos_token_id": 1, "top_k": 0}
    model.generation_config = transformers.GenerationConfig(**own)
    return static(model, **{**SAMPLED, **settings})


@pytest.fixture(autouse=True, params=["auto", "generate"])
def both_ways(request, monkeypatch):
    """By the decode loop and by `generate`; prompts are prefilled in several groups."""
    monkeypatch.setitem(SAMPLED, "decoding", request.param)
    monkeypatch.setitem(rows.GROUP_SLOTS, "cpu", 8)


@pytest.fixture
def engine(model):
    return sampling(model)


def answers(one, asked):
    """Token counts and texts by prompt index."""
    return {record.index: (record.output_tokens, record.text) for record in one.generate(asked).records}


def one_by_one(one, asked=ASKED):
    return {index: answer for prompt in asked for index, answer in answers(one, [prompt]).items()}


def batches(asked, size):
    return [asked[start : start + size] for start in range(0, len(asked), size)]


@pytest.mark.parametrize("size", [2, 3, 5, 12])
@pytest.mark.parametrize("order", ["input", "reversed", "shuffled"])
def test_a_prompt_gets_the_answer_that_it_gets_alone_at_any_batch_size_and_order(engine, size, order):
    asked = list(ASKED)
    if order == "reversed":
        asked.reverse()
    elif order == "shuffled":
        random.Random(3).shuffle(asked)
    found = {}
    for batch in batches(asked, size):
        found.update(answers(engine, batch))
    assert found == one_by_one(engine)


def test_the_tests_of_sampling_have_groups_and_rows_that_leave_at_different_times(engine):
    passes = []
    hook = engine.model.register_forward_pre_hook(
        lambda _model, _args, given: passes.append(len(given["input_ids"])), with_kwargs=True
    )
    counts = {tokens for tokens, _ in answers(engine, ASKED).values()}
    hook.remove()
    assert len(counts) > 4
    assert passes[0] + passes[1] <= len(ASKED), "a pass for each group"
    assert len(set(passes)) > 4, "and passes with ever fewer rows"


def test_equal_prompts_get_answers_of_their_own(engine):
    same = [Prompt(index=index, id=str(index), text="a") for index in range(12)]
    assert len(set(answers(engine, same).values())) > 9


@pytest.mark.parametrize("settings", [{"top_k": 5}, {"top_p": 0.7}, {"temperature": 3.0}], ids=str)
def test_so_it_is_with_few_tokens_to_draw_from_and_with_flat_probabilities(model, settings):
    one = sampling(model, **settings)
    assert answers(one, ASKED) == one_by_one(one)


def test_every_rank_gives_a_prompt_the_same_answer_whatever_it_has_drawn_before(model, engine):
    expected = answers(engine, ASKED)
    for rank, attempt in ((0, 1), (1, 1), (0, 2)):
        seed_rank(SAMPLED["seed"], rank, attempt)
        torch.rand(rank + 5)
        one = sampling(model)
        one.generate(prompts("something else"))
        assert answers(one, ASKED[::-1]) == expected


def test_another_seed_gives_other_answers(model, engine):
    other = sampling(model, seed=8)
    here, there = answers(engine, ASKED), answers(other, ASKED)
    assert sum(here[index] == there[index] for index in here) < 3


@pytest.mark.parametrize("step", range(1, 8, 2))
def test_prompts_of_a_batch_that_was_cancelled_get_the_answers_that_they_would_have_had(engine, step):
    expected, given, asked = one_by_one(engine), [], []
    with pytest.raises(Cancelled):
        engine.generate(ASKED, cancelled=lambda: asked.append(1) or len(asked) > step + 3, on_records=given.extend)
    done = {record.index: (record.output_tokens, record.text) for record in given}
    left = [prompt for prompt in ASKED if prompt.index not in done]
    assert left
    assert {**done, **answers(engine, left)} == expected


def test_rows_that_stay_in_their_batch_get_the_same_answers(engine):
    expected = one_by_one(engine)
    engine.why_rows_stay = "the test wants it"
    assert answers(engine, ASKED) == expected


def test_tokens_are_drawn_as_the_models_probabilities_and_the_settings_say(model):
    count = 4000
    one = static(model, do_sample=True, seed=3, top_k=4, temperature=1.7, max_new_tokens=1)
    ids = torch.tensor([one.tokenizer("a")["input_ids"]])
    with torch.inference_mode():
        top = model(ids).logits[0, -1].topk(4)
    due = torch.softmax(top.values / 1.7, dim=-1) * count
    asked = [Prompt(index=index, id="x", text="a") for index in range(count)]
    texts = [record.text for batch in batches(asked, 500) for record in one.generate(batch).records]
    found = torch.tensor([texts.count(one.tokenizer.decode([token])) for token in top.indices.tolist()])
    assert found.sum() == count, "of the four likeliest"
    assert (((found - due) ** 2) / due).sum() < 16.3, "1 in 1,000 are farther off"
