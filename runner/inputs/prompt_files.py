"""The formats of prompt files: each becomes a stream of records with their place in the file.

Knows bytes, encodings, JSON, CSV and Parquet, and collects what is wrong with a file instead of stopping at the first
problem. Does not know what makes a record a prompt: `runner.inputs.frozen_prompts` does. A file is read a line or a few
rows at a time; only .json is read whole.
"""

import contextlib
import csv
import json
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import msgspec

from rankdeck.runner.protocol import MAX_LINE_BYTES

SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".parquet")
WITH_COLUMNS = (".csv", ".parquet")
PRINTED_PROBLEMS = 20
KEPT_PROBLEMS = 1000
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
WIDE_MARKS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}

Record = tuple[int, object]
"""A record's place in its file, from 1, and its value: a str, decoded JSON, or a ValueError that says what is wrong."""
Line = tuple[int, str | ValueError]


@dataclass(frozen=True)
class PromptProblem:
    """One thing that is wrong with a prompt file; `place` counts lines (or `unit`s) from 1."""

    file: str
    message: str
    place: int | None = None
    unit: str = "line"

    def __str__(self) -> str:
        if self.place is None:
            return f"{self.file}: {self.message}"
        where = f"{self.place}" if self.unit == "line" else f" {self.unit} {self.place}"
        return f"{self.file}:{where}: {self.message}"


class PromptError(Exception):
    """A prompt file that cannot be used. `problems` has the first thousand, `count` counts all."""

    def __init__(self, problems: Sequence[PromptProblem], count: int | None = None) -> None:
        self.problems = list(problems)
        self.count = len(self.problems) if count is None else count
        super().__init__(self.problems, self.count)

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[:PRINTED_PROBLEMS]]
        if self.count > len(lines):
            lines.append(f"and {self.count - len(lines)} more")
        return "\n".join(lines)


class Problems:
    """Collects what is wrong with a file until all of it has been read."""

    def __init__(self, file: str) -> None:
        self.file, self.unit, self.count = file, "line", 0
        self.kept: list[PromptProblem] = []

    def add(self, message: str, place: int | None = None) -> None:
        self.count += 1
        if len(self.kept) < KEPT_PROBLEMS:
            self.kept.append(PromptProblem(self.file, message, place, self.unit))

    def stop(self, message: str, place: int | None = None) -> PromptError:
        """The error to raise if nothing more can be read, with the problems found before."""
        self.add(message, place)
        return PromptError(self.kept, self.count)

    def check(self) -> None:
        if self.count:
            raise PromptError(sorted(self.kept, key=lambda problem: problem.place or 0), self.count)


@contextlib.contextmanager
def reading(path: Path | BinaryIO, problems: Problems) -> Iterator[BinaryIO]:
    """The open file; errors of the operating system become a PromptError."""
    try:
        if not isinstance(path, Path):
            yield path
            return
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise problems.stop("there is no such file; check the path") from None
    except IsADirectoryError:
        raise problems.stop("this is a folder; give the file in it") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise problems.stop(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def records(
    source: str, column: str | None, stdin: BinaryIO | None, problems: Problems
) -> Generator[Record, None, None]:
    """The records of `source`, a file name or `-`. Raises PromptError if nothing, or nothing more, can be read."""
    suffix = Path(source).suffix.lower()
    if source != "-" and suffix not in SUFFIXES and not Path(source).is_dir():
        known = ", ".join(SUFFIXES)
        raise problems.stop(f"unknown kind of file {suffix!r}; give one of {known}, or - for standard input")
    if column is not None and suffix not in WITH_COLUMNS:
        problems.add(f"--column {column} is for {' and '.join(WITH_COLUMNS)}; leave it out")
    with reading((stdin or sys.stdin.buffer) if source == "-" else Path(source), problems) as file:
        if source == "-":
            yield from _sniffed(_lines(file, problems))
        elif suffix == ".txt":
            yield from _text(_lines(file, problems))
        elif suffix == ".jsonl":
            yield from _json_lines(_lines(file, problems))
        elif suffix == ".json":
            yield from _json_list(_without_mark(file.read(), problems), problems)
        elif suffix == ".csv":
            yield from _csv_rows(_lines(file, problems), column, problems)
        else:
            yield from _parquet_rows(file, column, problems)


def _lines(file: BinaryIO, problems: Problems) -> Iterator[Line]:
    """Lines with their endings, split at `\\n` only: all other separators are data."""
    number = offset = 0
    while raw := file.readline(MAX_LINE_BYTES):
        number += 1
        start = offset
        offset += len(raw)
        if number == 1:
            raw = _without_mark(raw, problems)
            start = offset - len(raw)
        if len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
            while rest := file.readline(MAX_LINE_BYTES):
                offset += len(rest)
                if rest.endswith(b"\n"):
                    break
            yield number, ValueError(f"the line is longer than {MAX_LINE_BYTES:,} bytes")
            continue
        try:
            yield number, raw.decode()
        except UnicodeDecodeError as error:
            yield number, ValueError(_not_utf8(raw, start, error))


def _not_utf8(raw: bytes, start: int, error: UnicodeDecodeError) -> str:
    where = f"byte 0x{raw[error.start]:02x} at offset {start + error.start} of the file"
    return f"not UTF-8 ({where}); save the file as UTF-8"


def _without_mark(start: bytes, problems: Problems) -> bytes:
    """The start of a file without UTF-8's byte order mark; the marks of UTF-16 and UTF-32 are refused by name."""
    for mark, encoding in WIDE_MARKS.items():
        if start.startswith(mark):
            raise problems.stop(
                f"the file is {encoding}, not UTF-8; convert it with `iconv -f {encoding} -t UTF-8`", place=1
            )
    return start.removeprefix(BYTE_ORDER_MARK)


def _text(lines: Iterable[Line]) -> Iterator[Record]:
    for number, line in lines:
        if isinstance(line, str) and line.endswith("\n"):
            line = line[: -2 if line.endswith("\r\n") else -1]
        yield number, line


def _sniffed(lines: Iterator[Line]) -> Iterator[Record]:
    """JSON lines if the first character that is not white space is `{`, else a prompt a line."""
    leading: list[Line] = []
    for number, line in lines:
        leading.append((number, line))
        if isinstance(line, ValueError) or not line.isspace():
            break
    last = leading[-1][1] if leading else ""
    reader = _json_lines if isinstance(last, str) and last.lstrip().startswith("{") else _text
    return reader(chain(leading, lines))


def _json_lines(lines: Iterable[Line]) -> Iterator[Record]:
    for number, line in lines:
        value: object = line
        if isinstance(line, str):
            if line.isspace():
                continue
            value = _decoded(line.rstrip())
            if not isinstance(value, (dict, ValueError)):
                value = ValueError(f"{kind(value)}, where an object with `prompt` or `messages` belongs")
        yield number, value


def _decoded(text: str) -> object:
    """The JSON value of `text`, or a ValueError that says where it is broken."""
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        return ValueError("broken JSON: nested too deeply")
    except msgspec.DecodeError as error:
        why = str(error)
    try:
        json.loads(text)  # slower, but it names line and column
    except json.JSONDecodeError as error:
        line = f"line {error.lineno} " if error.lineno > 1 else ""
        return ValueError(f"broken JSON: {error.msg} at {line}column {error.colno}")
    except (ValueError, RecursionError) as error:
        return ValueError(f"broken JSON: {error}")
    half = "half of a surrogate pair (such as \\ud800), NaN or Infinity"
    return ValueError(f"broken JSON: {half} is no JSON value ({why})")


def _json_list(data: bytes, problems: Problems) -> Iterator[Record]:
    try:
        value = _decoded(data.decode())
    except UnicodeDecodeError as error:
        start = error.start
        raise problems.stop(_not_utf8(data, 0, error), data.count(b"\n", 0, start) + 1) from None
    if isinstance(value, ValueError):
        hint = "; one object a line is .jsonl" if "Extra data" in str(value) else ""
        raise problems.stop(f"{value}{hint}" if data.strip() else "the file is empty")
    if not isinstance(value, list):
        raise problems.stop(f"{kind(value)}, where a list of prompts belongs; one object a line is .jsonl")
    problems.unit = "item"
    yield from enumerate(value, 1)


def _check_column(column: str | None, columns: Sequence[str], problems: Problems) -> str:
    listed = ", ".join(columns) or "none"
    if column is None:
        raise problems.stop(f"say with --column which column holds the prompts; the columns are: {listed}")
    if column not in columns:
        raise problems.stop(f"there is no column {column!r}; the columns are: {listed}")
    return column


def _csv_rows(lines: Iterable[Line], column: str | None, problems: Problems) -> Iterator[Record]:
    def texts() -> Iterator[str]:
        for number, line in lines:
            if isinstance(line, ValueError):
                problems.add(str(line), number)
                yield "\n"  # a blank row, which is left out: the problem is reported already
            else:
                yield line

    rows = csv.reader(texts(), strict=True)
    before = csv.field_size_limit(MAX_LINE_BYTES)
    try:
        position: int | None = None
        while True:
            place = rows.line_num + 1  # the first line of a row with quoted newlines
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                why = "a quoted field is never closed" if "unexpected end" in str(error) else str(error)
                yield place, ValueError(f"broken CSV: {why}")
                continue
            if position is None:
                position = row.index(_check_column(column, row, problems))
            elif row:
                short = ValueError(f"the row has {len(row)} of the columns, and {column!r} is number {position + 1}")
                yield place, row[position] if position < len(row) else short
    finally:
        csv.field_size_limit(before)


def _parquet_rows(file: BinaryIO, column: str | None, problems: Problems) -> Iterator[Record]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise problems.stop("reading .parquet needs pyarrow: pip install 'rankdeck[parquet]'") from None
    problems.unit, place = "row", 0
    try:
        table = pyarrow.parquet.ParquetFile(file)
        name = _check_column(column, table.schema_arrow.names, problems)
        for batch in table.iter_batches(batch_size=1024, columns=[name]):
            for value in batch.column(0).to_pylist():
                place += 1
                yield place, value if isinstance(value, str) else ValueError(f"{kind(value)}, where a text belongs")
    except pyarrow.ArrowException as error:
        raise problems.stop(f"this is no Parquet file that can be read: {error}") from None


def kind(value: object) -> str:
    """What kind of value it is, in the terms of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    names = {str: "a text", int: "a number", float: "a number", list: "a list", dict: "an object", bytes: "bytes"}
    name = names.get(type(value), type(value).__name__)
    return name.replace("a", "an empty", 1) if value in ("", [], {}) and name.startswith("a ") else name
