"""The rows of CSV, TSV and Parquet, of which one column holds the prompts. What is wrong is said with its place."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from rankdeck.runner.inputs.prompts.lines import Line
from rankdeck.runner.inputs.prompts.problems import Problems, kind, shown
from rankdeck.runner.inputs.prompts.record import Record
from rankdeck.runner.protocol import MAX_LINE_BYTES

SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\r?\n?')
"""A first line that names the separator, as Excel reads and writes it."""

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}


def check_column(column: str | None, columns: Sequence[str], problems: Problems, hint: str = "") -> int:
    """The place of the column. Raises PromptError if it is not there, or if a name stands twice."""
    listed = ", ".join(shown(name if name == name.strip() else repr(name)) for name in columns) or "none"
    if column is None:
        raise problems.stop(f"say with --column which column holds the prompts; the columns are: {listed}{hint}")
    if column not in columns:
        raise problems.stop(f"there is no column {shown(column)!r}; the columns are: {listed}{hint}")
    twice = [shown(name) for name, count in Counter(columns).items() if count > 1 and (name.strip() or name == column)]
    if twice:
        raise problems.stop(f"more than one column is called {', '.join(map(repr, twice))}; rename all but one")
    return columns.index(column)


def csv_rows(lines: Iterable[Line], separator: str, column: str | None, problems: Problems) -> Iterator[Record]:
    """The texts of a column. The first row names the columns; blank rows are left out."""
    feed = _Feed(iter(lines), problems)
    if (found := SEPARATOR_LINE.fullmatch(feed.peek())) and separator == ",":
        separator = found[1]
        feed.skip()
    rows = csv.reader(feed, strict=True, delimiter=separator)
    before = csv.field_size_limit(MAX_LINE_BYTES)
    header: list[str] = []
    position = 0
    try:
        while True:
            place = feed.begin_row()
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                if "field larger" in str(error):
                    said = f"a field is longer than {MAX_LINE_BYTES:,} characters; is its quote never closed?"
                    raise problems.stop(f"broken CSV: {said}", feed.opened_at or place) from None
                yield _broken(str(error), feed, place)
                continue
            if not row or (feed.is_blank and feed.number == place):
                continue
            if separator == "\t" and any("\t" in field and "\n" in field for field in row):
                problems.doubt(_run_together(place, feed.number), place)
            if not header:
                header, position = row, check_column(column, row, problems, _hint(row, separator))
            elif len(row) == len(header) > 1 and not any(map(str.strip, row)):
                continue  # spreadsheets leave such rows behind
            elif len(row) == len(header):
                yield place, row[position]
            else:
                yield place, ValueError(_misfit(len(row), len(header), separator))
    finally:
        csv.field_size_limit(before)


class _Feed:
    """The lines that csv.reader takes, counted, and where a quote is open. A bad line is reported, and still counts."""

    def __init__(self, lines: Iterator[Line], problems: Problems) -> None:
        self._lines, self._problems = lines, problems
        self._next: str | None = None
        self.number = 0
        self.opened_at: int | None = None
        """The line with the quote that is open, if one is."""
        self.is_blank = False

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        text = self.peek()
        self._next = None
        if not text:
            raise StopIteration
        self.number += 1
        self.is_blank = text.isspace()
        quotes = text.replace('""', "").count('"')  # two in a row are one within a field
        was_open = self.opened_at is not None
        if was_open == bool(quotes % 2):
            self.opened_at = None
        elif quotes:
            self.opened_at = self.number
        return text

    def peek(self) -> str:
        """The next line; empty after the last."""
        if self._next is None:
            number, line = next(self._lines, (0, ""))
            if not isinstance(line, str):
                self._problems.add(str(line), number)
                line = line.text
            self._next = line
        return self._next

    def skip(self) -> None:
        """Leave the next line out."""
        next(self)

    def begin_row(self) -> int:
        """The number of the line that the next row begins on."""
        self.opened_at = None
        return self.number + 1


def _broken(why: str, feed: _Feed, place: int) -> Record:
    if "unexpected end" in why:
        return feed.opened_at or place, ValueError("broken CSV: a quoted field is never closed")
    if "expected after" in why:
        why = 'text after the closing quote of a field; write a quote inside a field twice: ""'
    elif "new-line character" in why:
        why = "a carriage return (CR) inside a field; quote the field"
    return place, ValueError(f"broken CSV: {why}")


def _run_together(first: int, last: int) -> str:
    """A dump of plain text has quotes that mean nothing, and two rows between them have the fields of one."""
    return (
        f"lines {first} to {last} were read as one row, because a quoted field spans them; if the quotes are "
        "part of the text, save the file as JSON Lines"
    )


def _misfit(fields: int, columns: int, separator: str) -> str:
    name = SEPARATORS.get(separator, repr(separator))
    said = f"the row has {fields} field{'s' * (fields != 1)}, and the header has {columns}"
    return f"{said}; " + (f'quote a field with a {name} in it: "…"' if fields > columns else "add the missing ones")


def _hint(header: Sequence[str], separator: str) -> str:
    """What may be wrong with a header of one column that holds another separator."""
    found = [other for other in SEPARATORS if other != separator and len(header) == 1 and other in header[0]]
    if not found:
        return ""
    if found[0] == "\t":
        return "; if tabs separate its fields, name the file .tsv"
    if separator == "\t":
        above = "" if found[0] == "," else f" and put the line `sep={found[0]}` above it"
        return f"; if `{found[0]}` separates the fields, name the file .csv{above}"
    return f"; if `{found[0]}` separates the fields, put the line `sep={found[0]}` above it"


def parquet_rows(file: BinaryIO, column: str | None, problems: Problems) -> Iterator[Record]:
    """The texts of a column."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise problems.stop("reading .parquet needs pyarrow: pip install 'rankdeck[parquet]'") from None
    problems.unit, place = "row", 0
    try:
        table = pyarrow.parquet.ParquetFile(file)
        names = table.schema_arrow.names
        name = names[check_column(column, names, problems)]
        for batch in table.iter_batches(batch_size=1024, columns=[name]):
            for value in batch.column(0).to_pylist():
                place += 1
                yield place, value if isinstance(value, str) else ValueError(f"{kind(value)}, not a string")
    except (pyarrow.ArrowException, MemoryError, OSError, ValueError) as error:
        raise problems.stop(f"this Parquet file cannot be read: {error}") from None
