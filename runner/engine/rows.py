"""Rows of a batch, as both engines speak of them: how far they are, and what an ended one says. No torch."""

from dataclasses import dataclass
from typing import Any

from rankdeck.runner.protocol import FinishReason

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


def group_by_width(widths: dict[int, int], group_cost: int) -> list[list[int]]:
    """Groups, widest first, for which rows x width plus `group_cost` for each group is least in sum.

    Rows are sorted by width, so a group is a stretch of them; the cheapest way to cut the first n is found for every n.
    """
    order = sorted(widths, key=lambda at: -widths[at])
    # Only between different widths is a cut worth a thought: that keeps this small for any number of rows.
    edges = [0, *(n for n in range(1, len(order)) if widths[order[n]] != widths[order[n - 1]]), len(order)]
    best: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, len(edges)):
        costs = (
            (best[start][0] + group_cost + (edges[end] - edges[start]) * widths[order[edges[start]]], start)
            for start in range(end)
        )
        best.append(min(costs))
    groups, end = [], len(edges) - 1
    while end:
        start = best[end][1]
        groups.append(order[edges[start] : edges[end]])
        end = start
    return groups[::-1]
