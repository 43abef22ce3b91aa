"""What an earlier supervisor of a run left behind, mended and read back.

Knows that outputs.jsonl is the truth about which prompts are done, and that the journal may lag behind
it or end in a torn line. Decides nothing.
"""

from dataclasses import dataclass, field
from pathlib import Path

from rankdeck.runner import protocol
from rankdeck.runner.run_directory import files
from rankdeck.runner.run_directory.run_file import RunFileError
from rankdeck.runner.state import RunState, apply


@dataclass
class Taken:
    """Where a run stands when a supervisor takes it: fresh, or taken up (`up`) after an earlier one."""

    up: bool = False
    state: RunState = field(default_factory=RunState)
    done: list[int] = field(default_factory=list)
    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    next_batch: int = 1
    cut: int = 0


def take_up(directory: Path, prompts: int) -> Taken:
    """Mend what a killed supervisor left half-written, and read where the run stands.

    Raises:
        RunFileError: a line before the last is damaged; it is named.
    """
    taken = Taken()
    for name in (files.OUTPUTS_FILE, files.EVENTS_FILE):
        taken.cut += files.mend(directory / name)
    if (directory / files.EVENTS_FILE).exists():
        for event in files.read_events(directory):
            taken.up = True
            taken.state = apply(taken.state, event)
            if isinstance(event, protocol.BatchStarted):
                taken.next_batch = max(taken.next_batch, event.batch + 1)
    seen = bytearray(prompts)
    for record in files.read_outputs(directory):
        taken.up = True
        if record.index >= prompts or seen[record.index]:
            raise RunFileError(
                f"{directory / files.OUTPUTS_FILE}: a second record of prompt {record.index}, or one of no prompt; "
                "this is no file of this run"
            )
        seen[record.index] = 1
        taken.done.append(record.index)
        failed = record.finish_reason == "error"
        taken.failed += failed
        taken.completed += not failed
        taken.prompt_tokens += record.prompt_tokens
        taken.output_tokens += record.output_tokens
        taken.next_batch = max(taken.next_batch, (record.batch or 0) + 1)
    return taken
