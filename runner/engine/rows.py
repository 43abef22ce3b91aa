"""Rows of a batch, as both engines speak of them: how far they are, and what an ended one says. No torch."""

from dataclasses import dataclass
from typing import Any

from runner.protocol import FinishReason

PROGRESS_SECONDS = 0.2
"""At most five progress reports a second: counting live tokens reads from the device."""


class Cancelled(Exception):
    """The batch was abandoned on request, within a decode step. What had ended before that, counts."""


@dataclass(frozen=True)
class Progress:
    """Inside a batch: new tokens per row so far, and real output tokens so far of the rows that are still in it."""

    step: int
    output_tokens: int


@dataclass(frozen=True)
class Answer:
    """One row's new tokens, up to and including the end-of-sequence token."""

    tokens: list[int]
    finish_reason: FinishReason


Ended = tuple[Any, Answer | str, list[float]]
"""Of a row that has ended: its key, its answer or what went wrong, and when each token came."""


def trim(tokens: list[int], eos_tokens: frozenset[int]) -> Answer:
    """Cut a row's new tokens after its first end-of-sequence token; what follows is padding."""
    for position, token in enumerate(tokens):
        if token in eos_tokens:
            return Answer(tokens[: position + 1], "stop")
    return Answer(tokens, "length")
