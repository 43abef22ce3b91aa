"""What there is of a run, read from its directory: run.json, the journal through the reducer, the answers.

The one module of the report that reads files. Whatever is missing or damaged is left out and said in
`missing`; only without a run.json, or before there is any figure, is there nothing to report.
"""

import hashlib
import time
from collections import Counter
from pathlib import Path

import msgspec

from rankdeck.runner import run_directory
from rankdeck.runner.protocol import PROTOCOL_VERSION, RunStarted, Summary
from rankdeck.runner.run_directory.run_file import RunFile, RunFileError
from rankdeck.runner.state import RunState, apply, summarise
from rankdeck.runner.sweep.verdict import SweepSummary, summarise_sweep

ERRORS_KEPT = 20


class PromptError(msgspec.Struct, frozen=True):
    """A prompt that ended in an error."""

    index: int
    id: str
    error: str


class Answers(msgspec.Struct, frozen=True):
    """The answers counted: by finish reason, by output tokens (of those without error), and the first errors."""

    reasons: dict[str, int]
    lengths: dict[int, int]
    errors: list[PromptError]

    @property
    def count(self) -> int:
        return sum(self.reasons.values())


class ReportSource(msgspec.Struct, frozen=True, kw_only=True):
    """All a report is made from. `read_at` in unix seconds; `live` while a supervisor has the run.

    `summary` and `sweep` are those of run.json; before they stand there, those the journal adds up to. So is a sweep
    without a verdict, as there were before there was one: a replay judges it, too.
    """

    run: RunFile
    state: RunState | None
    answers: Answers | None
    summary: Summary | None
    sweep: SweepSummary | None
    live: bool
    read_at: float
    missing: list[str] = []

    @property
    def is_sweep(self) -> bool:
        """Whether the run is a sweep from its beginning; a job may have had one on its way, and stays a job."""
        return self.sweep is not None and self.run.config.sweep is not None


class EqualTexts(msgspec.Struct, frozen=True, kw_only=True):
    """How the answers of two runs compare, prompt by prompt; `first` are the first indexes whose texts differ."""

    equal: int
    differing: int
    other_prompt: int
    only_one: int
    only_other: int
    first: list[int]


def read(directory: Path) -> ReportSource:
    """All there is of the run in `directory`.

    Raises:
        RunFileError: it is no run, or there is nothing to report of it yet; for people.
    """
    run = run_directory.read_run_file(directory)
    live = run.status == "running" and run_directory.supervisor_alive(directory)
    missing: list[str] = []
    state = _state(directory, missing)
    answers = _answers(directory, missing)
    begun = state is not None and bool(state.ranks)
    summary = run.summary or (summarise(state) if state is not None and begun else None)
    sweep = run.sweep
    if (sweep is None or sweep.verdict is None) and state is not None and state.sweep is not None:
        sweep = summarise_sweep(state.sweep)
    if summary is None and sweep is None:
        if run.status == "running":
            told = "has just begun" if live else "lost its supervisor before it had any figures"
            raise RunFileError(f"{run.name} {told}: there is nothing to report of it")
        missing.append("run.json has no figures: the run ended before any rank was launched.")
    return ReportSource(
        run=run,
        state=state,
        answers=answers,
        summary=summary,
        sweep=sweep,
        live=live,
        read_at=time.time(),
        missing=missing,
    )


def _state(directory: Path, missing: list[str]) -> RunState | None:
    """The journal replayed, or None and why. A last line that is still being written is not damage."""
    path = directory / run_directory.EVENTS_FILE
    state, events = RunState(), 0
    try:
        for event in run_directory.read_events(directory):
            if events == 0 and not isinstance(event, RunStarted):
                raise RunFileError(f"{path}:1: a journal begins with run_started")
            if isinstance(event, RunStarted) and event.version > PROTOCOL_VERSION:
                raise RunFileError(
                    f"{path}:{events + 1}: written by a newer rankdeck (format {event.version}, this one reads "
                    f"{PROTOCOL_VERSION}); install that one to see all of it"
                )
            state, events = apply(state, event), events + 1
    except (RunFileError, UnicodeDecodeError) as error:
        if not (events and _torn_after(path, events)):
            missing.append(f"The journal: {error}. Without it there is no chart over time and nothing of the knobs.")
            return None
    if events == 0:
        missing.append(f"The journal: {path} is empty. Without it there is no chart over time.")
        return None
    return state


def _torn_after(path: Path, events: int) -> bool:
    """Whether the journal has exactly so many whole lines, and then a part of one."""
    lines, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            lines, last = lines + block.count(b"\n"), block[-1:]
    return lines == events and last != b"\n"


def _answers(directory: Path, missing: list[str]) -> Answers | None:
    reasons: Counter[str] = Counter()
    lengths: Counter[int] = Counter()
    errors: list[PromptError] = []
    try:
        for record in run_directory.read_outputs(directory):
            reasons[record.finish_reason] += 1
            if record.finish_reason != "error":
                lengths[record.output_tokens] += 1
            elif len(errors) < ERRORS_KEPT:
                errors.append(PromptError(record.index, record.id, record.error or ""))
    except (RunFileError, OSError) as error:
        missing.append(f"The answers: {error}.")
        return None
    return Answers(dict(reasons), dict(lengths), errors)


def equal_texts(one: Path, other: Path) -> EqualTexts | None:
    """Whether the answers of two runs have equal texts, by prompt index and equal prompt; None where one is damaged.

    Error records are no answers. Holds 16 bytes and their bookkeeping per answer of the other run, no text.
    """
    try:
        theirs = {
            record.index: (_digest(record.prompt), _digest(record.text))
            for record in run_directory.read_outputs(other)
            if record.finish_reason != "error"
        }
        counts: Counter[str] = Counter()
        first: list[int] = []
        for record in run_directory.read_outputs(one):
            if record.finish_reason == "error":
                continue
            there = theirs.pop(record.index, None)
            if there is None:
                counts["only_one"] += 1
            elif there[0] != _digest(record.prompt):
                counts["other_prompt"] += 1
            elif there[1] == _digest(record.text):
                counts["equal"] += 1
            else:
                counts["differing"] += 1
                if len(first) < 10:
                    first.append(record.index)
    except (RunFileError, OSError):
        return None
    return EqualTexts(
        equal=counts["equal"],
        differing=counts["differing"],
        other_prompt=counts["other_prompt"],
        only_one=counts["only_one"],
        only_other=len(theirs),
        first=sorted(first),
    )


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
