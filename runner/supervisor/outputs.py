"""The records of a run: one per prompt, on disk before anybody sees it, in order and copied at the end.

Knows outputs.jsonl, and which prompts have their record already. Does not know ranks or batches: those it is told.
"""

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.inputs.frozen_prompts import PromptIndex
from rankdeck.runner.protocol import OutputRecord
from rankdeck.runner.run_directory.store import Store
from rankdeck.runner.scheduling.scheduler import Scheduler
from rankdeck.runner.supervisor.event_stream import EventStream
from rankdeck.runner.supervisor.knobs import KnobControls

RETRY_SECONDS = 1.0

PATH_ERRORS = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EISDIR)
"""Errors of a path, which waiting does not cure."""


class Outputs:
    """outputs.jsonl of the run in `directory`."""

    def __init__(
        self, directory: Path, prompts: PromptIndex, scheduler: Scheduler, controls: KnobControls, events: EventStream
    ) -> None:
        self._directory, self._prompts, self._scheduler = directory, prompts, scheduler
        self._controls, self._events = controls, events
        self.store = Store(directory / run_directory.OUTPUTS_FILE)

    def is_done(self, index: int) -> bool:
        """Whether the prompt has its record."""
        return self._scheduler.is_settled(index)

    def keep(self, record: OutputRecord) -> None:
        """Write a finished prompt's record, or hold it until the file can be written; drop a second one."""
        if self._scheduler.settle(record.index):
            self.store.write(protocol.encode_line(record))
            if self.store.trouble is not None:
                self._controls.set_trouble(self.store.trouble)
            self._events.emit(protocol.Output(record=record))

    def give_up(self, index: int, error: str, rank: int, batch: int | None = None) -> None:
        """Write the record of a prompt that gets no answer, and why."""
        (prompt,) = self._prompts.read([index])
        self.keep(
            OutputRecord(
                index=index,
                id=prompt.id,
                prompt=protocol.prompt_text(prompt),
                text="",
                prompt_tokens=0,
                output_tokens=0,
                finish_reason="error",
                error=error,
                rank=rank,
                batch=batch,
            )
        )

    async def finish(self, copy_to: str | None, in_a_hurry: Callable[[], bool]) -> str | None:
        """Put the file in order and copy it; while that fails, pause and try again.

        Returns what went wrong if trying again is pointless, or `in_a_hurry()` forbids it.
        """
        while True:
            try:
                await asyncio.to_thread(self._order_and_copy, copy_to)
            except OSError as error:
                trouble = f"outputs cannot be put in order or copied: {error}"
                if in_a_hurry() or error.errno in PATH_ERRORS:
                    return trouble
                self._controls.set_trouble(trouble)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._controls.set_trouble(None)
                return None

    def _order_and_copy(self, copy_to: str | None) -> None:
        self.store.close()
        run_directory.order_outputs(self._directory, self._prompts.count)
        if copy_to is not None:
            run_directory.copy_outputs(self._directory, Path(copy_to))
