"""What a device can do at most, measured: how fast it copies memory, and how fast it multiplies matrices.

Knows one device and torch; knows no model, and no other rank: the caller sees to it that the others are quiet. On
a CPU the figures are those of this process's threads, that is of one rank: several together share the machine's memory
bandwidth, and reach less than the sum. What cannot be measured (too little memory, a type that the device does not
multiply) is None, never an error: the work that follows notices a lost GPU.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from rankdeck.runner.engine import errors, memory, packed_linear
from rankdeck.runner.engine.packed_linear import PackedLinear
from rankdeck.runner.engine.trials import exactly

MIB = 2**20

GPU_BYTES = 256 * MIB
CPU_BYTES = (64 * MIB, 256 * MIB)
CPU_BYTES_PER_THREAD = 16 * MIB
"""How much is copied. On a CPU it grows with the threads, within those bounds: more than the caches of their cores hold
(up to 12 MiB each), but no more than that takes, as touching new memory takes longer than copying it."""

COPIES = 6
"""The first allocates the target."""

CPU_SHARE = 1 / 4
"""How much of the host's free memory the buffers may take: running out of it raises no error, but kills a process."""

PRODUCTS = 4
"""Of each size; the first loads its kernels."""

LEAST_SIZE = 128
MOST_SIZE = {"cpu": 4096}
GPU_MOST_SIZE = 8192
"""Rows and columns of the matrices. An H200 takes 1.5 ms for a product of the largest in bfloat16."""

LONG_ENOUGH_SECONDS = 0.005
"""The size doubles until the timing takes this long, so that small caches, launches and thread starts no longer matter.
On a CPU the largest product then takes up to eight times as long."""

GPU_TOGETHER = 8
"""Copies or products that are timed together on a GPU: a copy takes about 0.2 ms, a tenth of it launch and wait."""


class Limits(NamedTuple):
    """The figures of a device, None where they could not be measured; named as in RankReady."""

    bandwidth_bytes_per_second: float | None = None
    matrix_flops_per_second: float | None = None


def measured(device: torch.device, dtype: torch.dtype) -> Limits:
    """Both figures of `device`; `dtype` is that of the matrices. Takes 0.1 to 0.3 s on two cores."""
    return Limits(copy_bandwidth(device), matrix_rate(device, dtype))


def copy_bandwidth(device: torch.device, size: int | None = None) -> float | None:
    """Bytes/s, reads and writes together, of copying `size` bytes on the device: the best of several copies.

    None if two buffers of `size` do not fit.
    """
    count = _copied_bytes(device) if size is None else size
    if device.type == "cpu" and 2 * count > CPU_SHARE * exactly.free_bytes(device):
        return None

    def rate() -> float:
        # Written to, as pages that never were are all read from a single one, which stays in the cache.
        source = torch.ones(count, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        return 2 * count / _best_seconds(device, lambda: target.copy_(source), COPIES)

    return _found(device, rate)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOP/s of multiplying two large square matrices of `dtype`, 2 n^3 for n rows: the best of several products.

    On a CPU that has the kernels of `runner.engine.packed_linear` they are used, as they are for the model.
    """

    def rate() -> float:
        size, together = LEAST_SIZE, _together(device)
        while True:
            seconds = _best_seconds(device, _product(device, dtype, size), PRODUCTS)
            if seconds * together >= LONG_ENOUGH_SECONDS or size >= MOST_SIZE.get(device.type, GPU_MOST_SIZE):
                return float(2 * size**3 / seconds)
            size *= 2

    return _found(device, rate)


def _copied_bytes(device: torch.device) -> int:
    least, most = CPU_BYTES
    return min(most, max(least, CPU_BYTES_PER_THREAD * torch.get_num_threads())) if device.type == "cpu" else GPU_BYTES


def _product(device: torch.device, dtype: torch.dtype, size: int) -> Callable[[], object]:
    """Multiplies a matrix of `size` rows and columns by itself."""
    # No random numbers: the generator that answers are sampled with must keep its state.
    matrix = torch.linspace(-1, 1, size * size, device=device).view(size, size).to(dtype)
    if device.type == "cpu" and dtype in packed_linear.DTYPES and packed_linear.has_kernels(dtype):
        linear = torch.nn.Linear(size, size, bias=False, device="meta")
        linear.weight = torch.nn.Parameter(matrix, requires_grad=False)
        layer = PackedLinear(linear, shared=False)
        return lambda: layer(matrix)
    result = torch.empty_like(matrix)
    return lambda: torch.mm(matrix, matrix, out=result)


def _best_seconds(device: torch.device, work: Callable[[], object], repeats: int) -> float:
    """The shortest of `repeats` timings of `work`, each until the device is done."""
    best, together = float("inf"), _together(device)
    for _ in range(repeats):
        memory.synchronise([device])
        started = time.perf_counter()
        for _ in range(together):
            work()
        memory.synchronise([device])
        best = min(best, time.perf_counter() - started)
    return best / together


def _together(device: torch.device) -> int:
    return 1 if device.type == "cpu" else GPU_TOGETHER


def _found(device: torch.device, rate: Callable[[], float]) -> float | None:
    try:
        with torch.inference_mode():
            return rate()
    except Exception as error:
        errors.forget_frames(error)
        return None
    finally:
        if device.type != "cpu":  # there the buffers are gone already, and collecting garbage takes longer than a copy
            memory.free_memory(device)
