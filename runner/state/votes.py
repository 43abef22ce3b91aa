"""What a run is bound by: how each sample of the load votes, and which verdict is held. Pure.

Each sample votes, and only a clear majority of several seconds speaks. A verdict that is held stays until another has
had the majority for some seconds, and a figure near a bound votes for the verdict that is held, so that a verdict flips
neither with a sample nor with the noise of a figure. Does not know the run (`settings.circumstances` says what a vote
needs of it), nor the words of a verdict (`runner.advice.bound`).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
from msgspec.structs import replace

from rankdeck.runner.state.load import Load, LoadMeans, means

Kind = Literal[
    "kernel launches",
    "fixed cost per step",
    "memory bandwidth",
    "compute",
    "the power limit",
    "the CPU",
    "waiting for work",
    "uneven lengths",
    "memory",
    "several things in turn",
    "unknown",
]

NO_VERDICT: tuple[Kind | None, ...] = (None, "unknown", "several things in turn")

LEAST_SAMPLES = 4
MAJORITY = 0.6
"""So many samples, and this share of the newest ones, must agree."""

MINORITY = 0.3
"""A verdict is held with this share of the samples while none has the majority."""

HELD_SECONDS = 4.0
"""Another verdict takes the place of the one that is held after this long with the majority."""

AT_WORK = 0.9
"""Below this share of ranks with a batch the others wait for work; some are always between two batches."""

BUSY = 85.0
"""Percent: below it a GPU stands still between kernels, waiting for its host."""

HIGH_DRAM, HIGH_TENSOR = 0.6, 0.4
"""Shares of the counters' scale: DRAM rarely exceeds 90 %, and tensor cores reach about 70 % at best."""

HIGH_MBU, HIGH_MATRIX = 0.5, 0.4
"""Shares of what was measured or is on the data sheet: some runs reach it though a counter is low, or missing."""

BUSY_CPU = 75.0
"""Percent: below it the ranks' threads do not get their cores, or wait for each other."""

UNEVEN = 0.4
"""Padding waste, as a share of all token slots, above which much of what is computed is thrown away."""

CAPPED = 0.5
"""Share of the GPUs whose clocks a limit of power lowers."""

MARGIN = 0.08
"""A threshold is lower by this share for the verdict that is held, and higher for every other."""


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """What a vote needs beside the sample: the ranks, the whole batches of the present setting, and what is held.

    `mbu`, `matrix_share` and `padding_waste` are as in a row of the settings; `measured` is whether there is one.
    The tensor counter is left out with `no_tensor_cores`: products in float32 may do without these.
    """

    on_gpu: bool
    gpus_per_rank: float = 1.0
    no_tensor_cores: bool = False
    measured: bool = False
    mbu: float | None = None
    matrix_share: float | None = None
    padding_waste: float | None = None
    held: Kind | None = None

    def bound(self, usual: float, kind: Kind) -> float:
        """The threshold from which a figure votes for `kind`."""
        if self.held in NO_VERDICT:
            return usual
        return usual * (1 - MARGIN if self.held == kind else 1 + MARGIN)

    def low(self, usual: float, kind: Kind) -> float:
        """The threshold below which a figure votes for `kind`."""
        if self.held in NO_VERDICT:
            return usual
        return usual * (1 + MARGIN if self.held == kind else 1 - MARGIN)

    def of_one(self, figure: float | None) -> float | None:
        """A mean over the GPUs as that of the one in each rank that is at work: its layers come one after another."""
        return None if figure is None else figure * self.gpus_per_rank


class Held(msgspec.Struct, frozen=True, array_like=True):
    """The verdict that is held, and its rival that has had the majority `since` then (unix seconds).

    `period` is the number of the newest period whose samples were enough to judge by, `load` the means of the newest
    samples that said so.
    """

    kind: Kind | None = None
    rival: Kind | None = None
    since: float = 0.0
    period: int = -1
    load: LoadMeans = LoadMeans()


def of_period(loads: Iterable[Load], number: int) -> list[Load]:
    """The samples taken while nothing but batches of this period was at work."""
    return [load for load in loads if load.period == number]


def vote(load: Load, case: Circumstances) -> Kind:
    """What the run was bound by when this sample was taken."""
    if load.at_work < AT_WORK * load.active:
        return "waiting for work"
    return _vote_of_gpu(load, case) if case.on_gpu else _vote_of_cpu(load, case)


def _vote_of_gpu(load: Load, case: Circumstances) -> Kind:
    if (case.of_one(load.capped) or 0.0) >= case.bound(CAPPED, "the power limit"):
        return "the power limit"
    computes = _reaches(case, "compute", load.tensor, HIGH_TENSOR, case.matrix_share, HIGH_MATRIX)
    if computes:
        return "compute"
    if computes is False and case.no_tensor_cores and case.matrix_share is None:
        computes = None
    reads = _reaches(case, "memory bandwidth", load.dram, HIGH_DRAM, case.mbu, HIGH_MBU)
    if reads:
        return "memory bandwidth"
    busy = case.of_one(load.busy)
    if busy is not None and busy < case.low(BUSY, "the CPU"):
        return "the CPU"
    found = _vote_of_steps(case, computes, reads)
    return found or ("unknown" if busy is None or computes is None or reads is None else "kernel launches")


def _vote_of_cpu(load: Load, case: Circumstances) -> Kind:
    """Without GPUs: what the ranks' own processors do."""
    if load.cpu is None:
        return "unknown"
    if load.cpu < case.low(BUSY_CPU, "the CPU"):
        return "the CPU"
    computes = _reaches(case, "compute", None, HIGH_TENSOR, case.matrix_share, HIGH_MATRIX)
    if computes:
        return "compute"
    reads = _reaches(case, "memory bandwidth", None, HIGH_DRAM, case.mbu, HIGH_MBU)
    if reads:
        return "memory bandwidth"
    found = _vote_of_steps(case, computes, reads)
    return found or ("unknown" if computes is None or reads is None else "fixed cost per step")


def _vote_of_steps(case: Circumstances, computes: bool | None, reads: bool | None) -> Kind | None:
    """What only whole batches tell. Until a new setting has some, what is held goes on if no counter speaks against."""
    if not case.measured:
        still = {
            "compute": computes is None,
            "memory bandwidth": reads is None,
            "kernel launches": case.on_gpu,
            "fixed cost per step": not case.on_gpu,
            "uneven lengths": True,
        }
        return case.held if case.held is not None and still.get(case.held, False) else None
    return "uneven lengths" if (case.padding_waste or 0.0) >= case.bound(UNEVEN, "uneven lengths") else None


def _reaches(
    case: Circumstances, kind: Kind, percent: float | None, high: float, share: float | None, high_share: float
) -> bool | None:
    """Whether a counter is high, or the share of the limit that was measured; None without either."""
    percent, share = case.of_one(percent), case.of_one(share)
    if percent is not None and percent >= 100 * case.bound(high, kind):
        return True
    if share is not None and share >= case.bound(high_share, kind):
        return True
    return None if percent is None and share is None else False


def leading(votes: Sequence[Kind]) -> Kind:
    """The verdict that has a clear majority."""
    kind, number = Counter(votes).most_common(1)[0]
    return kind if number >= MAJORITY * len(votes) else "several things in turn"


def held_after(held: Held, loads: Sequence[Load], votes: Sequence[Kind], period: int) -> Held:
    """What is held after the newest of these samples, by their votes, in the period of this number.

    While too few samples are of that period, those of the settings before count too, and where these are too few all
    do: what held before the turn is held until they say otherwise.
    """
    cast = list(zip(loads, votes, strict=True))
    present = [one for one in cast if one[0].period == period]
    settled = len(present) >= LEAST_SAMPLES
    if settled:
        cast = present
    elif len(tagged := [one for one in cast if one[0].period is not None]) >= LEAST_SAMPLES:
        cast = tagged
    same = replace(held, rival=None, period=period if settled else held.period)
    if len(cast) < LEAST_SAMPLES:
        return same
    votes = [kind for _, kind in cast]
    leads, now = leading(votes), cast[-1][0].at
    figures = means(load for load, kind in cast if kind == leads)
    if leads == held.kind:
        return replace(same, load=figures)
    if leads in NO_VERDICT and not settled:
        return same
    if leads == "several things in turn" and sum(one == held.kind for one in votes) >= MINORITY * len(votes):
        return same
    if held.kind in NO_VERDICT or held.period != same.period:
        return Held(leads, period=same.period, load=figures)
    if leads != held.rival:
        return replace(held, rival=leads, since=now)
    return held if now - held.since < HELD_SECONDS else Held(leads, period=held.period, load=figures)
