"""A sweep as lines of a log: what is to be measured, a line per trial, and at the end everything that was found.

Aligned text without colours. Figures and sentences are those of runner.sweep.verdict; reasons are data. Pure.
"""

from collections.abc import Callable, Sequence

from rankdeck.runner.protocol.sweep_plan import SweepState, TrialRecord
from rankdeck.runner.state import RunState
from rankdeck.runner.sweep.cells import Cell
from rankdeck.runner.sweep.scaling import Scaling
from rankdeck.runner.sweep.verdict import SweepSummary, summarise_sweep
from rankdeck.tui.panels.sweep.status import file_lines
from rankdeck.tui.words.sweep import (
    best_words,
    how_measured,
    plan_words,
    rate_places,
    scaling_shown,
    setting,
    standing,
    times,
)
from rankdeck.tui.words.sweep_command import best_command
from rankdeck.tui.words.text import gib, pad, percent, some, visible

Row = Sequence[str]

_OUTCOMES = {"out_of_memory": "out of memory", "skipped": "skipped", "failed": "failed", "measured": "measured"}


def sweep_start_lines(state: RunState, sweep: SweepState) -> list[str]:
    """What is to be measured, and how."""
    sizes = ",".join(map(str, sorted(set(sweep.plan.batch_sizes))))
    ranks = ",".join(map(str, sorted(set(sweep.plan.ranks))))
    lines = [
        f"sweep of {plan_words(sweep.plan)}; batch sizes {sizes}, ranks {ranks}",
        f"sweep: {visible(how_measured(state, sweep))}",
    ]
    if sweep.records:
        lines.append(f"sweep: taken up again after {len(sweep.records):,} of {some(len(sweep.trials), 'trial')}")
    return lines


def trial_line(record: TrialRecord, trials: int) -> str:
    """`trial 7 of 18: 2 ranks x batch size 16: 143.2 tok/s (3 rounds, 14.1 s)`, or why there is no figure."""
    trial, result = record.trial, record.result
    head = f"trial {trial.number:,} of {trials:,}: {setting(trial.active_ranks, trial.batch_size)}"
    if result is None:
        return f"{head}: {_why(record.outcome, record.reason)}"
    rounds = some(result.rounds, "round")
    return f"{head}: {result.tokens_per_second:,.1f} tok/s ({rounds}, {result.seconds:,.1f} s)"


def sweep_lines(state: RunState, sweep: SweepState) -> list[str]:
    """All that a sweep found so far: the cells, the knees, how it scales, the best, and the chosen one as a command."""
    summary = summarise_sweep(sweep)
    lines = [
        f"sweep {visible(standing(state, sweep))}; {summary.measured:,} of {some(summary.trials, 'trial')} measured"
    ]
    lines += _cells(summary)
    lines += [f"knee at {some(knee.active_ranks, 'rank')}: {knee.sentence}" for knee in summary.knees]
    lines += _scaling(summary)
    best, chosen, verdict = summary.best, summary.chosen, summary.verdict
    if best is None or chosen is None:
        return [*lines, "best: no setting could be measured"]
    sure = f"; {verdict.sentence}" if verdict is not None and verdict.sentence else ""
    return [
        *lines,
        f"best: {best_words(best, rate_places(summary.cells))}{sure}",
        f"run it: {visible(' '.join(best_command(state, chosen)))}",
        *file_lines(state, chosen),
    ]


def _why(outcome: str | None, reason: str | None) -> str:
    words = _OUTCOMES.get(outcome or "", "not run")
    return f"{words}: {visible(reason)}" if reason else words


def _number(places: int) -> Callable[[float | None], str | None]:
    return lambda value: None if value is None else f"{value:,.{places}f}"


_FIGURES: tuple[tuple[str, Callable[[Cell], str | None]], ...] = (
    ("tok/s per rank", lambda cell: _number(1)(cell.rank_tokens_per_second)),
    ("total tok/s", lambda cell: _number(1)(cell.total_tokens_per_second)),
    ("ms/step p50", lambda cell: _number(1)(cell.step_ms[0] if cell.step_ms else None)),
    ("p90", lambda cell: _number(1)(cell.step_ms[1] if cell.step_ms else None)),
    ("p99", lambda cell: _number(1)(cell.step_ms[2] if cell.step_ms else None)),
    ("prefill s", lambda cell: _number(3)(cell.prefill_seconds)),
    ("batch s", lambda cell: _number(2)(cell.batch_seconds)),
    ("padding waste", lambda cell: None if cell.padding_waste is None else percent(cell.padding_waste)),
    ("idle", lambda cell: None if cell.idle is None else percent(cell.idle)),
    ("peak GiB", lambda cell: None if cell.peak_memory_bytes is None else gib(cell.peak_memory_bytes)),
    ("busy %", lambda cell: _number(0)(cell.busy_percent)),
    ("DRAM %", lambda cell: _number(0)(cell.dram_percent)),
    ("tensor %", lambda cell: _number(0)(cell.tensor_percent)),
    ("watts", lambda cell: _number(0)(cell.power_watts)),
    ("tok/J", lambda cell: _number(2)(cell.tokens_per_joule)),
    ("MBU", lambda cell: None if cell.mbu is None else percent(cell.mbu)),
)


def _cells(summary: SweepSummary) -> list[str]:
    """A line per setting; figures that no setting has are named once instead of standing empty everywhere."""
    measured = [cell for cell in summary.cells if cell.tokens_per_second is not None]
    there = [(name, of) for name, of in _FIGURES if any(of(cell) is not None for cell in measured)]
    places = rate_places(summary.cells)
    rows: list[Row] = [("ranks", "batch size", "tok/s", "± 95 %", "trials", *(name for name, _ in there))]
    for cell in summary.cells:
        estimate = cell.tokens_per_second
        if estimate is None:
            rows.append((str(cell.active_ranks), str(cell.batch_size), _why(cell.outcome, cell.reason)))
            continue
        half = "" if estimate.half_width is None else f"{estimate.half_width:,.{places}f}"
        figures = [of(cell) or "n/a" for _, of in there]
        rows.append(
            (
                str(cell.active_ranks),
                str(cell.batch_size),
                f"{estimate.mean:,.{places}f}",
                half,
                str(estimate.count),
                *figures,
            )
        )
    lines = aligned(rows)
    missing = [name for name, _ in _FIGURES if name not in dict(there)]
    return [*lines, f"not available: {', '.join(missing)}"] if measured and missing else lines


def _scaling(summary: SweepSummary) -> list[str]:
    """How more ranks scale, at the batch size that is run and at the best of each number of ranks."""
    same, each = scaling_shown(summary), summary.best_scaling
    places = rate_places(summary.cells)
    lines = [f"scaling at batch size {same[0].batch_size}:", *_scaling_table(same, places)] if same else []
    if not each:
        return lines
    if [row.setting for row in same] == [row.setting for row in each]:
        return [*lines, "best with each number of ranks: the same batch size, so the same scaling"]
    return [*lines, "scaling of the best with each number of ranks:", *_scaling_table(each, places)]


def _scaling_table(rows: Sequence[Scaling], places: int) -> list[str]:
    table: list[Row] = [("ranks", "batch size", "tok/s", "± 95 %", "speedup", "± 95 %", "efficiency", "± 95 %")]
    table += [
        (
            str(each.active_ranks),
            str(each.batch_size),
            f"{each.tokens_per_second:,.{places}f}",
            "" if each.half_width is None else f"{each.half_width:,.{places}f}",
            times(each.speedup),
            "" if each.speedup_half_width is None else times(each.speedup_half_width, beside=each.speedup),
            percent(each.efficiency),
            "" if each.efficiency_half_width is None else percent(each.efficiency_half_width),
        )
        for each in rows
    ]
    return aligned(table)


def aligned(rows: Sequence[Row]) -> list[str]:
    """Columns to the right; a row shorter than the first ends in words, which need no column."""
    whole = [row for row in rows if len(row) == len(rows[0])]
    sizes = [max(len(row[place]) for row in whole) for place in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            pad(text, size, "right") if len(row) == len(rows[0]) or place + 1 < len(row) else text
            for place, (text, size) in enumerate(zip(row, sizes, strict=False))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
