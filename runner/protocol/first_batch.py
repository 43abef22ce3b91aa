"""What `--batch-size auto` begins with. The search, and the estimate of a run's memory before it, both ask here. Pure.

Knows how many rows a device does in about the time of fewer. Does not know what grows from there
(`runner.scheduling.batch_size_search`), nor how many rows memory holds.
"""

from typing import NamedTuple

FIRST_BATCH_SIZE = 64
"""On a CPU: up to here a larger batch was faster on every one measured so far."""

FIRST_BATCH_SIZE_ON_GPU = 256
"""A decode step is bound by launching kernels, and then by reading the weights: with 256 rows it takes little longer
than with 64 (predicted for an H100 and 7 B parameters: a quarter to a third)."""

SMALL_JOB_ROUNDS = 4
"""A job of at most this many even rounds is over before a search would pay off."""


class FirstBatch(NamedTuple):
    """The rows of the first batches, and in how many even rounds they do the whole job; None: a search goes on."""

    rows: int
    rounds: int | None


def first_batch(prompts_per_rank: int, *, on_gpu: bool, most: int | None = None) -> FirstBatch:
    """The first batches for `prompts_per_rank` prompts, if memory holds `most` rows (None: unknown)."""
    rows = FIRST_BATCH_SIZE_ON_GPU if on_gpu else FIRST_BATCH_SIZE
    if most is not None:
        rows = max(1, min(rows, most))
    prompts = max(1, prompts_per_rank)
    rounds = -(-prompts // rows)
    return FirstBatch(-(-prompts // rounds), rounds) if rounds <= SMALL_JOB_ROUNDS else FirstBatch(rows, None)
