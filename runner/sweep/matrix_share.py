"""Floating-point operations of a batch, and how many a device can do: how near a run is to being compute-bound. Pure.

A token takes a multiplication and an addition for each parameter that it goes through, 2 x parameters (Kaplan et al.,
"Scaling Laws for Neural Language Models", 2020). What attention computes on keys and values is left out, which makes
the figure too low for long contexts. Every token of a prefill is counted through the output layer, though only the last
of each row goes through it: too high for small models with a large vocabulary, by a fifth of a prefill for the demo
model.
"""

from collections.abc import Sequence

from rankdeck.runner.protocol import BatchResult, RankReady

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
"""Of a parameter, by the dtype's name."""

WEIGHT_ONLY = ("int8", "bnb-4bit")
"""Quantisations whose weights are counted one by one, and turned into the dtype to be multiplied in it. Other ways
multiply in a type other than that of the matrix rate, or do not say how many weights there are."""


def flops_of(rank: RankReady, result: BatchResult) -> float | None:
    """What `rank` computed for a batch, padding included, since its device computes that too; None if not known.

    Divided by the batch's seconds and `matrix_flops_per_second`, it is the share of the matrix rate that was used.
    """
    token = flops_of_a_token(rank)
    # The last token of each row comes out of the model, and does not go in.
    return None if token is None else token * max(0, result.slots - result.rows)


def flops_of_a_token(rank: RankReady) -> float | None:
    """What one token's way through the model takes; None if not known."""
    parameters = _parameters_of_a_token(rank)
    return None if parameters is None else 2.0 * parameters


def matrix_rates(ready: Sequence[RankReady]) -> dict[int, float]:
    """FLOP/s of large matrix products on each rank's device, by rank: as measured on a device of its name and dtype.

    Ranks whose figure is unknown are left out. For a rank over several GPUs it is that of one of them: its layers come
    one after another. On a CPU it is of the threads that one rank has while all are at work, and each rank has its own.
    """
    found: dict[tuple[str, str], float] = {}
    for rank in ready:
        if rank.matrix_flops_per_second:
            found.setdefault((rank.device_name, rank.dtype), rank.matrix_flops_per_second)
    named = {rank.rank: found.get((rank.device_name, rank.dtype)) for rank in ready}
    return {rank: rate for rank, rate in named.items() if rate is not None}


def _parameters_of_a_token(rank: RankReady) -> float | None:
    """The parameters that a token is multiplied with: all except an input embedding that is not the output layer as
    well, and the experts that the token is not routed to.
    """
    dtype, _, quantisation = rank.dtype.partition(" ")
    width = BYTES.get(dtype)
    if width is None or rank.parameter_bytes is None or rank.weight_read_bytes is None:
        return None
    if quantisation and (quantisation not in WEIGHT_ONLY or rank.experts is not None):
        return None
    # An embedding is not quantised. Neither are experts here: their bytes tell how many parameters they have.
    embedding = (rank.parameter_bytes - rank.weight_read_bytes) / width
    unused = 0.0
    if rank.experts is not None:
        if not (rank.experts.count and rank.experts.per_token):
            return None
        unused = rank.experts.bytes / width * max(0.0, 1 - rank.experts.per_token / rank.experts.count)
    return rank.parameters - embedding - unused
