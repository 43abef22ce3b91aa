"""The files of lines in a run directory, outputs and journal: how they are written, read and repaired.

Knows their names and formats, not what the events mean. Outputs are appended as they arrive;
`rankdeck.runner.run_directory.records` puts them into input order at the end.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from rankdeck.runner.protocol import AnyEvent, OutputRecord, RanksLaunched, RunStarted, whole_record
from rankdeck.runner.protocol.config import MAX_RANKS
from rankdeck.runner.run_directory.lock import LOCK_FILE
from rankdeck.runner.run_directory.private_files import (
    is_file,
    lines_of,
    make_accessible,
    open_private,
    open_regular,
)
from rankdeck.runner.run_directory.run_file import RESERVE_FILE, RUN_FILE, RunFileError

PROMPTS_FILE = "prompts.jsonl"
EVENTS_FILE = "events.jsonl"
OUTPUTS_FILE = "outputs.jsonl"
LOG_FILE = "runner.log"
MODEL_FOLDER_FILE, MODEL_LOCK_FILE = "model-folder.json", "model-folder.lock"
"""Where the ranks note the folder of a hub model, and the lock that makes one of them fetch it."""

WRITTEN = (
    *(EVENTS_FILE, OUTPUTS_FILE, PROMPTS_FILE, LOG_FILE, RUN_FILE, RESERVE_FILE, LOCK_FILE, "accelerate.yaml"),
    *(MODEL_FOLDER_FILE, MODEL_LOCK_FILE),
)

MEND_BLOCK = 64 * 1024
"""How much of a file's end is read at once to find its last whole line."""


class LineWriter:
    """Appends lines to a file: `write` passes them to the system at once, `sync` to the disk."""

    def __init__(self, path: Path) -> None:
        self._file = os.fdopen(open_private(path), "ab", buffering=0)
        self._dirty = False

    @property
    def descriptor(self) -> int:
        return self._file.fileno()

    def write(self, lines: bytes) -> None:
        """Append whole lines.

        Raises:
            OSError: not all lines could be written; the part that was is cut off again.
        """
        position = self._file.seek(0, os.SEEK_END)
        try:
            view = memoryview(lines)
            while view:
                view = view[self._file.write(view) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(position)
            raise
        self._dirty = True

    def sync(self, *, anyway: bool = False) -> None:
        """Wait until what was written is on disk; with `anyway` also what was written before the file was opened."""
        if self._dirty or anyway:
            os.fsync(self._file.fileno())
            self._dirty = False

    def close(self) -> None:
        self.sync()
        self._file.close()


def read_outputs(directory: Path) -> Iterator[OutputRecord]:
    """The records of outputs.jsonl in the file's order. Half a line at the end (still being written) is left out.

    Raises:
        RunFileError: a line is damaged (file and line are named), or the file cannot be read.
    """
    path = directory / OUTPUTS_FILE
    try:
        with open_regular(path) as file:
            for number, line in enumerate(lines_of(file), 1):
                if line.endswith(b"\n"):
                    try:
                        record = whole_record(line)
                    except (ValueError, RecursionError) as error:
                        raise RunFileError(f"{path}:{number}: damaged, not a record: {error}") from None
                    yield record
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunFileError(f"{path}: cannot be read: {error.strerror}") from None


def read_events(directory: Path) -> Iterator[AnyEvent]:
    """The journal's events; the first says where the run is now, whatever was written.

    Raises:
        RunFileError: there is no journal, or a line of it is unknown (file and line are named).
    """
    path = directory / EVENTS_FILE
    decoder: Any = msgspec.json.Decoder(AnyEvent)
    try:
        with open_regular(path) as file:
            for number, line in enumerate(lines_of(file), 1):
                try:
                    event: AnyEvent = decoder.decode(line)
                except (ValueError, RecursionError) as error:
                    raise RunFileError(f"{path}:{number}: not an event this version knows: {error}") from None
                if isinstance(event, RanksLaunched) and event.world_size > MAX_RANKS:
                    raise RunFileError(
                        f"{path}:{number}: damaged: {event.world_size:,} ranks are more than there can be"
                    )
                yield moved_to(directory, event)
    except OSError as error:
        raise RunFileError(f"{path}: cannot be read: {error.strerror}") from None


def moved_to(directory: Path, event: AnyEvent) -> AnyEvent:
    """The event as a supervisor in `directory` would write it: a run may have been copied or moved since."""
    if isinstance(event, RunStarted):
        return msgspec.structs.replace(event, directory=str(directory.absolute()))
    return event


def stranger_among_files(directory: Path) -> str | None:
    """What is in the place of a file that a run writes and is none, in a sentence; None if nothing is.

    To write a link would change another file; to read or write a pipe may wait for ever.
    """
    for path in sorted(directory.iterdir()):
        if not _is_written(path):
            continue
        if path.is_symlink():
            return f"{path} is a link, not a file: the run would write what it leads to; remove it"
        if not path.is_file():
            what = "a folder" if path.is_dir() else "a pipe" if path.is_fifo() else "a device or socket"
            return f"{path} is {what}, not a file; remove it"
    return None


def belongs_to_a_run(path: Path) -> bool:
    """Whether a path, at the end of its links, is one that a run writes in its own directory."""
    try:
        path = path.resolve()
        return _is_written(path) and all((path.parent / name).is_file() for name in (RUN_FILE, LOCK_FILE))
    except (OSError, RuntimeError, ValueError):  # ValueError: a NUL in the name
        return False


def _is_written(path: Path) -> bool:
    return path.name in WRITTEN or (path.name.startswith("rank-") and path.suffix == ".log")


def mend(path: Path) -> int:
    """Cut off half a line at the end, where a supervisor was killed as it wrote. Returns how many bytes were cut."""
    if path.is_symlink() or not is_file(path):
        return 0
    make_accessible(path)
    with path.open("r+b") as file:
        end = position = file.seek(0, os.SEEK_END)
        while position > 0:
            start = max(0, position - MEND_BLOCK)
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position != end:
            file.truncate(position)
        return end - position
