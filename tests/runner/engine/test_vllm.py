"""vLLM behind a rank, with a stand-in that has its surface and computes with transformers: rows, turns, errors."""

import json
from types import SimpleNamespace

import pytest
import torch
import transformers

from rankdeck.runner.engine.generation.settings import ON_LOGITS
from rankdeck.runner.engine.rows import Cancelled, Row
from rankdeck.runner.engine.vllm import names, opening, outline, sampling
from rankdeck.runner.engine.vllm.outline import is_quantised
from rankdeck.runner.protocol import Prompt
from rankdeck.runner.protocol.config import RunConfig
from tests.runner.engine.lone import MIXED, alone, static, tiny
from tests.runner.engine.tiny import prompts
from tests.runner.engine.vllm_standin import by_vllm, saved, standin

__all__ = ["by_vllm", "saved", "standin"]  # fixtures

GIB = 2**30
ENGINE = "vllm.v1.engine.llm_engine"


def answers(engine, *texts, **options):
    """Each prompt's text, counts and finish reason."""
    records = engine.generate(prompts(*texts), **options).records
    return [(one.text, one.prompt_tokens, one.output_tokens, one.finish_reason, one.error) for one in records]


def run_dry(engine):
    """Step until no row is left; the answers by key."""
    found = {}
    while engine.in_flight:
        found.update((key, answer) for key, answer, _ in engine.ended(0))
    return found


# --- answers --------------------------------------------------------------------------------------


def test_texts_counts_and_finish_reasons_are_those_of_the_static_engine(by_vllm):
    assert answers(by_vllm(), *MIXED) == answers(static(tiny()), *MIXED)
    assert [text for text, *_ in answers(by_vllm(), *MIXED)] == alone(tiny())


def test_an_answer_ends_with_an_end_of_sequence_token_and_holds_it(by_vllm):
    model = tiny()
    first = alone(model, ["The cat"], new=1)[0]
    own = {"eos_token_id": static(model).tokenizer(first)["input_ids"][-1]}
    ((text, _, tokens, reason, _),) = answers(by_vllm(own), "The cat")
    assert (tokens, reason) == (1, "stop")
    assert text == first
    fixed = by_vllm(own, ignore_eos=True)
    assert [(tokens, reason) for _, _, tokens, reason, _ in answers(fixed, "The cat")] == [(12, "length")]


def test_the_models_own_generation_config_holds(by_vllm):
    own = {"repetition_penalty": 1.7, "min_new_tokens": 3}
    model = tiny()
    for name, value in own.items():
        setattr(model.generation_config, name, value)
    assert answers(by_vllm(own), *MIXED) == answers(static(model), *MIXED)
    assert sampling.least_tokens(transformers.GenerationConfig(min_length=9, min_new_tokens=2), 4) == 5
    assert sampling.least_tokens(transformers.GenerationConfig(min_length=9, min_new_tokens=2), 8) == 2


@pytest.mark.parametrize(
    "own",
    [{"no_repeat_ngram_size": 2}, {"suppress_tokens": [5]}, {"bad_words_ids": [[5, 6]]}, {"stop_strings": ["a"]}],
    ids=lambda own: next(iter(own)),
)
def test_what_it_does_not_have_of_a_generation_config_is_refused_by_name_before_anything_is_loaded(by_vllm, own):
    phases: list[str] = []
    with pytest.raises(ValueError, match=f"sets {next(iter(own))}, which rankdeck cannot pass to vLLM"):
        by_vllm(own, phases=phases)
    assert not phases


def test_settings_that_change_nothing_are_not_refused():
    quiet = {name: values[0] for name, values in sampling.NEUTRAL.items()}
    assert sampling.why_not(transformers.GenerationConfig(**quiet, stop_strings=None)) is None
    assert set(sampling.NEUTRAL) <= ON_LOGITS
    assert ON_LOGITS | {"temperature", "top_p", "top_k"} >= sampling.OWN


def test_a_prompt_that_is_refused_has_its_error_and_the_others_their_answers(by_vllm, monkeypatch):
    engine = by_vllm()
    bad = engine.tokenizer("!!")["input_ids"]
    monkeypatch.setattr(f"{ENGINE}.REFUSED", bad)
    found = answers(engine, "a", "no!!", "zz")
    assert [error for *_, error in found] == [None, "the prompt of 4 tokens is refused", None]
    monkeypatch.setattr(f"{ENGINE}.REFUSED", [10**6])
    monkeypatch.setattr(f"{ENGINE}.FAILING", bad)
    found = answers(engine, "a", "no!!", "zz")
    assert [error for *_, error in found] == [None, "vLLM ended this prompt: error", None]
    assert not engine.broken


def test_a_text_longer_than_it_was_loaded_for_is_a_prompts_error(by_vllm):
    engine = by_vllm()
    engine.context_tokens = 20
    assert "do not fit the model's context of 20" in answers(engine, "a" * 9)[0][-1]


# --- rows that come and go, and stand still -------------------------------------------------------


def begun(engine, *texts, steps=3):
    """Rows of these texts, some steps on."""
    engine.submit([Row(text, engine.tokenizer(text)["input_ids"], at) for at, text in enumerate(texts)])
    for _ in range(steps):
        assert engine.ended(0) == []


def test_fewer_rows_at_once_keep_the_youngest_back_and_their_answers_are_the_same(by_vllm):
    engine = by_vllm()
    begun(engine, *MIXED)
    engine.keep_to(2)
    assert (engine.in_flight, engine.held, engine.tokens_in_flight()) == (2, 4, 18)
    assert [engine.ended(0), engine.ended(0)] == [[], []]
    assert engine.tokens_in_flight() == 22
    engine.keep_to(3)
    assert (engine.in_flight, engine.held) == (3, 3)
    found = {}
    while engine.in_flight or engine.held:
        engine.keep_to(3)
        assert engine.in_flight <= 3
        found.update((key, answer) for key, answer, _ in engine.ended(0))
    told = {text: engine.tokenizer.decode(answer.tokens, skip_special_tokens=True) for text, answer in found.items()}
    assert told == dict(zip(MIXED, alone(tiny()), strict=True))


def test_paused_rows_stand_still_and_go_on_where_they_were(by_vllm):
    engine = by_vllm()
    begun(engine, *MIXED[:3])
    engine.keep_to(0)
    assert engine.stands_still
    assert engine.ended(0) == []
    assert (engine.steps, engine.in_flight, engine.tokens_in_flight()) == (7, 3, 9), "4 to warm up, 3 of these"
    engine.keep_to(8)
    assert not engine.stands_still
    assert {len(answer.tokens) for answer in run_dry(engine).values()} == {12}


def test_no_more_rows_than_it_was_loaded_for_and_that_is_said_once(by_vllm):
    engine = by_vllm()
    engine.take_notes()
    engine.keep_to(engine.most_rows + 1)
    engine.keep_to(engine.most_rows + 2)
    assert engine.take_notes() == [
        "vLLM was started for at most 256 rows at once; for more, start the run with --batch-size 257"
    ]


def test_a_cancelled_batch_leaves_nothing_behind_and_the_next_is_answered(by_vllm):
    engine = by_vllm()
    looks = iter([False, False, True])
    with pytest.raises(Cancelled):
        engine.generate(prompts(*MIXED), cancelled=lambda: next(looks))
    assert (engine.in_flight, len(engine._llm.requests)) == (0, 0)
    assert answers(engine, "a") == answers(static(tiny()), "a")


def test_after_a_step_that_failed_it_is_broken(by_vllm, monkeypatch):
    engine = by_vllm()
    bad = engine.tokenizer("??")["input_ids"]
    monkeypatch.setattr(f"{ENGINE}.BREAKING", bad)
    with pytest.raises(RuntimeError, match="EngineCore"):
        engine.generate(prompts("a", "b??"))
    assert engine.broken
    assert not engine.in_flight


# --- figures --------------------------------------------------------------------------------------


def test_what_prompts_share_is_counted_and_padding_is_not_known(by_vllm):
    engine = by_vllm()
    text = "The same beginning of a prompt, all of it but"
    engine.generate(prompts(text + " this"))
    assert engine.prefix_hits() == 0
    result = engine.generate(prompts(text + " that", "a")).result
    assert (result.shared_tokens, result.padded_slots) == (48, None)
    assert result.slots == result.prompt_tokens - 48 + result.output_tokens
    assert engine.prefix_hits() == round(48 / (2 * result.prompt_tokens - 1), 4)
    measured = engine.generate(prompts(text + " that"), measure=True).result
    assert measured.shared_tokens == 0, "a trial's prefill is whole"
    assert len(measured.step_seconds) == measured.steps - 1 == 11


def test_the_cache_is_as_full_as_its_metrics_say(by_vllm):
    engine = by_vllm()
    assert engine.cache_used() == 0
    begun(engine, "a" * 30, "b")
    assert engine.cache_used() == round(4 / 64, 4)


def test_the_model_is_described_without_its_weights(by_vllm, saved):
    told, known = by_vllm().describe(), static(tiny()).describe()
    same = ("parameters", "parameter_bytes", "weight_read_bytes", "kv_bytes_per_token", "context_tokens", "dtype")
    assert {name: told[name] for name in same} == {name: known[name] for name in same}
    assert outline.bytes_of_files(str(saved)) == sum(path.stat().st_size for path in saved.glob("*.safetensors"))


def test_the_bytes_of_quantised_weights_are_those_of_their_files(by_vllm, saved, tmp_path):
    folder = tmp_path / "quantised"
    folder.mkdir()
    for path in saved.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (folder / "config.json").write_text(json.dumps(config))
    loaded = outline.outline(RunConfig(prompts="p", engine="vllm", device="cpu"), str(folder), torch.device("cpu"))
    assert is_quantised(loaded.model)
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == tiny().num_parameters()


def test_phases_are_told_once_each_and_compiling_only_where_it_compiles(by_vllm, standin, saved, tmp_path):
    phases: list[str] = []
    by_vllm(phases=phases)
    assert phases == ["warming up"]
    phases.clear()
    opening.opened({"model": str(saved), "dtype": "float32"}, tmp_path / "other", phases.append)
    assert phases == ["compiling", "warming up"]


def test_its_temporary_files_lie_in_a_folder_of_the_ranks_own_which_goes_with_it(by_vllm, tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "left by one that was killed").touch()
    engine = by_vllm()
    assert list((tmp_path / "scratch").iterdir()) == []
    assert (tmp_path / "scratch").stat().st_mode & 0o777 == 0o700
    engine.leave()
    assert not (tmp_path / "scratch").exists()


def test_what_was_loaded_is_told(by_vllm):
    assert by_vllm().take_notes() == [
        "vLLM 0.32.0 loaded in 0 s: up to 256 rows at once, 1,024 tokens of keys and values"
    ]


# --- what vLLM is asked for -----------------------------------------------------------------------


def arguments(on="cpu", **settings):
    config = RunConfig(prompts="p", **{"engine": "vllm", "max_new_tokens": 100, **settings})
    return opening.arguments(config, "m", torch.device(on), torch.float32, context_tokens=2048, kv_bytes_per_token=1000)


def test_on_a_cpu_its_cache_has_whole_blocks_for_the_rows_of_a_run_and_nothing_is_compiled():
    found = arguments()
    assert (found["enforce_eager"], found["kv_cache_memory_bytes"]) == (True, 128 * 384 * 1000)
    assert "gpu_memory_utilization" not in found


def test_on_a_gpu_it_takes_the_share_asked_for_else_what_is_usual_and_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70 * GIB, 80 * GIB))
    assert arguments("cuda:0")["gpu_memory_utilization"] == 0.84
    assert arguments("cuda:0", gpu_memory_share=0.5)["gpu_memory_utilization"] == 0.5
    assert "enforce_eager" not in arguments("cuda:0")
    assert opening.gpu_share(None, (79 * GIB, 80 * GIB)) == 0.9
    assert opening.gpu_share(0.3, None) == 0.3
    assert arguments("cuda:0", gpus_per_rank=2)["gpu_memory_utilization"] == 0.9, "nobody has looked at the other one"


def test_it_is_told_of_more_rows_than_it_would_take_of_several_gpus_and_of_quantising(monkeypatch):
    assert "max_num_seqs" not in arguments(batch_size=256)
    assert arguments(batch_size=300)["max_num_seqs"] == 300
    assert arguments(batch_size=5000)["max_num_seqs"] == arguments(batch_size=5000)["max_num_batched_tokens"] == 5000
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (24 * GIB, 24 * GIB))
    assert arguments("cuda:0", batch_size=300)["max_num_seqs"] == 300
    assert "max_num_batched_tokens" not in arguments("cuda:0", batch_size=5000)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80 * GIB, 80 * GIB))
    assert arguments("cuda:0", batch_size=300)["max_num_seqs"] == 1024
    found = arguments("cuda:0", gpus_per_rank=4, quantization="bnb-4bit", trust_remote_code=True, seed=7)
    assert [found[name] for name in ("tensor_parallel_size", "quantization", "trust_remote_code", "seed")] == [
        4, "bitsandbytes", True, 7
    ]  # fmt: skip


def test_where_the_size_of_keys_and_values_is_not_known_the_cache_has_a_quarter_of_what_is_free(monkeypatch):
    monkeypatch.setattr(opening.psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GIB))
    config = RunConfig(prompts="p", engine="vllm", ranks=2)
    found = opening.arguments(
        config, "m", torch.device("cpu"), torch.float32, context_tokens=None, kv_bytes_per_token=None
    )
    assert found["kv_cache_memory_bytes"] == GIB


def test_what_vllm_says_of_its_share_names_the_setting_here(standin, saved, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("Free memory is less than desired GPU memory utilization; decrease gpu_memory_utilization")

    monkeypatch.setattr(names.part("LLMEngine"), "from_engine_args", refuse)
    with pytest.raises(RuntimeError, match=r"\(its gpu_memory_utilization is --gpu-memory-share here\)"):
        opening.opened({"model": str(saved)}, tmp_path / "scratch", lambda phase: None)


def test_texts_that_its_cache_has_no_room_for_are_told_and_refused_in_those_words(by_vllm, standin, monkeypatch):
    monkeypatch.setattr(f"{ENGINE}.MOST_TOKENS", 64)
    engine = by_vllm()
    assert "vLLM's cache limits sequences to 64 tokens, the model allows 2,048" in engine.take_notes()
    ((*_, error),) = answers(engine, "a" * 60)
    assert error == "prompt of 60 tokens and 12 new tokens do not fit vLLM's sequence limit of 64"


def test_what_is_drawn_depends_on_seed_and_prompt_and_not_on_the_rows_beside_it(by_vllm):
    engine = by_vllm(do_sample=True, temperature=1.3, seed=5)

    def drawn(*indexes: int, by=engine) -> dict[int, str]:
        asked = [Prompt(index=index, id="", text="The cat") for index in indexes]
        return {record.index: record.text for record in by.generate(asked).records}

    whole = drawn(0, 1, 2, 3)
    assert len(set(whole.values())) == 4
    assert drawn(2) == {2: whole[2]}
    assert drawn(2, by=by_vllm(do_sample=True, temperature=1.3, seed=6)) != {2: whole[2]}
    assert sampling.seed_of(5, 2, 0) != sampling.seed_of(5, 2, 1)


def test_sampling_is_as_transformers_would_where_nobody_says_anything():
    own = transformers.GenerationConfig(temperature=0.7, top_p=0.8)
    config = RunConfig(prompts="p", do_sample=True)
    assert sampling.arguments(own, config, frozenset({2, 1})) == {
        "temperature": 0.7, "top_p": 0.8, "top_k": 50, "stop_token_ids": [1, 2], "ignore_eos": False,
        "detokenize": False,
    }  # fmt: skip
    greedy = sampling.arguments(own, RunConfig(prompts="p"), frozenset())
    assert greedy == {"temperature": 0.0, "stop_token_ids": [], "ignore_eos": True, "detokenize": False}


def test_a_release_that_lacks_what_is_used_is_refused_by_the_names(standin, monkeypatch):
    names.require()
    assert names.version() == "0.32.0"
    monkeypatch.delattr(names.part("LLMEngine"), "abort_request")
    monkeypatch.delattr("vllm.inputs.tokens_input")
    lacking = r"has no vllm\.inputs\.tokens_input, LLMEngine\.abort_request, which --engine vllm needs"
    with pytest.raises(RuntimeError, match=lacking):
        names.require()


def test_a_vllm_that_cannot_be_imported_is_told_with_its_reason(standin, monkeypatch):
    monkeypatch.setattr(names, "_module", lambda name: 1 / 0)
    with pytest.raises(RuntimeError, match=r"vLLM .* cannot be imported: ZeroDivisionError"):
        names.require()


def test_it_keeps_the_threads_it_was_loaded_with(by_vllm):
    engine, before = by_vllm(), torch.get_num_threads()
    engine.use_threads(before + 1)
    assert torch.get_num_threads() == before
