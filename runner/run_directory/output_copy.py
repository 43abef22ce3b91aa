"""The copy of outputs.jsonl that `--output` asks for: made in one step, and never in place of somebody else's file.

Knows how a file that a run may replace is told from one that came meanwhile or was corrected by hand: by its stamp.
Does not know what follows where the copy cannot be made.
"""

import errno
import os
import shutil
import stat
import tempfile
from pathlib import Path

from rankdeck.runner.run_directory.files import OUTPUTS_FILE

Stamp = tuple[int, int, int]
"""Inode, size, and time of the last change in nanoseconds."""

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""How file systems without hard links refuse one."""


class OutputTakenError(FileExistsError):
    """There is a file that is not this run's to replace; it was left as it is."""


def stamp_of(path: Path) -> Stamp | None:
    """What tells the file at `path` from every other; None if nothing is there."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def copy_outputs(directory: Path, target: Path, *, own: Stamp | None = None, force: bool = False) -> Stamp:
    """Copy outputs.jsonl to `target`, atomically. Returns the stamp of the copy.

    A file that is there is replaced if it has the stamp `own`, or with `force`.

    Raises:
        OutputTakenError: there is another.
        OSError: it cannot be written there.
    """
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".rankdeck-")  # `target` may be as long as a name may be
    temporary = Path(name)
    try:
        os.close(handle)
        shutil.copyfile(directory / OUTPUTS_FILE, temporary)
        temporary.chmod(_mode_of(target))
        stamp = stamp_of(temporary)
        assert stamp is not None
        if force or (own is not None and stamp_of(target) == own):
            temporary.replace(target)
        else:
            _place(temporary, target)
        return stamp
    finally:
        temporary.unlink(missing_ok=True)


def _mode_of(target: Path) -> int:
    """The mode of the file that is replaced, else what the umask leaves."""
    try:
        return stat.S_IMODE(target.stat().st_mode) & 0o666
    except OSError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask


def _place(temporary: Path, target: Path) -> None:
    """Give the file its name if nobody has it. Two runs may do this at the same time: the system decides."""
    try:
        try:
            os.link(temporary, target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            target.touch(exist_ok=False)
            temporary.replace(target)
    except FileExistsError:
        raise OutputTakenError(
            f"{target} exists and is not this run's copy, so it was left as it is; copy {OUTPUTS_FILE} elsewhere"
        ) from None
