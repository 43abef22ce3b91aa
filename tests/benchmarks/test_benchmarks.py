"""What the benchmarks compute themselves: prompts, samples of nvidia-smi, ratios; and that they can still be run."""

import argparse
import dataclasses
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rankdeck.runner.inputs.vllm_package import Build
from rankdeck.runner.machine import processes
from tests import ROOT
from tests.benchmarks import each_at_its_best, engines, mixed, nvidia_smi, roofline, sides


def test_the_questions_about_one_passage_share_most_of_their_text_and_nothing_of_the_question() -> None:
    prompts = mixed.about_one_passage()
    assert prompts == mixed.about_one_passage()
    (passage,) = {text.split("\n\n")[0] for text in prompts}
    assert 1200 < len(passage) < 2400
    assert len(set(prompts)) > 100


def test_the_mixed_file_is_the_same_every_time_and_has_short_and_long_prompts() -> None:
    prompts = mixed.prompts()
    assert prompts == mixed.prompts()
    words = sorted(len(prompt.split()) for prompt in prompts)
    assert len(words) == 200
    assert words[0] <= 5
    assert words[100] <= 30
    assert words[-1] >= 150
    assert not any("{" in prompt for prompt in prompts)


def test_a_line_of_nvidia_smi_is_read_and_what_is_no_number_is_left_out() -> None:
    at, figures = nvidia_smi.parsed("2026/11/22 10:20:30.500, 97, 2, 412.33, [N/A]") or (0.0, {})
    assert at % 1 == 0.5
    assert figures == {"busy_percent": 97, "memory_used_bytes": 2 * 2**20, "power_watts": 412.33}
    assert nvidia_smi.parsed("No devices were found") is None


def test_means_of_samples_are_those_between_two_times() -> None:
    samples = [(at, {"power_watts": 100.0 * at}) for at in (1.0, 2.0, 3.0, 9.0)]
    assert nvidia_smi.means(samples, 2.0, 4.0) == {"power_watts": 250.0, "samples": 2}
    assert nvidia_smi.means(samples, 5.0, 6.0) == {}


def test_an_nvidia_smi_that_hangs_in_the_driver_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    class Hanging:
        def __init__(self, *_: object, **__: object) -> None: ...

        def terminate(self) -> None:
            told.append("terminate")

        def kill(self) -> None:
            told.append("kill")

        def wait(self, timeout: float | None = None) -> None:
            assert timeout is not None, "this would wait for ever"
            raise subprocess.TimeoutExpired("nvidia-smi", timeout)

    monkeypatch.setattr(nvidia_smi.shutil, "which", lambda name: name)
    monkeypatch.setattr(nvidia_smi.subprocess, "Popen", Hanging)
    with nvidia_smi.NvidiaSmi(tmp_path / "smi.csv"):
        pass
    assert told == ["terminate", "kill"]


def test_settings_become_flags_and_those_that_are_off_are_left_out() -> None:
    settings = {"batch_size": 16, "ignore_eos": True, "chat": False, "limit": None}
    assert sides.flags(settings) == ["--batch-size", "16", "--ignore-eos"]


@pytest.fixture(autouse=True)
def _no_look_at_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "QUIET_SECONDS", 0.001)


def test_a_side_waits_for_a_quiet_machine_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = iter([90.0, 40.0, 3.0, 90.0])
    monkeypatch.setattr(sides.psutil, "cpu_percent", lambda _: next(busy))
    assert sides.busy_once_quiet(60) == 0.03
    assert sides.busy_once_quiet(0) == 0.9


def test_sides_take_turns_in_beginning_and_are_compared_within_a_round() -> None:
    begun: list[str] = []

    def side(name: str, rate: float) -> sides.Figures:
        begun.append(name)
        return {"tokens_per_second": rate * len(begun), "output_tokens": 10, "seconds": 1.0}

    done = sides.rounds({"plain": lambda: side("plain", 1), "ours": lambda: side("ours", 2)}, 2)
    assert begun == ["plain", "ours", "ours", "plain"]
    assert sides.compared(done, "plain")["ratios"] == {"ours": [4.0, 1.5]}


def test_another_number_of_tokens_is_other_work_at_fixed_length_and_within_bounds_at_natural(tmp_path: Path) -> None:
    figures = {"one": {"prompts": 4, "output_tokens": 100}, "two": {"prompts": 4, "output_tokens": 101}}
    natural = sides.Job(model="", prompts=tmp_path, new_tokens=1)
    sides.check_same_work(figures, natural, 0.02)
    with pytest.raises(AssertionError, match="not the same work"):
        sides.check_same_work(figures, dataclasses.replace(natural, fixed=True), 0.02)


def asked_for(*said: str) -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    parser = engines.arguments()
    return parser.parse_args(["--repeats", "1", *said]), parser


def test_a_side_that_cannot_be_had_is_left_out_with_its_reason_and_the_others_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = {"plain": 10.0, "ours": 20.0, "others": 5.0}
    known = {
        name: lambda rate=rate: {"prompts": 4, "output_tokens": 100, "seconds": 1.0, "tokens_per_second": rate}
        for name, rate in rates.items()
    }
    job = sides.Job(model="", prompts=tmp_path, new_tokens=1, fixed=True)
    options, parser = asked_for("--sides", "plain,vllm,ours,others")
    sides.compare("engines", job, known, options, parser, {"vllm": "no --vllm-python", "llama.cpp": "no such thing"})
    out, err = capsys.readouterr()
    line = json.loads(out)
    assert line["base"] == "plain"
    assert line["ratio"] == {"ours": 2.0, "others": 0.5}
    assert line["ratio_over"] == {"ours": {"plain": 0.5, "others": 0.25}, "others": {"plain": 2.0, "ours": 4.0}}
    assert "left out: vllm: no --vllm-python" in err
    assert "llama.cpp" not in err, "nobody asked for it"


@pytest.mark.parametrize(("sides_asked", "said"), [("article,ours", "'ours' is none of article"), ("vllm", "vllm")])
def test_sides_that_are_unknown_or_all_missing_are_a_wrong_argument(
    sides_asked: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = sides.Job(model="", prompts=tmp_path, new_tokens=1)
    options, parser = asked_for("--sides", sides_asked)
    with pytest.raises(SystemExit, match="2"):
        sides.compare("engines", job, {"article": dict}, options, parser, {"vllm": "no --vllm-python"})
    assert said in capsys.readouterr().err


def test_engines_of_other_environments_are_missing_until_a_python_that_has_them_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("RANKDECK_VLLM_PYTHON", "RANKDECK_LLAMA_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    reasons = engines.missing_of(asked_for("--vllm-python", str(tmp_path / "python"))[0])
    assert reasons["llama.cpp"] == "no --llama-python"
    assert reasons["vllm"] == reasons["vllm-eager"] == f"{tmp_path / 'python'} has no vllm"
    monkeypatch.setenv("RANKDECK_VLLM_PYTHON", sys.executable)
    monkeypatch.setattr(engines, "OUTSIDE", ((("vllm", "vllm-eager"), "vllm", "json"),))
    assert not {"vllm", "vllm-eager"} & engines.missing_of(asked_for()[0]).keys()


def test_vllm_computes_on_every_core_and_asks_nobody_anything() -> None:
    environment = engines.vllm_environment()
    assert len(environment["VLLM_CPU_OMP_THREADS_BIND"].split(",")) == processes.usable_cores()
    assert [environment[name] for name in ("HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK")] == ["1"] * 3


def test_many_rows_have_fewer_new_tokens_but_always_decode_steps_to_measure() -> None:
    assert [roofline.tokens_of(rows, 32) for rows in (1, 16, 64, 128, 256, 4096)] == [32, 32, 32, 16, 8, 8]
    assert roofline.tokens_of(4096, 2) == 2


OURS = sorted({path.stem for path in sides.BENCHMARKS.glob("[!_]*.py")} - {"test_benchmarks", "llama_cpp_alone"})
"""All but the one that needs another package, and nothing of rankdeck."""


@pytest.mark.parametrize("name", OURS)
def test_a_benchmark_imports_nothing_from_rankdeck_that_is_no_longer_there(name: str) -> None:
    importlib.import_module(f"tests.benchmarks.{name}")


def test_the_load_benchmark_has_a_supervisor_give_ranks_work_and_viewers_see_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.03")  # a batch in half a second
    command = [sys.executable, "-m", "tests.benchmarks.load", "--ranks", "2", "--viewers", "1", "--seconds", "1.5"]
    done = sides.finished([*command, "--prompts", "2000"], seconds=120)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["ranks"], figures["viewers"]) == (2, 1)
    # How fast it was is not for a test to say; it ends with an error unless every rank has done a batch.
    assert figures["events_per_second_per_viewer"] > 0
    assert figures["supervisor_rss_mib"] > 0
    assert {"messages_per_second_per_rank", "supervisor_cpu_percent", "dispatch_seconds"} <= figures.keys()


def test_each_engine_takes_its_turn_at_the_batch_size_that_was_best_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    best, ran = {"static": 8, "vllm": 4}, []

    def run(_: sides.Job, settings: dict[str, object], folder: Path) -> sides.Figures:
        size = settings["batch_size"]
        ran.append((settings["engine"], size))
        rate = 100.0 if size == best[str(settings["engine"])] else 50.0
        return {"prompts": 3, "output_tokens": 9, "seconds": 1.0, "tokens_per_second": rate, "padding_waste": None}

    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))  # which is changed, and is to be as it was
    monkeypatch.setattr(sides, "rankdeck", run)
    monkeypatch.setattr(sides, "demo_model", lambda: "m")
    monkeypatch.setattr(sides, "busy_once_quiet", lambda wait: 0.0)
    monkeypatch.setattr(each_at_its_best, "missing_of", lambda device: {})
    asked = ["--limit", "3", "--batch-sizes", "4,8", "--sides", "static,vllm", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["each_at_its_best", *asked])
    each_at_its_best.main()
    figures = json.loads(capsys.readouterr().out)
    assert figures["batch_size"] == best
    assert figures["tuning"] == {"static": {"4": 50.0, "8": 100.0}, "vllm": {"4": 100.0, "8": 50.0}}
    assert ran[-2:] == [("static", 8), ("vllm", 4)]
    assert figures["ratio"] == {"vllm": 1.0}
    assert figures["padding_waste"] == {}


def test_vllm_is_left_out_where_it_is_not_or_is_built_for_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(each_at_its_best.vllm_package, "installed", lambda: None)
    assert each_at_its_best.missing_of("cpu") == {"vllm": "this Python has no vLLM"}
    monkeypatch.setattr(each_at_its_best.vllm_package, "installed", lambda: Build("0.32", "cpu"))
    assert each_at_its_best.missing_of("cpu") == {}
    assert each_at_its_best.missing_of("cuda") == {"vllm": "this vLLM is 0.32, built for the CPU"}
