"""The machine that `make gpu` runs on: what it is called in the results, and whether torch can use its GPUs.

Asks NVML and, in a process of its own, torch. Runs no nvidia-smi: beside a driver in trouble that may hang.
"""

import asyncio
import os
import time
from typing import Any

import msgspec

from rankdeck.runner import start
from rankdeck.runner.machine import examine, telemetry
from rankdeck.runner.machine.facts import Facts
from rankdeck.runner.machine.gpu_checks import gpu_checks
from tests.gpu.requirements import RequirementError


def look(device: str) -> Facts:
    """What is here. Where the GPUs are to be used, torch is asked as well, which takes some seconds."""
    facts = examine.facts()
    return facts if device == "cpu" else msgspec.structs.replace(facts, torch=asyncio.run(examine.ask_torch()))


def check_torch(facts: Facts) -> str | None:
    """What is odd about torch and the GPUs, though it can use some; None if nothing is.

    Raises:
        RequirementError: it can use none; the text says why, and what to do.
    """
    for check in gpu_checks(facts):
        if check.name == "torch" and check.status != "ok":
            told = f"torch {facts.packages.get('torch', '')}: {check.found}\n{check.cure}"
            if check.status == "bad":
                raise RequirementError(told)
            return told
    return None


def words(facts: Facts, device: str, gpus: int) -> dict[str, Any]:
    """The first line of the results."""
    found = start.environment()
    said = {"date": time.strftime("%Y-%m-%d"), "GPUs": gpus, "GPU": ", ".join(sorted(set(found.devices)))}
    if device == "cpu":
        said |= {"without a GPU": facts.machine.no_gpu or "as asked for", "sizes": "tiny"}
    said |= {"driver": facts.machine.driver}
    said |= {name: found.packages.get(name) for name in ("torch", "transformers", "accelerate")}
    return said | {"Python": found.python, "cores": found.cores, "length": "fixed length"}


def first_gpu() -> str:
    """The UUID of the first GPU that a run here uses; nvidia-smi takes it as well."""
    visible = telemetry.visible_gpus(os.environ)
    return visible[0].uuid if visible else "0"
