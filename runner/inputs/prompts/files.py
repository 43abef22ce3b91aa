"""Reads a prompt file of any kind as a stream of records with their place in the file.

Knows which reader a name asks for, and what standard input holds. Does not know what makes a record a prompt. A file is
read a line or a few rows at a time; only .json is read whole.
"""

import io
import re
from collections.abc import Generator, Iterable, Iterator
from itertools import chain
from typing import BinaryIO

from rankdeck.runner.inputs.prompts.contents import STDIN, opened
from rankdeck.runner.inputs.prompts.json_values import json_lines, json_list
from rankdeck.runner.inputs.prompts.kinds import WITH_COLUMNS, Kind
from rankdeck.runner.inputs.prompts.lines import Line, lines
from rankdeck.runner.inputs.prompts.problems import Problems
from rankdeck.runner.inputs.prompts.record import Record
from rankdeck.runner.inputs.prompts.tables import csv_rows, parquet_rows

ARRAY = re.compile(r"\s*\[\s*([\[{\"]|$)")
"""How a JSON list begins; other text in brackets is text, such as [INST]."""


def records(
    source: str, column: str | None, stdin: BinaryIO | None, problems: Problems
) -> Generator[Record, None, None]:
    """The records of `source`, a file name or `-`. Raises PromptError if nothing, or nothing more, can be read."""
    kind = Kind.of(source)
    if column is not None and not kind.has_columns:
        listed = f"{', '.join(WITH_COLUMNS[:-1])} and {WITH_COLUMNS[-1]}"
        problems.add(f"--column {column} is for {listed}; leave it out")
    with opened(source, stdin, problems) as file:
        if source == STDIN:
            yield from _sniffed(file, problems)
        elif not kind.known:
            raise problems.stop(kind.why_unknown())
        elif kind.suffix == ".txt":
            yield from _text(lines(file, problems))
        elif kind.suffix in (".jsonl", ".ndjson"):
            yield from json_lines(lines(file, problems), problems)
        elif kind.suffix == ".json":
            yield from json_list(file, problems)
        elif kind.suffix == ".parquet":
            yield from parquet_rows(file, column, problems)
        else:
            yield from csv_rows(lines(file, problems), "\t" if kind.suffix == ".tsv" else ",", column, problems)


def _text(lines: Iterable[Line]) -> Iterator[Record]:
    """A prompt a line. Blank lines at the end are left out; others are records, and empty."""
    blank = None
    for number, line in lines:
        if isinstance(line, str):
            line = line[:-2] if line.endswith("\r\n") else line.removesuffix("\n")
            if not line or line.isspace():
                blank = blank or number
                continue
        if blank is not None:
            yield from ((place, "") for place in range(blank, number))
            blank = None
        yield number, line


def _sniffed(file: BinaryIO, problems: Problems) -> Iterator[Record]:
    """JSON, as lines or as a list, if what is not white space begins so; else a prompt a line."""
    found = lines(file, problems)
    leading: list[Line] = []
    for number, line in found:
        leading.append((number, line))
        if not isinstance(line, str) or not line.isspace():
            break
    first = leading[-1][1] if leading else ""
    start = first if isinstance(first, str) else ""
    every = chain(leading, found)
    if start.lstrip().startswith("{"):
        return json_lines(every, problems)
    if ARRAY.match(start):
        return json_list(io.BytesIO(b"".join(_encoded(every, problems))), problems)
    return _text(every)


def _encoded(lines: Iterable[Line], problems: Problems) -> Iterator[bytes]:
    for number, line in lines:
        if not isinstance(line, str):
            raise problems.stop(str(line), number)
        yield line.encode()
