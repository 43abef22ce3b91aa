"""Which GPUs a rank runs on: one, one shared with other ranks, or several of its own. Pure functions.

Knows how ranks are laid out over the GPUs that a run sees, and which environment lets a rank see only its own GPUs.
Does not know which GPUs there are: their number is an argument.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rankdeck.runner.machine.visible_gpus import MIG, VISIBLE
from rankdeck.runner.protocol.config import Problem, RunConfig
from rankdeck.runner.state.rank_gpus import bare_uuid

OWN_DEVICE = "ACCELERATE_TORCH_DEVICE"
"""The variable that sets the device of accelerate's process; its default is local rank modulo GPU count."""

COUNTED = "RANKDECK_GPUS"
"""The variable that tells the ranks the UUIDs of the run's devices, as NVML counts them; unset without NVML."""


def most_ranks(gpus: int, ranks_per_gpu: int | None, gpus_per_rank: int) -> int:
    """How many ranks fit on `gpus` GPUs."""
    return gpus * max(1, ranks_per_gpu or 1) // max(1, gpus_per_rank)


def check(config: RunConfig, gpus: int, *, mig: bool = False) -> list[Problem]:
    """What is wrong with laying out the ranks of `config` over `gpus` visible GPUs, or MIG devices with `mig`."""
    if config.device == "cpu":
        return []  # runner.protocol.config has checked this
    if mig and config.gpus_per_rank > 1:
        return [Problem("gpus_per_rank", "a process cannot have more than one MIG device; leave it out")]
    if not gpus:
        said = "needs NVIDIA GPUs, and none can be seen here; leave it out"
        return [Problem(setting, said) for setting in asked_for(config)]
    if config.gpus_per_rank > 1 and config.ranks * config.gpus_per_rank > gpus:
        most = most_ranks(gpus, None, config.gpus_per_rank)
        if not most:
            return [Problem("gpus_per_rank", f"{config.gpus_per_rank} GPUs per rank, and {gpus} can be seen here")]
        needed = config.ranks * config.gpus_per_rank
        said = (
            f"{config.ranks} ranks of {config.gpus_per_rank} GPUs each need {needed} GPUs, and {gpus} can be seen here"
        )
        return [Problem("ranks", f"{said}; at most {most}")]
    if config.ranks_per_gpu is not None and config.ranks > (most := gpus * max(1, config.ranks_per_gpu)):
        said = f"{config.ranks} ranks are too many for {gpus} GPUs at {config.ranks_per_gpu} per GPU"
        return [Problem("ranks", f"{said}: at most {most}; or raise --ranks-per-gpu")]
    return []


def asked_for(config: RunConfig) -> list[str]:
    """The settings of `config` that need GPUs."""
    return [setting for setting in ("ranks_per_gpu", "gpus_per_rank") if (getattr(config, setting) or 1) > 1]


def own_environment(
    environ: Mapping[str, str], local_rank: int, gpus_per_rank: int, *, alone: bool = False
) -> dict[str, str]:
    """What a rank adds to its environment before CUDA starts, so that it sees only its own devices.

    A rank with one GPU sees all GPUs of the run, unless it is to see that `alone`; `device_index` picks its own. A rank
    with several is given its share of the entries of CUDA_VISIBLE_DEVICES, as they are. A process sees no more than one
    MIG device, the first: each rank is given its own, round-robin.
    """
    value = environ.get(VISIBLE)
    named = [] if value is None else [entry.strip() for entry in value.split(",")]
    if named and named[0].startswith(MIG):
        return {VISIBLE: named[local_rank % len(named)]}
    if gpus_per_rank <= 1 and not alone:
        return {}
    first = local_rank * gpus_per_rank
    share = range(first, first + gpus_per_rank)
    return {VISIBLE: ",".join(map(str, share) if value is None else named[share.start : share.stop])}


def device_index(local_rank: int, seen: int, gpus_per_rank: int) -> int:
    """The CUDA device, of `seen` ones, for a rank's inputs: its own, or the first of its own.

    Ranks are assigned round-robin, so that a few active ranks are already spread over all GPUs.
    """
    return 0 if gpus_per_rank > 1 else local_rank % seen


class Comparison(NamedTuple):
    """What follows from the devices that torch sees: why a rank must not load, or a line for the log."""

    refusal: str | None = None
    remark: str | None = None


def compare(ranks: int, counted: Sequence[str], seen: Sequence[str]) -> Comparison:
    """Whether `ranks` ranks, some of which may share a GPU, can be placed as planned for the `counted` GPUs.

    `counted` are the UUIDs of the run's GPUs by NVML, in the order expected; none if it was not asked. `seen` are
    those that torch has, and may differ: a driver or a container can keep CUDA from what NVML lists.
    """
    if not counted or not seen:
        return Comparison()
    planned, now = -(-ranks // len(counted)), -(-ranks // len(seen))
    differ = f"torch sees {len(seen)} GPU{'s' * (len(seen) != 1)}, but the driver has {len(counted)} for this run"
    if now > planned:
        cure = f"start {planned * len(seen)} at most (--ranks), or name in {VISIBLE} the GPUs that torch can use"
        return Comparison(refusal=f"{differ}: {now} ranks would share a GPU instead of {planned}; {cure}")
    if len(seen) != len(counted):
        return Comparison(remark=differ)
    here, there = [bare_uuid(uuid) for uuid in seen], [bare_uuid(uuid) for uuid in counted]
    if here != there and set(here) == set(there):
        return Comparison(remark="CUDA numbers the GPUs differently from nvidia-smi; the GPU table goes by UUID")
    return Comparison()


def sharing(local_rank: int, ranks: int, seen: int) -> int:
    """How many of `ranks` ranks with a GPU each use this rank's, itself included, if there are `seen` GPUs."""
    own = device_index(local_rank, seen, 1)
    return sum(device_index(other, seen, 1) == own for other in range(ranks))


def device_text(device: str, local_rank: int, gpus_per_rank: int) -> str:
    """The name of a rank's device. Several GPUs have the run's numbers: `cuda:2,3` are those of rank 1."""
    if gpus_per_rank <= 1:
        return device
    first = local_rank * gpus_per_rank
    return "cuda:" + ",".join(str(number) for number in range(first, first + gpus_per_rank))
