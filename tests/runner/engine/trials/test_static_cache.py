"""A model is compiled only if a static cache, longer than the text, gives what each prompt gets alone."""

import pytest
import torch
import transformers

from rankdeck.runner.engine.trials import static_cache
from rankdeck.runner.engine.trials.likeness import Likeness
from tests.runner.engine.lone import CPU, MIXED, alone, static, texts_of, tiny, tokenizer

FALCON = {"alibi": True, "new_decoder_architecture": False, "multi_query": True}


def neo(window):
    return tiny(
        "gpt_neo", num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=window,
        max_position_embeddings=512,
    )  # fmt: skip


def why_not(model):
    return static_cache.why_not(model, tokenizer(), 0, CPU)


@pytest.fixture
def caches(monkeypatch):
    """The static caches that are made."""
    made, kind = [], static_cache.transformers.StaticCache
    monkeypatch.setattr(
        static_cache.transformers, "StaticCache", lambda **given: made.append(kind(**given)) or made[-1]
    )
    return made


@pytest.mark.parametrize("window", [8, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_that_is_cut_by_the_caches_length_is_found_with_a_narrow_and_with_a_wide_window(window, dtype):
    assert why_not(neo(window).to(dtype)) == static_cache.OTHER


def test_a_cache_that_is_no_longer_than_the_window_would_hide_it(monkeypatch):
    monkeypatch.setattr(static_cache, "SLOTS", 200)
    assert why_not(neo(256)) is None


def test_a_model_that_cannot_run_with_a_static_cache_is_said_with_its_error():
    said = why_not(tiny("falcon", **FALCON))
    assert said.startswith(
        "it needs a static cache, and this model does not work with one (ValueError: too many values"
    )
    assert "\n" not in said


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("llama", {"num_key_value_heads": 2}),
        ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
        ("gemma2", {"head_dim": 8, "sliding_window": 8}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_goes_by_the_mask_is_right_over_a_static_cache(kind, more, dtype):
    assert why_not(tiny(kind, **more).to(dtype)) is None


@pytest.mark.parametrize(("context", "slots"), [(4096, 1024), (1024, 1024), (200, 200), (8, 8)])
def test_the_cache_has_1024_slots_at_most_and_no_more_than_the_context(caches, context, slots):
    assert why_not(tiny(num_key_value_heads=2, max_position_embeddings=context)) is None
    (cache,) = caches
    assert {layer.keys.shape[0] for layer in cache.layers} == {3}
    assert {layer.keys.shape[2] for layer in cache.layers} == {slots}


def test_rows_are_padded_and_nothing_is_compiled(monkeypatch):
    model, seen = tiny(num_key_value_heads=2), []
    generate = model.generate

    def watched(**given):
        if "generation_config" in given:
            seen.append((given["attention_mask"].sum(dim=1).tolist(), given["generation_config"].disable_compile))
        return generate(**given)

    monkeypatch.setattr(model, "generate", watched)
    assert why_not(model) is None
    assert seen == [*(([length], True) for length in (4, 12, 4)), ([4, 12, 4], True), ([4, 12, 4], True)]


def test_a_cache_that_keeps_something_of_the_batch_before_is_found(monkeypatch):
    monkeypatch.setattr(transformers.StaticCache, "reset", lambda self: None)
    assert why_not(tiny(num_key_value_heads=2)) is not None


@pytest.mark.parametrize(("dtype", "found"), [(torch.bfloat16, None), (torch.float32, static_cache.OTHER)])
def test_in_the_half_types_it_takes_two_texts(monkeypatch, dtype, found):
    answers, agree = [False], Likeness.agree
    monkeypatch.setattr(Likeness, "agree", lambda *given: answers.pop() if answers else agree(*given))
    assert why_not(tiny(num_key_value_heads=2).to(dtype)) == found


def test_too_little_memory_for_the_trial_leaves_compiling_and_not_the_run(monkeypatch):
    def full(**_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore")

    monkeypatch.setattr(static_cache.transformers, "StaticCache", full)
    model = tiny(num_key_value_heads=2)
    one = static(model, compile=True)
    (said,) = one.take_notes()
    assert said == (
        "--compile has no effect: it needs a static cache, and there is too little memory to try one "
        "(OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB.)"
    )
    assert texts_of(one) == alone(model)


@pytest.mark.parametrize("marked", [False, True])
def test_a_model_that_is_wrong_over_a_static_cache_answers_as_without_compiling_and_says_why_once(monkeypatch, marked):
    model = neo(8)
    monkeypatch.setattr(type(model), "_can_compile_fullgraph", marked)
    expected = alone(model)
    one = static(model, compile=True)
    why = static_cache.OTHER if marked else "transformers does not compile models of this kind (gpt_neo)"
    assert one.take_notes() == [f"--compile has no effect: {why}"]
    assert [texts_of(one, MIXED[:4]), texts_of(one)] == [expected[:4], expected]
    assert one.take_notes() == []
