"""The settings of transformers' continuous batching: how much memory it takes, and how much it computes in a step.

Memory is left to the library where a rank has a GPU of its own; where ranks share one, each keeps to its share of it.
On a CPU it is sized by need, within the memory there is.
Knows the settings of the transformers versions that are supported; opens no manager.

Left as the library has them: CUDA graphs and asynchronous steps, which it turns on where attention needs no mask, and
offloading to the host's memory, which is off. That would take pinned memory for each rank from the start, in case the
cache fills up; a row that is put back is otherwise computed again, from its prompt and the tokens it has, which takes
about as long as fetching its keys and values. The library admits no more rows when the cache is nearly full, and copies
while nothing else is computed.
"""

import dataclasses
from typing import Any

import psutil
import torch
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from rankdeck.runner.engine import memory, private_names
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


MOST_ROWS = 1024
"""The library's own bound on the rows of a step. A batch size may be turned up to it while a run is going on."""

LEAST_ROWS = 256
"""The least bound for a run of few prompts: a sweep that is begun in it takes them again and again."""

COMPILE_LEVEL = 1
"""Of the library's 0 to 3: the one with the shortest warm-up, and with any number of rows in one compilation."""

KNOWN = {field.name for field in dataclasses.fields(ContinuousBatchingConfig)}
"""The library's settings: they differ between 5.17 and 5.23."""


def batching_config(
    config: RunConfig,
    device: torch.device,
    context_tokens: int | None,
    kv_bytes_per_token: int | None,
    *,
    prompts: int | None = None,
    compiled: bool = False,
) -> Any:
    """The ContinuousBatchingConfig of a rank in a run of `prompts` prompts; None: unknown.

    `context_tokens` and `kv_bytes_per_token` are its model's. `compiled` has the decode steps of a GPU compiled.
    """
    settings: dict[str, Any] = {"return_logprobs": True}  # they tell rows whose logits are no numbers
    settings |= _if_known(max_requests_per_batch=most_rows(config, prompts), allow_block_sharing=can_share_blocks())
    if config.seed is not None:
        # The library seeds its generator with it each time that it begins. The rank's own numbers are those of its
        # rank, and go on.
        settings["seed"] = int(torch.randint(2**31, ()))
    if device.type != "cpu":
        settings |= _if_known(auto_switch_to_flash=False)  # it would ask the hub, and prefer one that a GPU may not run
        if compiled:
            settings |= _if_known(default_compile_level=COMPILE_LEVEL)
        if (fraction := memory.fraction_of(device)) < 1:  # a rank that shares its GPU
            free, total = torch.cuda.mem_get_info(device)
            own = torch.cuda.memory_reserved(device)
            settings["max_memory_percent"] = cache_share(int(fraction * total), own, free)
        return ContinuousBatchingConfig(**settings)
    page = "page_size" if "page_size" in KNOWN else "block_size"
    settings[page] = CPU_PAGE_TOKENS
    settings["num_blocks"] = cpu_cache_tokens(config, context_tokens, kv_bytes_per_token) // CPU_PAGE_TOKENS
    settings["max_batch_tokens"] = max(CPU_STEP_TOKENS, asked_for(config))  # each row takes one
    return ContinuousBatchingConfig(**settings)


def most_rows(config: RunConfig, prompts: int | None) -> int:
    """The most rows that a step of this run may have.

    The library keeps room for the logits of as many rows, and on GPUs records graphs for 1, 2, 4, ... up to as many.
    Its own bound is too low only for a run that asks for more, and needlessly high only for one that has fewer prompts.
    In between it stays, since a batch size may be turned up at any time.
    """
    rows = max(MOST_ROWS, asked_for(config))
    return rows if prompts is None or config.sweep is not None else max(LEAST_ROWS, min(rows, prompts))


def asked_for(config: RunConfig) -> int:
    """The largest batch size that the run begins with or sweeps over; 0 if it has none."""
    return max([config.batch_size or 0, *(config.sweep.batch_sizes if config.sweep is not None else [])])


def can_share_blocks() -> bool:
    """Whether rows whose prompts begin alike may share keys and values of what they have in common.

    The library keeps them after their rows have ended. They must be forgotten before rows are measured, since a sweep
    has the same prompts again and again, and each trial after the first would be spared their prefill. Releases that
    cannot forget them are told not to share. Models for which it is wrong (sliding windows) are known to the library.
    """
    return not private_names.missing(private_names.SHARING)


def paged_attention(device: torch.device, own: str | None) -> str | None:
    """The attention to set beforehand where no flash attention is wanted of a transformers (5.17) that cannot be told
    so otherwise; None if nothing has to be set. `own` is the model's."""
    return None if device.type == "cpu" or "auto_switch_to_flash" in KNOWN else f"paged|{own or 'sdpa'}"


def _if_known(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name in KNOWN}


def cache_share(most: int, own: int, free: int) -> float:
    """Share of a GPU's `free` bytes for the cache of a rank that may take `most` of it, and has taken `own` already.

    So each rank comes to about as much of the GPU, whether it takes its cache before or after the others have loaded.
    """
    return min(GPU_SHARE, max(LEAST_SHARE, (GPU_SHARE * most - own) / max(1, free)))


def cpu_cache_tokens(
    config: RunConfig, context_tokens: int | None, kv_bytes_per_token: int | None, page: int = 1
) -> int:
    """Room for the rows of a run, and for one row of a long prompt, as far as memory allows. A row takes whole pages of
    so many tokens."""
    rows = max(CONTINUOUS_ROWS, config.batch_size or 0)
    one_long_row = min(context_tokens or 0, CONTINUOUS_CONTEXT_TOKENS) + config.new_tokens
    of_one = -(-(config.new_tokens + CONTINUOUS_PROMPT_TOKENS) // page) * page
    wanted = max(rows * of_one, one_long_row)
    if kv_bytes_per_token is None:
        return wanted
    room = psutil.virtual_memory().available * CONTINUOUS_SHARE / config.ranks / kv_bytes_per_token
    return int(min(wanted, room))
