"""A sweep as lines of a log: the plan, a line per trial, and at the end everything that was found.

Aligned text without colours; the figures and how they read are panels.sweep.figures'. Pure.
"""

from collections.abc import Sequence

from rankdeck.runner.protocol.sweep_plan import SweepState, TrialRecord
from rankdeck.runner.state import RunState
from rankdeck.runner.sweep.scaling import Scaling
from rankdeck.runner.sweep.verdict import SweepSummary, summarise_sweep
from rankdeck.tui.panels.sweep.figures import (
    EACH_THE_SAME,
    FIGURES,
    SCALING,
    Missing,
    known,
    rate_value,
    same_and_best_scaling,
    scaling_values,
    why_missing,
)
from rankdeck.tui.panels.sweep.status import file_lines
from rankdeck.tui.words.sweep import best_sentence, how_measured, plan_words, rate_places, setting, standing
from rankdeck.tui.words.sweep_command import best_command
from rankdeck.tui.words.text import UNKNOWN, pad, some, visible

Row = Sequence[str]

NOISE = "± 95 %"


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
        return f"{head}: {Missing(record.outcome, visible(record.reason or '')).sentence}"
    rounds = some(result.rounds, "round")
    return f"{head}: {result.tokens_per_second:,.1f} tok/s ({rounds}, {result.seconds:,.1f} s)"


def sweep_lines(state: RunState, sweep: SweepState) -> list[str]:
    """What a sweep has found so far: settings, knees, scaling, the best, and the command for the chosen setting."""
    summary = summarise_sweep(sweep)
    lines = [
        f"sweep {visible(standing(state, sweep))}; {summary.measured:,} of {some(summary.trials, 'trial')} measured"
    ]
    lines += _settings(summary)
    lines += [f"knee at {some(knee.active_ranks, 'rank')}: {knee.sentence}" for knee in summary.knees]
    lines += _scaling(summary)
    if summary.chosen is None:
        return [*lines, "best: no setting could be measured"]
    return [
        *lines,
        f"best: {best_sentence(summary)}",
        f"run it: {visible(' '.join(best_command(state, summary.chosen)))}",
        *file_lines(state, summary.chosen),
    ]


def _settings(summary: SweepSummary) -> list[str]:
    """A line per setting; figures that no setting has are listed below once instead of having empty columns."""
    places = rate_places(summary.cells)
    figures = known(FIGURES, summary.cells)
    titles = [figure.heading.title for figure in figures]
    rows: list[Row] = [("ranks", "batch size", "tok/s", NOISE, *titles)]
    for cell in summary.cells:
        head = (str(cell.active_ranks), str(cell.batch_size))
        rate, missing = rate_value(cell, places), why_missing(cell, summary.cells)
        if missing is not None:
            rows.append((*head, missing.sentence))
        elif rate is not None:
            values = (figure.value(cell, places) for figure in figures)
            texts = (UNKNOWN if value is None else value.text for value in values)
            rows.append((*head, rate.text, rate.noise, *texts))
    lines = aligned(rows)
    unknown = [figure.heading.title for figure in FIGURES if figure not in figures]
    return [*lines, f"not available: {', '.join(unknown)}"] if figures and unknown else lines


def _scaling(summary: SweepSummary) -> list[str]:
    """How more ranks scale, at the batch size that is run and for the best setting with each number of ranks."""
    same, each = same_and_best_scaling(summary)
    places = rate_places(summary.cells)
    lines = [f"scaling at batch size {same[0].batch_size}:", *_scaling_table(same, places)] if same else []
    if each:
        lines += ["scaling of the best with each number of ranks:", *_scaling_table(each, places)]
    elif same:
        lines.append(EACH_THE_SAME)
    return lines


def _scaling_table(rows: Sequence[Scaling], places: int) -> list[str]:
    table: list[Row] = [("ranks", "batch size", *(text for heading in SCALING for text in (heading.title, NOISE)))]
    for row in rows:
        values = scaling_values(row, places)
        texts = (text for value in values for text in (value.text, value.noise))
        table.append((str(row.active_ranks), str(row.batch_size), *texts))
    return aligned(table)


def aligned(rows: Sequence[Row]) -> list[str]:
    """Right-aligned columns; a row shorter than the first ends in words, which may run past the columns."""
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
