"""Packs a model's weights for the CPU, and makes sure that it computes what it did before.

Some models read a layer's weight beside calling the layer (Mamba's time steps): such layers stay as they are, and those
of the same name in other blocks, which the trial may not have reached. Afterwards the whole model is tried again,
prefill and cached steps, against what it said before. Knows packed layers and the trial of a model; knows no runs.
"""

import contextlib
import functools
import re
from collections.abc import Iterator
from typing import Any

import torch

from rankdeck.runner.engine import errors, packed_linear
from rankdeck.runner.engine.generation import vocabulary
from rankdeck.runner.engine.trials import told
from rankdeck.runner.engine.trials.findings import NOTHING_KEPT, Findings
from rankdeck.runner.engine.trials.likeness import likeness

TRIAL = "packing"
ROWS, PROMPT, STEPS = 2, 6, 2


def pack(model: Any, tokenizer: Any, findings: Findings = NOTHING_KEPT) -> str | None:
    """Pack a model's linear layers where that changes nothing; returns a line for people where it would.

    What is kept in `findings` is which layers stay as they are, and only of a model that passed the trial: one that
    did not is tried again, for the fault may have been the day's.
    """
    known = findings.known(TRIAL, frozenset[str])
    if known is not None:
        packed_linear.pack(model, leave=lambda name: _kind(name) in known)
        return None
    ids = told.tokens(tokenizer, ROWS * (PROMPT + STEPS), vocabulary.known_ids(model))
    rows = torch.tensor(ids).view(ROWS, PROMPT + STEPS)
    prompts, said = rows[:, :PROMPT], rows[:, PROMPT:].tolist()

    def logits() -> torch.Tensor:
        return told.told(model, prompts, torch.ones_like(prompts), said, pad=ids[0]).logits

    with _watched(model) as read:
        before = logits()
    alike = likeness(model, logits, before)
    if not packed_linear.pack(model, leave=lambda name: _kind(name) in read):
        return None
    problem = "they gave other logits"
    try:
        if alike.agree(logits(), before):
            findings.keep(TRIAL, sorted(read))
            return None
    except Exception as error:
        if errors.is_out_of_memory(error):
            raise
        problem = errors.in_one_line(error)
    packed_linear.unpack(model)
    return f"the weights are not packed for this CPU, so it is slower; the trial failed: {problem}"


class _Watched(torch.nn.Linear):
    """A linear layer that tells when its weight is read by others."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(input, self._parameters["weight"], self.bias)

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            self.on_read()
        return super().__getattr__(name)


@contextlib.contextmanager
def _watched(model: torch.nn.Module) -> Iterator[set[str]]:
    """Yields the kinds of layers whose weight is read other than by calling them, as they come up."""
    read: set[str] = set()
    layers = packed_linear.packable(model)
    for name, layer in layers.items():
        layer.__class__ = _Watched
        layer.on_read = functools.partial(read.add, _kind(name))
    try:
        yield read
    finally:
        for layer in layers.values():
            layer.__class__ = torch.nn.Linear
            del layer.on_read


def _kind(name: str) -> str:
    """A layer's name without the number of its block: that of `layers.3.mixer.dt_proj` is `layers.*.mixer.dt_proj`."""
    return re.sub(r"\d+", "*", name)
