"""Existing runs: the lines of `rankdeck list`, and the newest runs for the start screen. Reads only run.json.

A run whose run.json says `running` while nobody holds its lock has lost its supervisor.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from rankdeck.runner import run_directory
from rankdeck.runner.forecast.cost_model import CostModel, fit
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory.run_file import RunFile, RunFileError
from rankdeck.runner.state.costs import CostPoint
from rankdeck.tui.words import text
from rankdeck.tui.words.status import ENDED_EARLY

COLUMNS = (("NAME", 34), ("STATUS", 11), ("PROMPTS", 13), ("TOK/S", 8), ("RANKS", 5), ("STARTED", 16), ("MODEL", 30))

UNREADABLE = "unreadable"

NEWEST = 20


class Setting(NamedTuple):
    """Active ranks, and prompts per batch and rank."""

    active_ranks: int
    batch_size: int


class RecentRun(NamedTuple):
    """A run as the start screen lists it. `started_at` is in unix seconds.

    The status is run.json's, `lost` for a run that has lost its supervisor, `ended early` for a sweep that had trials
    left, or `unreadable`: then `problem` says why, and there is no config. Elsewhere `problem` is the cause of a
    failure. `chosen` is the setting that a sweep found to be the one to run.
    """

    directory: Path
    name: str
    status: str
    started_at: float
    done: str = ""
    rate: str = ""
    config: RunConfig | None = None
    problem: str | None = None
    has_figures: bool = False
    chosen: Setting | None = None

    @property
    def live(self) -> bool:
        return self.status == "running"

    @property
    def unfinished(self) -> bool:
        return self.status in ("stopped", "failed", "lost")

    @property
    def ended(self) -> bool:
        return self.status in ("completed", ENDED_EARLY, "stopped", "failed", "lost")


def recent(newest: int = NEWEST) -> list[RecentRun]:
    """The newest runs in the usual place, the newest first, those that cannot be read among them."""
    # run.json is rewritten when a run ends, so one that began earlier and ended later is near the top.
    found = [_recent(path, changed_at) for path, changed_at in run_directory.newest_runs(2 * newest)]
    return sorted(found, key=lambda run: run.started_at, reverse=True)[:newest]


_OF_COST = (
    *("model", "dtype", "engine", "quantization", "decoding", "attention", "chat"),
    *("ranks_per_gpu", "gpus_per_rank", "do_sample"),
)
"""Settings that change what a batch costs."""


def costs_like(config: RunConfig, device: str) -> CostModel | None:
    """What batches cost in the newest runs that generated as `config` would; `device` is what `auto` means here.

    None if there are no such runs; `CostModel.why_extrapolated` says what they did not measure.
    """

    def generates(one: RunConfig) -> tuple[object, ...]:
        on = device if one.device == "auto" else one.device
        return on, *(getattr(one, name) for name in _OF_COST)

    points: list[CostPoint] = []
    for path, _ in run_directory.newest_runs(NEWEST):
        try:
            run = run_directory.read_run_file(path)
        except RunFileError:
            continue
        if generates(run.config) == generates(config):
            points.extend(run.costs)
    return fit(points)


def _recent(path: Path, changed_at: float) -> RecentRun:
    try:
        run = run_directory.read_run_file(path)
    except RunFileError as error:
        return RecentRun(path, path.name, UNREADABLE, changed_at, problem=_why_unreadable(error))
    done, _ = _done(run)
    chosen = run.sweep.chosen if run.sweep is not None else None
    return RecentRun(
        directory=path.resolve(),
        name=path.name,
        status=_status(path, run),
        started_at=run.started_at,
        done=done if "/" in done else text.some(run.prompts, "prompt"),
        rate=_rate(run),
        config=run.config,
        problem=run.cause,
        has_figures=run.summary is not None or run.sweep is not None,
        chosen=Setting(chosen.active_ranks, chosen.batch_size) if chosen is not None else None,
    )


def _why_unreadable(error: RunFileError) -> str:
    """Without the path, which the list shows by its name."""
    return str(error).partition("cannot be read as a run: ")[2] or str(error)


def _rate(run: RunFile) -> str:
    if run.sweep is not None and run.sweep.best is not None and run.sweep.best.tokens_per_second is not None:
        return f"{text.rate(run.sweep.best.tokens_per_second.mean)} tok/s"
    return (
        f"{text.rate(run.summary.tokens_per_second)} tok/s"
        if run.summary is not None and run.summary.output_tokens
        else ""
    )


def _status(directory: Path, run: RunFile) -> str:
    if run.status == "running" and not run_directory.supervisor_alive(directory):
        # One that took the lock between the two looks is no process that starts, but holds it by now.
        here = run_directory.supervisor_starts(directory) or run_directory.supervisor_alive(directory)
        return "running" if here else "lost"
    early = run.status == "completed" and _only_measures(run) and run.sweep is not None and run.sweep.left > 0
    return ENDED_EARLY if early else run.status


def _only_measures(run: RunFile) -> bool:
    return run.config.sweep is not None and not run.config.sweep.outputs


def _runs() -> Iterator[tuple[str, str, RunFile]]:
    for directory, run in run_directory.list_runs():
        yield str(directory), _status(directory, run), run


def json_lines() -> Iterator[str]:
    """A JSON object per run, unreadable ones last; bytes of a path that are no UTF-8 are written as their codes."""
    for directory, status, run in _runs():
        path, name = (each.encode(errors="backslashreplace").decode() for each in (directory, run.name))
        fields = {"directory": path, "state": status, **msgspec.to_builtins(run), "name": name}
        yield msgspec.json.encode(fields).decode()
    for bad, error in run_directory.unreadable_runs():
        shown = {"directory": text.visible(str(bad)), "state": UNREADABLE, "name": text.visible(bad.name)}
        yield msgspec.json.encode({**shown, "problem": text.visible(_why_unreadable(error))}).decode()


def _done(run: RunFile) -> tuple[str, str]:
    """Progress and tokens/s; of a sweep its trials, and the tokens/s of its best setting."""
    if _only_measures(run):
        if run.sweep is None:
            return "sweep", "-"
        best = run.sweep.best.tokens_per_second if run.sweep.best is not None else None
        return f"{run.sweep.measured:,}/{run.sweep.trials:,} trials", f"{best.mean:,.1f}" if best is not None else "-"
    if run.summary is None:
        return f"{run.prompts:,}", "-"
    return f"{run.summary.completed:,}/{run.prompts:,}", f"{run.summary.tokens_per_second:,.1f}"


def table_lines() -> Iterator[str]:
    """A header, then a line per run; those that cannot be read come last, with the reason."""
    readable, unreadable = list(_runs()), run_directory.unreadable_runs()
    if not readable and not unreadable:
        yield "no runs yet; `rankdeck demo` starts one"
        return
    yield "  ".join(text.pad(title, width) for title, width in COLUMNS).rstrip()
    for _, status, run in readable:
        done, rate = _done(run)
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started_at))
        yield _cells(run.name, status, done, rate, str(run.config.ranks), started, run.config.model)
    for path, error in unreadable:
        yield f"{_cells(path.name, UNREADABLE)}  {text.visible(_why_unreadable(error))}"


def _cells(*cells: str) -> str:
    return "  ".join(
        text.pad(text.cut_middle(text.visible(cell), width), width)
        for cell, (_, width) in zip(cells, COLUMNS, strict=False)
    ).rstrip()


def sample_prompts() -> Path:
    """A hundred prompts to try rankdeck with."""
    return Path(__file__).resolve().parents[2] / "sample_prompts" / "stories.txt"


def demo_prompts() -> Path:
    """The demo's prompts: more than a run of a few minutes answers, so that there are rounds left to tune."""
    return sample_prompts().with_name("demo.txt")
