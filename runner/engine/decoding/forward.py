"""A model's forward passes over an arena: a group of prompts, or one more token of each row.

Knows what transformers' decoders are called with; chooses no tokens.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch

from rankdeck.runner.engine.decoding import ragged
from rankdeck.runner.engine.decoding.arena import Arena
from rankdeck.runner.engine.experts import decode_products
from rankdeck.runner.engine.generation.layer_configs import value_of
from rankdeck.runner.protocol import Experts

CACHES = ("past_key_values", "cache")
"""What models call the key and value cache that they are given."""

MASKS: dict[str, Callable[[torch.dtype], torch.dtype]] = {
    "sdpa": lambda dtype: torch.bool,
    "eager": lambda dtype: dtype,  # added to the scores
}
"""The type of the mask that a step's attention takes, from the model's own, by transformers' name of the attention."""


def why_not(model: Any) -> str | None:
    """Why this model's passes cannot be called so; None if they can, as far as its signature and settings tell."""
    taken = inspect.signature(type(model).forward).parameters
    if not {"position_ids", "attention_mask"} <= set(taken) or not set(CACHES) & set(taken):
        return "it takes no positions, mask and cache from outside"
    if "local" in (value_of(model.config.get_text_config(), "attention_layers") or ()):
        return "some of its layers attend by the distance of slots, padding included"
    attention = attention_of(model)
    if attention not in MASKS:
        return f"its attention ({attention}) takes no mask of its own"
    return None


def takes_any_attention(model: Any) -> bool:
    """Whether this model computes its attention with whatever transformers has registered under the name it is told."""
    return bool(getattr(type(model), "_supports_attention_backend", False))


def attention_of(model: Any) -> str:
    """Which attention a model computes with, by transformers' name."""
    return str(model.config.get_text_config()._attn_implementation)


class Forward:
    """The passes of one model."""

    def __init__(self, model: Any, experts: Experts | None) -> None:
        self._model, self._experts = model, experts
        taken = inspect.signature(type(model).forward).parameters
        self._cache = next(name for name in CACHES if name in taken)
        # The logits of a prompt's other tokens would be the largest tensor of all, and nobody asks for them.
        self._more = {"logits_to_keep": 1} if "logits_to_keep" in taken else {}

    @property
    def layers(self) -> int:
        """How many layers have keys and values."""
        return int(self._model.config.get_text_config().num_hidden_layers)

    def mask_dtype(self, *, by_lookup: bool) -> torch.dtype:
        """The type of a step's mask."""
        if by_lookup:
            return self._model.dtype
        return MASKS[attention_of(self._model)](self._model.dtype)

    def prefill(
        self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor, arena: Arena
    ) -> torch.Tensor:
        """The logits after these prompts, side by side, float32 [rows, vocabulary].

        ids: [rows, width]. mask: of all slots that are read, [rows, slots]; None where there is no padding.
        positions: [rows, width].
        """
        return self._logits(ids, mask, positions, arena)

    def prefill_ragged(
        self, ids: torch.Tensor, positions: torch.Tensor, ends: torch.Tensor, arena: Arena, layout: ragged.Layout
    ) -> torch.Tensor:
        """The logits after these prompts, one after another, float32 [rows, vocabulary].

        ids and positions: [1, tokens]. ends: the last token of each prompt, [rows].
        """
        with self._attending(ragged.NAME), ragged.laid_out(layout):
            logits = self._output(ids, None, positions, arena, dict.fromkeys(self._more, ends))[0]
        return (logits if self._more else logits[ends]).float()

    def step(
        self,
        token: torch.Tensor,
        mask: torch.Tensor,
        position: torch.Tensor,
        arena: Arena,
        attention: str | None = None,
    ) -> torch.Tensor:
        """The logits after one more token, [rows, 1] as its position; mask: [rows, 1, 1, slots that are read].

        `attention` is another than the model's own, by its name.
        """
        with contextlib.nullcontext() if attention is None else self._attending(attention):
            return self._logits(token, mask, position, arena)

    def decoding(self, rows: int) -> contextlib.AbstractContextManager[Any]:
        """Around steps of so many rows."""
        return decode_products(self._model, self._experts, rows)

    @contextlib.contextmanager
    def _attending(self, attention: str) -> Iterator[None]:
        config = self._model.config.get_text_config()
        own, config._attn_implementation = config._attn_implementation, attention
        try:
            yield
        finally:
            config._attn_implementation = own

    def _logits(
        self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor, arena: Arena
    ) -> torch.Tensor:
        return self._output(ids, mask, positions, arena, self._more)[:, -1].float()

    def _output(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor | None,
        positions: torch.Tensor,
        arena: Arena,
        more: dict[str, Any],
    ) -> torch.Tensor:
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            return_dict=True,
            **{self._cache: arena.cache},
            **more,
        )
        logits: torch.Tensor = output.logits
        return logits
