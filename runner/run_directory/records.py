"""outputs.jsonl as a whole: which lines are this run's records, which are missing, and the file put right.

Knows for each prompt the hash of its line, so that no line is taken that was not written: a file that somebody
truncated, replaced or edited is told from the one that was left, and put together again from whatever has the lines.
Does not know who writes the lines, nor what follows for prompts whose record is lost.
"""

import contextlib
import errno
import os
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.run_directory.files import OUTPUTS_FILE
from rankdeck.runner.run_directory.private_files import lines_of, open_if_file, unused_name

NO_RECORD = 0


class Ledger:
    """The prompts that have their record, and 64 bits of hash of each record's line. Takes 8 bytes a prompt."""

    def __init__(self, prompts: int) -> None:
        self._hashes = array("Q", bytes(8 * prompts))
        self.count = 0

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, index: int) -> bool:
        return 0 <= index < len(self._hashes) and self._hashes[index] != NO_RECORD

    def __iter__(self) -> Iterator[int]:
        return (index for index, known in enumerate(self._hashes) if known != NO_RECORD)

    def copy(self) -> "Ledger":
        """What is known now, whatever is noted later."""
        copy = Ledger(0)
        copy._hashes, copy.count = self._hashes[:], self.count
        return copy

    def note(self, index: int, line: bytes) -> None:
        """Note the line of a prompt that has none yet."""
        self._hashes[index] = _hash(line)
        self.count += 1

    def forget(self, index: int) -> None:
        """Note that a prompt's record is lost."""
        self._hashes[index] = NO_RECORD
        self.count -= 1

    def prompt_of(self, line: bytes) -> int | None:
        """The prompt whose record this line is, to the byte; None if it is nobody's."""
        try:
            index = _decoder.decode(line).index
        except (ValueError, RecursionError):
            return None
        return index if index in self and self._hashes[index] == _hash(line) else None


class _Indexed(msgspec.Struct):
    index: int


_decoder = msgspec.json.Decoder(_Indexed)
_event_decoder = msgspec.json.Decoder(protocol.Output)


def _hash(line: bytes) -> int:
    return hash(line) & (2**64 - 1) or 1


def _same(line: bytes) -> bytes:
    return line


def record_in(line: bytes) -> bytes:
    """The record's own line, from the line of the journal that tells of it; empty if it tells of something else."""
    try:
        return protocol.encode_line(_event_decoder.decode(line).record)
    except (ValueError, RecursionError):
        return b""


class Source(NamedTuple):
    """A file that has records, each on a line of its own; `record` takes the record out of a line."""

    file: BinaryIO
    record: Callable[[bytes], bytes] = _same


@dataclass(frozen=True)
class PutRight:
    """What became of the file. `lost` are prompts whose record is nowhere any more, `aside` is where lines went that
    are no record of this run.
    """

    changed: bool = False
    regained: int = 0
    lost: tuple[int, ...] = ()
    aside: Path | None = None


def put_right(
    directory: Path,
    ledger: Ledger,
    elsewhere: Sequence[Source] = (),
    on_written: Callable[[bytes], None] = lambda _: None,
) -> PutRight:
    """Have outputs.jsonl hold each record that `ledger` knows once, in input order, and nothing else.

    What is not in the file is looked for `elsewhere`. The file is replaced atomically, or left as it is if nothing is
    wrong with it; `on_written` gets each line of the new one. Takes memory for offsets, not for texts.

    Raises:
        OSError: it cannot be read or written; then it is as it was.
    """
    path = directory / OUTPUTS_FILE
    places = _Places(ledger)
    with contextlib.ExitStack() as stack:
        aside = stack.enter_context(_SetAside(path))
        there = open_if_file(path)
        sources = [Source(stack.enter_context(there)), *elsewhere] if there is not None else list(elsewhere)
        in_order = there is not None and places.look_through(0, sources[0], aside.write)
        if in_order and places.found == ledger.count:
            return PutRight()
        in_file = places.found
        for number, source in enumerate(sources):
            if places.found == ledger.count:
                break
            places.look_through(number, source)
        _replace(path, places.lines(sources, on_written))
        return PutRight(
            changed=True,
            regained=places.found - in_file,
            lost=tuple(index for index in ledger if not places.has(index)),
            aside=aside.keep(),
        )


class _Places:
    """Where the line of each prompt's record is: the number of its source, and its place there."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._starts, self._ends = array("q", [-1]) * len(ledger), array("q", [-1]) * len(ledger)
        self._numbers = bytearray(len(ledger))
        self.found = 0

    def has(self, index: int) -> bool:
        return self._starts[index] >= 0

    def look_through(self, number: int, source: Source, stranger: Callable[[bytes], None] = lambda _: None) -> bool:
        """Note the lines that are still wanted, and pass those that are no record on; returns whether there is
        nothing but records, in order.
        """
        source.file.seek(0)
        position, previous, in_order = 0, -1, True
        for line in lines_of(source.file):
            record = source.record(line)
            index = self._ledger.prompt_of(record) if record else None
            if index is None:
                stranger(line)
                in_order = False
            else:
                in_order = in_order and index > previous
                previous = index
                if not self.has(index):
                    self._starts[index], self._ends[index] = position, position + len(line)
                    self._numbers[index] = number
                    self.found += 1
            position += len(line)
        return in_order

    def lines(self, sources: Sequence[Source], on_line: Callable[[bytes], None]) -> Iterator[bytes]:
        """The records in input order.

        Raises:
            OSError: a line is no longer what it was when it was found.
        """
        for index, (start, end, number) in enumerate(zip(self._starts, self._ends, self._numbers, strict=True)):
            if start >= 0:
                source = sources[number]
                source.file.seek(start)
                line = source.record(source.file.read(end - start))
                if self._ledger.prompt_of(line) != index:
                    raise OSError(errno.EBUSY, f"{OUTPUTS_FILE} is being changed by somebody else")
                on_line(line)
                yield line


class _SetAside:
    """A file for lines that are no record of this run; made with the first, and kept only by `keep`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._temporary: Path | None = None

    def __enter__(self) -> "_SetAside":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)

    def write(self, line: bytes) -> None:
        if self._file is None:
            handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
            self._file, self._temporary = os.fdopen(handle, "wb"), Path(name)
        self._file.write(line)

    def keep(self) -> Path | None:
        """Give the file its name; None if there is nothing in it."""
        if self._file is None or self._temporary is None:
            return None
        self._file.flush()
        kept = unused_name(self._path)
        os.replace(self._temporary, kept)
        self._temporary = None
        return kept


def _replace(path: Path, lines: Iterator[bytes]) -> None:
    """Replace whatever is at `path` by a file of these lines, in one step; a directory is moved out of the way."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as target:
            target.writelines(lines)
            target.flush()
            os.fsync(target.fileno())
        if path.is_dir() and not path.is_symlink():
            path.rename(unused_name(path))
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
