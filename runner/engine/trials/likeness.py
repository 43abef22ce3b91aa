"""When two ways to compute the same rows count as the same: their logits differ by no more than rounding makes them.

In float32 rounding is so small that one tolerance does for all models. In the half types it is not: there it is
measured on the model at hand, by computing rows once more with each layer's output moved by one rounding, up or down by
chance. Moving all of them differs more than another order of the same sums does (two to four times, tried with a dozen
kinds of model), and less than a fault does. Knows logits and the hooks of modules; knows no caches and no engines.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rankdeck.runner.engine import errors
from rankdeck.runner.engine.experts import experts_of

EXACT_TYPES = (torch.float32, torch.float64)

EXACT = 1e-2
"""The largest difference in float32, relative to the logits' own spread: rounding makes it some 1e-5, padding that gets
into a state up to 1."""

UNMEASURED = 0.1
"""The same in the half types where rounding cannot be measured."""

USUAL = 3.0
"""How many times the usual difference that rounding makes is let pass: not every row is moved as far."""

MOST = 0.5
"""Where rounding makes more of a difference than this, nothing can be told from it."""

LOG_EXACT = 1e-2
"""The largest difference of the logarithm of a probability in float32."""

DEVIATIONS = 2.0
"""A single logit may differ by so many times the tolerance, in standard deviations of the logits."""

LEAST = -1e4
"""A model rules out tokens by a logit below this, often minus infinity."""


@dataclass(frozen=True)
class Likeness:
    """How far logits may differ, relative to their spread; and whether those of every row have to agree, or of most.

    Where a rounding may choose another expert, most is all that can be asked for. `exact` are the types in which
    rounding plays no part.
    """

    tolerance: float
    every: bool
    exact: bool = False

    def agree(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        """Whether logits, [steps, rows, vocabulary], are the same but for rounding: at each step, by `enough`.

        Where both are no numbers, there is nothing to tell them apart by. Tokens that a model rules out are not among
        them.
        """
        same = differences(one, other) <= self.tolerance
        same |= ~one.clamp(min=LEAST).isfinite().all(dim=-1) & ~other.clamp(min=LEAST).isfinite().all(dim=-1)
        return all(self.enough(rows) for rows in same.tolist())

    def enough(self, same: Sequence[bool]) -> bool:
        """Whether these rows are the same: all, or most."""
        return all(same) if self.every else sum(same) * 2 > len(same)

    def log_tolerance(self, logits: torch.Tensor) -> float:
        """How far the logarithm of a token's probability may differ, after these logits, [vocabulary]."""
        if self.exact:
            return LOG_EXACT
        usual = logits[logits > LEAST]
        return DEVIATIONS * self.tolerance * float(usual.std(correction=0)) if len(usual) else LOG_EXACT


def likeness(model: Any, again: Callable[[], torch.Tensor], before: torch.Tensor) -> Likeness:
    """How far logits of this model may differ. `again` computes once more what gave `before`.

    Raises:
        Exception: memory ran out.
    """
    if model.dtype in EXACT_TYPES:
        return Likeness(EXACT, every=True, exact=True)
    every = experts_of(model) is None
    try:
        with _moved_by_rounding(model):
            moved = differences(again(), before)
    except Exception as error:
        if errors.is_out_of_memory(error):
            raise
        return Likeness(UNMEASURED, every)
    # The median: where a rounding has chosen another expert, that row says nothing about rounding.
    usual = USUAL * float(moved.flatten().quantile(0.5))
    if usual != usual:  # no numbers at all
        return Likeness(UNMEASURED, every)
    return Likeness(min(MOST, max(EXACT, usual)), every)


def differences(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """How far logits, [..., vocabulary], are from `other`, relative to the spread of those: [...]."""
    # The size of ruled out tokens would be taken for the spread of the others, beside which no difference is large.
    compared = ~((one <= LEAST) & (other <= LEAST))
    one, other = one.clamp(min=LEAST), other.clamp(min=LEAST)
    mean = (other * compared).sum(dim=-1, keepdim=True) / compared.sum(dim=-1, keepdim=True).clamp(min=1)
    spread = ((other - mean) * compared).norm(dim=-1).clamp(min=1e-6)
    return ((one - other) * compared).norm(dim=-1) / spread


@contextlib.contextmanager
def _moved_by_rounding(model: torch.nn.Module) -> Iterator[None]:
    """Has every layer without layers of its own give its output moved by one unit in the last place, or about one."""
    draw = torch.Generator().manual_seed(0)

    def move(module: torch.nn.Module, given: Any, output: Any) -> Any:
        if not isinstance(output, torch.Tensor) or not output.is_floating_point():
            return None
        up = torch.randint(0, 2, output.shape, generator=draw, dtype=torch.int8).to(output.device)
        step = torch.finfo(output.dtype).eps / 2
        return (output.float() * (1 + step * (2 * up - 1))).to(output.dtype)

    hooks = [module.register_forward_hook(move) for module in model.modules() if next(module.children(), None) is None]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
