"""How the files of a run are opened: private to their owner whatever the umask, and never a file that blocks.

Knows nothing of what they hold. A run directory may hold anything when it is read again: a FIFO, a loop of links, a
line that never ends.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rankdeck.runner.protocol.framing import MAX_LINE_BYTES

LONGEST_LINE = 2 * MAX_LINE_BYTES
"""No line of a run's files is longer; of one that is, a part is read at a time."""


def open_private(path: Path, flags: int = os.O_RDWR | os.O_APPEND) -> int:
    """Open a file to write to it, made if it is missing, with mode 0600. Returns the descriptor.

    Raises:
        OSError: it cannot be opened, or is a link: what it leads to is no file of the run.
    """
    descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW, 0o600)
    make_private(descriptor)
    return descriptor


def make_private(descriptor: int) -> None:
    """Take an open file from everybody but its owner. What is no file, as /dev/null is, stays as it is."""
    with contextlib.suppress(OSError):  # another user's file: whoever gave it to us has decided who may read it
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.fchmod(descriptor, 0o600)


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read it.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        what = "a directory" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
        raise OSError(errno.EINVAL, f"it is {what}, not a file")
    return os.fdopen(descriptor, "rb")


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file from where it stands, each with its newline; a line without end comes in parts."""
    while line := file.readline(LONGEST_LINE):
        yield line


def unused_name(path: Path) -> Path:
    """A name beside `path` for what is set aside: `outputs.jsonl.damaged`, then `outputs.jsonl.damaged-2`."""
    number, name = 1, path.with_name(f"{path.name}.damaged")
    while os.path.lexists(name):
        number += 1
        name = path.with_name(f"{path.name}.damaged-{number}")
    return name


def open_if_file(path: Path) -> BinaryIO | None:
    """The file at `path`, to be read, even if its owner's permission was taken away; None if there is no file.

    Raises:
        OSError: there is one, but it cannot be read.
    """
    if not is_file(path):
        return None
    make_accessible(path)
    return open_regular(path)


def is_file(path: Path) -> bool:
    """Whether there is a regular file at `path`, or at the end of the links that begin there.

    Raises:
        OSError: that cannot be found out.
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


def make_accessible(path: Path) -> None:
    """Give the owner back the permission to read and write a file; what a link leads to stays as it is.

    Raises:
        OSError: it is another user's.
    """
    if not path.is_symlink() and not os.access(path, os.R_OK | os.W_OK):
        path.chmod(0o600)
