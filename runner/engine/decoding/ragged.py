"""Prefill without padding: the tokens of prompts stand one after another, as if they were a single row.

All of a model but its attention looks at one token at a time, and so computes nothing for padding. Attention takes the
prompts apart: those of like length side by side, filled up at the end, where no token of theirs looks. That costs
little, since attention is the smallest part of a prefill of all but long prompts.

Knows tensors and transformers' registry of attentions; knows no caches, models or batches.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import transformers

NAME = "rankdeck_ragged"
"""What transformers knows this attention by."""

OWN = "sdpa"
"""The attention that takes over once prompts stand side by side."""

LIKE, SHORT = 2, 64
"""Prompts stand side by side if the longest has at most `LIKE` times the tokens of the shortest, or is `SHORT`."""

MOST_KEYS = 65536
"""Keys of prompts side by side, those of what they share and padding included: each prompt has a copy of these."""


@dataclass(frozen=True)
class _Side:
    """Prompts side by side: `rows` of `width` tokens, found at `places`, [rows x width]; None where they lie so.

    `mask` is what each may look at, [1, 1, width, known + width]; None where causal attention says so already.
    """

    rows: int
    width: int
    places: torch.Tensor | None
    mask: torch.Tensor | None


class Layout:
    """How the tokens of prompts of these lengths lie in a pass, each after the same `known` tokens.

    It is right for any order, and best for that of length.
    """

    def __init__(self, lengths: Sequence[int], known: int, device: torch.device) -> None:
        self.known = known
        starts = list(accumulate(lengths, initial=0))
        self._sides: list[_Side] = []
        back: list[int] = []  # where each token is found once all sides lie one after another
        first = laid = 0
        for count in alike(lengths, known):
            mine = lengths[first : first + count]
            width = max(mine)
            even = min(mine) == width
            places = [start + min(at, length - 1) for start, length in zip(starts[first:], mine, strict=False)
                      for at in range(width)]  # fmt: skip
            mask = torch.ones(width, known + width, dtype=torch.bool).tril(known)[None, None] if known else None
            self._sides.append(
                _Side(
                    count,
                    width,
                    None if even and count == len(lengths) else torch.tensor(places, device=device),
                    None if mask is None else mask.to(device),
                )
            )
            back += [laid + row * width + at for row, length in enumerate(mine) for at in range(length)]
            first, laid = first + count, laid + count * width
        self._back = None if back == list(range(laid)) else torch.tensor(back, device=device)

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **more: Any
    ) -> tuple[torch.Tensor, None]:
        """[1, heads, tokens, width] to [1, tokens, heads, width]; keys and values begin with the `known` tokens'."""
        attention = transformers.AttentionInterface()[OWN]
        queries = query[0].transpose(0, 1)  # [tokens, heads, width]
        keys, values = (states[0, :, self.known :].transpose(0, 1) for states in (key, value))
        found = []
        for side in self._sides:
            ours, its_keys, its_values = (_laid(states, side) for states in (queries, keys, values))
            if self.known:
                before = (states[:, :, : self.known].expand(side.rows, -1, -1, -1) for states in (key, value))
                its_keys, its_values = (
                    torch.cat([known, own], dim=2) for known, own in zip(before, (its_keys, its_values), strict=True)
                )
            output, _ = attention(module, ours, its_keys, its_values, side.mask, **more)  # [rows, width, heads, width]
            found.append(output.reshape(side.rows * side.width, *output.shape[2:]))
        whole = found[0] if len(found) == 1 else torch.cat(found)
        return (whole if self._back is None else whole.index_select(0, self._back))[None], None


def _laid(states: torch.Tensor, side: _Side) -> torch.Tensor:
    """[tokens, heads, width] to [rows, heads, tokens of a row, width]."""
    laid = states if side.places is None else states.index_select(0, side.places)
    return laid.reshape(side.rows, side.width, *states.shape[1:]).transpose(1, 2)


def alike(lengths: Sequence[int], known: int = 0) -> list[int]:
    """How many prompts stand side by side each time, at least one: in this order, each after `known` tokens."""
    counts: list[int] = []
    least = most = 0
    for length in lengths:
        low, high = (min(least, length), max(most, length)) if counts else (length, length)
        fits = counts and (counts[-1] + 1) * (known + high) <= MOST_KEYS
        if fits and high <= max(LIKE * low, SHORT):
            counts[-1] += 1
            least, most = low, high
        else:
            counts.append(1)
            least = most = length
    return counts


def in_passes(lengths: dict[int, int], tokens: int) -> list[list[int]]:
    """Which prompts are prefilled in one pass, by position: longest first, at most so many tokens or a single one."""
    passes: list[list[int]] = []
    room = 0
    for at in sorted(lengths, key=lambda at: -lengths[at]):
        if not passes or lengths[at] > room:
            passes.append([])
            room = tokens
        passes[-1].append(at)
        room -= lengths[at]
    return passes


_layout: Layout | None = None


@contextlib.contextmanager
def laid_out(layout: Layout) -> Iterator[None]:
    """Within it attention of this name finds prompts as `layout` has them. A process makes one pass at a time."""
    global _layout
    before, _layout = _layout, layout
    try:
        yield
    finally:
        _layout = before


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """See `Layout.attend`.

    Raises:
        NotImplementedError: the model asks for attention that depends on more than who may look at whom.
    """
    assert _layout is not None
    if attention_mask is not None or more.get("position_bias") is not None or more.get("sliding_window") is not None:
        raise NotImplementedError("tokens of several prompts in a row have no mask, bias or window of their own")
    return _layout.attend(module, query, key, value, **more)


transformers.AttentionInterface.register(NAME, attend)
