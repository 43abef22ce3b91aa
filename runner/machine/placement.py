"""Which GPUs a rank runs on: one, one shared with other ranks, or several of its own. Pure functions.

Knows how ranks are laid out over the GPUs that a run sees, and which environment makes a rank see no
others. Does not know what GPUs there are: how many comes in as an argument.
"""

from collections.abc import Mapping

from rankdeck.runner.machine.visible_gpus import VISIBLE
from rankdeck.runner.protocol.config import Problem, RunConfig

OWN_DEVICE = "ACCELERATE_TORCH_DEVICE"
"""What accelerate takes for the device of its process; left to itself it takes local rank modulo GPU count."""


def most_ranks(gpus: int, ranks_per_gpu: int | None, gpus_per_rank: int) -> int:
    """How many ranks go on `gpus` GPUs."""
    return gpus * max(1, ranks_per_gpu or 1) // max(1, gpus_per_rank)


def check(config: RunConfig, gpus: int) -> list[Problem]:
    """What is wrong with laying the ranks of `config` out over the `gpus` that can be seen."""
    if config.device == "cpu":
        return []  # runner.protocol.config has said what is to be said
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
    """The settings by which `config` asks for something that only GPUs have."""
    return [setting for setting in ("ranks_per_gpu", "gpus_per_rank") if (getattr(config, setting) or 1) > 1]


def own_environment(environ: Mapping[str, str], local_rank: int, gpus_per_rank: int) -> dict[str, str]:
    """What a rank adds to its environment before CUDA is started, so that it sees its own GPUs and no others.

    A rank of one GPU sees all that the run sees: which is its own is `device_index`'s affair. What
    CUDA_VISIBLE_DEVICES holds already, numbers or UUIDs, is shared out as it is written.
    """
    if gpus_per_rank <= 1:
        return {}
    first = local_rank * gpus_per_rank
    value = environ.get(VISIBLE)
    if value is None:
        own = [str(number) for number in range(first, first + gpus_per_rank)]
    else:
        own = [entry.strip() for entry in value.split(",")][first : first + gpus_per_rank]
    return {VISIBLE: ",".join(own)}


def device_index(local_rank: int, seen: int, gpus_per_rank: int) -> int:
    """The CUDA device, among the `seen` ones, to which a rank's inputs go: its own, or the first of its own.

    Ranks go round the GPUs, so that the first so many active ranks are spread over all of them.
    """
    return 0 if gpus_per_rank > 1 else local_rank % seen


def device_text(device: str, local_rank: int, gpus_per_rank: int) -> str:
    """What a rank's device is called. Several are counted as the run sees them: `cuda:2,3` is rank 1's two GPUs."""
    if gpus_per_rank <= 1:
        return device
    first = local_rank * gpus_per_rank
    return "cuda:" + ",".join(str(number) for number in range(first, first + gpus_per_rank))
