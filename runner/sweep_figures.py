"""What a sweep found: cells with their noise, the best of them, the knee of each row, scaling. Pure.

Everything the Sweep view, the report and run.json say of a sweep comes from here.
"""

import math
import statistics
from collections.abc import Callable, Sequence

import msgspec

from runner.trials import SweepState, TrialOutcome, TrialRecord, TrialResult

LEAST_GAIN = 0.05
"""A larger batch must gain this much to be worth its memory and its latency."""

T_95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""Student's t, two-sided 95 %, for 1 to 20 degrees of freedom; beyond them the normal 1.96 is close enough."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A mean over `count` trials. `half_width` is that of its 95 % t-interval; None with one trial."""

    mean: float
    half_width: float | None
    count: int


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """All trials of one setting. Without a measured trial the figures are None, and `reason` says why.

    Figures other than `tokens_per_second` are means over the trials, `peak_memory_bytes` is the largest.
    """

    active_ranks: int
    batch_size: int
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
    busy_percent: float | None = None
    dram_percent: float | None = None
    tensor_percent: float | None = None
    power_watts: float | None = None
    tokens_per_joule: float | None = None
    mbu: float | None = None


class Knee(msgspec.Struct, frozen=True, kw_only=True):
    """Where a larger batch stops to pay, for one number of active ranks, and that in a sentence.

    `ended` says whether growth was seen to end: else `batch_size` is only the largest that was measured.
    """

    active_ranks: int
    batch_size: int
    sentence: str
    ended: bool


class Scaling(msgspec.Struct, frozen=True, kw_only=True):
    """How a batch size scales: tokens/s over those of the fewest ranks that were measured at it."""

    active_ranks: int
    batch_size: int
    tokens_per_second: float
    half_width: float | None
    speedup: float
    efficiency: float


class SweepSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A sweep's figures as they stand in run.json."""

    trials: int
    measured: int
    best: Cell | None
    cells: list[Cell]
    knees: list[Knee]
    scaling: list[Scaling]
    bandwidth_bytes_per_second: float | None = None
    bandwidth_source: str | None = None
    records: list[TrialRecord] = []


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % t-interval of `values` (at least one)."""
    count = len(values)
    mean = statistics.fmean(values)
    if count < 2:
        return Estimate(mean=mean, half_width=None, count=count)
    t = T_95[count - 2] if count - 2 < len(T_95) else 1.96
    return Estimate(mean=mean, half_width=t * statistics.stdev(values) / count**0.5, count=count)


def cells(sweep: SweepState) -> list[Cell]:
    """A cell for every setting of the plan, by ranks and then batch size, those not run yet included."""
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
        # Repeats after an out-of-memory are skipped: what tells is the one that was tried.
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
        peak_memory_bytes=max(peaks) if peaks else None,
        busy_percent=mean(lambda result: result.busy_percent),
        dram_percent=mean(lambda result: result.dram_percent),
        tensor_percent=mean(lambda result: result.tensor_percent),
        power_watts=mean(lambda result: result.power_watts),
        tokens_per_joule=mean(lambda result: result.tokens_per_joule),
        mbu=mean(lambda result: result.mbu),
    )


def best(found: Sequence[Cell]) -> Cell | None:
    """The cell with the most tokens/s."""
    measured = [cell for cell in found if cell.tokens_per_second is not None]
    return max(measured, key=lambda cell: cell.tokens_per_second.mean if cell.tokens_per_second else 0.0, default=None)


def knee(found: Sequence[Cell], active_ranks: int) -> Knee | None:
    """Where a row's growth ends: the smallest batch size after which no larger one gains 5 % more.

    None before two sizes of the row are measured.
    """
    row = [cell for cell in found if cell.active_ranks == active_ranks and cell.tokens_per_second is not None]
    wall = next(
        (cell.batch_size for cell in found if cell.active_ranks == active_ranks and cell.outcome == "out_of_memory"),
        None,
    )
    if len(row) < 2:
        return None
    at = 0
    for place in range(1, len(row)):
        if _rate(row[place]) >= _rate(row[at]) * (1 + LEAST_GAIN):
            at = place
    here = row[at]
    pair = (here, row[at + 1]) if at + 1 < len(row) else (row[at - 1], here)
    ended = at + 1 < len(row)
    if _cannot_tell(*pair):
        words = f"{_change(*pair)}: too noisy to tell"
    elif at + 1 < len(row):
        words = f"{_change(here, row[at + 1])}: stay at {here.batch_size}"
    else:
        words = f"{_change(row[at - 1], here)}: "
        words += (
            f"{here.batch_size} is the largest before out of memory at {wall}"
            if wall is not None
            else f"still growing at {here.batch_size}, the largest tried"
        )
    return Knee(active_ranks=active_ranks, batch_size=here.batch_size, sentence=words, ended=ended)


def _rate(cell: Cell) -> float:
    return cell.tokens_per_second.mean if cell.tokens_per_second is not None else 0.0


def _change(one: Cell, other: Cell) -> str:
    """`16 -> 32: +4% ± 2%, +31% memory`."""
    if not _rate(one):
        return f"{one.batch_size} -> {other.batch_size}: no tokens before, so no ratio"
    words = f"{one.batch_size} -> {other.batch_size}: {_signed(_rate(other) / _rate(one) - 1)}"
    if (noise := _noise(one, other)) is not None:
        words += f" ± {noise:.0%}"
    if one.peak_memory_bytes and other.peak_memory_bytes:
        words += f", {_signed(other.peak_memory_bytes / one.peak_memory_bytes - 1)} memory"
    return words


def _noise(one: Cell, other: Cell) -> float | None:
    """Half-width of the ratio of two cells' rates: relative half-widths in quadrature. None with one repeat."""
    estimates = [cell.tokens_per_second for cell in (one, other) if cell.tokens_per_second is not None]
    if any(estimate.half_width is None or not estimate.mean for estimate in estimates) or not _rate(one):
        return None
    relative = math.hypot(*((estimate.half_width or 0.0) / estimate.mean for estimate in estimates))
    return _rate(other) / _rate(one) * relative


def _cannot_tell(one: Cell, other: Cell) -> bool:
    """Whether the interval of the change holds both a gain of 5 % and none at all."""
    noise = _noise(one, other)
    if noise is None or not _rate(one):
        return False
    gain = _rate(other) / _rate(one) - 1
    return gain - noise < 0 and gain + noise > LEAST_GAIN


def _signed(share: float) -> str:
    """`+4%`, `-12%`, and never `-0%`."""
    return f"{round(share * 100):+d}%"


def scaling(found: Sequence[Cell], batch_size: int) -> list[Scaling]:
    """A row per number of ranks measured at `batch_size`, fewest first; empty unless there are two.

    Speedup is over one rank; where one rank was not measured, over the fewest, taken to scale perfectly.
    """
    row = [cell for cell in found if cell.batch_size == batch_size and cell.tokens_per_second is not None]
    if len(row) < 2:
        return []
    row = sorted(row, key=lambda cell: cell.active_ranks)
    one = _rate(row[0]) / row[0].active_ranks
    if one <= 0:
        return []
    return [
        Scaling(
            active_ranks=cell.active_ranks,
            batch_size=batch_size,
            tokens_per_second=_rate(cell),
            half_width=cell.tokens_per_second.half_width if cell.tokens_per_second else None,
            speedup=_rate(cell) / one,
            efficiency=_rate(cell) / one / cell.active_ranks,
        )
        for cell in row
    ]


def seconds_left(sweep: SweepState, now: float) -> float | None:
    """Seconds from `now` until the trials are over: each takes what others of its setting took, else what is usual.

    None before the first trial is over.
    """
    known: dict[tuple[int, int], list[float]] = {}
    for trial in sweep.trials:
        if trial.number in sweep.took:
            known.setdefault((trial.active_ranks, trial.batch_size), []).append(sweep.took[trial.number])
    if not known:
        return None
    means = {setting: statistics.fmean(values) for setting, values in known.items()}
    usual = statistics.fmean(means.values())
    over = {record.trial.number for record in sweep.records}
    left = [trial for trial in sweep.trials if trial.number not in over]
    expected = sum(means.get((trial.active_ranks, trial.batch_size), usual) for trial in left)
    return max(0.0, expected - (now - sweep.since if sweep.current is not None else 0.0))


def summarise_sweep(sweep: SweepState) -> SweepSummary:
    """The figures of a sweep so far, as run.json holds them."""
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
        bandwidth_bytes_per_second=sweep.bandwidth_bytes_per_second,
        bandwidth_source=sweep.bandwidth_source,
        records=list(sweep.records),
    )
