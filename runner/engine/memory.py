"""What torch says of the memory of a rank's devices, and what a model's tensors take in it.

A rank has one device, or several GPUs over which its model is spread: figures are sums over them.
Knows nothing of batches.
"""

from collections.abc import Sequence
from typing import Any

import psutil
import torch


def devices_of(model: Any, device: torch.device) -> list[torch.device]:
    """The devices that hold `model`, the one to which its inputs go first."""
    if device.type != "cuda":
        return [device]
    holding = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    others = sorted((other for other in holding if other.index != (device.index or 0)), key=lambda other: other.index)
    return [device, *others]


def synchronise(devices: Sequence[torch.device]) -> None:
    """Wait until the GPUs among `devices` have done what they were given."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def reset_peaks(devices: Sequence[torch.device]) -> None:
    """Begin anew with `peak_bytes`."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(devices: Sequence[torch.device]) -> int | None:
    """The most bytes this process had allocated since `reset_peaks`, each GPU's own peak added up; None on a CPU."""
    if devices[0].type != "cuda":
        return None
    return sum(torch.cuda.max_memory_allocated(device) for device in devices)


def free_and_total(devices: Sequence[torch.device]) -> tuple[int, int]:
    """Free and all bytes of the GPUs together, or of the host for a CPU; other processes' use counted."""
    if devices[0].type != "cuda":
        host = psutil.virtual_memory()
        return host.available, host.total
    both = [torch.cuda.mem_get_info(device) for device in devices]
    return sum(free for free, _ in both), sum(total for _, total in both)


def stored_bytes(tensor: Any) -> int:
    """Bytes that a parameter takes as it is stored: a quantised one has another size than its dtype says."""
    if hasattr(tensor, "__tensor_flatten__"):  # torchao: packed values, scales, zero points
        names, _ = tensor.__tensor_flatten__()
        return sum(stored_bytes(getattr(tensor, name)) for name in names)
    scales = getattr(getattr(tensor, "quant_state", None), "absmax", None)  # bitsandbytes, 4 bits
    if scales is None:
        scales = getattr(tensor, "SCB", None)  # bitsandbytes, 8 bits
    extra = scales.numel() * scales.element_size() if isinstance(scales, torch.Tensor) else 0
    return int(tensor.numel() * tensor.element_size()) + extra
