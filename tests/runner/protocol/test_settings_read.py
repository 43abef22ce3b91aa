"""Settings as they come from flags and files: what each may be, what is said of one that cannot be read, and what a
run has that was told nothing."""

import math

import msgspec
import pytest

from rankdeck.runner.protocol import config
from rankdeck.runner.protocol.choices import near, not_one_of
from rankdeck.runner.protocol.config import Problem, RunConfig, from_mapping, out_of_bounds, read
from rankdeck.runner.protocol.sweep_plan import SweepPlan

PLAN = {"batch_sizes": [1, 2], "ranks": [1, 2]}


def said(**settings: object) -> dict[str, str]:
    """What is said of each setting that cannot be read."""
    return {problem.setting: problem.message for problem in read(settings)[1]}


def checked(**settings: object) -> list[str]:
    """What is said of settings that can be read and go badly."""
    return [str(problem) for problem in config.check(RunConfig(**{"prompts": "p.txt", **settings}))]


def test_a_run_that_is_told_nothing_has_these_settings():
    """They are in the manual, and older run files that lack one mean this."""
    assert msgspec.to_builtins(RunConfig(prompts="p.txt")) == {
        "prompts": "p.txt",
        "model": "demo",
        "ranks": 1,
        "batch_size": None,
        "max_new_tokens": 100,
        "dispatch": "pull",
        "order": "length",
        "device": "auto",
        "dtype": "auto",
        "engine": "auto",
        "ranks_per_gpu": None,
        "gpus_per_rank": 1,
        "gpu_memory_share": None,
        "quantization": "none",
        "chat": False,
        "trust_remote_code": False,
        "do_sample": False,
        "temperature": None,
        "top_p": None,
        "top_k": None,
        "seed": None,
        "ignore_eos": False,
        "decoding": "auto",
        "attention": "auto",
        "max_restarts": 3,
        "patience": None,
        "limit": None,
        "column": None,
        "output": None,
        "name": None,
        "sweep": None,
    }
    assert config.check(RunConfig(prompts="p.txt")) == []


def test_a_sweep_that_is_told_nothing_more_has_these_settings():
    assert msgspec.to_builtins(SweepPlan(**PLAN)) == {
        **PLAN,
        "repeats": 3,
        "least_rounds": 2,
        "least_seconds": 5.0,
        "outputs": False,
        "trial_tokens": None,
        "seed": 0,
    }


def test_settings_that_can_be_read_are_those_of_the_run():
    found, problems = read(
        {"prompts": "p", "batch_size": "auto", "top_p": 0.5, "temperature": 1, "chat": True, "engine": "static"}
    )
    assert problems == []
    assert found == RunConfig(prompts="p", top_p=0.5, temperature=1.0, chat=True, engine="static")
    assert read({"batch_size": " +32 "})[0].batch_size == 32
    assert read({"batch_size": 7})[0].batch_size == 7
    assert read({"sweep": {**PLAN, "repeats": 2}})[0].sweep == SweepPlan(**PLAN, repeats=2)


def test_a_setting_that_cannot_be_read_has_its_default_and_the_others_what_was_given():
    found, problems = read({"prompts": "p", "ranks": "two", "chat": "maybe", "top_k": 9, "order": "input"})
    assert [problem.setting for problem in problems] == ["ranks", "chat"]
    assert found == RunConfig(prompts="p", top_k=9, order="input")


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("ranks", "two", "must be a whole number, not 'two'"),
        ("ranks", 1.5, "must be a whole number, not 1.5"),
        ("ranks", 0, "must be at least 1, not 0"),
        ("seed", 10**30, f"must be at most {2**32 - 1}, not {10**30}"),
        ("batch_size", "some", "must be a whole number or auto, not 'some'"),
        ("batch_size", "1" * 21, f"must be a whole number or auto, not '{'1' * 21}'"),
        ("top_p", "x", "must be a number, not 'x'"),
        ("chat", 1, "must be true or false, not 1"),
        ("model", 7, "must be a string, not 7"),
        ("sweep", {**PLAN, "repeats": "x"}, "repeats: must be a whole number"),
        ("sweep", {**PLAN, "ranks": ["x"]}, "ranks[0]: must be a whole number"),
        ("engine", 3, "must be a string, not 3"),
        ("sweep", {**PLAN, "repeat": 2}, "Object contains unknown field `repeat`"),
        ("sweep", {"ranks": [1]}, "Object missing required field `batch_sizes`"),
        ("engine", "statik", "must be one of auto, static, continuous, vllm, not 'statik'; did you mean static?"),
        ("dtype", "FP16", "must be one of auto, float32, bfloat16, float16, not 'FP16'; did you mean float16?"),
    ],
)
def test_what_is_said_names_what_it_must_be_and_what_was_given(setting, value, message):
    assert said(**{setting: value}) == {setting: message}


def test_a_setting_that_there_is_not_is_told_with_those_that_there_are():
    message = said(max_tokens=3)["max_tokens"]
    assert message.startswith("there is no such setting; the settings are: attention, batch_size, chat, ")
    assert message.endswith("trust_remote_code; did you mean max_new_tokens or max_restarts?")


def test_a_setting_that_is_no_more_is_told_to_who_asks_for_it_and_passed_over_in_a_record_of_an_earlier_run():
    assert said(compile=True)["compile"].startswith("there is no such setting; the settings are: ")
    with pytest.raises(ValueError, match=r"^--compile: there is no such setting"):
        from_mapping({"prompts": "p", "compile": False})
    recorded = b'{"prompts":"p","ranks":2,"compile":false}'
    assert msgspec.json.decode(recorded, type=RunConfig) == RunConfig(prompts="p", ranks=2)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"prompts":"p","ranks":"two"}', type=RunConfig)


def test_a_run_file_that_cannot_be_read_says_all_of_it_a_line_each():
    with pytest.raises(ValueError, match=r"^--ranks: must be .*\n--max-new-tokens: must be "):
        from_mapping({"prompts": "p", "ranks": "x", "max_new_tokens": "y"})
    assert from_mapping({"prompts": "p", "ranks": 2}) == RunConfig(prompts="p", ranks=2)


def test_a_problem_is_shown_with_its_flag():
    assert str(Problem("max_new_tokens", "is wrong")) == "--max-new-tokens: is wrong"


@pytest.mark.parametrize(
    ("name", "choices", "found"),
    [
        ("FP16", ["float16", "float32"], "; did you mean float16?"),
        ("half", ["float32"], ""),
        ("gpu", ["auto", "cuda", "cpu"], "; did you mean cuda?"),
        ("nf4", ["none", "bnb-8bit", "bnb-4bit"], "; did you mean bnb-4bit?"),
        ("load_in_8bit", ["none", "bnb-8bit", "bnb-4bit"], "; did you mean bnb-8bit?"),
        ("brainfloat16", ["bfloat16", "float16"], "; did you mean bfloat16?"),
        ("full", ["float32"], "; did you mean float32?"),
        ("fa2", ["flash_attention_2", "flash_attention_3"], "; did you mean flash_attention_2?"),
        ("fa3", ["flash_attention_2", "flash_attention_3"], "; did you mean flash_attention_3?"),
        ("lenght", ["length", "input"], "; did you mean length?"),
        ("zzz", ["length", "input"], ""),
    ],
)
def test_what_people_call_it_elsewhere_and_what_is_nearly_it_is_pointed_out(name, choices, found):
    assert near(name, choices) == found
    assert not_one_of(name, choices) == f"must be one of {', '.join(choices)}, not {name!r}{found}"


def test_of_names_that_are_alike_at_most_three_are_named_and_how_alike_they_must_be_can_be_said():
    assert near("ab", iter(["ab1", "ab2", "ab3", "ab4"])).count(" or ") == 2
    assert near("abcd", ["abxx"]) == "; did you mean abxx?"
    assert near("abcd", ["abxx"], like=0.6) == ""


def test_numbers_at_their_bounds_are_within_them():
    assert [out_of_bounds(value, 2, 5) for value in (2, 5)] == ["", ""]
    assert out_of_bounds(1, 2, 5) == "must be at least 2, not 1"
    assert out_of_bounds(6, 2, 5) == "must be at most 5, not 6"


@pytest.mark.parametrize(
    ("setting", "least", "most"),
    [
        ("ranks", 1, 256),
        ("batch_size", 1, 65536),
        ("max_new_tokens", 1, 10**9),
        ("max_restarts", 0, 1000),
        ("limit", 1, 10**9),
        ("ranks_per_gpu", 1, 64),
        ("gpus_per_rank", 1, 64),
        ("seed", 0, 2**32 - 1),
        ("patience", 0, 7 * 24 * 3600),
    ],
)
def test_every_number_has_a_least_and_a_most(setting, least, most):
    for good in (least, most):
        assert checked(**{setting: good}) == []
    flag = setting.replace("_", "-")
    for bad in (least - 1, most + 1):
        (problem,) = checked(**{setting: bad})
        assert problem.startswith(f"--{flag}: must be ")


def test_only_so_many_of_the_likeliest_tokens_may_be_drawn_from():
    assert checked(do_sample=True, top_k=10**9) == []
    assert checked(do_sample=True, top_k=10**9 + 1) == [f"--top-k: must be at most {10**9}, not {10**9 + 1}"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "  "}, "--model: must name a model: demo, a local folder, or a hub id"),
        ({"device": "gpu"}, "--device: must be one of auto, cuda, cpu, not 'gpu'; did you mean cuda?"),
        ({"patience": -0.5}, "--patience: must be from 0 (never) to 604,800 seconds, not -0.5"),
        ({"patience": math.nan}, "--patience: must be from 0 (never) to 604,800 seconds, not nan"),
        (
            {"name": "a b"},
            "--name: must be 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit, not 'a b'",
        ),
        (
            {"attention": "flash_attention_2", "device": "cpu"},
            "--attention: flash_attention_2 needs an NVIDIA GPU; use sdpa",
        ),
        (
            {"decoding": "generate", "engine": "continuous"},
            "--decoding: belongs to the static engine; leave out this or --engine continuous",
        ),
        ({"decoding": "loop"}, "--decoding: must be one of auto, generate, not 'loop'"),
        (
            {"ranks_per_gpu": 2, "device": "cpu"},
            "--ranks-per-gpu: is for NVIDIA GPUs; with --device cpu give the number of --ranks alone",
        ),
        (
            {"gpus_per_rank": 2, "device": "cpu"},
            "--gpus-per-rank: is for NVIDIA GPUs; with --device cpu give the number of --ranks alone",
        ),
        (
            {"ranks_per_gpu": 2, "gpus_per_rank": 2},
            "--gpus-per-rank: ranks share a GPU (--ranks-per-gpu) or have several each, not both; leave one out",
        ),
        ({"top_k": 3}, "--top-k: has no effect without --do-sample; add it"),
        (
            {"do_sample": True, "temperature": 9e-7},
            "--temperature: must be above 0 and finite, not 9e-07; for greedy decoding leave out --do-sample",
        ),
        (
            {"do_sample": True, "temperature": math.inf},
            "--temperature: must be above 0 and finite, not inf; for greedy decoding leave out --do-sample",
        ),
        ({"do_sample": True, "top_p": 0.0}, "--top-p: must be above 0 and at most 1, not 0.0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_with_what_to_do(settings, message):
    assert checked(**settings) == [message]


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": True, "temperature": 1e-6},
        {"attention": "flash_attention_3", "device": "cuda"},
        {"attention": "flash_attention_2"},
        {"attention": "sdpa", "device": "cpu"},
        {"decoding": "generate", "engine": "static"},
        {"decoding": "generate"},
        {"decoding": "auto", "engine": "continuous"},
        {"decoding": "generate", "gpus_per_rank": 2},
        {"ranks_per_gpu": 1, "gpus_per_rank": 2},
        {"ranks_per_gpu": 2, "gpus_per_rank": 1},
        {"ranks_per_gpu": 1, "gpus_per_rank": 1, "device": "cpu"},
        {"engine": "continuous", "gpus_per_rank": 2},
    ],
)
def test_settings_that_go_together_are_not_refused(settings):
    assert checked(**settings) == []


def swept(settings: dict[str, object] | None = None, **plan: object) -> list[str]:
    return checked(**{"ranks": 2, **(settings or {})}, sweep=SweepPlan(**{**PLAN, **plan}))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"batch_sizes": [1, 65537]}, "--batch-sizes: must be numbers from 1 to 65536, as in 1,2,4,8"),
        ({"ranks": [0, 1]}, "--ranks: must be numbers from 1 to 256, as in 1,2"),
        ({"ranks": [1, 257]}, "--ranks: must be numbers from 1 to 256, as in 1,2"),
        ({"ranks": [3]}, "--ranks: 3 are to be measured, and the run has 2"),
        ({"least_seconds": 86_401.0}, "--seconds: must be from 0 to 86,400, not 86401.0"),
        ({"least_rounds": 10**9 + 1}, f"--rounds: must be at most {10**9}, not {10**9 + 1}"),
        ({"least_rounds": 250_001}, "--rounds: a trial would take 1,000,004 prompts, at most 1,000,000 are possible"),
        ({"trial_tokens": 0}, "--trial-tokens: must be at least 1, not 0"),
        (
            {"trial_tokens": 5, "outputs": True},
            "--trial-tokens: answers that are kept are not cut shorter; leave it out",
        ),
        ({"trial_tokens": 101}, "--trial-tokens: must be at most the 100 of --max-new-tokens, not 101"),
        ({"repeats": 501}, "--repeats: 2,004 trials are planned, at most 2,000 are possible"),
    ],
)
def test_a_plan_that_nobody_can_measure_is_refused_with_why(plan, message):
    assert swept(**plan) == [message]


@pytest.mark.parametrize(
    "plan",
    [
        {"batch_sizes": [1, 65536], "least_rounds": 1},
        {"repeats": 500},
        {"repeats": 1000, "batch_sizes": [1, 1], "ranks": [1, 2, 2]},
        {"repeats": 1, "least_rounds": 1, "least_seconds": 0.0},
        {"least_seconds": 86_400.0},
        {"least_rounds": 250_000},
        {"trial_tokens": 1},
        {"trial_tokens": 100},
    ],
)
def test_a_plan_at_its_bounds_can_be_measured(plan):
    assert swept(**plan) == []


def test_a_sweep_draws_from_one_line_only():
    assert swept({"dispatch": "split"}) == ["--dispatch: a sweep has all ranks draw from one line; leave it out"]


def test_a_plan_without_any_repeat_is_said_to_be_so_once():
    assert swept(repeats=0) == ["--repeats: must be at least 1, not 0"]


def test_answers_of_a_sweep_may_be_cut_shorter_than_those_of_its_run():
    assert RunConfig(prompts="p", max_new_tokens=50).new_tokens == 50
    whole, cut = SweepPlan(**PLAN), SweepPlan(**PLAN, trial_tokens=8)
    assert RunConfig(prompts="p", max_new_tokens=50, sweep=whole).new_tokens == 50
    assert RunConfig(prompts="p", max_new_tokens=50, sweep=cut).new_tokens == 8


def test_a_length_is_fixed_where_nothing_ends_an_answer_early():
    assert RunConfig(prompts="p").length_mode == "natural length"
    assert RunConfig(prompts="p", ignore_eos=True).length_mode == "fixed length"


def test_each_word_that_people_use_elsewhere_means_one_choice():
    """Written out by hand: who types the one means the other."""
    meant = {
        "float16": ("fp16", "f16", "half"),
        "bfloat16": ("bf16", "brainfloat16"),
        "float32": ("fp32", "f32", "float", "full"),
        "cuda": ("gpu", "gpus", "nvidia"),
        "bnb-8bit": ("8bit", "8-bit", "int8-bnb", "load_in_8bit"),
        "bnb-4bit": ("4bit", "4-bit", "nf4", "int4", "load_in_4bit"),
        "flash_attention_2": ("flash", "flash2", "fa2"),
        "flash_attention_3": ("flash3", "fa3"),
    }
    for choice, words in meant.items():
        for word in words:
            assert near(word.upper(), list(meant)) == f"; did you mean {choice}?", word


def test_a_trial_may_be_repeated_as_often_as_a_sweep_may_have_trials():
    alone = {"batch_sizes": [1], "ranks": [1]}
    assert swept(**alone, repeats=2000) == []
    assert "--repeats: must be at most 2000, not 2001" in swept(**alone, repeats=2001)


def test_a_sweep_needs_as_many_ranks_as_its_run_has_and_no_more():
    assert swept(ranks=[2]) == []
    assert swept(ranks=[1]) == []
    assert swept({"ranks": 1}, ranks=[1, 2]) == ["--ranks: 2 are to be measured, and the run has 1"]


def test_several_problems_of_a_plan_are_told_at_once():
    assert swept(batch_sizes=[], repeats=0, least_rounds=0, least_seconds=-1.0, trial_tokens=0) == [
        "--batch-sizes: must be numbers from 1 to 65536, as in 1,2,4,8",
        "--repeats: must be at least 1, not 0",
        "--rounds: must be at least 1, not 0",
        "--seconds: must be from 0 to 86,400, not -1.0",
        "--trial-tokens: must be at least 1, not 0",
    ]
