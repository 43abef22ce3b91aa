"""The environment of the ranks and of their parent: the user's, without what would change a run. Pure.

Knows which variables accelerate and torch.distributed read, and how the cores are shared out. Does not know GPUs: what
a rank sees of them is `runner.machine.placement`'s.
"""

import sys
from collections.abc import Mapping

from rankdeck.runner.launching.allocator import with_expandable_segments

OTHERS_PREFIXES = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "TORCHELASTIC_", "PMI_", "PMIX_", "OMPI_", "MV2_")
"""Settings of accelerate that its own launcher passes on, and what torchrun, MPI and Slurm tell the processes that
they start: accelerate and torch take any of it for the place of this process in a group."""

OTHERS_NAMES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE", "NODE_RANK"),
    *("MPI_LOCALRANKID", "MPI_LOCALNRANKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "FORK_LAUNCHED"),
)

LOOPBACK = "lo" if sys.platform.startswith("linux") else "lo0"

OF_VLLM = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # a step is taken when the rank asks for it, in its own process
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # What its processes say to each other stays on this machine.
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": LOOPBACK,
    "NCCL_SOCKET_IFNAME": LOOPBACK,
}
"""What ranks of vLLM are told."""


def is_of_another_launch(name: str) -> bool:
    """Whether a variable tells a process its place in a launch, or sets up one: rankdeck does both itself."""
    return name.startswith(OTHERS_PREFIXES) or name in OTHERS_NAMES


def rank_environment(
    environ: Mapping[str, str],
    ranks: int,
    on_cpu: bool,
    cores: int,
    *,
    expandable_segments: bool,
    engine: str = "",
) -> dict[str, str]:
    """The ranks' environment: the user's without what would change a run, with the cores shared out evenly.

    With `expandable_segments` torch's allocator uses them on GPUs, unless the user's settings decide otherwise, or the
    engine is vLLM, which takes its memory at once, by an allocator of its own.
    """
    kept = {name: value for name, value in environ.items() if not is_of_another_launch(name)}
    kept |= {
        "RANKDECK_CORES": str(cores) if on_cpu else "",
        # libgomp reads it once, when it is loaded; left unset, `accelerate launch` sets it to 1 on GPUs.
        "OMP_NUM_THREADS": str(max(1, cores // ranks)),
        "TOKENIZERS_PARALLELISM": kept.get("TOKENIZERS_PARALLELISM", "false"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "PYTHONUNBUFFERED": "1",
        # A folder called rankdeck in the current directory must not be imported instead.
        "PYTHONSAFEPATH": "1",
    }
    if engine == "vllm":
        # It says much as it loads; what matters of that is told by the rank.
        kept |= {"VLLM_LOGGING_LEVEL": kept.get("VLLM_LOGGING_LEVEL", "ERROR"), **OF_VLLM}
        if not on_cpu:
            kept["OMP_NUM_THREADS"] = "1"  # as it would itself: threads that spin hold up the one that schedules
    elif expandable_segments and not on_cpu:
        kept |= with_expandable_segments(kept)
    if on_cpu:
        kept["ACCELERATE_USE_CPU"] = "true"
        if "OMP_WAIT_POLICY" not in kept:
            # Waiting threads spin for a few microseconds, then sleep. By default they spin for milliseconds, and on
            # a busy machine they take the core from the thread they wait for.
            kept.setdefault("GOMP_SPINCOUNT", "1000")
    return kept
