"""What the continuous engine tries on which GPU, for which run. The GPUs and the packages are stand-ins."""

from types import SimpleNamespace

import pytest
import torch

from rankdeck.runner.engine.paged import attempts as tried
from rankdeck.runner.engine.paged.attempts import COMPILING_PAYS_STEPS, PLAIN, Attempt, Attempts, attempts, is_long
from rankdeck.runner.inputs.flash_attention import FlashFound
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan

GPU = torch.device("cuda", 1)
KERNELS = FlashFound(kernels="0.18.2", kernels_fit=True)
FLASH_2, FLASH_3 = Attempt("flash_attention_2"), Attempt("flash_attention_3")


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A Hopper GPU, with `kernels` and Triton."""
    here = SimpleNamespace(capability=(9, 0), found=KERNELS, triton=object())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: here.capability if device == GPU else None)
    monkeypatch.setattr(tried.flash_packages, "look", lambda: here.found)
    monkeypatch.setattr(tried.importlib.util, "find_spec", lambda name: here.triton if name == "triton" else None)
    return here


def model(dtype=torch.bfloat16, flash=True, own="sdpa"):
    return SimpleNamespace(
        dtype=dtype, _supports_flash_attn=flash, config=SimpleNamespace(_attn_implementation=own)
    )  # fmt: skip


def found(loaded=None, device=GPU, prompts=None, **settings) -> Attempts:
    return attempts(RunConfig(prompts="p", **settings), device, loaded or model(), prompts)


def test_flash_attention_is_asked_for_the_fastest_first_and_the_plain_way_is_the_last(machine):
    assert found() == Attempts((FLASH_3, FLASH_2, PLAIN))
    machine.capability = (8, 6)
    assert found(model(torch.float16)) == Attempts((FLASH_2, PLAIN))


@pytest.mark.parametrize(
    "given",
    [
        {"loaded": model(torch.float32)},
        {"loaded": model(flash=False)},
        {"attention": "sdpa"},
        {"device": torch.device("cpu")},
    ],
)
def test_it_is_not_asked_for_nor_missed_where_it_does_not_compute_or_another_is_wished_for(machine, given):
    machine.found = FlashFound()
    assert found(**given) == Attempts((PLAIN,))


def test_a_gpu_that_cannot_compute_it_does_not_miss_it(machine):
    machine.capability, machine.found = (7, 5), FlashFound()
    assert found() == Attempts((PLAIN,))


def test_where_it_is_missing_one_line_says_what_that_costs_and_the_cure(machine):
    machine.found = FlashFound()
    assert found() == Attempts(
        (PLAIN,),
        "without flash attention transformers' continuous batching needs a mask, and runs without CUDA graphs: "
        "flash-attn and kernels are not installed; pip install 'rankdeck[gpu]'",
    )


def test_offline_a_kernel_that_is_not_in_the_cache_is_not_tried(machine):
    machine.found = FlashFound(kernels="0.18.2", kernels_fit=True, offline=True)
    each, note = found()
    assert each == (PLAIN,)
    assert note.endswith("unset HF_HUB_OFFLINE for one run: the kernel stays in the cache")


def test_a_long_job_is_compiled_where_flash_attention_is_there_and_goes_on_without_if_that_fails(machine):
    compiled_2, compiled_3 = Attempt("flash_attention_2", True), Attempt("flash_attention_3", True)
    assert found(prompts=10**8).each == (compiled_3, FLASH_3, compiled_2, FLASH_2, PLAIN)
    asked_for = found(model(own="flash_attention_2"), attention="flash_attention_2", prompts=10**8)
    assert asked_for.each == (Attempt(compiled=True), PLAIN)
    assert found(model(torch.float32), prompts=10**8).each == (PLAIN,)
    machine.triton = None
    assert found(prompts=10**8).each == (FLASH_3, FLASH_2, PLAIN)


@pytest.mark.parametrize(
    ("prompts", "run", "long"),
    [
        (COMPILING_PAYS_STEPS * 256 // 100, {}, True),
        (COMPILING_PAYS_STEPS * 256 // 100 - 256, {}, False),
        (COMPILING_PAYS_STEPS * 256 // 100, {"ranks": 2}, False),
        (COMPILING_PAYS_STEPS * 16 // 100, {"batch_size": 16}, True),
        (COMPILING_PAYS_STEPS, {"batch_size": 1, "max_new_tokens": 1}, True),
        (10**9, {"sweep": SweepPlan(batch_sizes=[1], ranks=[1])}, False),
        (None, {}, False),
    ],
)
def test_a_job_is_long_by_the_decode_steps_that_a_rank_may_have(prompts, run, long):
    assert is_long(RunConfig(prompts="p", **run), prompts) is long


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        (FLASH_2, "flash_attention_2"),
        (Attempt(compiled=True), "compiled decode steps"),
        (Attempt("flash_attention_3", True), "flash_attention_3 and compiled decode steps"),
    ],
)
def test_an_attempt_is_named_by_what_it_has(attempt, said):
    assert str(attempt) == said
