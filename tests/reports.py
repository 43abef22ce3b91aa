"""For the tests of reports: runs and sweeps as files, the report command, and reports read back."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import typer
from typer.testing import CliRunner

from rankdeck.runner import run_directory
from rankdeck.runner.protocol import AnyEvent, Output, OutputRecord, RankSummary, Summary
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan, SweepState, Trial, TrialRecord, TrialResult
from rankdeck.runner.run_directory.run_file import Environment, RunFile
from rankdeck.runner.state import RunState, apply, summarise
from rankdeck.runner.sweep.verdict import summarise_sweep
from rankdeck.tui.commands.report import report
from tests import ROOT

RECORDED = ROOT / "tui" / "sources" / "recorded" / "stories.jsonl"

app = typer.Typer()
app.command()(report)


def reported(*arguments: object) -> Any:
    """`rankdeck report …`."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def environment(**changes: Any) -> Environment:
    values = {"rankdeck": "9.9", "python": "3.11", "host": "box", "platform": "Linux", "cores": 2}
    return Environment(**{**values, "packages": {"torch": "2.13.0"}, "devices": ["a CPU"], **changes})


def summary(rate: float = 123.457, **changes: Any) -> Summary:
    """Figures with digits that rounding would lose."""
    ranks = [
        RankSummary(
            rank=rank, device="cpu", prompts=5, batches=2, prompt_tokens=50, output_tokens=617 + rank,
            tokens_per_second=61.729 - rank, padding_waste=0.1234, idle=0.0567,
        )
        for rank in range(2)
    ]  # fmt: skip
    values = {"prompts": 10, "completed": 9, "failed": 1, "prompt_tokens": 100, "output_tokens": 1235}
    values |= {"seconds": 10.003, "tokens_per_second": rate, "padding_waste": 0.1235, "length": "natural length"}
    return Summary(**{**values, "ranks": ranks, **changes})


def write_run(directory: Path, records: list[OutputRecord] | None = None, **changes: Any) -> RunFile:
    """A run directory without a journal."""
    values = {"name": directory.name, "status": "completed", "started_at": 1.7e9, "prompts": 10, "exit_status": 0}
    values |= {"config": RunConfig(prompts="p.txt", ranks=2, batch_size=4), "environment": environment()}
    run = RunFile(**{**values, "summary": summary(), **changes})
    directory.mkdir(exist_ok=True)
    run_directory.write_run_file(directory, run)
    lines = [msgspec.json.encode(record) + b"\n" for record in records or []]
    (directory / run_directory.OUTPUTS_FILE).write_bytes(b"".join(lines))
    return run


def record(index: int, text: str = "yes", **changes: Any) -> OutputRecord:
    values = {"index": index, "id": str(index), "prompt": f"prompt {index}", "text": text, "prompt_tokens": 3}
    return OutputRecord(**{**values, "output_tokens": 7, "finish_reason": "stop", **changes})


def write_recorded(directory: Path, **changes: Any) -> RunFile:
    """The recorded run that ships with the project, as a run directory with its real journal."""
    state, records = RunState(), []
    for line in RECORDED.read_bytes().splitlines():
        event = msgspec.json.decode(line, type=AnyEvent)  # type: ignore[arg-type]
        state = apply(state, event)
        if isinstance(event, Output):
            records.append(event.record)
    run = write_run(
        directory,
        records,
        **{"config": state.config, "prompts": state.prompts, "summary": summarise(state), **changes},
    )
    (directory / run_directory.EVENTS_FILE).write_bytes(RECORDED.read_bytes())
    return run


def sweep_state(factor: float = 100.0, wall: int | None = 16) -> SweepState:
    """Ranks 1 and 2, batch sizes 1, 4 and 16, three repeats; two ranks run out of memory at `wall`."""
    plan = SweepPlan(batch_sizes=[1, 4, 16], ranks=[1, 2])
    settings = [(repeat, ranks, size) for repeat in (1, 2, 3) for ranks in (1, 2) for size in (1, 4, 16)]
    trials = tuple(
        Trial(number=number, repeat=repeat, active_ranks=ranks, batch_size=size)
        for number, (repeat, ranks, size) in enumerate(settings, 1)
    )
    return SweepState(
        plan=plan,
        trials=trials,
        records=tuple(_trial(trial, factor, wall) for trial in trials),
        bandwidth_bytes_per_second=3.35e12,
        bandwidth_source="table of known GPUs",
    )


def _trial(trial: Trial, factor: float, wall: int | None) -> TrialRecord:
    if trial.active_ranks == 2 and trial.batch_size == wall:
        outcome = "out_of_memory" if trial.repeat == 1 else "skipped"
        return TrialRecord(trial=trial, outcome=outcome, reason="=out of | memory")
    rate = factor * trial.active_ranks**0.9 * trial.batch_size**0.5 + trial.repeat / 3
    result = TrialResult(
        rounds=2, batches=4, seconds=5.1, prompt_tokens=10, output_tokens=500, tokens_per_second=rate,
        total_tokens_per_second=rate * 1.1, rank_tokens_per_second=[rate / trial.active_ranks] * trial.active_ranks,
        prefill_seconds=0.1, batch_seconds=1.1, step_ms=(10.0, 11.0, 12.0), padding_waste=0.1, idle=0.0, mbu=0.41,
    )  # fmt: skip
    return TrialRecord(trial=trial, outcome="measured", result=result)


def write_sweep(directory: Path, factor: float = 100.0, wall: int | None = 16) -> RunFile:
    state = sweep_state(factor, wall)
    config = RunConfig(prompts="p.txt", ranks=2, ignore_eos=True, sweep=state.plan)
    return write_run(directory, config=config, sweep=summarise_sweep(state), summary=summary(completed=0, failed=0))


# --- read back ----------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser sees: text, tags with attributes, tables by caption, exact values of figures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.exact: dict[str, list[list[str | None]]] = {}
        self.headline: dict[str, str] = {}
        self._caption = ""
        self._inside: list[str] = []
        self._word = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.tags.append((tag, found))
        if tag == "caption":
            self._caption = ""
        if tag == "tr":
            self.tables.setdefault(self._caption, []).append([])
            self.exact.setdefault(self._caption, []).append([])
        if tag in ("td", "th") and "tr" in self._inside:
            self.tables[self._caption][-1].append("")
            self.exact[self._caption][-1].append(None)
        if tag == "data" and "table" in self._inside:
            self.exact[self._caption][-1][-1] = found["value"]
        if tag == "dt":
            self._word = ""
        if tag == "data" and "dd" in self._inside:
            self.headline[self._word] = found["value"] or ""
        if tag not in ("meta", "link"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if "style" in self._inside:
            return
        self.text += data
        if "caption" in self._inside:
            self._caption += data
        elif ("td" in self._inside or "th" in self._inside) and self.tables.get(self._caption):
            self.tables[self._caption][-1][-1] += data
        elif "dt" in self._inside:
            self._word += data


def markdown_tables(text: str) -> list[list[list[str]]]:
    """The tables of a Markdown text, cells as they read."""
    tables: list[list[list[str]]] = []
    before = ""
    for line in text.splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                tables.append([])
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            tables[-1].append([re.sub(r"\\(.)", r"\1", cell).strip().strip("*").strip() for cell in cells])
        before = line
    return tables
