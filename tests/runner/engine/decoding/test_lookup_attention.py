"""Attention by lookup is attention: the same numbers as torch's own, whatever the shape."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdeck.runner.engine.decoding import lookup_attention
from rankdeck.runner.engine.decoding.arena import Arena
from rankdeck.runner.engine.decoding.lookup_attention import attend
from rankdeck.runner.engine.static import StaticEngine
from tests.runner.engine.lone import MIXED, alone, static, texts_of, tiny
from tests.runner.engine.tiny import prompts

HIDDEN = torch.finfo(torch.float32).min


def filled(rows: int, heads: int, width: int, tokens: int, room: int) -> tuple[Arena, torch.Tensor, torch.Tensor]:
    """An arena with room for more rows than there are, and the keys and values of all tokens but the last."""
    arena = Arena(1, rows + 1, room, by_lookup=True)
    keys, values = torch.randn(2, rows, heads, tokens, width)
    arena.place.rows = rows
    if tokens > 1:
        arena.cache.update(keys[:, :, :-1], values[:, :, :-1], 0)
    arena.place.at, arena.place.by_lookup = tokens - 1, True
    return arena, keys, values


@given(
    st.integers(1, 4), st.sampled_from([(1, 1), (1, 4), (2, 3), (3, 1)]), st.sampled_from([8, 12, 64]),
    st.integers(1, 300), st.integers(0, 150), st.randoms(use_true_random=False),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_it_is_attention(rows, heads, width, tokens, more, chance):
    torch.manual_seed(chance.randrange(2**31))
    key_heads, queries = heads
    arena, keys, values = filled(rows, key_heads, width, tokens, tokens + more)
    query = torch.randn(rows, key_heads * queries, 1, width)
    seen = torch.rand(rows, 1, 1, tokens) < 0.7
    seen[..., -1] = True
    mask = torch.zeros(seen.shape).masked_fill(~seen, HIDDEN)
    tables = arena.cache.update(keys[:, :, -1:], values[:, :, -1:], 0)
    found, _ = attend(None, query, *tables, mask, scaling=0.3)
    wanted = torch.nn.functional.scaled_dot_product_attention(
        query, keys.repeat_interleave(queries, 1), values.repeat_interleave(queries, 1), mask, scale=0.3
    )
    assert found.shape == (rows, 1, key_heads * queries, width)
    assert torch.allclose(found.transpose(1, 2), wanted, atol=1e-5)


@pytest.mark.parametrize("asked", lookup_attention.REFUSED)
def test_what_is_not_plain_attention_is_refused(asked):
    arena, keys, values = filled(1, 1, 8, 2, 4)
    tables = arena.cache.update(keys[:, :, -1:], values[:, :, -1:], 0)
    with pytest.raises(NotImplementedError, match=asked):
        attend(None, torch.randn(1, 1, 1, 8), *tables, torch.zeros(1, 1, 1, 2), **{asked: 4})


def test_keys_and_values_are_given_back_as_they_came_across_blocks():
    arena, keys, values = filled(2, 3, 8, 301, 400)
    arena.cache.update(keys[:, :, -1:], values[:, :, -1:], 0)
    for found, whole in zip(arena.layers[0].dense(0, 2, 100, 290), (keys, values), strict=True):
        assert torch.equal(found, whole[:, :, 100:290])


def test_rows_move_and_begin_with_what_another_arena_has():
    arena, keys, _ = filled(3, 2, 8, 200, 260)
    arena.move(torch.tensor([2]), torch.tensor([0]), 199)
    assert torch.equal(arena.layers[0].dense(0, 1, 0, 199)[0][0], keys[2, :, :-1])
    other, its, _ = filled(1, 2, 8, 151, 150)
    arena.put(other, 1, 2, 40)
    for row in (1, 2):
        assert torch.equal(arena.layers[0].dense(row, 1, 40, 190)[0][0], its[0, :, :150])
    arena.clear(4, 260)
    assert not any(held.any() for held in arena.held())


def looks_up(engine: StaticEngine) -> bool:
    assert engine._workspace is not None
    return engine._workspace.by_lookup


def test_the_models_own_attention_is_back_after_a_step_that_fails_too(monkeypatch):
    engine = static(tiny(num_key_value_heads=2))
    assert looks_up(engine)
    engine.generate(prompts("a"))
    assert engine.model.config._attn_implementation == "sdpa"
    monkeypatch.setattr(lookup_attention, "_weighted_sums", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.generate(prompts("a"))
    assert engine.model.config._attn_implementation == "sdpa"


def test_it_is_used_only_where_its_kernels_are_and_no_other_attention_was_asked_for(monkeypatch):
    model = tiny(num_key_value_heads=2)
    assert looks_up(static(model, attention="sdpa"))
    eager = tiny(num_key_value_heads=2)
    eager.set_attn_implementation("eager")
    assert not looks_up(static(eager, attention="eager"))
    assert not looks_up(static(tiny(num_key_value_heads=2).bfloat16()))
    monkeypatch.setattr(lookup_attention, "is_there", lambda: False)
    engine = static(model)
    assert not looks_up(engine)
    assert texts_of(engine) == alone(model)


def test_a_model_that_it_does_not_suit_goes_by_the_loop_with_its_own_attention(monkeypatch):
    model = tiny(num_key_value_heads=2)
    monkeypatch.setattr(lookup_attention, "_key_rows", lambda *_: 1 / 0)
    engine = static(model)
    assert engine.in_loop
    assert not looks_up(engine)
    assert engine.take_notes() == []
    assert texts_of(engine, MIXED) == alone(model)
