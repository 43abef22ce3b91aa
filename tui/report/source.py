"""What there is to report of a run, read from its directory: run.json, the journal through the reducer, the answers.

The only module of the report that reads files. Parts that are missing or damaged are left out and named in `missing`;
without a run.json, or before the first figures, there is nothing to report.
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
    """Answers counted by finish reason and, errors aside, by output tokens; and the first errors."""

    reasons: dict[str, int]
    lengths: dict[int, int]
    errors: list[PromptError]

    @property
    def count(self) -> int:
        return sum(self.reasons.values())


class ReportSource(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a report is made from. `read_at` is in unix seconds; `live` while a supervisor runs the run.

    `summary` and `sweep` come from run.json, or from the journal where run.json has none yet. A sweep recorded
    before there were verdicts is judged anew from the journal, as a replay does.
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
        """Whether the run was started as a sweep, rather than as a job that ran a sweep along the way."""
        return self.sweep is not None and self.run.config.sweep is not None


class EqualTexts(msgspec.Struct, frozen=True, kw_only=True):
    """How the answers of two runs compare, prompt by prompt; `first` lists the first indexes whose texts differ."""

    equal: int
    differing: int
    other_prompt: int
    only_one: int
    only_other: int
    first: list[int]


def read(directory: Path) -> ReportSource:
    """Everything there is to report of the run in `directory`.

    Raises:
        RunFileError: it is not a run, or there is nothing to report yet; the message is for people.
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
    """The state at the end of the journal; None, and a line in `missing`, if it is damaged before its last line."""
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
    """Whether the journal has exactly `events` whole lines, followed by part of a line."""
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
    """Whether two runs answered the same prompts with equal texts; None if the answers of either are damaged.

    Errors do not count as answers. Keeps two digests of 8 bytes per answer of the other run in memory, no texts.
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
