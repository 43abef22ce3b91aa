"""What a sweep found: the best setting, whether its lead is more than noise, which setting to run, and the summary.

All that the Sweep view, the report and run.json say about a sweep comes from here and from the parts that the summary
holds: cells, knees, scaling. Pure.
"""

from collections.abc import Iterator, Sequence

import msgspec

from rankdeck.runner.protocol.sweep_plan import SweepState, TrialRecord
from rankdeck.runner.sweep.cells import Cell, best, cells
from rankdeck.runner.sweep.intervals import MOST_REPEATS, Estimate, difference_half_width, repeats_to_tell, told_apart
from rankdeck.runner.sweep.scaling import LEAST_GAIN, Knee, Scaling, best_scaling, knee, scaling

NAMED = 2
"""At most this many settings are named in a sentence; the others are counted."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Which setting to run, and whether the best setting's lead is more than noise.

    `tied` lists the settings, as (active ranks, batch size), that cannot be told apart from the best, highest mean
    first: the 95 % Welch interval of the difference includes 0. One trial shows no noise, so a setting with one trial
    is never called tied; `noise_known` says whether the best has more than one.

    `chosen` is the best cell, or the smallest batch size among it and those tied cells that have the same ranks and at
    least 1 / 1.05 of its tokens/s: what a larger batch may gain is then not worth its memory, its latency and the
    padding of its last round. The 5 % keep wide noise from speaking for a slow setting. Fewer ranks are never chosen
    this way, since the ranks left out would only be idle.

    `repeats` is about how many trials of each setting would tell the best from all that are tied. None if none is
    tied, or if it would take more than 100.
    """

    chosen: Cell
    noise_known: bool
    tied: list[tuple[int, int]]
    repeats: int | None
    sentence: str


class SweepSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A sweep's figures, as run.json holds them."""

    trials: int
    measured: int
    best: Cell | None
    cells: list[Cell]
    knees: list[Knee]
    scaling: list[Scaling]
    best_scaling: list[Scaling] = []
    verdict: Verdict | None = None
    bandwidth_bytes_per_second: float | None = None
    bandwidth_source: str | None = None
    no_mbu: str | None = None
    records: list[TrialRecord] = []

    def __post_init__(self) -> None:
        if any(cell is not None and cell.tokens_per_second is None for cell in (self.best, self.chosen)):
            raise ValueError("the best setting of its sweep was not measured")  # a run.json may have been edited

    @property
    def left(self) -> int:
        """Trials that are not over; 0 in older figures, which have no records."""
        return self.trials - len(self.records) if self.records or not self.measured else 0

    @property
    def chosen(self) -> Cell | None:
        """The cell to run: the verdict's, or the best in older figures, which have no verdict."""
        return self.best if self.verdict is None else self.verdict.chosen


Rated = tuple[Cell, Estimate]
"""A measured cell and its tokens/s."""


def tied_with_best(found: Sequence[Cell]) -> list[Rated]:
    """The settings that cannot be told apart from the best, in the order of `Verdict.tied`."""
    first = best(found)
    if first is None or first.tokens_per_second is None or first.tokens_per_second.half_width is None:
        return []
    known = [
        (cell, its) for cell in found if (its := cell.tokens_per_second) is not None and its.half_width is not None
    ]
    tied = [(cell, its) for cell, its in known if cell is not first and not told_apart(its, first.tokens_per_second)]
    return sorted(tied, key=lambda one: one[1].mean, reverse=True)


def verdict(found: Sequence[Cell]) -> Verdict | None:
    """What can be said about the best of these cells, and which to run; None if none was measured."""
    first = best(found)
    if first is None or first.tokens_per_second is None:
        return None
    lead, tied = first.tokens_per_second, tied_with_best(found)
    needed = [repeats_to_tell(its, lead) for _, its in tied]
    repeats = None if None in needed else max((count for count in needed if count is not None), default=None)
    as_good = [
        cell
        for cell, its in tied
        if cell.active_ranks == first.active_ranks and its.mean * (1 + LEAST_GAIN) >= lead.mean
    ]
    chosen = min([first, *as_good], key=lambda cell: cell.batch_size)
    return Verdict(
        chosen=chosen,
        noise_known=lead.half_width is not None,
        tied=[cell.setting for cell, _ in tied],
        repeats=repeats,
        sentence="; ".join(_said(found, (first, lead), tied, repeats, chosen)),
    )


def _said(found: Sequence[Cell], of: Rated, tied: Sequence[Rated], repeats: int | None, chosen: Cell) -> Iterator[str]:
    """How far the best can be trusted, in parts of a sentence whose beginning names the best."""
    first, lead = of
    others = [cell.tokens_per_second for cell in found if cell.tokens_per_second is not None and cell is not first]
    once = sum(its.half_width is None for its in others)
    if lead.half_width is None and others:
        yield "measured once: how far that varies is not known, and settings near it may be as good"
    elif tied:
        words = f"cannot be told apart from {_listed(first, [cell for cell, _ in tied])}"
        if len(tied) == 1:
            noise = difference_half_width(tied[0][1], lead)
            words += f" ({lead.mean - tied[0][1].mean:,.1f} ± {noise:,.1f} tok/s between them)"
        yield words
        yield f"about {repeats} repeats would tell" if repeats else f"not even {MOST_REPEATS} repeats would tell"
        if chosen is first:
            yield "it is chosen all the same: of those none is a smaller batch within 5 % on as many ranks"
        else:
            yield f"batch size {chosen.batch_size} is chosen: as fast within the noise, with less memory and latency"
    elif known := len(others) - once:
        rest = f"the {_others(known)} whose noise is known" if once else "every other setting"
        yield f"faster than {rest}, beyond the noise"
    if once and lead.half_width is not None:
        yield f"of {_others(once)}, measured once, no noise is known"


def _others(number: int) -> str:
    return "1 other" if number == 1 else f"{number} others"


def _listed(first: Cell, tied: Sequence[Cell]) -> str:
    """`batch size 16, batch size 64 with 1 rank and 3 more`"""
    names = [_named(cell, first) for cell in tied[:NAMED]]
    left = len(tied) - len(names)
    return f"{', '.join(names)} and {left} more" if left else " and ".join(names)


def _named(cell: Cell, first: Cell) -> str:
    """A setting in words; its ranks only if the best has a different number."""
    if cell.active_ranks == first.active_ranks:
        return f"batch size {cell.batch_size}"
    return f"batch size {cell.batch_size} with {cell.active_ranks} rank" + ("" if cell.active_ranks == 1 else "s")


def summarise_sweep(sweep: SweepState) -> SweepSummary:
    """The figures of a sweep so far."""
    found = cells(sweep)
    knees = [one for ranks in sorted(set(sweep.plan.ranks)) if (one := knee(found, ranks)) is not None]
    rows = [row for size in sorted(set(sweep.plan.batch_sizes)) for row in scaling(found, size)]
    return SweepSummary(
        trials=len(sweep.trials),
        measured=sum(record.result is not None for record in sweep.records),
        best=best(found),
        cells=found,
        knees=knees,
        scaling=rows,
        best_scaling=best_scaling(found),
        verdict=verdict(found),
        bandwidth_bytes_per_second=sweep.bandwidth_bytes_per_second,
        bandwidth_source=sweep.bandwidth_source,
        no_mbu=sweep.no_mbu,
        records=list(sweep.records),
    )
