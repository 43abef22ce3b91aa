"""JSON: lines of objects, and documents that are a list; what is broken is said with its place and its cause."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import msgspec

from rankdeck.runner.inputs.prompts.contents import BYTE_ORDER_MARK
from rankdeck.runner.inputs.prompts.lines import Line, not_utf8
from rankdeck.runner.inputs.prompts.problems import Problems, kind
from rankdeck.runner.inputs.prompts.record import USED_KEYS, Record

MAX_DOCUMENT_BYTES = 2**30
"""A .json is read whole; one object a line is not."""

NO_NUMBER = re.compile(r'"(?:[^"\\]|\\.)*"|(-?Infinity|NaN)', re.DOTALL)
HALF_OF_A_PAIR = re.compile(
    r"\\u[dD][89aAbB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.", re.DOTALL
)

KEY = re.compile(rf'"(?:{"|".join(sorted(USED_KEYS))})"\s*:')


class Broken(ValueError):
    """A text that is no JSON; `line` is where, from 1, if that is known."""

    def __init__(self, message: str, line: int = 1) -> None:
        super().__init__(f"broken JSON: {message}")
        self.line = line


def json_lines(lines: Iterable[Line], problems: Problems) -> Iterator[Record]:
    """An object a line; blank lines are left out."""
    begun = False
    for number, line in lines:
        value: object = line
        if isinstance(line, str):
            if line.isspace():
                continue
            if not begun and line.lstrip().startswith("["):
                raise problems.stop("this is a JSON array, not one object per line; name it .json", number)
            begun = True
            value = decoded(line.rstrip())
            if not isinstance(value, (dict, ValueError)):
                value = ValueError(f"{kind(value)}, not an object with `prompt` or `messages`")
        yield number, value


def json_list(file: BinaryIO, problems: Problems) -> Iterator[Record]:
    """The items of a document that is a list."""
    data = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        most = f"{MAX_DOCUMENT_BYTES:,} bytes"
        raise problems.stop(
            f"a .json is read whole, and this is longer than {most}; `jq -c '.[]'` makes a .jsonl of it"
        )
    mark = len(data) - len(data.removeprefix(BYTE_ORDER_MARK))
    if not data[mark:].strip():
        return
    try:
        value = decoded(data[mark:].decode())
    except UnicodeDecodeError as error:
        place = data.count(b"\n", 0, mark + error.start) + 1
        raise problems.stop(not_utf8(data[mark:], mark, error), place) from None
    if isinstance(value, Broken):
        hint = "; name a file of one object per line .jsonl" if "Extra data" in str(value) else ""
        raise problems.stop(f"{value}{hint}", value.line)
    if isinstance(value, ValueError):
        raise problems.stop(str(value))
    if not isinstance(value, list):
        raise problems.stop(f"{kind(value)}, not a list of prompts; name a file of one object per line .jsonl")
    problems.unit = "item"
    yield from enumerate(value, 1)


def decoded(text: str) -> object:
    """The JSON value of `text`, or a ValueError that says where it is broken.

    In place of an object that has one of `USED_KEYS` twice stands a ValueError, too.
    """
    try:
        value = msgspec.json.decode(text)
    except RecursionError:
        return Broken("nested too deeply")
    except msgspec.DecodeError as error:
        return _why_broken(text, str(error))
    if not _may_repeat(text, value):
        return value
    try:
        return json.loads(text, object_pairs_hook=_object)  # slower, but it sees keys that stand twice
    except (ValueError, RecursionError):
        return value


def _may_repeat(text: str, value: object) -> bool:
    """Whether one of `USED_KEYS` may stand twice in an object: cheap, and only certain where the answer is no."""
    kept = 0
    for row in value if isinstance(value, list) else (value,):
        if isinstance(row, dict):
            kept += len(USED_KEYS & row.keys())
            messages = row.get("messages")
            if isinstance(messages, list):
                kept += sum([len(USED_KEYS & message.keys()) for message in messages if isinstance(message, dict)])
    return len(KEY.findall(text)) > kept


def _object(pairs: list[tuple[str, object]]) -> "dict[str, object] | ValueError":
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        for key in keys:
            if key in USED_KEYS and keys.count(key) > 1:
                return ValueError(f"`{key}` appears more than once in one object; keep one")
    return value


def _why_broken(text: str, why: str) -> Broken:
    try:
        json.loads(text)  # slower, but it names line and column
    except json.JSONDecodeError as error:
        return Broken(f"{error.msg} at column {error.colno}", error.lineno)
    except (ValueError, RecursionError) as error:
        return Broken(str(error))
    for pattern, said in (
        (NO_NUMBER, "{} is not a JSON number; write null, or leave it out"),
        (HALF_OF_A_PAIR, "{} is half a surrogate pair, not a character"),
    ):
        for found in pattern.finditer(text):
            if found[1]:
                start = found.start(1)
                line, column = text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)
                return Broken(f"{said.format(found[1])} (column {column})", line)
    return Broken(why)
