"""The supervisor's lock, which tells whether a run's supervisor is alive, however the last one ended.

An advisory lock on a file: the kernel releases it with the process that holds it, so that no pid can go stale.
"""

import contextlib
import fcntl
import os
import time
from pathlib import Path

from rankdeck.runner.run_directory.private_files import open_private
from rankdeck.runner.run_directory.run_file import RUN_FILE, RunFileError, read_run_file

LOCK_FILE = "supervisor.lock"

STARTING_SECONDS = 5.0
"""How long after run.json was written a new supervisor may take to get its lock, on a busy machine."""

LOCK_SECONDS = 1.0
"""How long to wait for the lock: `supervisor_alive` in another process holds it for an instant."""


def hold_lock(directory: Path) -> int:
    """Mark this process as the run's supervisor until it ends, however it ends. Returns the open descriptor.

    Raises:
        RunFileError: another supervisor has the run.
    """
    descriptor = open_private(directory / LOCK_FILE, os.O_RDWR)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise RunFileError(f"{directory} already has a live supervisor") from None
            time.sleep(0.02)
        else:
            return descriptor


class Hold:
    """A supervisor's hold on its run directory: the lock, and where the directory is if somebody moves it."""

    def __init__(self, directory: Path) -> None:
        """Take the lock. Raises as `hold_lock` does."""
        self._lock = hold_lock(directory)
        self._directory = directory
        self._inode = directory.stat().st_ino

    def renew(self) -> None:
        """Lock the run again if somebody has removed the lock's file. Blocks.

        Raises:
            RunFileError: another supervisor has the run.
        """
        try:
            if (self._directory / LOCK_FILE).stat().st_ino == os.fstat(self._lock).st_ino:
                return
        except FileNotFoundError:
            pass
        except OSError:
            return  # it cannot be reached for now
        with contextlib.suppress(OSError):  # a full disk
            renewed = hold_lock(self._directory)
            os.close(self._lock)
            self._lock = renewed

    def lost(self) -> str | None:
        """What has become of the directory, if it is not where it was; None if it is."""
        try:
            if self._directory.stat().st_ino == self._inode:
                return None
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError:
            return None  # it cannot be reached for now
        now = self.now_at()
        if now is not None and now == self._directory.resolve():
            return None  # some file systems (sshfs) give a file another inode whenever they look
        if now is None:
            return f"{self._directory} was removed while the run went on, and what was in it is lost"
        return f"{self._directory} was moved to {now} while the run went on; `rankdeck resume {now}` goes on with it"

    def now_at(self) -> Path | None:
        """Where the directory is now, if that can be told."""
        with contextlib.suppress(OSError):
            lock = Path(os.readlink(f"/proc/self/fd/{self._lock}"))
            if lock.stat().st_ino == os.fstat(self._lock).st_ino:
                return lock.parent
        return None


def supervisor_alive(directory: Path) -> bool:
    """Whether a supervisor holds the run's lock; the lock of a killed process is released."""
    try:
        descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def supervisor_comes(directory: Path) -> bool:
    """Whether a supervisor holds the run's lock, or gets it soon; waits for one that was started a moment ago."""
    while not supervisor_alive(directory):
        try:
            age = time.time() - (directory / RUN_FILE).stat().st_mtime
        except OSError:
            return False
        if not 0 <= age < STARTING_SECONDS or read_run_file(directory).status != "running":
            return False
        time.sleep(0.05)
    return True
