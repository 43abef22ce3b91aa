"""How much memory transformers' continuous batching takes, and how much it computes in a step.

Left to the library where a rank has a GPU of its own; where ranks share one, each keeps to its share of it. On a CPU
sized by need, within the memory there is.
Knows the settings of the transformers versions that are supported; opens no manager.
"""

import dataclasses
from typing import Any

import psutil
import torch
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from rankdeck.runner.engine import memory
from rankdeck.runner.inputs.memory_estimate import (
    CONTINUOUS_CONTEXT_TOKENS,
    CONTINUOUS_PROMPT_TOKENS,
    CONTINUOUS_ROWS,
    CONTINUOUS_SHARE,
)
from rankdeck.runner.protocol.config import RunConfig

GPU_SHARE = 0.85
"""Share of a GPU's memory that its ranks divide among them for weights and caches; steps and CUDA take the rest."""

LEAST_SHARE = 0.05
"""Least share of what is free that a cache is given: if that is too little, the library says so."""

CPU_PAGE_TOKENS = 64
CPU_STEP_TOKENS = 512
"""Most tokens of a step, prompts included: in a longer step the rows that decode wait for long prompts."""


KNOWN = {field.name for field in dataclasses.fields(ContinuousBatchingConfig)}
"""The library's settings: they differ between 5.17 and 5.23."""


def batching_config(
    config: RunConfig,
    device: torch.device,
    context_tokens: int | None,
    kv_bytes_per_token: int | None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """The ContinuousBatchingConfig of a rank; `context_tokens`, `kv_bytes_per_token`, `dtype` are its model's."""
    settings: dict[str, Any] = {"return_logprobs": True}  # they tell rows whose logits are no numbers
    if config.seed is not None:
        # The library seeds its generator with it each time that it begins. The rank's own numbers are those of its
        # rank, and go on.
        settings["seed"] = int(torch.randint(2**31, ()))
    if device.type != "cpu":
        if "auto_switch_to_flash" in KNOWN and not may_switch_to_flash(config, device, dtype):
            settings["auto_switch_to_flash"] = False
        if (fraction := memory.fraction_of(device)) < 1:  # a rank that shares its GPU
            free, total = torch.cuda.mem_get_info(device)
            own = torch.cuda.memory_reserved(device)
            settings["max_memory_percent"] = cache_share(int(fraction * total), own, free)
        return ContinuousBatchingConfig(**settings)
    page = "page_size" if "page_size" in KNOWN else "block_size"
    settings[page] = CPU_PAGE_TOKENS
    settings["num_blocks"] = _cpu_cache_tokens(config, context_tokens, kv_bytes_per_token) // CPU_PAGE_TOKENS
    settings["max_batch_tokens"] = CPU_STEP_TOKENS
    return ContinuousBatchingConfig(**settings)


def may_switch_to_flash(config: RunConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the library may change over to flash attention (2 or later), where that is installed.

    It does so whatever the run asked for, and whether flash computes in this dtype on this GPU or not.
    """
    half = dtype in (torch.float16, torch.bfloat16)
    return config.attention == "auto" and half and torch.cuda.get_device_capability(device) >= (8, 0)


def attention_to_pin(config: RunConfig, device: torch.device, dtype: torch.dtype, own: str | None) -> str | None:
    """The paged attention to set beforehand where transformers (5.17) cannot be told to leave flash alone; or None."""
    if device.type == "cpu" or "auto_switch_to_flash" in KNOWN or may_switch_to_flash(config, device, dtype):
        return None
    return f"paged|{own or 'sdpa'}"


def cache_share(most: int, own: int, free: int) -> float:
    """Share of a GPU's `free` bytes for the cache of a rank that may take `most` of it, and has taken `own` already.

    So each rank comes to about as much of the GPU, whether it takes its cache before or after the others have loaded.
    """
    return min(GPU_SHARE, max(LEAST_SHARE, (GPU_SHARE * most - own) / max(1, free)))


def _cpu_cache_tokens(config: RunConfig, context_tokens: int | None, kv_bytes_per_token: int | None) -> int:
    """Room for the rows of a run, and for one row of a long prompt, as far as memory allows."""
    rows = max(CONTINUOUS_ROWS, config.batch_size or 0)
    one_long_row = min(context_tokens or 0, CONTINUOUS_CONTEXT_TOKENS) + config.new_tokens
    wanted = max(rows * (config.new_tokens + CONTINUOUS_PROMPT_TOKENS), one_long_row)
    if kv_bytes_per_token is None:
        return wanted
    room = psutil.virtual_memory().available * CONTINUOUS_SHARE / config.ranks / kv_bytes_per_token
    return int(min(wanted, room))
