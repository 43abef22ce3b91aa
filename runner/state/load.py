"""How heavily a run loads what it runs on: the mean over the GPUs in use, or of the ranks' processors. Pure.

A GPU is in use if an active rank runs on it. A figure that a GPU does not give is None and is left out of means, never
0. Does not know what a load means for the run (`runner.advice.bound`).
"""

from collections.abc import Iterable, Sequence
from statistics import fmean

import msgspec

POWER_CAPS = frozenset({"power cap", "power brake", "board limit"})
"""Reasons for throttling, in the words of `runner.machine.gpu_metrics`, when a power limit lowers the clocks."""

LOWERED_CLOCK = 0.9
"""A clock above this share of its maximum is not lowered notably, whatever the driver gives as a reason."""


class Load(msgspec.Struct, frozen=True, array_like=True):
    """One sample: `busy`, `dram` and `tensor` in percent, the mean over the GPUs in use; `watts` their sum.

    `cpu` is in percent of the cores that the threads of the ranks with a batch may use. `at_work` of the `active`
    ranks had a batch in hand. `capped` is the share (0 to 1) of the GPUs in use whose clocks a power limit lowers
    notably. `period` is the number of the period of unchanged knobs that all batches in hand belonged to, at this
    sample and the one before; None if one of them was of another.
    """

    at: float
    at_work: int = 0
    active: int = 0
    busy: float | None = None
    dram: float | None = None
    tensor: float | None = None
    watts: float | None = None
    cpu: float | None = None
    capped: float | None = None
    period: int | None = 0

    @property
    def shown_busy(self) -> float | None:
        """Busy % of the GPUs; without their figures that of the processors."""
        return self.busy if self.busy is not None else self.cpu


class Mean(msgspec.Struct, frozen=True, array_like=True):
    """The sum of `count` values, so that means can be combined."""

    total: float = 0.0
    count: int = 0

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None

    def plus(self, value: float | None) -> "Mean":
        return self if value is None else Mean(self.total + value, self.count + 1)

    def with_all(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.count + other.count)


class LoadMeans(msgspec.Struct, frozen=True, array_like=True):
    """The means of several samples, each figure over those that have it."""

    busy: Mean = Mean()
    dram: Mean = Mean()
    tensor: Mean = Mean()
    watts: Mean = Mean()
    cpu: Mean = Mean()

    def plus(self, load: Load) -> "LoadMeans":
        return LoadMeans(
            self.busy.plus(load.busy),
            self.dram.plus(load.dram),
            self.tensor.plus(load.tensor),
            self.watts.plus(load.watts),
            self.cpu.plus(load.cpu),
        )

    def with_all(self, other: "LoadMeans") -> "LoadMeans":
        return LoadMeans(
            self.busy.with_all(other.busy),
            self.dram.with_all(other.dram),
            self.tensor.with_all(other.tensor),
            self.watts.with_all(other.watts),
            self.cpu.with_all(other.cpu),
        )


def means(loads: Iterable[Load]) -> LoadMeans:
    found = LoadMeans()
    for load in loads:
        found = found.plus(load)
    return found


def recent(loads: Sequence[Load], now: float, seconds: float = 5.0) -> LoadMeans:
    """The means of the samples of the last `seconds`."""
    return means(load for load in loads if load.at > now - seconds)


def known_mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are known; None if none is."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def known_sum(values: Sequence[float | None]) -> float | None:
    """The sum; None if one of the values is not known: a sum without it would be too small."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def clamped_cpu(percent: float | None, threads: int | None) -> float | None:
    """CPU % of a rank's process, at most 100 per thread: anything above comes from the timing of the two samples."""
    return percent if percent is None or not threads else min(percent, 100.0 * threads)


def threads_in_use(threads: int | None, cores: int | None, ranks: int, sharing: int) -> int | None:
    """How many threads a rank on a CPU uses while `sharing` of all `ranks` share the cores, as `ShareCores` has it.

    `threads` is how many it had while it loaded, as one of all; None on a GPU. Where the number of `cores` was not
    recorded, they are as many as all ranks had threads then.
    """
    if threads is None:
        return None
    return max(1, (cores or threads * ranks) // max(1, sharing))
