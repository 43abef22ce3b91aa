"""Finds out which rows a model can be given together: tries a few, each alone, then as batches would have them.

A model may take padding into its state, or heed no attention mask; a cache may lose the wrong rows, or not be one that
can be shifted to the right. Whatever its kind, its logits tell: they have to be those of the row alone. Knows a model's
cache and the trial of a model; knows no runs. Meant for `warm_up`: it is also the first use of every kernel.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
import transformers

from rankdeck.runner.engine import errors
from rankdeck.runner.engine.generation import vocabulary
from rankdeck.runner.engine.generation.cache_rows import KeptRows, join, stacked
from rankdeck.runner.engine.packed_linear import PackedLinear
from rankdeck.runner.engine.trials import exactly, told
from rankdeck.runner.engine.trials.findings import NOTHING_KEPT, Findings
from rankdeck.runner.engine.trials.likeness import EXACT_TYPES, likeness
from rankdeck.runner.engine.trials.told import Told

Together = Literal["padded", "equal", "alone"]
# The freest first.
FREEST: tuple[Together, ...] = get_args(Together)

WORDS: dict[Together, str] = {
    "equal": "rows of equal length only: with padding this model gives other answers, as if the padding were text",
    "alone": "one row at a time: next to other rows this model gives other answers",
}
"""What is said of rows that do not all go together."""

LENGTHS = (4, 4, 4, 12)
"""Short rows are changed most by padding; of three that are as long as each other, most are two."""

WIDTH, BEFORE, AFTER = 16, 1, 1
"""What the rows are padded to, and how many tokens they go on with before and after one of them leaves.

A fault shows in the logits of the step it is made in. Each forward pass reads all weights once more, and there are some
fifteen: two tokens each would be as many again.
"""


@dataclass(frozen=True)
class Found:
    """How the rows of a model go together, why they cannot leave a batch, and whether groups of them can be joined.

    `leaves_state` is whether the model keeps something in its modules from one batch to the next, `loops` whether the
    decode loop gives its logits.
    """

    together: Together
    why_rows_stay: str | None
    may_join: bool
    leaves_state: bool
    loops: bool = False


InLoop = Callable[[list[list[int]], list[list[int]]], torch.Tensor]
"""The logits of prompts in the decode loop, as rows go on with given tokens: [steps, rows, vocabulary]."""


def rehearse(
    model: Any,
    tokenizer: Any,
    pad: int,
    device: torch.device,
    in_loop: InLoop | None = None,
    findings: Findings = NOTHING_KEPT,
    *,
    loop: str = "in the loop",
) -> Found:
    """Try a model's rows together, or take what `findings` know. The errors of a model that cannot even generate a row
    alone pass.

    A model in a half type is tried in float32 too, if there is room: the half type may have faults of its own, but it
    hides such as are no larger than its rounding. `in_loop` is the decode loop, called
    `loop`, if it is to be tried.
    """
    both = exactly.may_be_tried(model, device)
    packed = any(isinstance(module, PackedLinear) for module in model.modules())
    ways = f"{', packed' * packed}{', in float32 too' * both}{f', {loop}' * (in_loop is not None)}"
    trial = f"rehearsal, padded with {pad}{ways}"
    if (known := findings.known(trial, Found)) is not None:
        return known
    found = _as_it_is(model, tokenizer, pad, device, in_loop)
    exact = exactly.tried(
        model, device, lambda: _Rehearsal(model, tokenizer, pad, device, told.TEXTS[0], in_loop).found()
    )
    if exact is not None:
        found = _both(found, exact)
    # What went wrong may have been the day's: it is tried again.
    good = found.together == "padded" and found.may_join and (found.loops or in_loop is None)
    if good and (exact is not None) == both:
        findings.keep(trial, found)
    return found


def _both(one: Found, other: Found) -> Found:
    """What holds by two findings: whatever one of them rules out is ruled out."""
    together = FREEST[max(FREEST.index(one.together), FREEST.index(other.together))]
    stay = one.why_rows_stay or other.why_rows_stay
    left, loops = one.leaves_state or other.leaves_state, one.loops and other.loops
    return Found(together, stay, one.may_join and other.may_join, left, loops)


def _as_it_is(model: Any, tokenizer: Any, pad: int, device: torch.device, in_loop: InLoop | None) -> Found:
    """What a rehearsal finds in the model's own type.

    In the half types a rounding may choose another expert, and look like a fault: there a fault is one only if it shows
    in two texts.
    """
    first = _Rehearsal(model, tokenizer, pad, device, told.TEXTS[0], in_loop).found()
    free = first.together == "padded" and first.why_rows_stay is None and (first.loops or in_loop is None)
    if model.dtype in EXACT_TYPES or free:
        return first
    second = _Rehearsal(model, tokenizer, pad, device, told.TEXTS[1], in_loop).found()
    return replace(max(first, second, key=_freedom), leaves_state=first.leaves_state or second.leaves_state)


def _freedom(found: Found) -> tuple[int, bool, bool, bool]:
    return -FREEST.index(found.together), found.why_rows_stay is None, found.may_join, found.loops


class _Rehearsal:
    """The rows that are tried, by their places, and what each goes on with: `BEFORE + AFTER` tokens."""

    def __init__(
        self, model: Any, tokenizer: Any, pad: int, device: torch.device, text: str, in_loop: InLoop | None
    ) -> None:
        self._model, self._pad, self._device, self._in_loop = model, pad, device, in_loop
        steps = BEFORE + AFTER
        context = vocabulary.context_tokens(model.config) or WIDTH + steps
        self._width = max(1, min(WIDTH, context - steps))
        lengths = [min(length, self._width) for length in LENGTHS]
        ids = told.tokens(tokenizer, sum(lengths) + len(lengths) * steps, vocabulary.known_ids(model), text)
        self._rows = [[ids.pop() for _ in range(length)] for length in lengths]
        self._said = [[ids.pop() for _ in range(steps)] for _ in lengths]

    def found(self) -> Found:
        every = list(range(len(self._rows)))
        each = [self._told([row]) for row in every]
        alone, left = torch.cat([row.logits for row in each], dim=1), any(row.left_state for row in each)
        measured = [0, len(each) - 1]
        self._likeness = likeness(
            self._model, lambda: torch.cat([self._told([row]).logits for row in measured], dim=1), alone[:, measured]
        )
        equal = [row for row in every if len(self._rows[row]) == len(self._rows[0])]
        padded = self._same(lambda: self._told(every, self._width).logits, alone)
        if not padded and not self._same(lambda: self._told(equal).logits, alone[:, equal]):
            return Found("alone", None, False, left)
        why = self._why_rows_stay(every if padded else equal, self._width if padded else 0, alone)
        may_join = padded and why is None and self._same(self._joined, alone[BEFORE:])
        in_loop = self._in_loop
        loops = may_join and in_loop is not None and self._same(lambda: in_loop(self._rows, self._said), alone)
        return Found("padded" if padded else "equal", why, may_join, left, loops)

    def _why_rows_stay(self, rows: list[int], width: int, alone: torch.Tensor) -> str | None:
        """Why the first of these rows, padded to `width`, cannot leave; None if it can."""
        stay = list(range(1, len(rows)))
        try:
            begun = self._told(rows, width, stop=BEFORE)
            kept = KeptRows(stay)
            kept.take_out(begun.cache)
            ids, mask = (part[kept.on(part.device)] for part in (begun.sequences, begun.mask))
            after = self._go_on(rows[1:], ids, mask, begun.cache)
        except Exception as error:
            if errors.is_out_of_memory(error):
                raise  # which says nothing about the cache
            return f"its cache cannot lose rows ({type(error).__name__}: {error})"
        if not self._likeness.agree(after, alone[BEFORE:, rows[1:]]):
            return "its cache loses more than the rows that leave"
        return None

    def _joined(self) -> torch.Tensor:
        """The logits of all rows after they were begun as two groups, the narrower one shifted to the right.

        Raises:
            TypeError: the cache is no list of keys and values.
        """
        every = list(range(len(self._rows)))
        groups = [every[:-1], every[-1:]]
        begun = [self._told(group, stop=BEFORE) for group in groups]
        plain = transformers.cache_utils.DynamicLayer
        if not all(type(layer) is plain for one in begun for layer in one.cache.layers):
            raise TypeError("a sliding window, or a state, cannot be shifted")
        width = max(one.sequences.shape[1] for one in begun)
        lacking = [width - one.sequences.shape[1] for one in begun]
        ids = stacked([one.sequences for one in begun], lacking, self._pad)
        mask = stacked([one.mask for one in begun], lacking, 0)
        return self._go_on(every, ids, mask, join([one.cache for one in begun], lacking))

    def _same(self, compute: Callable[[], torch.Tensor], alone: torch.Tensor) -> bool:
        """Whether these logits are those of the rows alone. A way that raises is none, unless memory runs out."""
        try:
            return self._likeness.agree(compute(), alone)
        except Exception as error:
            if errors.is_out_of_memory(error):
                raise
            return False

    def _told(self, rows: Sequence[int], width: int = 0, *, stop: int | None = None) -> Told:
        """The logits of these rows as they go on, padded to `width`; up to the step `stop`."""
        ids, mask = told.padded([self._rows[row] for row in rows], self._pad, width)
        said = [self._said[row][:stop] for row in rows]
        return told.told(self._model, ids.to(self._device), mask.to(self._device), said, self._pad)

    def _go_on(self, rows: Sequence[int], ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> torch.Tensor:
        """The logits of these rows from step `BEFORE` on; `cache` has all of `ids` but the last."""
        said = [self._said[row][BEFORE:] for row in rows]
        return told.told(self._model, ids, mask, said, self._pad, cache).logits
