"""Memory of a rank's GPUs: shares, what is left of them, what is said when it is not enough. torch.cuda is fake."""

from itertools import repeat
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.engine import memory
from rankdeck.runner.engine.memory import LIBRARIES_BYTES, NotEnoughMemoryError, Share
from tests.fake_cuda import GIB, FakeCuda

GPU = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("free", "ranks", "fraction"),
    [
        (80 * GIB, 1, 79.75 / 80),
        (79 * GIB, 2, 39.25 / 80),  # two contexts of half a GiB
        (40 * GIB, 2, 19.75 / 80),  # another process has half of it
        (GIB // 4, 2, 0.0),
    ],
)
def test_ranks_on_a_gpu_share_what_is_left_of_it(free, ranks, fraction):
    assert memory.share_of(free, 80 * GIB, ranks) == pytest.approx(fraction)


@given(total=st.integers(GIB, 300 * GIB), used=st.floats(0, 1), ranks=st.integers(1, 64))
def test_all_shares_together_never_exceed_what_is_free(total, used, ranks):
    free = int(used * total)
    fraction = memory.share_of(free, total, ranks)
    assert 0 <= fraction <= 1
    assert ranks * (fraction * total + LIBRARIES_BYTES) <= free + 1 or fraction == 0


def test_a_rank_is_held_to_its_share_and_what_is_left_of_it_counts_what_it_has_reserved(monkeypatch):
    cuda = FakeCuda(free=79 * GIB).install(monkeypatch)
    share = memory.hold_to_share(GPU, 2, gpus=3)
    assert share == Share(2, int(39.25 * GIB), 3)
    assert cuda.fractions == {"cuda:0": pytest.approx(39.25 / 80)}
    cuda.reserved, cuda.free = 15 * GIB, 60 * GIB
    assert memory.left_of(share, GPU) == int(24.25 * GIB)
    cuda.free = 9 * GIB
    assert memory.left_of(share, GPU) == 9 * GIB, "others have taken more than was foreseen"
    cuda.reserved = 50 * GIB
    assert memory.left_of(share, GPU) == 0


@pytest.mark.parametrize("why", ["unknown error", "out of memory"])
def test_where_expandable_segments_do_not_work_they_are_turned_off_and_that_is_said(monkeypatch, why):
    settings = []
    monkeypatch.setattr(torch.cuda.memory, "_set_allocator_settings", settings.append)

    def allocate(_):
        if not settings:
            raise RuntimeError(f"CUDA driver error: {why}")

    monkeypatch.setattr(memory, "_allocate", allocate)
    said = memory.without_expandable_segments(GPU)
    assert "without expandable segments" in said
    assert f"CUDA driver error: {why}" in said
    assert settings == ["expandable_segments:False"]
    assert memory.without_expandable_segments(GPU) is None, "they are off now"


def test_memory_that_is_merely_full_leaves_expandable_segments_on(monkeypatch):
    monkeypatch.setattr(torch.cuda.memory, "_set_allocator_settings", lambda _: pytest.fail("turned off"))

    def allocate(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")

    monkeypatch.setattr(memory, "_allocate", allocate)
    assert memory.without_expandable_segments(GPU) is None


def test_the_reserve_of_the_allocator_is_measured_beside_what_is_allocated(monkeypatch):
    FakeCuda(allocated=4 * GIB, reserved=60 * GIB).install(monkeypatch)
    two = [GPU, torch.device("cuda", 1)]
    assert (memory.peak_bytes(two), memory.peak_reserved_bytes(two)) == (8 * GIB, 120 * GIB)
    cpu = [torch.device("cpu")]
    assert (memory.peak_bytes(cpu), memory.peak_reserved_bytes(cpu)) == (None, None)


def test_a_gpu_that_is_lost_takes_no_memory_back_and_that_is_no_second_error(monkeypatch):
    cuda = FakeCuda(empty_cache_raises=RuntimeError("CUDA error: an illegal memory access")).install(monkeypatch)
    memory.free_memory(GPU)
    assert cuda.calls == ["empty_cache"]


def said(monkeypatch, devices=(GPU,), share=None, error=None, ranks=1, gpus=1, **figures) -> str:
    FakeCuda(**figures).install(monkeypatch)
    explained = memory.explained("loading the model", devices, share, ranks=ranks, gpus=gpus)
    with pytest.raises(NotEnoughMemoryError) as raised, explained:
        raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")
    assert raised.value.__cause__ is not None
    return str(raised.value)


def test_a_model_that_does_not_fit_is_said_with_figures_and_what_to_do(monkeypatch):
    assert said(monkeypatch, gpus=8, free=3 * GIB, reserved=75 * GIB) == (
        "not enough memory for loading the model: cuda:0 has 80.0 GiB, 3.0 GiB of them free, and this rank holds "
        "75.0 GiB. Spread the model over more GPUs (--gpus-per-rank 2), or make it smaller (--quantization) "
        "(OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.)"
    )


def test_where_other_processes_have_the_memory_that_is_said(monkeypatch):
    text = said(monkeypatch, free=3 * GIB, reserved=10 * GIB)
    assert "Stop what else runs there, or make it smaller" in text, "there is no other GPU to spread it over"


def test_a_rank_that_shares_its_gpu_is_told_its_share_and_to_run_fewer(monkeypatch):
    text = said(monkeypatch, share=Share(3, 26 * GIB, 4), gpus=4, free=2 * GIB, reserved=25 * GIB)
    assert "this rank holds 25.0 GiB of the 26.0 GiB that it may take as one of 3 ranks there" in text
    assert "Run fewer ranks (--ranks 8), spread" in text


def test_a_rank_on_several_gpus_names_them_and_their_sums(monkeypatch):
    text = said(monkeypatch, [GPU, torch.device("cuda", 1)], gpus=4, free=3 * GIB, reserved=75 * GIB)
    assert "cuda:0, cuda:1 have 160.0 GiB, 6.0 GiB of them free, and this rank holds 150.0 GiB" in text
    assert "--gpus-per-rank 4" in text


def test_only_what_the_run_s_gpus_allow_is_advised(monkeypatch):
    assert "(--gpus-per-rank 2 --ranks 4)" in said(monkeypatch, ranks=8, gpus=8)
    assert "--gpus-per-rank" not in said(monkeypatch, [GPU, torch.device("cuda", 1)], gpus=2)


def test_an_out_of_memory_that_a_library_keeps_to_itself_is_known_by_the_allocator_s_count(monkeypatch):
    cuda = FakeCuda().install(monkeypatch)

    def load(times_out_of_memory):
        cuda.out_of_memory += times_out_of_memory
        raise RuntimeError("We encountered some issues during automatic conversion of the weights.")

    with pytest.raises(NotEnoughMemoryError, match="some issues"), memory.explained("loading the model", [GPU], None):
        load(1)
    with pytest.raises(RuntimeError, match=r"^We encountered"), memory.explained("loading the model", [GPU], None):
        load(0)


def test_a_host_that_runs_out_is_said_too(monkeypatch):
    text = said(monkeypatch, [torch.device("cpu")], error=MemoryError())
    assert "of this machine's" in text
    assert "fewer ranks (--ranks)" in text


def test_where_the_gpu_does_not_even_tell_its_figures_the_error_stands_alone(monkeypatch):
    cuda = FakeCuda().install(monkeypatch)
    error = RuntimeError("Triton Error [CUDA]: out of memory")

    def lost(device):
        raise RuntimeError("CUDA error: unknown error")

    monkeypatch.setattr(torch.cuda, "mem_get_info", lost)
    with pytest.raises(NotEnoughMemoryError) as raised, memory.explained("warming up", [GPU], None):
        raise error
    assert str(raised.value) == f"not enough memory for warming up: RuntimeError: {error}"
    assert cuda.calls == []


def test_errors_of_any_other_kind_pass_as_they_are():
    with pytest.raises(OSError, match="no such file"), memory.explained("loading the model", [GPU], None):
        raise OSError("no such file")


def test_a_gpu_is_lost_only_if_it_fails_twice_in_a_row(monkeypatch):
    cuda = FakeCuda().install(monkeypatch)
    cuda.broken = iter([RuntimeError("late")])
    assert not memory.is_lost(ValueError("bad"), [GPU])
    cuda.broken = repeat(RuntimeError("CUDA error: unknown error"))
    assert memory.is_lost(ValueError("bad"), [GPU])
    assert not memory.is_lost(ValueError("bad"), [torch.device("cpu")])


CPU = torch.device("cpu")
TWO = [GPU, torch.device("cuda", 1)]


def test_only_gpus_are_waited_for_and_reset_each_of_them(monkeypatch):
    cuda = FakeCuda().install(monkeypatch)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: cuda.calls.append(f"reset {device}"))
    memory.synchronise([*TWO, CPU])
    memory.reset_peaks([*TWO, CPU])
    assert cuda.calls == ["synchronize cuda:0", "synchronize cuda:1", "reset cuda:0", "reset cuda:1"]


def test_memory_is_freed_after_what_holds_it_and_on_a_cpu_there_is_no_reserve(monkeypatch):
    cuda = FakeCuda().install(monkeypatch)
    monkeypatch.setattr(memory.gc, "collect", lambda: cuda.calls.append("collected"))
    memory.free_memory(GPU)
    memory.free_memory(CPU)
    assert cuda.calls == ["collected", "empty_cache", "collected"]


def test_what_is_free_is_that_of_all_gpus_or_of_the_host(monkeypatch):
    FakeCuda(free=3 * GIB, total=5 * GIB).install(monkeypatch)
    assert memory.free_and_total([GPU]) == (3 * GIB, 5 * GIB)
    assert memory.free_and_total(TWO) == (6 * GIB, 10 * GIB)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=2, total=7, free=1))
    assert memory.free_and_total([CPU]) == (2, 7)


def test_the_fraction_of_a_gpu_is_that_of_this_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 0.25 if device == GPU else 1.0)
    assert memory.fraction_of(GPU) == 0.25


def test_what_is_said_of_expandable_segments_names_the_error_and_what_follows(monkeypatch):
    monkeypatch.setattr(torch.cuda.memory, "_set_allocator_settings", lambda _: None)
    raised: list[Exception] = [RuntimeError("CUDA driver error: unknown error\nadvice"), torch.OutOfMemoryError("full")]

    def allocate(device):
        assert device == GPU
        if raised:
            raise raised.pop(0)

    monkeypatch.setattr(memory, "_allocate", allocate)
    assert memory.without_expandable_segments(GPU) == (
        "torch runs without expandable segments, which do not work on this machine (RuntimeError: CUDA driver error: "
        "unknown error): memory may fragment"
    )
    raised += [RuntimeError("one"), RuntimeError("two")]
    with pytest.raises(RuntimeError, match="two"):
        memory.without_expandable_segments(GPU)


def test_one_byte_is_tried_on_the_device_itself():
    asked = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "empty", lambda *given, **named: asked.append((given, named)))
        memory._allocate(GPU)
    assert asked == [((1,), {"device": GPU})]


# --- the words, figure by figure ---


def told(names=("cuda:0",), free=3, held=75, share=None, ranks=1, gpus=1) -> str:
    return memory.on_gpus(names, free * GIB, 80 * GIB, held * GIB, share, ranks=ranks, gpus=gpus)


def test_what_the_host_has_is_said_in_gibibytes_with_what_to_do():
    assert memory.on_the_host(GIB // 2, 16 * GIB) == (
        "0.5 GiB of this machine's 16.0 GiB are free. Run fewer ranks (--ranks), use a smaller model, or stop other "
        "programs that take memory"
    )


def test_a_gpu_without_another_beside_it_leaves_only_a_smaller_model():
    assert told() == (
        "cuda:0 has 80.0 GiB, 3.0 GiB of them free, and this rank holds 75.0 GiB. Make it smaller (--quantization)"
    )


@pytest.mark.parametrize(
    ("names", "ranks", "gpus", "advice"),
    [
        (1, 1, 1, "Make"),
        (1, 1, 2, "Spread the model over more GPUs (--gpus-per-rank 2), or make"),
        (1, 2, 2, "Spread the model over more GPUs (--gpus-per-rank 2 --ranks 1), or make"),
        (1, 1, 3, "Spread the model over more GPUs (--gpus-per-rank 2), or make"),
        (2, 1, 3, "Make"),
        (2, 2, 4, "Spread the model over more GPUs (--gpus-per-rank 4 --ranks 1), or make"),
        (2, 4, 16, "Spread the model over more GPUs (--gpus-per-rank 4), or make"),
        (2, 5, 16, "Spread the model over more GPUs (--gpus-per-rank 4 --ranks 4), or make"),
    ],
)
def test_twice_as_many_gpus_are_advised_where_the_run_has_them_with_no_more_ranks_than_they_take(
    names, ranks, gpus, advice
):
    text = told([f"cuda:{index}" for index in range(names)], ranks=ranks, gpus=gpus)
    assert text.partition("holds 75.0 GiB. ")[2].startswith(advice)


@pytest.mark.parametrize(
    ("free", "held", "others"), [(3, 38, True), (3, 38.5, False), (77.9, 0, True), (78, 0, False), (78, 1, False)]
)
def test_other_programs_are_named_where_twice_what_this_rank_holds_is_taken_and_more_than_two_gibibytes(
    free, held, others
):
    text = memory.on_gpus(["cuda:0"], int(free * GIB), 80 * GIB, int(held * GIB), None, ranks=1, gpus=1)
    assert ("Stop what else runs there, or make it smaller (--quantization)" in text) == others


def test_ranks_that_share_are_advised_first_to_run_one_less_on_each_gpu():
    text = told(share=Share(2, 26 * GIB, 3), free=1, held=2, ranks=6, gpus=3)
    assert text == (
        "cuda:0 has 80.0 GiB, 1.0 GiB of them free, and this rank holds 2.0 GiB of the 26.0 GiB that it may take as "
        "one of 2 ranks there. Run fewer ranks (--ranks 3), spread the model over more GPUs (--gpus-per-rank 2 --ranks "
        "1), or make it smaller (--quantization)"
    )


def test_what_a_rank_holds_is_counted_on_all_its_gpus_and_out_of_memory_on_each_of_them(monkeypatch):
    cuda = FakeCuda(reserved=4 * GIB, free=70 * GIB).install(monkeypatch)
    asked = []
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: asked.append(str(device)) or {})
    assert "this rank holds 8.0 GiB" in memory._figures(TWO, None, 1, 2)
    assert memory._times_out_of_memory([*TWO, CPU]) == 0
    assert asked == ["cuda:0", "cuda:1"]
    assert cuda.calls == ["mem_get_info cuda:0", "mem_get_info cuda:1"]
