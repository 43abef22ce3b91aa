"""Marks of rows that end by something else than an end-of-sequence token: a stop string, or logits that are no numbers.

A mark is a number on the device, so that the host reads it once at the end of a call, not at every step. Knows which
logits are of no use, and what to say of them; knows no models.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import transformers

from rankdeck.runner.protocol import UNUSABLE_LOGITS

Kind = Literal["stop string", "NaN", "infinite"]
KINDS: tuple[Kind, ...] = ("stop string", "NaN", "infinite")
UNUSABLE: tuple[Kind, ...] = ("NaN", "infinite")


class Marks:
    """The marks of the rows of a call; a row keeps its first. 0 is none."""

    def __init__(self, rows: int, device: torch.device, values: torch.Tensor | None = None) -> None:
        """Marks of their own, or those in `values`, [rows]."""
        self.values = torch.zeros(rows, dtype=torch.long, device=device) if values is None else values

    def set(self, rows: torch.Tensor, step: int | torch.Tensor, kind: Kind) -> None:
        """Mark these rows, [rows], with what happened to them at new token number `step`, 1 or more.

        In place: a captured step finds the marks where they were.
        """
        mark = step * len(KINDS) + KINDS.index(kind)
        self.values.copy_(torch.where(rows & (self.values == 0), mark, self.values))

    @property
    def set_at(self) -> torch.Tensor:
        """The new token that each row was marked at, [rows]; 0 where it was not."""
        return self.values // len(KINDS)


def read(mark: int) -> tuple[int | None, Kind]:
    """The step and the kind of a mark; no step where there is none."""
    return mark // len(KINDS) or None, KINDS[mark % len(KINDS)]


def unusable(logits: torch.Tensor) -> dict[Kind, torch.Tensor]:
    """Which rows of logits, [rows, vocabulary], no token can be chosen from, [rows], by what is wrong with them.

    A row's largest value tells: it is NaN if any is, infinite if any is, or if all are minus infinity.
    """
    largest = logits.amax(dim=-1)
    return {"NaN": largest.isnan(), "infinite": largest.isinf()}


class LogitCheck(transformers.LogitsProcessor):
    """Marks rows whose logits are unusable; the first processor, since a mask or a penalty would hide them.

    `marks` and `step`, the number of the next new token, are set by who calls `generate`. With `sampled` such a row is
    made one that a token can be drawn from: some rules for sampling raise an error where there is none (top_h, eta).
    Infinite values pass where the model's generation config has them replaced.
    """

    def __init__(self, *, sampled: bool, infinite_is_replaced: bool) -> None:
        self._sampled, self._infinite_is_replaced = sampled, infinite_is_replaced
        self.marks: Marks | None = None
        self.step: int | torch.Tensor = 1

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        found = unusable(scores)
        if self._infinite_is_replaced:
            del found["infinite"]
        if self.marks is not None:
            for kind, rows in found.items():
                self.marks.set(rows, self.step, kind)
        if not self._sampled:
            return scores  # the largest of any numbers is found without harm
        bad = torch.stack(list(found.values())).any(dim=0)
        return torch.where(bad[:, None], 0.0, scores)


class DrawableLogits(transformers.LogitsProcessor):
    """Makes unusable rows ones that a token can be drawn from, the last processor of the continuous engine.

    That tells its rows apart only by the probabilities of their tokens. All tokens of such a row are made equally
    likely, which tells it later: `seen`, on the device, says whether there was one at all.
    """

    supports_continuous_batching = True

    def __init__(self, device: torch.device) -> None:
        self.seen = torch.zeros((), dtype=torch.bool, device=device)
        self._width = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._width = scores.shape[-1]
        bad = torch.stack(list(unusable(scores).values())).any(dim=0)
        self.seen.logical_or_(bad.any())
        return torch.where(bad[:, None], 0.0, scores)

    def first_unusable(self, log_probabilities: Sequence[float]) -> int | None:
        """The number of the first new token that was chosen from unusable logits, by the tokens' log-probabilities."""
        equal = -math.log(self._width) if self._width and bool(self.seen) else None
        for number, value in enumerate(log_probabilities or (), start=1):
            if math.isnan(value) or (equal is not None and math.isclose(value, equal, rel_tol=1e-6)):
                return number
        return None


def words(kind: Kind, step: int, dtype: torch.dtype) -> str:
    """What to say of a row that was marked as unusable, and what to do."""
    name = str(dtype).removeprefix("torch.")
    wider = {
        torch.float16: "float16 ends at 65,504, so try --dtype bfloat16 or float32",
        torch.bfloat16: "try --dtype float32",
    }.get(dtype)
    cure = f"{wider}; if they still are, the weights are damaged" if wider else "the weights or the model is damaged"
    return f"{UNUSABLE_LOGITS}{kind} at new token {step:,}, in {name}: {cure}"
