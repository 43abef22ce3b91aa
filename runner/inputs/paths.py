"""Whether a run's prompts can be read, its outputs written, and its paths recorded. Only looks: opens nothing."""

import errno
import os
from pathlib import Path

from rankdeck.runner.inputs.prompts.kinds import NAME_ONE, Kind


def why_unrecordable(path: Path | str) -> str | None:
    """Why a run cannot record this path, in a sentence; None where it can. Its records are UTF-8; names need not be."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return f"{path}: the name is not valid UTF-8, so it cannot be recorded; rename it"
    return None


def why_nowhere(path: Path) -> str | None:
    """What is wrong with a path that is relative to a working directory that is no more; None if it is not."""
    if not path.is_absolute():
        try:
            os.getcwd()
        except OSError:
            return f"{path}: the working directory is gone; give the whole path, or go to a directory that is there"
    return None


def why_unreadable(prompts: str, column: str | None) -> str | None:
    """What is wrong with the prompt file, in a sentence; None where nothing is, or it is standard input (`-`)."""
    if prompts == "-":
        return None
    if not prompts.strip():
        return NAME_ONE
    if said := why_unrecordable(prompts):
        return said
    path = Path(prompts)
    try:
        if said := why_nowhere(path):
            return said
        if path.is_dir():
            return f"{prompts} is a directory, not a file of prompts"
        if not path.exists():
            return f"{prompts}: there is no such file"
        if not os.access(path, os.R_OK):
            return f"{prompts}: you have no permission to read it"
        if not path.is_file():
            return f"{prompts} is a pipe or a device, not a file; give it as standard input: -"
        if path.stat().st_size == 0:
            return f"{prompts} is empty"
    except (OSError, ValueError) as error:
        return f"{prompts}: {error}"
    if Kind.of(prompts).has_columns and column is None:
        return f"{prompts}: say which column holds the prompts with --column NAME"
    return None


def why_same(output: str, prompts: str) -> str | None:
    """What is wrong with outputs that would take the place of their prompts; None if they would not."""
    try:
        same = prompts != "-" and Path(output).samefile(prompts)
    except (OSError, ValueError):
        return None
    return f"{output} is the file of prompts: the answers would take its place; name another file" if same else None


def why_unwritable(output: Path, *, force: bool) -> str | None:
    """What is wrong with the file for the outputs, in a sentence. With `force` it may exist."""
    if said := why_nowhere(output):
        return said
    try:
        # A link is followed, and what it points to is written.
        return why_unrecordable(output.resolve()) or _why_not_a_file(output, force=force)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, RuntimeError) or getattr(error, "errno", None) == errno.ELOOP:
            return f"{output} is a link that leads back to itself; name another file"
        return f"{output} cannot be written: {getattr(error, 'strerror', None) or error}"


def _why_not_a_file(output: Path, *, force: bool) -> str | None:
    if output.is_dir():
        return f"{output} is a directory; name a file"
    if output.exists() and not output.is_file():
        return f"{output} is not a regular file; name one"
    if output.exists() and not force:
        return f"{output} exists; name another file, or replace it with --force"
    parent = output.absolute().parent
    if not parent.is_dir():
        return f"there is no directory {parent}; create it first"
    if not os.access(parent, os.W_OK) or (output.exists() and not os.access(output, os.W_OK)):
        return f"you have no permission to write {output}"
    return None
