"""The records of a run: one per prompt, on disk before anybody sees it, in order and copied at the end.

Knows outputs.jsonl, which prompts have their record already, and that somebody may remove, cut short, replace or edit
the file meanwhile: then it is put right from what has the records still, and what is lost is done again. Does not know
ranks or batches: those it is told.
"""

import asyncio
import contextlib
import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.inputs.frozen_prompts import PromptIndex
from rankdeck.runner.protocol import OutputRecord
from rankdeck.runner.run_directory.output_copy import OutputTakenError, Stamp
from rankdeck.runner.run_directory.private_files import open_regular
from rankdeck.runner.run_directory.records import Ledger, PutRight, Source, put_right, record_in
from rankdeck.runner.run_directory.resumption import Counts
from rankdeck.runner.run_directory.store import Store
from rankdeck.runner.scheduling.scheduler import Scheduler
from rankdeck.runner.supervisor.event_stream import EventStream
from rankdeck.runner.supervisor.knobs import KnobControls

RETRY_SECONDS = 1.0

PATH_ERRORS = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Errors of a path, which waiting does not cure."""


@dataclass(frozen=True)
class Finished:
    """How the file was left: `whole` if it has every record there was, `trouble` if something went wrong.

    `copied` is the stamp of the copy that was made.
    """

    whole: bool
    trouble: str | None = None
    copied: Stamp | None = None


class Outputs:
    """outputs.jsonl of the run in `directory`, which has the records of `ledger` already."""

    def __init__(
        self,
        directory: Path,
        prompts: PromptIndex,
        ledger: Ledger,
        scheduler: Scheduler,
        controls: KnobControls,
        events: EventStream,
    ) -> None:
        self._directory, self._prompts, self._ledger, self._scheduler = directory, prompts, ledger, scheduler
        self._controls, self._events = controls, events
        self._putting_right = asyncio.Lock()
        self.store = Store(directory / run_directory.OUTPUTS_FILE)

    def is_done(self, index: int) -> bool:
        """Whether the prompt has its record."""
        return self._scheduler.is_settled(index)

    def keep(self, record: OutputRecord) -> None:
        """Write a finished prompt's record, or hold it until the file can be written; drop a second one."""
        if self._scheduler.settle(record.index):
            line = protocol.encode_line(record)
            self._ledger.note(record.index, line)
            self.store.write(line)
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

    async def look_after(self) -> None:
        """Sync the file, put it right if somebody has touched it, try again to write what could not be written."""
        await asyncio.to_thread(self.store.sync)
        if (touched := self.store.touched()) is not None:
            with contextlib.suppress(OSError):
                await self.put_right(touched)
        elif self.store.trouble is not None:
            self.store.flush()

    async def put_right(self, touched: str | None = None) -> int:
        """Read the whole file, and have it hold each record once. Returns how many prompts have to be done again.

        Raises:
            OSError: that failed; the lines that come meanwhile are kept in memory.
        """
        async with self._putting_right:
            self.store.hold(touched or f"{run_directory.OUTPUTS_FILE} is put in order")
            in_memory = len(self.store)
            work = asyncio.ensure_future(asyncio.to_thread(self._put_right, self._ledger.copy()))
            try:
                done, left = await asyncio.shield(work)
            except asyncio.CancelledError:
                # The thread goes on: nobody else may write the file before it is done.
                await asyncio.wait({work})
                raise
            except OSError as error:
                self.store.hold(f"{run_directory.OUTPUTS_FILE} cannot be put right: {error.strerror or error}")
                raise
            for line in list(self.store.backlog())[in_memory:]:
                left.add(_record(line))
            if done.changed:
                self.store.resume(in_memory)
            else:
                self.store.flush()
            if touched is not None or done.regained or done.lost or done.aside is not None:
                self._tell(touched, done, left)
            return len(done.lost)

    def _put_right(self, ledger: Ledger) -> tuple[PutRight, Counts]:
        journal = self._directory / run_directory.EVENTS_FILE
        with contextlib.ExitStack() as stack:
            own = [self.store.backlog(), stack.enter_context(self.store.opened())]
            journals = [stack.enter_context(self._events.journal.opened()), _opened(journal, stack)]
            elsewhere = [Source(file) for file in own if file is not None]
            elsewhere += [Source(file, record_in) for file in journals if file is not None]
            # Counted as it is written: read again, the file may be another by then.
            left = Counts()
            return put_right(self._directory, ledger, elsewhere, lambda line: left.add(_record(line))), left

    def _tell(self, touched: str | None, done: PutRight, left: Counts) -> None:
        """Log what has become of the file, and give lost prompts back to the queue."""
        for index in done.lost:
            self._ledger.forget(index)
        self._scheduler.reopen(done.lost)
        said = [touched or f"{run_directory.OUTPUTS_FILE} was touched by somebody else"]
        if done.regained:
            said.append(f"{_records(done.regained)} written again")
        if done.lost:
            said.append(f"{_records(len(done.lost))} lost: their prompts are done again")
        if done.aside is not None:
            said.append(f"lines that are not this run's are in {done.aside.name}")
        self._events.log("supervisor", "; ".join(said))
        if done.lost:
            self._events.emit(
                protocol.RecordsLost(
                    records=len(done.lost),
                    completed=left.completed,
                    failed=left.failed,
                    prompt_tokens=left.prompt_tokens,
                    output_tokens=left.output_tokens,
                )
            )

    async def finish(self, copy: Callable[[], Stamp] | None, in_a_hurry: Callable[[], bool]) -> Finished:
        """Put the file in order and have it copied; while that fails, pause and try again.

        It is given up if trying again is pointless, or `in_a_hurry()` forbids it.
        """
        whole = False
        while True:
            try:
                await asyncio.to_thread(self.store.save)
                whole = await self.put_right() == 0
                copied = await asyncio.to_thread(copy) if copy is not None else None
            except OutputTakenError as error:
                return Finished(whole, str(error))
            except OSError as error:
                trouble = f"outputs cannot be put in order or copied: {error}"
                if in_a_hurry() or error.errno in PATH_ERRORS:
                    return Finished(whole, trouble)
                self._controls.set_trouble(trouble)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._controls.set_trouble(None)
                return Finished(whole, copied=copied)


def _opened(path: Path, stack: contextlib.ExitStack) -> BinaryIO | None:
    with contextlib.suppress(OSError):
        return stack.enter_context(open_regular(path))
    return None


def _record(line: bytes) -> OutputRecord:
    return msgspec.json.decode(line, type=OutputRecord)


def _records(number: int) -> str:
    return "1 record is" if number == 1 else f"{number:,} records are"
