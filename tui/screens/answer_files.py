"""Writing answers to a file: as records (.jsonl), as a table (.csv) or to read (.txt).

Knows formats and files, not which answers are wanted: they come from an iterator, any number of them, and none is
kept in memory. The file is written whole or not at all.
"""

import csv
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from rankdeck.runner.protocol import OutputRecord
from rankdeck.runner.run_directory import EVENTS_FILE, OUTPUTS_FILE, PROMPTS_FILE
from rankdeck.tui.panels.outputs.answer_lines import answer_text

FIELDS = OutputRecord.__struct_fields__
KINDS = (".jsonl", ".csv", ".txt")
STEM_CHARACTERS = 80

_OF_THE_RUN = (PROMPTS_FILE, EVENTS_FILE, OUTPUTS_FILE)
"""Refused even if they do not exist yet: the run will write them."""


class ExportError(ValueError):
    """The file cannot be written; the text says why and what to do."""


class Target(NamedTuple):
    """A file to write, and whether it would replace one that exists."""

    path: Path
    replaces: bool


def target(text: str, run_directory: Path) -> Target:
    """The file that `text` names.

    Raises:
        ExportError: no file can be written there.
    """
    if not text.strip():
        raise ExportError("give the file a name")
    try:
        path = Path(text.strip()).expanduser().resolve()
        if path.suffix.lower() not in KINDS:
            raise ExportError("end the name in .jsonl (records), .csv (a table) or .txt (to read)")
        if path.is_dir():
            raise ExportError(f"{path.name} is a directory")
        if not path.parent.is_dir():
            raise ExportError(f"there is no directory {path.parent}")
        exists = path.exists()
        if exists and not path.is_file():
            raise ExportError(f"{path.name} is no file that could be replaced")
        if path.parent == run_directory.resolve() and (exists or path.name in _OF_THE_RUN):
            raise ExportError(f"{path.name} belongs to the run; choose another name")
        if not os.access(path.parent, os.W_OK):
            raise ExportError(f"no permission to write in {path.parent}")
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, ExportError):
            raise
        why = error.strerror if isinstance(error, OSError) else error
        raise ExportError(f"no such place: {why}") from None
    return Target(path, exists)


def suggested(run: str, *, filtered: bool) -> str:
    """A file name that does not exist in the working directory yet."""
    stem = re.sub(r"[^\w.-]+", "-", run)[:STEM_CHARACTERS].strip(".-") or "run"
    stem += "-filtered" if filtered else "-outputs"
    names = (f"{stem}{'' if number == 1 else f'-{number}'}.jsonl" for number in count(1))
    return next(name for name in names if not Path(name).exists())


def gather(
    stored: Iterable[OutputRecord] | None, kept: Iterable[OutputRecord], wanted: Callable[[OutputRecord], bool]
) -> Iterator[OutputRecord]:
    """All wanted answers: those on disk in the file's order, then those in memory that are not on disk yet."""
    left = {record.index: record for record in kept}
    for record in stored or ():
        left.pop(record.index, None)
        if wanted(record):
            yield record
    yield from (record for record in left.values() if wanted(record))


def write(records: Iterable[OutputRecord], to: Target, *, replace: bool = False) -> int:
    """Write the file in one step; returns the number of answers. Slow: run it in a thread.

    Raises:
        ExportError: a file of that name has appeared meanwhile, and `replace` is False.
        OSError: it could not be written; a file that was there before is untouched.
    """
    path = to.path
    # Not derived from the name, which may be as long as names can be already.
    temporary = path.with_name(f".rankdeck-{secrets.token_hex(8)}.part")
    # A new file, with the mode that any of the user's files gets.
    file = temporary.open("x", encoding="utf-8", errors="replace", newline="")
    try:
        with file:
            number, put = 0, _WRITERS[path.suffix.lower()](file)
            for record in records:
                put(record)
                number += 1
            file.flush()
            os.fsync(file.fileno())
        if not replace and path.exists():
            raise ExportError(f"{path.name} has appeared meanwhile; choose another name")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return number


def _jsonl(file: IO[str]) -> Callable[[OutputRecord], object]:
    encoder = msgspec.json.Encoder()
    return lambda record: file.write(encoder.encode(record).decode() + "\n")


def _csv(file: IO[str]) -> Callable[[OutputRecord], object]:
    writer = csv.writer(file)
    writer.writerow(FIELDS)
    return lambda record: writer.writerow([getattr(record, name) for name in FIELDS])


def _txt(file: IO[str]) -> Callable[[OutputRecord], object]:
    return lambda record: file.write(answer_text(record) + "\n\n")


_WRITERS: dict[str, Callable[[IO[str]], Callable[[OutputRecord], object]]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".txt": _txt,
}
