"""Up to which length the rows of a model may be padded, where its config says that it treats longer texts differently.

Scaled positions (longrope, dynamic) go by the longest row of a batch; sparse attention picks among all positions,
padding too; some scale attention by the slot in the cache. Beyond that length each row has to be with rows of its own
length. Reads configs alone; knows no batches.
"""

from collections.abc import Iterator
from typing import Any

from rankdeck.runner.engine.generation.layer_configs import layer_configs, value_of

SPARSE = ("index_topk", "keep_window_size")
"""What configs call the number of positions that attention picks, once there are more."""

BLOCKS = ("index_block_size", "index_topk_blocks")
"""The same in blocks: how large they are, and how many are picked. Padding shifts them (MiniMax-M3)."""

FLOORS = ("log_scaling_n_floor", "floor_scale")
"""From which slot on attention is scaled by the number of the slot, padding included (Inkling, Llama 4)."""

SCALED = ("longrope", "dynamic")
"""Kinds of rotary positions that change for all rows when one of them is long."""

ORIGINAL = "original_max_position_embeddings"


def padded_up_to(config: Any, context_tokens: int | None) -> int | None:
    """The most tokens, padding and answer included, of rows that need not be equally long.

    None for any number, up to the `context_tokens` that a row may have at all.
    """
    text = config.get_text_config()
    different = {id(layer): layer for layer in (text, *layer_configs(text))}.values()
    bounds = [bound for layer in different for bound in _bounds(layer)]
    most = min((int(bound) for bound in bounds if isinstance(bound, int | float) and bound > 0), default=None)
    return None if most is None or (context_tokens is not None and most >= context_tokens) else most


def _bounds(config: Any) -> Iterator[Any]:
    yield from (value_of(config, name) for name in SPARSE)
    size, picked = (value_of(config, name) for name in BLOCKS)
    if isinstance(size, int) and isinstance(picked, int):
        yield size * picked
    if getattr(config, "attn_temperature_tuning", True):
        yield from (value_of(config, name) for name in FLOORS)
    for rope in _ropes(value_of(config, "rope_parameters")):
        if rope.get("rope_type") in SCALED:
            own = rope.get(ORIGINAL), value_of(config, ORIGINAL), value_of(config, "max_position_embeddings")
            yield next((bound for bound in own if bound), None)


def words(most: int) -> str:
    """What is said of a model that has such a length."""
    return (
        f"beyond {most:,} tokens with their answers, rows of equal length only: padded, this model gives other answers"
    )


def _ropes(parameters: Any) -> Iterator[dict[str, Any]]:
    """The settings of rotary positions: one for the model, or one for each kind of layer."""
    if isinstance(parameters, dict):
        if "rope_type" in parameters:
            yield parameters
        for value in parameters.values():
            yield from _ropes(value)
