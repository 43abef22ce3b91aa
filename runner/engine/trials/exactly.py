"""A model in a half type, in float32 for as long as a trial takes: there a fault is no matter of tolerance.

Knows parameters, buffers and packed layers; knows no trials. Nothing is loaded again: float32 holds each value of the
half types, and afterwards the model has the very tensors that it had before.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch

from rankdeck.runner.engine import errors, memory, packed_linear
from rankdeck.runner.engine.packed_linear import PackedLinear

HALF = (torch.bfloat16, torch.float16)

BYTES = 8
"""Of memory for each parameter: four in float32, two for a packed layer laid out, and room to compute."""

SHARE = {"cpu": 1 / 16}
GPU_SHARE = 1 / 4
"""Of the free memory that this may take. Other ranks try at the same time, on a CPU all of them beside each other, and
there too little memory is no error: the system ends a process.
"""

CONTAINER = Path("/sys/fs/cgroup")
"""Where Linux tells a container how much memory it may have, and has."""

Found = TypeVar("Found")


def tried(model: Any, device: torch.device, trial: Callable[[], Found]) -> Found | None:
    """What `trial` finds with the model in float32; None where it is not tried: there is no room, or it does not work
    in float32, as with quantised weights and kernels for half types only.
    """
    if not may_be_tried(model, device):
        return None
    try:
        with in_float32(model):
            return trial()
    except Exception as error:
        errors.forget_frames(error)
        return None
    finally:
        memory.free_memory(device)


def may_be_tried(model: Any, device: torch.device) -> bool:
    """Whether the model is one in a half type, all of it on `device`, that there is room for in float32 now."""
    tensors = [*model.parameters(), *model.buffers()]
    if model.dtype not in HALF or not all(tensor.device in (device, torch.device("meta")) for tensor in tensors):
        return False
    if any(not parameter.is_floating_point() for parameter in model.parameters()):
        return False
    share = SHARE.get(device.type, GPU_SHARE)
    return BYTES * sum(parameter.numel() for parameter in model.parameters()) <= share * free_bytes(device)


def free_bytes(device: torch.device) -> int:
    """Bytes that this process may still take on `device`; on a CPU a container's limit counts too."""
    return min(memory.free_and_total([device])[0], _left_in_container() if device.type == "cpu" else sys.maxsize)


def _left_in_container() -> int:
    """Bytes that this process's container may still take; without a limit, more than there can be."""
    try:
        return int((CONTAINER / "memory.max").read_text()) - int((CONTAINER / "memory.current").read_text())
    except (OSError, ValueError):  # no such container, or its limit is the word `max`
        return sys.maxsize


@contextlib.contextmanager
def in_float32(model: torch.nn.Module) -> Iterator[None]:
    """The model with everything of it that is in a half type in float32."""
    packed = {name: module for name, module in model.named_modules() if isinstance(module, PackedLinear)}
    for name, module in packed.items():
        packed_linear.put(model, name, module.unpacked())
    kept = [(tensor, tensor.data) for tensor in (*model.parameters(), *model.buffers()) if tensor.dtype in HALF]
    try:
        for tensor, data in kept:
            tensor.data = data.float()
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data
        for name, module in packed.items():
            packed_linear.put(model, name, module)
