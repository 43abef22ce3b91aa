"""What a token takes at least on a rank, by the matrix rate of its device: the least slope of a prediction. Pure."""

from collections.abc import Sequence

import msgspec

from rankdeck.runner.protocol import RankReady
from rankdeck.runner.state.load import threads_in_use
from rankdeck.runner.sweep.matrix_share import flops_of_a_token, matrix_rates


class ComputeFloor(msgspec.Struct, frozen=True, kw_only=True):
    """`seconds` a token with all `ranks` at work; a CPU's threads go to those that are."""

    seconds: float
    ranks: int
    threads: int | None = None
    cores: int | None = None

    def at(self, active_ranks: int) -> float:
        """Seconds a token with this many ranks at work."""
        used = threads_in_use(self.threads, self.cores, self.ranks, active_ranks)
        return self.seconds * self.threads / used if used and self.threads else self.seconds


def compute_floor(ready: Sequence[RankReady]) -> ComputeFloor | None:
    """That of the first rank whose figures are known: ranks are taken to be equally fast. None if there is none."""
    rates = matrix_rates(ready)
    for rank in ready:
        flops, rate = flops_of_a_token(rank), rates.get(rank.rank)
        if flops is not None and rate:
            # Layer by layer a model that is spread over GPUs has one of them at work; tensor parallel has them all.
            rate *= max(1, len(rank.device_uuids)) if rank.engine == "vllm" else 1
            return ComputeFloor(seconds=flops / rate, ranks=len(ready), threads=rank.threads, cores=rank.cores)
    return None
