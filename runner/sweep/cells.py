"""A sweep's cells: all trials of one setting taken together, with their noise. Pure."""

import statistics
from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec

from rankdeck.runner.protocol.sweep_plan import SweepState, TrialOutcome, TrialRecord, TrialResult
from rankdeck.runner.sweep.intervals import Estimate, estimate

AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
"""A run.json may have been edited; other figures do no harm."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """All trials of one setting. If none was measured, the figures are None and `reason` says why.

    Figures other than `tokens_per_second` are means over the trials, those of memory the largest.
    """

    active_ranks: AtLeastOne
    batch_size: AtLeastOne
    outcome: TrialOutcome | None
    reason: str | None = None
    tokens_per_second: Estimate | None = None
    total_tokens_per_second: float | None = None
    rank_tokens_per_second: float | None = None
    prefill_seconds: float | None = None
    batch_seconds: float | None = None
    step_ms: tuple[float, float, float] | None = None
    padding_waste: float | None = None
    idle: float | None = None
    peak_memory_bytes: int | None = None
    reserved_memory_bytes: int | None = None
    busy_percent: float | None = None
    dram_percent: float | None = None
    tensor_percent: float | None = None
    power_watts: float | None = None
    tokens_per_joule: float | None = None
    mbu: float | None = None

    @property
    def setting(self) -> tuple[int, int]:
        """Active ranks and batch size."""
        return self.active_ranks, self.batch_size


def cells(sweep: SweepState) -> list[Cell]:
    """A cell for every setting of the plan, also those not run yet; by ranks, then batch size."""
    plan = sweep.plan
    records: dict[tuple[int, int], list[TrialRecord]] = {}
    for record in sweep.records:
        records.setdefault((record.trial.active_ranks, record.trial.batch_size), []).append(record)
    return [
        _cell(ranks, size, records.get((ranks, size), []))
        for ranks in sorted(set(plan.ranks))
        for size in sorted(set(plan.batch_sizes))
    ]


def _cell(ranks: int, size: int, records: list[TrialRecord]) -> Cell:
    results = [record.result for record in records if record.result is not None]
    if not results:
        # Repeats after an out-of-memory are skipped: the trial that was run has the reason.
        told = next((record for record in records if record.outcome != "skipped"), records[0] if records else None)
        return Cell(
            active_ranks=ranks,
            batch_size=size,
            outcome=told.outcome if told else None,
            reason=told.reason if told else None,
        )

    def mean(figure: Callable[[TrialResult], float | None]) -> float | None:
        values = [value for result in results if (value := figure(result)) is not None]
        return statistics.fmean(values) if values else None

    steps = [result.step_ms for result in results if result.step_ms is not None]
    peaks = [result.peak_memory_bytes for result in results if result.peak_memory_bytes is not None]
    reserves = [result.reserved_memory_bytes for result in results if result.reserved_memory_bytes is not None]
    return Cell(
        active_ranks=ranks,
        batch_size=size,
        outcome="measured",
        tokens_per_second=estimate([result.tokens_per_second for result in results]),
        total_tokens_per_second=mean(lambda result: result.total_tokens_per_second),
        rank_tokens_per_second=mean(lambda result: statistics.fmean(result.rank_tokens_per_second)),
        prefill_seconds=mean(lambda result: result.prefill_seconds),
        batch_seconds=mean(lambda result: result.batch_seconds),
        step_ms=tuple(statistics.fmean(column) for column in zip(*steps, strict=True)) if steps else None,  # type: ignore[arg-type]
        padding_waste=mean(lambda result: result.padding_waste),
        idle=mean(lambda result: result.idle),
        peak_memory_bytes=max(peaks, default=None),
        reserved_memory_bytes=max(reserves, default=None),
        busy_percent=mean(lambda result: result.busy_percent),
        dram_percent=mean(lambda result: result.dram_percent),
        tensor_percent=mean(lambda result: result.tensor_percent),
        power_watts=mean(lambda result: result.power_watts),
        tokens_per_joule=mean(lambda result: result.tokens_per_joule),
        mbu=mean(lambda result: result.mbu),
    )


def rate(cell: Cell) -> float:
    """Mean tokens/s; 0 if no trial was measured."""
    return cell.tokens_per_second.mean if cell.tokens_per_second is not None else 0.0


def best(found: Sequence[Cell]) -> Cell | None:
    """The cell with the most tokens/s, whatever its noise; None if none was measured."""
    return max((cell for cell in found if cell.tokens_per_second is not None), key=rate, default=None)
