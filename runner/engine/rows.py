"""The rows of a batch, for both engines: their progress, their answers, and how to group them. No torch."""

from dataclasses import dataclass
from typing import Any

from rankdeck.runner.protocol import FinishReason

PROGRESS_SECONDS = 0.2
"""At most five progress reports a second: counting tokens reads from the device."""


class Cancelled(Exception):
    """The batch was abandoned on request. Rows that had ended before still count."""


@dataclass(frozen=True)
class Progress:
    """Progress in a batch: new tokens per row so far, and real output tokens of the rows still in it."""

    step: int
    output_tokens: int


@dataclass(frozen=True)
class Answer:
    """One row's new tokens, up to and including the end-of-sequence token."""

    tokens: list[int]
    finish_reason: FinishReason


Ended = tuple[Any, Answer | str, list[float]]
"""An ended row: its key, its answer or what went wrong, and when each token came."""


def trim(tokens: list[int], eos_tokens: frozenset[int]) -> Answer:
    """A row's answer: its new tokens up to the first end-of-sequence token, after which there is only padding."""
    for position, token in enumerate(tokens):
        if token in eos_tokens:
            return Answer(tokens[: position + 1], "stop")
    return Answer(tokens, "length")


def slots_read(rows: int, width: int, steps: int, last: int) -> int:
    """Slots whose keys and values `rows` read in the `steps` up to step `last`, of prompts padded to `width`.

    Step 1 is the prefill, which reads no cache; step t reads the prompt and the t - 1 new tokens.
    """
    first = max(2, last - steps + 1)
    count = max(0, last - first + 1)
    return rows * (count * width + count * (first + last - 2) // 2)


def group_by_width(widths: dict[int, int], group_cost: int) -> list[list[int]]:
    """Group rows, widest first, so that the sum of rows x width plus `group_cost` over all groups is least.

    Of rows sorted by width a group is a stretch; the cheapest grouping of the first n rows is found for every n.
    """
    order = sorted(widths, key=lambda at: -widths[at])
    # Only cuts between different widths can help: that keeps this fast for any number of rows.
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
