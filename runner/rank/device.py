"""The device of one rank: its GPUs picked out of the machine's, and what it says about itself.

Knows which environment CUDA and accelerate look at. Which GPUs belong to which rank is `runner.machine.placement`'s
business. torch is imported only when a function needs it.
"""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rankdeck.runner.machine import placement, processes
from rankdeck.runner.machine.visible_gpus import MIG, VISIBLE
from rankdeck.runner.protocol import MeetingPoint
from rankdeck.runner.protocol.config import RunConfig

if TYPE_CHECKING:
    import torch

    from rankdeck.runner.engine.memory import Share


def hide_other_gpus(config: RunConfig, local_rank: int, *, alone: bool = False) -> None:
    """Let CUDA see only this rank's GPUs. Call this before CUDA starts: it looks once.

    A rank with one GPU sees the others as well, and picks its own; with `alone` it sees that one only.
    """
    if config.device == "cuda":
        os.environ.update(placement.own_environment(os.environ, local_rank, config.gpus_per_rank, alone=alone))


def take_device(config: RunConfig, local_rank: int, *, alone: bool = False) -> str | None:
    """Make this rank's GPU torch's current one, and the one that accelerate takes; returns a line for the log.

    Raises:
        RuntimeError: torch sees no GPU, fewer than the rank needs, or too few to go round as planned.
    """
    import torch

    from rankdeck.runner.engine import memory

    if config.device != "cuda":
        return None
    if not torch.cuda.is_available():
        raise RuntimeError(_why_no_cuda())
    seen = _count_opened()
    if seen < config.gpus_per_rank:
        visible = os.environ.get(VISIBLE)
        raise RuntimeError(f"torch sees {seen} of the {config.gpus_per_rank} GPUs of this rank ({VISIBLE}={visible})")
    found = placement.Comparison()
    if config.gpus_per_rank == 1 and not alone and _own_mig_device() is None:
        found = placement.compare(config.ranks, _counted(), [_uuid(index) for index in range(seen)])
    if found.refusal is not None:
        raise RuntimeError(found.refusal)
    index = placement.device_index(local_rank, seen, config.gpus_per_rank)
    os.environ[placement.OWN_DEVICE] = f"cuda:{index}"
    torch.cuda.set_device(index)
    remarks = found.remark, memory.without_expandable_segments(torch.device("cuda", index))
    return "; ".join(filter(None, remarks)) or None


def _count_opened() -> int:
    """How many GPUs CUDA has opened for this process."""
    import torch

    torch.cuda.init()  # before that, torch counts what NVML lists
    # Older releases go on asking NVML.
    count: int = getattr(torch._C, "_cuda_getDeviceCount", torch.cuda.device_count)()
    return count


def _why_no_cuda() -> str:
    import torch

    from rankdeck.runner.engine import errors

    if torch.version.cuda is None:
        return f"torch {torch.__version__} sees no CUDA device; install a CUDA build of it, or use --device cpu"
    why = "it finds no GPU"
    try:
        torch.cuda.init()
    except Exception as error:
        why = errors.in_one_line(error)
    found = f"torch {torch.__version__}, built for CUDA {torch.version.cuda}, cannot use a GPU here"
    return f"{found}: {why}. See `rankdeck doctor`, or use --device cpu"


def devices_of_run(seen: int) -> int:
    """How many devices the ranks of this run share, of which this process sees `seen`: with MIG, only its own."""
    return seen if _own_mig_device() is None else max(seen, len(_counted()))


def gpus_of_run(config: RunConfig) -> int:
    """How many GPUs the run has: by NVML, else those that this process sees."""
    return len(_counted()) or (_count_opened() if config.device == "cuda" else 0)


def hold_to_share(
    config: RunConfig, local_rank: int, device: "torch.device", meet: Callable[[int, MeetingPoint], None]
) -> "Share | None":
    """Hold this rank to its share of a GPU that it shares; None if it has the GPU to itself.

    All ranks have to call this, before any of them loads a model; `meet` waits for them.
    """
    import torch

    from rankdeck.runner.engine import memory

    gpus = devices_of_run(_count_opened()) if device.type == "cuda" else 0
    if not gpus or config.gpus_per_rank > 1 or config.ranks <= gpus:
        return None  # on every rank: all of them count the same GPUs
    torch.cuda.synchronize(device)  # the first call on a device creates its context, which takes memory
    meet(local_rank, "memory taken")
    ranks = placement.sharing(local_rank, config.ranks, gpus)
    share = memory.hold_to_share(device, ranks, gpus) if ranks > 1 else None
    meet(local_rank, "memory seen")  # nobody loads anything before all have looked at what is free
    return share


def device_facts(
    device: Any, all_devices: Sequence[Any], config: RunConfig, local_rank: int, *, alone: bool = False
) -> dict[str, Any]:
    """Name and identity of a rank's device, as fields of RankReady; `all_devices` are those that hold its model.

    `alone`: see `hide_other_gpus`.
    """
    import torch

    if device.type != "cuda":
        cores = os.environ.get("RANKDECK_CORES") if not alone else None  # it keeps the threads it has
        shared = {"threads": torch.get_num_threads(), "cores": int(cores) if cores else None}
        return {"device": device.type, "device_name": processes.cpu_name(), **shared}
    properties = torch.cuda.get_device_properties(device)
    uuids, own = [_uuid(each) for each in all_devices], str(device)
    if (mig := _own_mig_device()) is not None:
        # Each process calls its own MIG device cuda:0: the run's numbers tell them apart.
        uuids, own = [mig], f"cuda:{local_rank % devices_of_run(1)}"
    elif alone:
        own = f"cuda:{local_rank}"
    facts = {
        "device": placement.device_text(own, local_rank, config.gpus_per_rank),
        "device_name": properties.name,
        "device_uuid": uuids[0] or None,
        "device_uuids": uuids if len(uuids) > 1 and all(uuids) else [],
    }
    if hasattr(properties, "pci_bus_id"):
        facts["pci_bus_id"] = (
            f"{properties.pci_domain_id:08x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}.0"
        )
    return facts


def _own_mig_device() -> str | None:
    """The UUID of the MIG device that this rank was given; torch may report its GPU's instead."""
    visible = os.environ.get(VISIBLE, "")
    return visible if visible.startswith(MIG) else None


def _counted() -> list[str]:
    """The UUIDs of the run's devices, as NVML has counted them; none if it did not."""
    return [uuid for uuid in os.environ.get(placement.COUNTED, "").split(",") if uuid]


def _uuid(device: Any) -> str:
    import torch

    return str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))
