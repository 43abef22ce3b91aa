"""Whether ranks of vLLM can run on this machine: the package held against the GPUs that a run would see."""

import os

from rankdeck.runner.inputs import vllm_package
from rankdeck.runner.machine import telemetry
from rankdeck.runner.protocol.config import Problem, RunConfig


def problems(config: RunConfig, device: str) -> list[Problem]:
    """Why this run, whose ranks are to be of vLLM, cannot be on `device` here."""
    if device == "cpu":
        return vllm_package.check(config, device, 0)
    mig = any(gpu.is_mig for gpu in telemetry.visible_gpus(os.environ))
    return vllm_package.check(config, device, telemetry.count_visible_gpus(os.environ), mig=mig)
