"""Prompts are prefilled one after another, without padding, and each is answered as if it were alone."""

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.engine import rows
from rankdeck.runner.engine.decoding import lookup_attention, ragged
from rankdeck.runner.engine.decoding.ragged import Layout, alike, in_passes
from tests.runner.engine.lone import MIXED, alone, static, texts_of, tiny
from tests.runner.engine.tiny import prompts

CPU = torch.device("cpu")
LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=12)


@pytest.fixture
def engine():
    return static(tiny(num_key_value_heads=2))


@pytest.fixture
def passes(engine):
    """How many tokens each forward pass had, [rows, tokens], as they come."""
    seen = []
    hook = engine.model.register_forward_pre_hook(
        lambda _, arguments, named: seen.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    yield seen
    hook.remove()


def test_all_prompts_of_a_batch_are_one_pass_of_their_tokens_and_no_others(engine, passes):
    result = engine.generate(prompts(*MIXED), max_new_tokens=1).result
    assert passes == [(1, sum(map(len, MIXED)))]
    assert (result.slots, result.padded_slots) == (sum(map(len, MIXED)) + len(MIXED), 0)


def test_many_tokens_are_several_passes_of_whole_prompts(engine, passes, monkeypatch):
    monkeypatch.setitem(rows.PASS_TOKENS, "cpu", 60)
    found = engine.generate(prompts(*MIXED), max_new_tokens=1)
    assert passes == [(1, 37 + 22), (1, 21 + 7 + 3 + 1)]
    assert [record.text for record in found.records] == alone(engine.model, new=1)


def test_a_model_with_no_attention_but_its_own_has_its_prompts_side_by_side(monkeypatch):
    model = tiny(num_key_value_heads=2)
    monkeypatch.setattr(type(model), "_supports_attention_backend", False)
    engine = static(model)
    assert engine.in_loop
    assert (engine._workspace.ragged, engine._workspace.by_lookup) == (False, True)
    assert engine.generate(prompts(*MIXED)).result.padded_slots > 0


def test_where_prompts_one_after_another_get_other_logits_they_stand_side_by_side(monkeypatch):
    """A layout that mixes up prompts shows in the rehearsal."""
    model = tiny(num_key_value_heads=2)
    monkeypatch.setattr(ragged, "LIKE", 10**6)
    laid = ragged._laid
    monkeypatch.setattr(ragged, "_laid", lambda states, side: laid(states, side).roll(1, dims=0))
    engine = static(model)
    assert engine.in_loop
    assert (engine._workspace.ragged, engine._workspace.by_lookup) == (False, True)
    assert texts_of(engine) == alone(model)


def test_where_attention_by_lookup_fails_prompts_still_stand_one_after_another(monkeypatch):
    model = tiny(num_key_value_heads=2)

    def fail(*_, **__):
        raise ValueError("too many values to unpack")

    monkeypatch.setitem(transformers.AttentionInterface._global_mapping, lookup_attention.NAME, fail)
    engine = static(model)
    assert engine.in_loop
    assert (engine._workspace.ragged, engine._workspace.by_lookup) == (True, False)
    assert texts_of(engine) == alone(model)


# Attention, without a model.


class Module(torch.nn.Module):
    """An attention layer as transformers' attention knows it."""

    def __init__(self, groups):
        super().__init__()
        self.num_key_value_groups = groups
        self.is_causal = True


def states_of(heads, tokens, seed):
    return torch.randn(1, heads, tokens, 8, generator=torch.Generator().manual_seed(seed))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 4), st.sampled_from([1, 3]))
def test_each_prompt_attends_to_what_is_known_and_to_its_own_tokens_alone(lengths, known, groups):
    tokens, heads = sum(lengths), 2 * groups
    query, key, value = (
        states_of(count, tokens + before, seed)
        for seed, (count, before) in enumerate([(heads, 0), (2, known), (2, known)])
    )
    found, _ = Layout(lengths, known, CPU).attend(Module(groups), query, key, value, scaling=0.5)
    assert found.shape == (1, tokens, heads, 8)
    at = 0
    for length in lengths:
        mine = [*range(known), *range(known + at, known + at + length)]
        keys, values = (states[:, :, mine].repeat_interleave(groups, dim=1) for states in (key, value))
        scores = query[:, :, at : at + length] @ keys.transpose(2, 3) * 0.5
        unseen = torch.ones(length, known + length, dtype=torch.bool).triu(known + 1)
        expected = scores.masked_fill(unseen, -torch.inf).softmax(dim=-1) @ values
        torch.testing.assert_close(found[:, at : at + length], expected.transpose(1, 2), atol=1e-5, rtol=1e-5)
        at += length


@pytest.mark.parametrize("asked", ["position_bias", "sliding_window"])
def test_attention_that_depends_on_more_than_the_prompt_is_refused(asked):
    states = states_of(2, 4, 0)
    with ragged.laid_out(Layout([4], 0, CPU)), pytest.raises(NotImplementedError, match="bias or window"):
        ragged.attend(Module(1), states, states, states, None, **{asked: 2})


# Who stands beside whom, and who is in which pass.


@given(LENGTHS, st.integers(0, 20000))
def test_prompts_side_by_side_are_of_like_length_or_short_and_have_so_many_keys_at_most(lengths, known):
    lengths.sort(reverse=True)
    counts = alike(lengths, known)
    assert sum(counts) == len(lengths)
    first = 0
    for count in counts:
        side = lengths[first : first + count]
        assert max(side) <= max(2 * min(side), 64)
        assert count == 1 or count * (known + max(side)) <= ragged.MOST_KEYS
        first += count


@given(LENGTHS, st.integers(1, 400))
def test_a_pass_has_whole_prompts_the_longest_first_and_no_more_tokens_than_it_may(lengths, tokens):
    found = in_passes(dict(enumerate(lengths)), tokens)
    order = [at for one in found for at in one]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[at] for at in order] == sorted(lengths, reverse=True)
    assert all(len(one) == 1 or sum(lengths[at] for at in one) <= tokens for one in found)
