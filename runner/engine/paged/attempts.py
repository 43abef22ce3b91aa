"""What the continuous engine tries on a GPU to be faster, the fastest first, and what to fall back on.

Flash attention is asked for by name, in place of letting transformers look for it: that would ask the hub in every
rank, and take version 3 on GPUs that cannot run it. Decode steps are compiled where a job is long enough to get back
what compiling takes. Each attempt is proved by the engine's warm-up, and the last one is the plain way.
Knows which settings and GPUs these go with; opens no manager.
"""

import importlib.util
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from rankdeck.runner.inputs import flash_attention, flash_packages
from rankdeck.runner.inputs.flash_attention import COST, LEAST_CAPABILITY
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.first_batch import FIRST_BATCH_SIZE_ON_GPU

COMPILING_PAYS_STEPS = 40_000
"""Decode steps of a rank from which compiling them is tried. Predicted for 7 B parameters on an H100, not measured: it
takes 20 to 60 s at the start, and saves 1.7 to 2 ms of 7 to 9 ms a step."""


class Attempt(NamedTuple):
    """`attention` is transformers' name for the flash attention to set, None for the model's own attention; `compiled`
    has decode steps compiled."""

    attention: str | None = None
    compiled: bool = False

    def __str__(self) -> str:
        return " and ".join(filter(None, (self.attention, "compiled decode steps" if self.compiled else None)))


PLAIN = Attempt()


class Attempts(NamedTuple):
    """The attempts in order, and a line for people on what is not tried though the GPU could."""

    each: tuple[Attempt, ...]
    note: str | None = None


def attempts(config: RunConfig, device: torch.device, model: Any, prompts: int | None) -> Attempts:
    """What to try for a run of `prompts` prompts (None: unknown) on this device."""
    if device.type != "cuda":
        return Attempts((PLAIN,))
    names, note = _flash(config, device, model)
    long = is_long(config, prompts) and importlib.util.find_spec("triton") is not None
    each = [Attempt(name, compiled) for name in names for compiled in ((True, False) if long else (False,))]
    if long and "flash" in (getattr(model.config, "_attn_implementation", None) or ""):
        each.append(Attempt(compiled=True))  # flash attention was asked for, and the model was loaded with it
    return Attempts((*each, PLAIN), note)


def is_long(config: RunConfig, prompts: int | None) -> bool:
    """Whether a rank may have as many decode steps as compiling them needs to pay off. Trials of a sweep are short."""
    if prompts is None or config.sweep is not None:
        return False
    rows = config.ranks * (config.batch_size or FIRST_BATCH_SIZE_ON_GPU)
    return -(-prompts // rows) * config.new_tokens >= COMPILING_PAYS_STEPS


def _flash(config: RunConfig, device: torch.device, model: Any) -> tuple[Sequence[str], str | None]:
    if config.attention != "auto" or model.dtype not in (torch.float16, torch.bfloat16):
        return (), None
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY or not model._supports_flash_attn:
        return (), None
    found = flash_packages.look()
    if names := flash_attention.choices(found, capability):
        return names, None
    what, cure = flash_attention.missing(found)
    return (), f"{COST}: {what}; {cure}"
