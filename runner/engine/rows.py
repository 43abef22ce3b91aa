"""The rows of a batch, for all engines: their progress and answers, how they are grouped and padded, when they leave.

Knows no torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rankdeck.runner.protocol import FinishReason

PROGRESS_SECONDS = 0.2
"""At most five progress reports a second: counting tokens reads from the device."""


LEAVING_SHARE = {"cpu": 1 / 64}
"""Share of a batch's rows that must have ended before they leave, by kind of device. On a CPU a needless row costs
nearly its share of a step, and taking it out less than a quarter of a step (2 cores, 50 rows, 135 M parameters)."""

LEAVING_SHARE_ELSEWHERE = 1 / 2
"""On a GPU a step takes about as long with any number of rows, and ending a call costs about ten milliseconds. The
gain is memory and early records: halving gives both in about log2(rows) calls, down to the last row."""

GROUP_SLOTS = {"cpu": 64}
"""What another forward pass costs, in token slots, by kind of device: it reads all weights once more."""

GPU_LAYER_SECONDS = 0.8e-3
"""Time to launch a layer's roughly 43 kernels: on a GPU another forward pass costs this for each layer."""

GPU_FLOPS = 6e14
"""FLOP/s of large bfloat16 matmuls, two thirds of an H100's peak. A slot takes two FLOPs per parameter."""


PASS_TOKENS = {"cpu": 512}
"""Tokens of several prompts that are prefilled in one pass, by kind of device. 512 hide what reading the weights costs;
more only take memory: 128 took 0.76 s for 50 prompts, 256 0.70, 512 0.68, 8,192 0.70 (135 M parameters, one core)."""

PASS_TOKENS_ELSEWHERE = 8192
"""On a GPU: enough that it computes at its full rate."""


class Cancelled(Exception):
    """The batch was abandoned on request. Rows that had ended before still count."""


@dataclass(frozen=True)
class Progress:
    """Progress in a batch: new tokens per row so far, and real output tokens of the rows still in it."""

    step: int
    output_tokens: int


@dataclass(frozen=True)
class Answer:
    """One row's new tokens, up to and including the end-of-sequence token, or why there is no answer."""

    tokens: list[int]
    finish_reason: FinishReason
    problem: str | None = None


class Row(NamedTuple):
    """A row to generate: the key that it is known by, its prompt's tokens, and the prompt's index in the run."""

    key: Any
    tokens: list[int]
    prompt: int = 0


Ended = tuple[Any, Answer | str, list[float]]
"""An ended row: its key, its answer or what went wrong, and when each token came."""


def trim(tokens: list[int], eos_tokens: frozenset[int], at_most: int | None = None) -> Answer:
    """A row's answer: its new tokens up to the first end-of-sequence token, after which there is only padding.

    Something else has ended the row with token number `at_most`, if that is given.
    """
    for position, token in enumerate(tokens[:at_most]):
        if token in eos_tokens:
            return Answer(tokens[: position + 1], "stop")
    return Answer(tokens[:at_most], "length" if at_most is None else "stop")


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


def group_slots(device_type: str, layers: int, parameters: int) -> int:
    """What another forward pass costs, in token slots: on an H100 some 1,150 for 7 B parameters, 270 for 70 B.

    A slower GPU computes fewer slots in that time: then there are fewer groups than would be best, and no harm done.
    """
    if device_type in GROUP_SLOTS:
        return GROUP_SLOTS[device_type]
    return math.ceil(layers * GPU_LAYER_SECONDS * GPU_FLOPS / (2 * parameters))


def pass_tokens(device_type: str) -> int:
    """Tokens of several prompts that are prefilled in one pass."""
    return PASS_TOKENS.get(device_type, PASS_TOKENS_ELSEWHERE)


def left_padded(rows: Sequence[list[int]], width: int, pad: int) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids and attention mask of these rows, each [rows, width]."""
    lacking = [width - len(row) for row in rows]
    ids = [[pad] * less + row for less, row in zip(lacking, rows, strict=True)]
    mask = [[0] * less + [1] * (width - less) for less in lacking]
    return ids, mask


def leaving(device_type: str, rows: int) -> int:
    """How many of a batch's rows must have ended before they leave it."""
    return math.ceil(rows * LEAVING_SHARE.get(device_type, LEAVING_SHARE_ELSEWHERE))
