"""A folder as the file picker lists it: its folders and files of prompts.

Reads names and sizes, and counts the lines of small files. Does not know how they are shown.
"""

import contextlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

from rankdeck.runner.inputs.prompts.kinds import NAMES

SMALL_BYTES = 2**20
"""Lines are counted in files up to this size, so that a folder of a thousand of them is still listed quickly."""

MOST_ENTRIES = 5000
COUNTED_FILES = 200


class Entry(NamedTuple):
    """A folder, or a file of prompts: `size` in bytes, `lines` None if they were not counted."""

    name: str
    is_folder: bool
    size: int = 0
    lines: int | None = None


class Listing(NamedTuple):
    """The entries of the folder `path`, folders first. `error`: why it cannot be listed; `more`: entries left out."""

    path: str
    entries: tuple[Entry, ...] = ()
    error: str | None = None
    more: int = 0


def read_folder(path: str, hidden: bool = False) -> Listing:
    """List a folder, sorted by name; for any other path, the nearest folder above it. With dot files if `hidden`."""
    with contextlib.suppress(RuntimeError):
        path = str(Path(path).expanduser())
    try:
        path = os.path.abspath(path or ".")
    except OSError:  # the working directory is gone: any place from where one can go on
        path = os.path.expanduser("~")
    while not os.path.isdir(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    try:
        with os.scandir(path) as found:
            named = (_entry(item) for item in found if hidden or not item.name.startswith("."))
            entries = [entry for entry in named if entry is not None]
    except OSError as error:
        return Listing(path, error=f"cannot be listed: {error.strerror}")
    entries.sort(key=lambda entry: (not entry.is_folder, entry.name.casefold()))
    more = max(0, len(entries) - MOST_ENTRIES)
    kept = entries[:MOST_ENTRIES]
    small = [at for at, entry in enumerate(kept) if not entry.is_folder and entry.size <= SMALL_BYTES]
    for at in small[:COUNTED_FILES]:
        kept[at] = kept[at]._replace(lines=_count_lines(os.path.join(path, kept[at].name)))
    return Listing(path, tuple(kept), more=more)


def _entry(item: "os.DirEntry[str]") -> Entry | None:
    """None if it is neither a folder nor a file of prompts, is a broken link, or is gone."""
    try:
        if item.is_dir():
            return Entry(item.name, True)
        if not item.name.lower().endswith(NAMES):
            return None
        status = item.stat()
    except OSError:
        return None
    # A pipe with such a name would block its reader.
    return Entry(item.name, False, status.st_size) if stat.S_ISREG(status.st_mode) else None


def _count_lines(path: str) -> int | None:
    if path.lower().endswith((".json", ".parquet", ".gz")):
        return None  # their lines are not prompts
    try:
        with open(path, "rb") as file:
            text = file.read(SMALL_BYTES + 1)
    except OSError:
        return None
    return text.count(b"\n") + (not text.endswith(b"\n") and bool(text))
