"""Memory of a rank's GPUs: shares, what is left of them, what is said when it is not enough. torch.cuda is fake."""

from itertools import repeat

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
