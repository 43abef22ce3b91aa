"""`rankdeck list`: the runs there are, as lines.

A run whose run.json says `running` while nobody holds its lock has lost its supervisor.
"""

import time
from collections.abc import Iterator

import msgspec

from runner import rundir
from runner.rundir import RunFile
from tui import text

COLUMNS = (("NAME", 34), ("STATUS", 10), ("PROMPTS", 13), ("TOK/S", 8), ("RANKS", 5), ("STARTED", 16), ("MODEL", 30))


def _runs() -> Iterator[tuple[str, str, RunFile]]:
    for directory, run in rundir.list_runs():
        lost = run.status == "running" and not rundir.supervisor_alive(directory)
        yield str(directory), "lost" if lost else run.status, run


def json_lines() -> Iterator[str]:
    """A JSON object per run."""
    for directory, status, run in _runs():
        yield msgspec.json.encode({"directory": directory, "state": status, **msgspec.to_builtins(run)}).decode()


def _done(run: RunFile) -> tuple[str, str]:
    """How much is done, and tokens/s; of a sweep its trials, and its best setting's."""
    if run.config.sweep is not None and not run.config.sweep.outputs:
        if run.sweep is None:
            return "sweep", "-"
        best = run.sweep.best.tokens_per_second if run.sweep.best is not None else None
        return f"{run.sweep.measured:,}/{run.sweep.trials:,} trials", f"{best.mean:,.1f}" if best is not None else "-"
    if run.summary is None:
        return f"{run.prompts:,}", "-"
    return f"{run.summary.completed:,}/{run.prompts:,}", f"{run.summary.tokens_per_second:,.1f}"


def table_lines() -> Iterator[str]:
    """A header, then a line per run."""
    empty = True
    for _, status, run in _runs():
        if empty:
            yield "  ".join(text.pad(title, width) for title, width in COLUMNS).rstrip()
        empty = False
        done, rate = _done(run)
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started_at))
        model = text.visible(run.config.model)
        cells = (run.name, status, done, rate, str(run.config.ranks), started, model)
        yield "  ".join(
            text.pad(text.cut_middle(cell, width), width) for cell, (_, width) in zip(cells, COLUMNS, strict=True)
        ).rstrip()
    if empty:
        yield "no runs yet; `rankdeck demo` starts one"
