"""The events of one run: stamped, applied to the state, written to the journal, shown to every viewer.

Knows the order of these four, and how many ticks the journal keeps. Does not know what an event leads to.
"""

import asyncio
import contextlib
import os
import sys
import time
from pathlib import Path
from typing import BinaryIO

import msgspec

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.protocol import AnyEvent
from rankdeck.runner.run_directory.journal import write_again
from rankdeck.runner.run_directory.store import Store
from rankdeck.runner.state import RunState, Snapshot, apply
from rankdeck.runner.state.knobs import SOURCE as KNOBS
from rankdeck.runner.state.knobs import knob_words
from rankdeck.runner.state.loading_time import loading_line
from rankdeck.runner.supervisor.door.viewers import Viewers

JOURNAL_TICK_SECONDS = 1.0


class EventStream:
    """Every event of the run in `directory`, from `state` on."""

    def __init__(self, directory: Path, state: RunState) -> None:
        self.state = state
        self._directory = directory
        self.journal = Store(directory / run_directory.EVENTS_FILE, may_drop=True)
        self.viewers = Viewers(lambda: protocol.encode_line(Snapshot(state=self.state)))
        self._clock_offset = time.time() - time.monotonic()
        self._journal_tick_at = 0.0

    def emit(self, event: AnyEvent) -> None:
        """Stamp, apply, journal, show: in this order, so that no view knows more than the journal."""
        event = msgspec.structs.replace(event, at=round(time.monotonic() + self._clock_offset, 4))
        self.state = apply(self.state, event)
        line = protocol.encode_line(event)
        if not isinstance(event, protocol.Tick):
            self.journal.write(line)
        elif event.processes is not None or event.at - self._journal_tick_at >= JOURNAL_TICK_SECONDS * 1.1:
            # One tick a second: the one that carries telemetry, or any other if none does.
            self._journal_tick_at = event.at
            self.journal.write(line)
        self.viewers.offer(line)
        if (turned := knob_words(event)) is not None:
            self.log(KNOBS, turned)
        if isinstance(event, protocol.RanksReady):
            self.log("supervisor", f"all ranks are ready after {loading_line(self.state.loading)}")

    async def look_after(self) -> None:
        """Put the journal back if somebody has touched it; try again to write what could not be written.

        It is not the truth about the run, outputs.jsonl is: what cannot be had again is gone.
        """
        if (touched := self.journal.touched()) is not None:
            self.journal.hold(touched)
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._put_back)
                self.journal.resume()
                self.log("supervisor", f"{touched}; the journal goes on")
        elif self.journal.trouble is not None:
            self.journal.flush()

    def _put_back(self) -> None:
        """Write the journal again from the file that is still open, unless that is the one which was cut short."""
        path = self._directory / run_directory.EVENTS_FILE
        with self.journal.opened() as content:
            if content is not None and not _same_file(path, content):
                write_again(path, content)

    def log(self, source: str, text: str) -> None:
        """Add the lines of `text` to runner.log (this process's stderr) and to every view."""
        stamp = time.strftime("%H:%M:%S", time.localtime())
        for line in text.rstrip().split("\n"):
            try:
                sys.stderr.write(f"{stamp} {source}: {line}\n")
                sys.stderr.flush()
            except OSError:  # a full disk: the views still get it
                pass
            self.emit(protocol.LogLine(source=source, text=line))


def _same_file(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError:
        return False
