"""Where a run stands when a supervisor starts: what an earlier one left behind, mended and read back.

Knows that outputs.jsonl is the truth about which prompts are done: a line that is no record of this run is set aside
and its prompt done again; where the journal says otherwise, it is corrected. Does not decide whether the run goes on.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rankdeck.runner.inputs.frozen_prompts import PromptIndex
from rankdeck.runner.protocol import AnyEvent, OutputRecord, RunStarted, RunTakenUp, prompt_text, whole_record
from rankdeck.runner.run_directory import files
from rankdeck.runner.run_directory.journal import take_up_journal
from rankdeck.runner.run_directory.private_files import lines_of, open_if_file
from rankdeck.runner.run_directory.records import Ledger, put_right
from rankdeck.runner.run_directory.run_file import RunFile
from rankdeck.runner.state import RunState


@dataclass
class Counts:
    """What the records of a file add up to."""

    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    last_batch: int = 0

    def add(self, record: OutputRecord) -> None:
        failed = record.finish_reason == "error"
        self.failed += failed
        self.completed += not failed
        self.prompt_tokens += record.prompt_tokens
        self.output_tokens += record.output_tokens
        self.last_batch = max(self.last_batch, record.batch or 0)


@dataclass
class ResumePoint:
    """Where a run stands: at its start, or, if it is `resumed`, where an earlier supervisor left it.

    `ledger` has the prompts that have a record; `mended` says what was wrong with the files, for the log.
    """

    ledger: Ledger
    resumed: bool = False
    state: RunState = field(default_factory=RunState)
    counts: Counts = field(default_factory=Counts)
    next_batch: int = 1
    mended: list[str] = field(default_factory=list)

    def first_events(self, directory: Path, run: RunFile) -> list[AnyEvent]:
        """The events with which a supervisor begins."""
        events: list[AnyEvent] = []
        if not self.state.name:
            events.append(
                RunStarted(
                    name=run.name,
                    directory=str(directory),
                    config=run.config,
                    prompts=run.prompts,
                    asked_at=run.started_at,
                )
            )
        if self.resumed:
            events.append(
                RunTakenUp(
                    config=run.config,
                    completed=self.counts.completed,
                    failed=self.counts.failed,
                    prompt_tokens=self.counts.prompt_tokens,
                    output_tokens=self.counts.output_tokens,
                )
            )
        return events


def find_resume_point(directory: Path, prompts: PromptIndex) -> ResumePoint:
    """Cut off and set aside what is no whole line, and read where the run stands.

    Raises:
        RunFileError: a newer rankdeck wrote the journal.
        OSError: the files cannot be read or written.
    """
    story = take_up_journal(directory)
    cut = story.cut + files.mend(directory / files.OUTPUTS_FILE)
    ledger, counts = Ledger(prompts.count), Counts()
    strangers = 0
    for line, record in records_in(directory, prompts):
        if record is None or record.index in ledger:
            strangers += 1
        else:
            ledger.note(record.index, line)
            counts.add(record)
    said = [f"{cut:,} bytes of half-written lines were cut off"] if cut else []
    if strangers:
        aside = put_right(directory, ledger).aside
        lines = "1 line not of this run was" if strangers == 1 else f"{strangers:,} lines not of this run were"
        where = f"set aside in {aside.name}" if aside is not None else "removed"
        said.append(f"{files.OUTPUTS_FILE}: {lines} {where}; prompts without a record are done again")
    return ResumePoint(
        ledger=ledger,
        resumed=story.begun or ledger.count > 0,
        state=story.state,
        counts=counts,
        next_batch=max(story.next_batch, counts.last_batch + 1),
        mended=[*said, *story.said],
    )


def missing_records(directory: Path, prompts: PromptIndex) -> int:
    """How many prompts have no whole record in outputs.jsonl. Changes nothing."""
    found = bytearray(prompts.count)
    for _, record in records_in(directory, prompts):
        if record is not None:
            found[record.index] = 1
    return prompts.count - sum(found)


def records_in(directory: Path, prompts: PromptIndex) -> Iterator[tuple[bytes, OutputRecord | None]]:
    """The lines of outputs.jsonl, each with its record; None if it is no whole record of one of these prompts.

    A record that has another id or prompt than the run's is from another run, so none.
    """
    file = open_if_file(directory / files.OUTPUTS_FILE)
    if file is None:
        return
    with file:
        wanted: deque[int] = deque()
        theirs = prompts.each(iter(wanted.popleft, None))
        for line in lines_of(file):
            record = _decoded(line, prompts.count)
            if record is not None:
                wanted.append(record.index)
                prompt = next(theirs)
                if (record.id, record.prompt) != (prompt.id, prompt_text(prompt)):
                    record = None
            yield line, record


def _decoded(line: bytes, prompts: int) -> OutputRecord | None:
    try:
        record = whole_record(line)
    except (ValueError, RecursionError):
        return None
    return record if line.endswith(b"\n") and 0 <= record.index < prompts else None
