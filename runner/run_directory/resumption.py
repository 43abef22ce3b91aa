"""Where a run stands when a supervisor starts: what an earlier one left behind, mended and read back.

Knows that outputs.jsonl is the truth about which prompts are done, and that the journal may lag behind it or end in
half a line. Does not decide whether the run goes on.
"""

from dataclasses import dataclass, field
from pathlib import Path

from rankdeck.runner.protocol import AnyEvent, BatchStarted, RunStarted, RunTakenUp
from rankdeck.runner.run_directory import files
from rankdeck.runner.run_directory.run_file import RunFile, RunFileError
from rankdeck.runner.state import RunState, apply


@dataclass
class ResumePoint:
    """Where a run stands: at its start, or, if it is `resumed`, where an earlier supervisor left it.

    `done` lists the prompts that have a record; `cut` is how many bytes of half-written lines were removed.
    """

    resumed: bool = False
    state: RunState = field(default_factory=RunState)
    done: list[int] = field(default_factory=list)
    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    next_batch: int = 1
    cut: int = 0

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
                    completed=self.completed,
                    failed=self.failed,
                    prompt_tokens=self.prompt_tokens,
                    output_tokens=self.output_tokens,
                )
            )
        return events


def find_resume_point(directory: Path, prompts: int) -> ResumePoint:
    """Cut off what a killed supervisor left half-written, and read where the run stands.

    Raises:
        RunFileError: a line before the last is damaged; it is named.
    """
    point = ResumePoint()
    for name in (files.OUTPUTS_FILE, files.EVENTS_FILE):
        point.cut += files.mend(directory / name)
    if (directory / files.EVENTS_FILE).exists():
        for event in files.read_events(directory):
            point.resumed = True
            point.state = apply(point.state, event)
            if isinstance(event, BatchStarted):
                point.next_batch = max(point.next_batch, event.batch + 1)
    seen = bytearray(prompts)
    for record in files.read_outputs(directory):
        point.resumed = True
        if record.index >= prompts or seen[record.index]:
            raise RunFileError(
                f"{directory / files.OUTPUTS_FILE}: a second record of prompt {record.index}, or one of no prompt; "
                "this file is not from this run"
            )
        seen[record.index] = 1
        point.done.append(record.index)
        failed = record.finish_reason == "error"
        point.failed += failed
        point.completed += not failed
        point.prompt_tokens += record.prompt_tokens
        point.output_tokens += record.output_tokens
        point.next_batch = max(point.next_batch, (record.batch or 0) + 1)
    return point
