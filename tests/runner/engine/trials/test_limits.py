"""What a device can do at most: how it is timed, what it takes of the machine, and that it never ends a rank."""

import time
from types import SimpleNamespace

import pytest
import torch

from rankdeck.runner.engine import memory, packed_linear
from rankdeck.runner.engine.trials import exactly, limits
from rankdeck.runner.engine.trials.limits import (
    COPIES,
    CPU_BYTES,
    GPU_BYTES,
    GPU_MOST_SIZE,
    GPU_TOGETHER,
    LONG_ENOUGH_SECONDS,
    MOST_SIZE,
    PRODUCTS,
    Limits,
)

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture
def clock(monkeypatch):
    """A clock on which work takes what `passes` says; `waits` has how often the device was waited for."""
    one = SimpleNamespace(now=0.0, waits=[], freed=[])
    monkeypatch.setattr(time, "perf_counter", lambda: one.now)
    monkeypatch.setattr(memory, "synchronise", lambda devices: one.waits.append((devices, one.now)))
    monkeypatch.setattr(memory, "free_memory", one.freed.append)
    return one


# --- copies ---


@pytest.mark.parametrize(("device", "together"), [(CPU, 1), (META, GPU_TOGETHER)])
def test_the_bandwidth_is_of_the_fastest_copy_read_and_written_with_the_device_waited_for(
    monkeypatch, clock, device, together
):
    seconds, copied = iter([9.0, 2.0, 0.5, 4.0, 3.0, 3.0]), []

    def copy(target, source):
        copied.append((target.nbytes, source.nbytes))
        if len(copied) % together == 0:
            clock.now += next(seconds)

    monkeypatch.setattr(torch.Tensor, "copy_", copy)
    assert limits.copy_bandwidth(device, size=1000) == 2 * 1000 * together / 0.5
    assert copied == [(1000, 1000)] * COPIES * together
    assert [at for _, at in clock.waits] == [0, 9, 9, 11, 11, 11.5, 11.5, 15.5, 15.5, 18.5, 18.5, 21.5]
    assert all(devices == [device] for devices, _ in clock.waits)
    assert clock.freed == ([] if device is CPU else [META]), "what a GPU's allocator keeps is given back"


def test_what_is_copied_was_written_before_since_untouched_pages_are_all_one(monkeypatch):
    seen = []
    copy = torch.Tensor.copy_
    monkeypatch.setattr(torch.Tensor, "copy_", lambda to, of: seen.append(int(of.min())) or copy(to, of))
    limits.copy_bandwidth(CPU, size=4096)
    assert seen == [1] * COPIES


@pytest.mark.parametrize(("threads", "mebibytes"), [(1, 64), (4, 64), (8, 128), (16, 256), (96, 256)])
def test_a_cpu_copies_more_than_the_caches_of_the_cores_that_do_it_hold(monkeypatch, threads, mebibytes):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert limits._copied_bytes(CPU) == mebibytes * 2**20
    assert limits._copied_bytes(META) == GPU_BYTES == 256 * 2**20


@pytest.mark.parametrize(("short", "measured"), [(0, True), (1, False)])
def test_a_cpu_with_little_memory_left_copies_nothing_since_too_little_would_end_a_process(
    monkeypatch, short, measured
):
    monkeypatch.setattr(exactly, "free_bytes", lambda device: 4 * 2 * 4096 - short)
    assert (limits.copy_bandwidth(CPU, size=4096) is not None) == measured


# --- products ---


@pytest.fixture
def products(monkeypatch, clock):
    """Products that take `per_flop` seconds for each operation; `sizes` has how many rows those had that were asked."""
    one = SimpleNamespace(per_flop=1e-9, sizes=[], cold=0.0)

    def product(device, dtype, size):
        first = [one.cold]

        def multiply():
            one.sizes.append(size)
            clock.now += 2 * size**3 * one.per_flop + first[0]
            first[0] = 0.0

        return multiply

    monkeypatch.setattr(limits, "_product", product)
    return one


def test_the_size_doubles_until_a_product_takes_long_enough_and_the_rate_is_that_of_the_last(products):
    products.per_flop = 1e-11
    assert limits.matrix_rate(CPU, torch.float32) == pytest.approx(1e11)
    assert products.sizes == [128] * PRODUCTS + [256] * PRODUCTS + [512] * PRODUCTS + [1024] * PRODUCTS
    assert 2 * 512**3 * 1e-11 < LONG_ENOUGH_SECONDS <= 2 * 1024**3 * 1e-11


def test_kernels_that_are_loaded_by_the_first_product_of_a_size_do_not_count(products):
    products.per_flop, products.cold = 1e-11, 10.0
    assert limits.matrix_rate(CPU, torch.float32) == pytest.approx(1e11)


@pytest.mark.parametrize(("device", "most"), [(CPU, MOST_SIZE["cpu"]), (META, GPU_MOST_SIZE)])
def test_the_matrices_of_a_fast_device_are_of_bearable_size(products, device, most):
    products.per_flop = 1e-18
    assert limits.matrix_rate(device, torch.bfloat16) == pytest.approx(1e18)
    assert max(products.sizes) == most


def test_a_device_without_kernels_for_the_dtype_is_asked_for_little(products):
    products.per_flop = 1e-9
    assert limits.matrix_rate(CPU, torch.float16) == pytest.approx(1e9)
    assert max(products.sizes) == 256, "34 ms each, and the next ones 270"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_matrix_is_multiplied_by_itself_in_its_dtype(dtype):
    with torch.inference_mode():
        product = limits._product(CPU, dtype, 16)()
    matrix = torch.linspace(-1, 1, 256).view(16, 16).to(dtype)
    assert product.dtype == dtype
    wanted = matrix.double() @ matrix.double()
    assert any(torch.allclose(product.double(), one, atol=0.1) for one in (wanted, matrix.double() @ matrix.double().T))


def test_a_cpu_is_measured_with_the_kernels_that_its_models_use(monkeypatch):
    used = []
    monkeypatch.setattr(packed_linear, "has_kernels", lambda dtype: True)
    monkeypatch.setattr(limits, "PackedLinear", lambda linear, *, shared: used.append(linear.weight.shape) or id)
    limits._product(CPU, torch.float32, 16)()
    limits._product(CPU, torch.float16, 16)()
    assert used == [(16, 16)], "half types other than bfloat16 are not packed"
    monkeypatch.setattr(packed_linear, "has_kernels", lambda dtype: False)
    limits._product(CPU, torch.float32, 16)()
    assert len(used) == 1


# --- whatever happens ---


def test_both_are_measured_for_real_and_leave_random_numbers_and_gradients_as_they_are(monkeypatch):
    monkeypatch.setattr(limits, "CPU_BYTES", (2**20, 2**20))
    monkeypatch.setattr(limits, "LONG_ENOUGH_SECONDS", 0.0)
    before = torch.random.get_rng_state()
    found = limits.measured(CPU, torch.float32)
    assert 1e8 < found.bandwidth_bytes_per_second < 1e13
    assert 1e7 < found.matrix_flops_per_second < 1e14
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: misaligned address"),
        NotImplementedError("\"addmm_impl_cpu_\" not implemented for 'Float8_e4m3fn'"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_be_measured_is_not_known_and_no_rank_ends_of_it(monkeypatch, clock, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch, "ones", fail)
    monkeypatch.setattr(limits, "_product", fail)
    assert limits.measured(META, torch.float32) == Limits(None, None)
    assert clock.freed == [META, META]
    assert error.__traceback__ is None, "its frames hold the buffers"


def test_a_rank_that_is_told_to_end_ends(monkeypatch):
    def end(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(limits, "_product", end)
    with pytest.raises(KeyboardInterrupt):
        limits.matrix_rate(CPU, torch.float32)


def test_a_type_that_cannot_be_multiplied_has_no_rate():
    assert limits.matrix_rate(CPU, torch.bool) is None


def test_the_buffers_are_within_what_a_small_machine_has():
    assert 2 * CPU_BYTES[0] == 128 * 2**20
