"""`--compile`: the first batch is the yardstick, the first compiled one pays, and then it is said whether it pays."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
import transformers

from rankdeck.runner.engine import compiling, static
from rankdeck.runner.engine.compiling import Compiling
from rankdeck.runner.engine.rows import Cancelled
from tests.runner.engine.tiny import TEXTS, ending_early, make, prompts


def said_after(*batches: tuple[int, int, int, float]) -> list[str]:
    said: list[str] = []
    one = Compiling(said.append)
    for batch in batches:
        one.learn(*batch)
    return said


def test_nothing_is_said_until_a_shape_has_come_twice():
    assert said_after((16, 164, 101, 10.0), (16, 164, 101, 80.0)) == []
    assert said_after((16, 164, 101, 10.0), (16, 164, 101, 80.0), (8, 164, 101, 70.0)) == []


def test_a_gain_is_said_with_the_batches_after_which_it_has_paid_for_the_compiler():
    assert said_after((16, 164, 101, 10.0), (16, 164, 101, 65.0), (16, 164, 101, 5.0), (16, 164, 101, 5.0)) == [
        "compiling batches of 16 x 164 took 60.0 s; a step takes 50.0 ms instead of 100.0 ms: "
        "it pays from 13 batches on"
    ]


def test_no_gain_is_said_as_plainly():
    assert said_after((16, 164, 101, 10.0), (16, 164, 101, 80.0), (16, 164, 101, 11.0)) == [
        "compiling batches of 16 x 164 took 69.0 s; a step takes 110.0 ms, no less than without (100.0 ms): "
        "leave --compile out"
    ]


def test_the_first_batch_runs_as_it_is_and_the_next_are_compiled():
    one, generation = Compiling(lambda _: None), transformers.GenerationConfig()
    one.prepare(generation, 16, 164)
    assert generation.cache_implementation is None
    one.learn(16, 164, 101, 10.0)
    one.prepare(generation, 16, 164)
    assert generation.cache_implementation == "static"


# --- the cache of compiled batches (uncompiled here: only what it keeps is of interest) ---


def begun(model, **settings):
    one = make(model, compile=True, ignore_eos=True, **settings)
    one.generation.disable_compile = True
    one.generate(prompts("the yardstick"))
    return one


def storage(engine):
    cache = engine._compiling._kept.cache
    return [
        tensor.data_ptr() for layer in cache.layers for tensor in (layer.keys, layer.values, layer.cumulative_length)
    ]


def test_the_next_batch_of_a_shape_uses_the_same_memory_and_has_the_answers_it_would_have_alone(model):
    one, plain = begun(model), make(model, ignore_eos=True)
    places = []
    for texts in (TEXTS, ("x" * 63, "y" * 63, "z" * 63, "q" * 63), TEXTS[::-1]):
        assert one.generate(prompts(*texts)).records == plain.generate(prompts(*texts)).records
        places.append(storage(one))
    assert places[0] == places[1] == places[2]


def test_a_narrower_batch_uses_the_cache_of_a_wider_one_and_a_wider_one_has_its_own(model):
    one, plain = begun(model), make(model, ignore_eos=True)
    for texts, length in ((("a", "b"), 76), (("a" * 100, "b"), 140), (("a", "b"), 140)):
        assert one.generate(prompts(*texts)).records == plain.generate(prompts(*texts)).records
        assert one._compiling._kept.length == length
    one.generate(prompts("a", "b", "c"))
    assert one._compiling._kept.rows == 3, "one cache is kept, not one for every number of rows"


def test_the_cache_is_freed_when_the_engine_is_closed_or_a_batch_fails_but_not_when_one_is_cancelled(model):
    one = begun(model)

    def fail():
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def batch(cancelled=lambda: False):
        one.generate(prompts(*TEXTS), cancelled=cancelled)
        return one._compiling._kept

    kept = batch()
    with pytest.raises(Cancelled):
        batch(lambda: True)
    assert batch() is kept
    with pytest.raises(torch.OutOfMemoryError):
        batch(fail)
    assert one._compiling._kept is None
    batch()
    one.close()
    assert one._compiling._kept is None


def test_a_cache_that_is_longer_than_was_asked_for_serves_longer_batches():
    one, generation = Compiling(lambda _: None), transformers.GenerationConfig()
    one.learn(2, 64, 11, 1.0)
    cache = transformers.StaticCache(transformers.LlamaConfig(num_hidden_layers=1), max_cache_len=255)
    assert one.prepare(generation, 2, 76) is None
    one.keep(2, 76, cache)
    assert one.prepare(generation, 2, 256) is cache
    assert one.prepare(generation, 2, 257) is None


def test_what_was_compiled_is_forgotten_with_its_cache(monkeypatch):
    reset = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: reset.append(True))
    one = Compiling(lambda _: None)
    one.forget()
    assert reset == [], "nothing is compiled yet"
    one.learn(2, 64, 11, 1.0)
    generation = transformers.GenerationConfig()
    one.prepare(generation, 2, 64)
    one.keep(2, 64, transformers.StaticCache(transformers.LlamaConfig(num_hidden_layers=1), max_cache_len=63))
    one.prepare(generation, 4, 64)  # which has another cache: the graphs of the first are still there
    one.forget()
    assert reset == [True]


def test_a_shape_that_is_compiled_anew_is_timed_anew(monkeypatch):
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    said: list[str] = []
    one = Compiling(said.append)
    for seconds in (1.0, 60.0):
        one.prepare(transformers.GenerationConfig(), 8, 64)
        one.learn(8, 64, 11, seconds)
    one.forget()
    one.prepare(transformers.GenerationConfig(), 8, 64)
    one.learn(8, 64, 11, 59.0)
    assert said == []


def test_a_model_that_transformers_does_not_compile_keeps_its_batches_as_they_are(model, monkeypatch):
    quantizer = type("SomeQuantizer", (), {"is_compileable": False})()
    monkeypatch.setattr(model, "hf_quantizer", quantizer, raising=False)
    assert compiling.why_not(model) == "transformers does not compile models that are quantised by SomeQuantizer"
    one = make(model, compile=True)
    assert one.take_notes() == [f"--compile has no effect: {compiling.why_not(model)}"]
    assert one._compiling is None
    assert one._leaving(4) == 1


def test_a_model_whose_class_is_not_to_be_compiled_is_not(model, monkeypatch):
    monkeypatch.setattr(type(model), "_can_compile_fullgraph", False)
    assert compiling.why_not(model) == "transformers does not compile models of this kind (llama)"
    monkeypatch.undo()
    monkeypatch.delattr(transformers.LlamaPreTrainedModel, "_can_compile_fullgraph")
    assert compiling.why_not(model) == "transformers does not compile models of this kind (llama)", (
        "by default it is no"
    )


def test_a_model_whose_cache_is_of_another_kind_is_not_compiled(model, monkeypatch):
    monkeypatch.setattr(type(model), "forward", lambda self, input_ids, cache_params=None: None)
    assert compiling.why_not(model) == "transformers does not compile models of this kind (llama)"


def test_steps_that_are_captured_leave_experts_to_transformers(model, monkeypatch):
    seen = []
    monkeypatch.setattr(
        static, "decoding_in_groups", lambda _, experts, rows: (seen.append(experts), contextlib.nullcontext())[1]
    )
    one = make(model)
    one._experts = "experts"
    one.generate(prompts("a"))
    assert set(seen) == {"experts"}
    seen.clear()
    nothing = dict.fromkeys(("prepare", "keep", "learn", "forget"), lambda *_: None)
    one._compiling = SimpleNamespace(begun=True, **nothing)
    one.generate(prompts("a"))
    assert set(seen) == {None}


@pytest.mark.parametrize("quantizer", [None, SimpleNamespace(is_compileable=True)])
def test_a_model_that_transformers_compiles_is_compiled_quantised_or_not(model, monkeypatch, quantizer):
    assert compiling.why_not(model) is None
    monkeypatch.setattr(model, "hf_quantizer", quantizer, raising=False)
    assert compiling.why_not(model) is None


# --- a compiled batch that fails ---


class Broken(Exception):
    """What a compiler may raise."""


def breaking(model, monkeypatch, error, step=1):
    """Have each compiled batch of this model raise `error` at this step; returns how many did."""
    generate, failed = model.generate, []

    def fails(**given):
        generation = given.get("generation_config")
        if generation is None or generation.compile_config is None:
            return generate(**given)
        given["generation_config"].disable_compile = True
        watch = given["stopping_criteria"][0]

        def stop(*asked, **more):
            found = watch(*asked, **more)
            if watch.steps == step:
                failed.append(step)
                raise error
            return found

        return generate(**{**given, "stopping_criteria": transformers.StoppingCriteriaList([stop])})

    monkeypatch.setattr(model, "generate", fails)
    return failed


def test_a_compiled_batch_that_fails_is_answered_without_and_nothing_is_compiled_any_more(model, monkeypatch):
    reset, expected = [], ending_early(model).generate(prompts(*TEXTS)).records
    one = ending_early(model, compile=True)
    monkeypatch.setattr(torch.compiler, "reset", lambda: reset.append(True))
    failed = breaking(model, monkeypatch, Broken("no such kernel\nand a long story"), step=3)
    assert one.generate(prompts(*TEXTS)).records == expected
    assert one._leaving(4) is None
    told, steps = [], []
    second = one.generate(prompts(*TEXTS), on_records=told.extend, on_step=lambda progress: steps.append(progress.step))
    assert failed == [3]
    assert second.records == expected
    assert sorted(record.index for record in told) == [0, 1, 2, 3], "each once"
    assert second.result.steps == 12, "those that came to nothing are not counted"
    assert one.take_notes() == [f"{compiling.GIVEN_UP}: Broken: no such kernel"]
    assert reset == [True], "what was compiled is freed"
    assert one._compiling is None
    assert one._leaving(4) == 1, "rows may leave again"
    assert one.generate(prompts(*TEXTS)).records == expected
    assert (one.take_notes(), failed) == ([], [3]), "said once, and not tried again"


def test_rows_that_the_model_keeps_stay_after_compiling_was_given_up(model, monkeypatch):
    one = ending_early(model, compile=True)
    one.why_rows_stay = "its cache cannot lose rows"
    breaking(model, monkeypatch, Broken())
    one.generate(prompts(*TEXTS))
    one.generate(prompts(*TEXTS))
    assert (one._compiling, one._leaving(4)) == (None, None)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("wrapped: CUDA out of memory"), Cancelled()]
)
def test_too_little_memory_and_a_cancelled_batch_say_nothing_against_compiling(model, monkeypatch, error):
    one = make(model, compile=True, ignore_eos=True)
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    breaking(model, monkeypatch, error)
    one.generate(prompts("the yardstick"))
    with pytest.raises(type(error)):
        one.generate(prompts("a"))
    assert one._compiling is not None
    assert one.take_notes() == []


def test_a_lost_gpu_is_no_fault_of_compiling(monkeypatch):
    lost, asked = RuntimeError("some words"), []
    monkeypatch.setattr(compiling.memory, "is_lost", lambda *given: bool(asked.append(given)) or given[0] is lost)
    with pytest.raises(RuntimeError, match="some words") as raised, compiling.blamed(["cuda:1"]):
        raise lost
    assert raised.value is lost
    assert asked == [(lost, ["cuda:1"])]
    with pytest.raises(compiling.CompiledStepsError, match=r"^ValueError: no$"), compiling.blamed(["cuda:1"]):
        raise ValueError("no")


def test_the_error_of_an_uncompiled_batch_is_raised_as_it_is(model, monkeypatch):
    def fails(**_):
        raise Broken

    one = make(model, compile=True)
    monkeypatch.setattr(model, "generate", fails)
    with pytest.raises(Broken):
        one.generate(prompts("a"))
    assert one._compiling is not None


def test_a_batch_of_one_step_is_no_yardstick_and_the_first_longer_one_is():
    one = Compiling(lambda _: None)
    one.learn(4, 64, 1, 0.0)
    assert not one.begun
    one.learn(4, 64, 2, 3.0)
    assert one.begun


def test_the_yardstick_is_scaled_by_rows_and_what_is_said_is_said_once():
    first, again = (8, 164, 101, 90.0), (8, 164, 101, 30.0)
    said = (
        "compiling batches of 8 x 164 took 60.0 s; a step takes 300.0 ms instead of 400.0 ms: it pays from 7 batches on"
    )
    assert said_after((2, 100, 11, 1.0), first, again, again, (4, 64, 11, 9.0), (4, 64, 11, 1.0)) == [said]


def test_a_compiled_batch_that_took_no_longer_than_the_next_has_cost_nothing():
    said = said_after((1, 64, 11, 10.0), (1, 64, 11, 4.0), (1, 64, 11, 5.0))
    assert said == [
        "compiling batches of 1 x 64 took 0.0 s; a step takes 500.0 ms instead of 1000.0 ms: it pays from 1 batches on"
    ]
    (said,) = said_after((1, 64, 11, 10.0), (1, 64, 11, 40.0), (1, 64, 11, 10.0))
    assert said.endswith("no less than without (1000.0 ms): leave --compile out"), "as long is no gain"


def static_cache(length: int):
    return transformers.StaticCache(transformers.LlamaConfig(num_hidden_layers=1), max_cache_len=length)


def test_all_devices_are_compiled_for_once_the_yardstick_is_there_and_only_a_cache_that_fits_is_used():
    one, plain = Compiling(lambda _: None), transformers.GenerationConfig()
    one.keep(2, 64, static_cache(63))
    assert one.prepare(plain, 2, 64) is None
    assert (plain.compile_config, one._kept) == (None, None), "nothing is kept of a batch that is not compiled"
    one.learn(2, 64, 11, 1.0)
    generation = transformers.GenerationConfig()
    assert one.prepare(generation, 2, 64) is None
    assert generation.compile_config._compile_all_devices is True
    one.keep(2, 64, transformers.DynamicCache())
    assert one._kept is None, "a kind of the model's own"
    cache = static_cache(63)
    cache.reset = lambda: emptied.append(True)
    emptied: list[bool] = []
    one.keep(2, 64, cache)
    one.keep(2, 128, static_cache(127))
    assert (one._kept.rows, one._kept.length, one._kept.cache) == (2, 64, cache)
    for rows, length, fits in ((2, 64, True), (2, 3, True), (2, 65, False), (1, 64, False), (3, 64, False)):
        one._kept = compiling._Kept(2, 64, cache)
        again = transformers.GenerationConfig()
        emptied.clear()
        assert one.prepare(again, rows, length) is (cache if fits else None)
        assert (bool(emptied), again.cache_implementation) == (fits, None if fits else "static")
        assert (one._kept is not None) == fits, "its memory is free before the next one's is taken"
    one.keep(2, 300, static_cache(9))
    assert one._kept.length == 300
