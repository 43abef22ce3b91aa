"""Prompts that begin with the same tokens have them prefilled once, and the answers that each gets alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.engine import rows
from rankdeck.runner.engine.decoding import prefixes
from rankdeck.runner.engine.decoding.prefixes import common, shared_prefixes
from tests.runner.engine.decoding.captured import capture
from tests.runner.engine.lone import alone, static, texts_of, tiny
from tests.runner.engine.tiny import prompts, side_by_side

SYSTEM = "You are a retired pirate who teaches. "
OTHER = "Answer in one line, and do not swear: "
RESTS = ("a", "What is two plus two?", "Hi!", "and two plus six more?")
LONE = "A prompt that shares nothing with others"


@pytest.fixture(autouse=True)
def cheap_passes(monkeypatch):
    """A pass costs so little that a prefix pays even for few rows."""
    monkeypatch.setitem(rows.GROUP_SLOTS, "cpu", 4)


@pytest.fixture(params=["as on a CPU", "as on a GPU", "side by side"])
def engine(request, monkeypatch):
    made = static(tiny(num_key_value_heads=2))
    if request.param == "side by side":
        return side_by_side(made)
    return capture(made, monkeypatch) if request.param == "as on a GPU" else made


def slots_of_prompts(found):
    return found.result.slots - found.result.row_steps


def test_each_answer_is_that_of_the_prompt_alone(engine):
    texts = [*(SYSTEM + rest for rest in RESTS), LONE, *(OTHER + rest for rest in RESTS)]
    assert texts_of(engine, texts) == alone(engine.model, texts)


def test_a_shared_prefix_is_prefilled_once_and_counted_once(engine):
    texts = [SYSTEM + rest for rest in RESTS]
    found = engine.generate(prompts(*texts)).result
    assert found.prompt_tokens == sum(map(len, texts))
    assert found.shared_tokens == len(SYSTEM) * (len(texts) - 1)
    assert found.padded_slots == found.slots + found.shared_tokens - found.prompt_tokens - found.output_tokens
    again = engine.generate(prompts(*texts)).result
    assert again.shared_tokens == len(SYSTEM) * len(texts), "the next batch finds it there"
    assert again.slots == found.slots - len(SYSTEM)


def test_the_first_batch_to_share_one_says_so_once(engine):
    for _ in range(2):
        engine.generate(prompts(*(SYSTEM + rest for rest in RESTS)))
    said = [note for note in engine.take_notes() if "the same" in note]
    assert said == [f"prompts begin with the same {len(SYSTEM)} tokens: each rank prefills them once"]


def test_one_prompt_at_a_time_shares_with_the_one_before(engine):
    texts = [SYSTEM + rest for rest in RESTS]
    expected = alone(engine.model, texts)
    shared = []
    for text, answer in zip(texts, expected, strict=True):
        found = engine.generate(prompts(text))
        assert found.records[0].text == answer
        shared.append(found.result.shared_tokens)
    assert shared == [0, 0, len(SYSTEM), len(SYSTEM)]


def test_what_is_forgotten_is_prefilled_anew(engine):
    texts = [SYSTEM + rest for rest in RESTS]
    engine.generate(prompts(*texts))
    engine.close()
    found = engine.generate(prompts(*texts))
    assert found.result.shared_tokens == len(SYSTEM) * (len(texts) - 1)
    assert [record.text for record in found.records] == alone(engine.model, texts)


def test_equal_prompts_share_all_but_their_last_token(engine):
    texts = [SYSTEM] * 3
    assert texts_of(engine, texts) == alone(engine.model, texts)


def test_few_prefixes_are_kept(engine):
    for letter in "abcdefgh":
        engine.generate(prompts(*(letter * 40 + rest for rest in RESTS)))
    assert len(engine._workspace.prefixes) == 4


# The search, without a model.

HEAD = list(range(100))


def rows_of(*tails, head=HEAD):
    return {at: [*head, *tail] for at, tail in enumerate(tails)}


def test_prompts_that_share_few_tokens_are_left_alone():
    few = HEAD[: prefixes.LEAST - 1]
    assert shared_prefixes(rows_of([200], [201], head=few), 0) == [((), [0, 1])]


def test_a_prefix_has_to_save_more_than_its_pass_costs():
    assert shared_prefixes(rows_of([200], [201]), 100) == [((), [0, 1])]
    assert shared_prefixes(rows_of([200], [201]), 99) == [(tuple(HEAD), [0, 1])]


def test_a_template_that_all_share_gives_way_to_what_fewer_share_far_more_of():
    one, other = [*HEAD, *[300] * 80], [*HEAD, *[400] * 80]
    tokens = {0: [*one, 1], 1: [*other, 1], 2: [*one, 2], 3: [*other, 2]}
    assert shared_prefixes(tokens, 10) == [(tuple(one), [0, 2]), (tuple(other), [1, 3])]
    assert [len(prefix) for prefix, _ in shared_prefixes(tokens, 170)] == [100]


def test_what_is_known_is_taken_unless_far_more_is_shared():
    known = [tuple(HEAD)]
    assert shared_prefixes({0: [*HEAD, 7, 8]}, 50, known) == [(tuple(HEAD), [0])]
    tokens = {at: [*HEAD, *[7] * 400, at] for at in range(4)}
    assert [len(prefix) for prefix, _ in shared_prefixes(tokens, 50, known)] == [500]


def test_a_prompt_is_never_wholly_a_prefix():
    assert shared_prefixes({0: HEAD, 1: HEAD}, 10) == [(tuple(HEAD[:-1]), [0, 1])]
    assert shared_prefixes({0: HEAD}, 10, [tuple(HEAD)]) == [((), [0])]


@given(
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=60), min_size=1, max_size=12),
    st.integers(0, 80),
    st.lists(st.integers(0, 1), max_size=60),
)
def test_whatever_the_prompts_each_is_in_one_group_and_begins_with_its_prefix(texts, cost, before):
    tokens = dict(enumerate([[5] * 40 * (at % 2) + text for at, text in enumerate(texts)]))
    for known in ((), [(5,) * 40]):
        found = shared_prefixes(tokens, cost, known, before)
        assert sorted(at for _, ats in found for at in ats) == sorted(tokens)
        for prefix, ats in found:
            assert all(tuple(tokens[at][: len(prefix)]) == prefix and len(tokens[at]) > len(prefix) for at in ats)
            assert len(prefix) == 0 or len(prefix) >= prefixes.LEAST


def test_common_counts_what_two_begin_with():
    assert [common([1, 2, 3], other) for other in ([1, 2, 4], [1, 2, 3, 4], [2], [])] == [2, 3, 0, 0]
