"""Memory of a rank's devices: what is free, what was used at most, and what a rank may take of a GPU that it shares.

Knows torch's allocator, which reserves memory in blocks and allocates tensors in those; what it has reserved is lost to
everybody else. Also knows how to find out whether a GPU can still be used. Knows no model and no other rank.
"""

import contextlib
import gc
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import psutil
import torch

from rankdeck.runner.engine import errors
from rankdeck.runner.inputs.memory_room import gib

LIBRARIES_BYTES = int(0.25 * 2**30)
"""What a process takes on a GPU besides its CUDA context and torch's allocator: kernels that are loaded when they are
first used, and handles of libraries; not measured."""

GIB = 2**30


def synchronise(devices: Sequence[torch.device]) -> None:
    """Wait until the GPUs among `devices` have finished their work."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def free_memory(device: torch.device) -> None:
    """Return cached device memory, for the retry and for other ranks on the same GPU."""
    gc.collect()
    if device.type == "cuda":
        # Fails on a lost GPU; whoever asks `is_lost` finds that out, and reports it.
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()


def without_expandable_segments(device: torch.device) -> str | None:
    """Turn expandable segments off where the driver does not have them; returns a line for people if it did that.

    On Jetson and on some virtual GPUs the very first tensor fails with them, at times in words of too little memory
    (under WSL the launch leaves them off). Where memory is merely full nothing happens: loading will tell.
    """
    try:
        _allocate(device)
    except torch.OutOfMemoryError:
        return None  # torch's own: the driver gave all that there is
    except RuntimeError as error:
        torch.cuda.memory._set_allocator_settings("expandable_segments:False")
        with contextlib.suppress(torch.OutOfMemoryError):
            _allocate(device)  # any other trouble is still there
        said = errors.in_one_line(error)
        return (
            f"torch runs without expandable segments, which do not work on this machine ({said}): memory may fragment"
        )
    return None


def _allocate(device: torch.device) -> None:
    torch.empty(1, device=device)


def is_lost(error: BaseException, devices: Sequence[torch.device]) -> bool:
    """Whether this process can no longer use one of its GPUs after `error`, so that every later batch would fail too.

    Most CUDA errors cost one call, and are reported once. One that has destroyed the context is reported by every call
    from then on, so two synchronisations in a row both fail.
    """
    if all(device.type != "cuda" for device in devices):
        return False
    return errors.is_context_lost(error) or not (_answers(devices) or _answers(devices))


def _answers(devices: Sequence[torch.device]) -> bool:
    try:
        synchronise(devices)
    except Exception:
        return False
    return True


# --- figures ---


def reset_peaks(devices: Sequence[torch.device]) -> None:
    """Reset `peak_bytes` and `peak_reserved_bytes` to what there is now."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(devices: Sequence[torch.device]) -> int | None:
    """This process's peak allocated bytes since `reset_peaks`, summed over its GPUs; None on a CPU."""
    if devices[0].type != "cuda":
        return None
    return sum(torch.cuda.max_memory_allocated(device) for device in devices)


def peak_reserved_bytes(devices: Sequence[torch.device]) -> int | None:
    """This process's peak reserved bytes since `reset_peaks`, summed over its GPUs; None on a CPU."""
    if devices[0].type != "cuda":
        return None
    return sum(torch.cuda.max_memory_reserved(device) for device in devices)


def free_and_total(devices: Sequence[torch.device]) -> tuple[int, int]:
    """Free and total bytes of all GPUs together, or of the host for a CPU; other processes count as used."""
    if devices[0].type != "cuda":
        host = psutil.virtual_memory()
        return host.available, host.total
    both = [torch.cuda.mem_get_info(device) for device in devices]
    return sum(free for free, _ in both), sum(total for _, total in both)


# --- a share of a GPU ---


class Share(NamedTuple):
    """What one of `ranks` ranks on a GPU may take of it: `bytes`. The run has `gpus`."""

    ranks: int
    bytes: int
    gpus: int


def share_of(free: int, total: int, ranks: int) -> float:
    """The fraction of a GPU that each of `ranks` ranks may take, with `free` of its `total` bytes free.

    The ranks' CUDA contexts must exist already; what other processes hold is not shared out.
    """
    return max(0.0, min(1.0, (free / ranks - LIBRARIES_BYTES) / total))


def hold_to_share(device: torch.device, ranks: int, gpus: int) -> Share:
    """Have torch's allocator raise out-of-memory in this process where it would take more than its share.

    Otherwise a rank that reserves much takes what the others need, and they fail. What is free when this is called is
    shared out: it must be the same for all of them.
    """
    free, total = torch.cuda.mem_get_info(device)
    fraction = share_of(free, total, ranks)
    torch.cuda.set_per_process_memory_fraction(fraction, device)
    return Share(ranks, int(fraction * total), gpus)


def fraction_of(device: torch.device) -> float:
    """The fraction of a GPU that this process may take: 1 if it has the GPU to itself."""
    return float(torch.cuda.get_per_process_memory_fraction(device))


def left_of(share: Share, device: torch.device) -> int:
    """Bytes that a rank held to `share` may still take."""
    return max(0, min(share.bytes - torch.cuda.memory_reserved(device), torch.cuda.mem_get_info(device)[0]))


# --- what to say when it is not enough ---


class NotEnoughMemoryError(RuntimeError):
    """A rank cannot get ready in the memory there is; the text has the figures and what to do."""


@contextlib.contextmanager
def explained(
    doing: str, devices: Sequence[torch.device], share: Share | None, *, ranks: int = 1, gpus: int = 1
) -> Iterator[None]:
    """Turn an out-of-memory, in whatever words, into a NotEnoughMemoryError with figures; other errors pass.

    The run has `ranks` ranks and `gpus` GPUs.
    """
    before = _times_out_of_memory(devices)
    try:
        yield
    except Exception as error:
        # transformers may keep to itself why it could not put a weight together.
        if not errors.is_out_of_memory(error) and _times_out_of_memory(devices) == before:
            raise
        said = errors.in_one_line(error)
        with contextlib.suppress(RuntimeError):  # a GPU that is lost has no figures
            said = f"{_figures(devices, share, ranks, gpus)} ({said})"
        raise NotEnoughMemoryError(f"not enough memory for {doing}: {said}") from error


def _times_out_of_memory(devices: Sequence[torch.device]) -> int:
    """How often torch's allocator has raised out-of-memory in this process."""
    with contextlib.suppress(RuntimeError):
        gpus = [device for device in devices if device.type == "cuda"]
        return sum(torch.cuda.memory_stats(device).get("num_ooms", 0) for device in gpus)
    return 0


def _figures(devices: Sequence[torch.device], share: Share | None, ranks: int, gpus: int) -> str:
    free, total = free_and_total(devices)
    if devices[0].type != "cuda":
        return on_the_host(free, total)
    held = sum(torch.cuda.memory_reserved(device) for device in devices)
    return on_gpus([str(device) for device in devices], free, total, held, share, ranks=ranks, gpus=gpus)


def on_the_host(free: int, total: int) -> str:
    """What is left of the host's memory, and what to do; all in bytes."""
    return (
        f"{gib(free)} GiB of this machine's {gib(total)} GiB are free. "
        "Run fewer ranks (--ranks), use a smaller model, or stop other programs that take memory"
    )


def on_gpus(
    names: Sequence[str], free: int, total: int, held: int, share: Share | None, *, ranks: int, gpus: int
) -> str:
    """What one of `ranks` ranks holds of its GPUs, of `gpus`, what is left of them, and what to do; all in bytes."""
    has = "has" if len(names) == 1 else "have"
    found = (
        f"{', '.join(names)} {has} {gib(total)} GiB, {gib(free)} GiB of them free, and this rank holds {gib(held)} GiB"
    )
    cures = ["make it smaller (--quantization)"]
    if gpus >= (wider := 2 * len(names)):
        fewer = f" --ranks {gpus // wider}" if ranks > gpus // wider else ""
        cures.insert(0, f"spread the model over more GPUs (--gpus-per-rank {wider}{fewer})")
    if share is not None:
        found += f" of the {gib(share.bytes)} GiB that it may take as one of {share.ranks} ranks there"
        cures.insert(0, f"run fewer ranks (--ranks {(share.ranks - 1) * share.gpus})")
    elif total - free > 2 * max(held, GIB):
        cures.insert(0, "stop what else runs there")
    cure = ", or ".join(filter(None, (", ".join(cures[:-1]), cures[-1])))
    return f"{found}. {cure[0].upper()}{cure[1:]}"
