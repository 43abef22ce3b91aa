"""JSON files of a model, read as transformers reads them; what is wrong with one is said with its line and column.

Does not know what belongs in which file.
"""

import json
from pathlib import Path
from typing import Any

UTF_16 = (b"\xff\xfe", b"\xfe\xff")
UTF_8_MARK = b"\xef\xbb\xbf"


class BrokenFile(ValueError):
    """A file cannot be used; the text names it, and says why."""


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        BrokenFile: it cannot be read, or holds something else.
    """
    text = _text(path, content(path))
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        why = "it ends too early" if error.pos >= len(error.doc.rstrip()) else error.msg
        raise BrokenFile(f"{path}:{error.lineno}:{error.colno} is not valid JSON: {why}") from None
    except RecursionError:
        raise BrokenFile(f"{path} is nested too deep") from None
    except ValueError as error:  # such as a number of more digits than Python reads
        raise BrokenFile(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise BrokenFile(f"{path} holds {_kind(values)}, not an object ({{…}})")
    return values


def content(path: Path) -> bytes:
    """The bytes of a file that must not be empty.

    Raises:
        BrokenFile: it cannot be read, or is empty.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BrokenFile(why_unreadable(path, error)) from None
    if not raw.strip(b"\0 \t\r\n"):
        raise BrokenFile(f"{path} is empty; fetch it again")
    return raw


def why_unreadable(path: Path, error: OSError) -> str:
    """The words for a file that cannot be read; a link that leads nowhere is named with its target."""
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return f"{path} is a link to {path.readlink()}, which is not there; fetch the model again"
    return f"{path} cannot be read: {error.strerror}"


def _text(path: Path, raw: bytes) -> str:
    if raw.startswith(UTF_16) or b"\0" in raw[:64]:
        raise BrokenFile(f"{path} is UTF-16, not UTF-8; save it as UTF-8")
    if raw.startswith(UTF_8_MARK):
        raise BrokenFile(f"{path} begins with a byte order mark, which transformers does not read; save it without")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BrokenFile(f"{path}:{line} is not UTF-8; save it as UTF-8") from None


def _kind(value: object) -> str:
    kinds = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
