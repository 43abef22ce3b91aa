"""The supervisor's lock, which tells whether a run's supervisor is alive, however the last one ended.

An advisory lock on a file: the kernel releases it with the process that holds it, so that no pid can go stale.
"""

import contextlib
import fcntl
import os
import time
from pathlib import Path

import psutil

from rankdeck.runner.run_directory.private_files import open_private
from rankdeck.runner.run_directory.run_file import RUN_FILE, RunFileError, read_run_file

LOCK_FILE = "supervisor.lock"

STARTING_SECONDS = 5.0
"""How long after run.json was written a new supervisor may take to get its lock, on a busy machine."""

LONGEST_START_SECONDS = 600.0
"""How long it may take if its process is there: a cold file system over a network takes minutes to import from."""

LOOK_SECONDS = 0.5

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
    """Whether a supervisor holds the run's lock, or gets it soon; waits for one that was started a moment ago, and as
    long as its process is still there.
    """
    while not supervisor_alive(directory):
        age = _age(directory)
        if age is None or read_run_file(directory).status != "running":
            return False
        if age >= STARTING_SECONDS and not supervisor_starts(directory):
            return supervisor_alive(directory)  # it may have got the lock meanwhile
        time.sleep(0.05 if age < STARTING_SECONDS else LOOK_SECONDS)
    return True


def supervisor_starts(directory: Path) -> bool:
    """Whether there is a process that was started for the run a while ago and has yet to take its lock."""
    age = _age(directory)
    if age is None or age >= LONGEST_START_SECONDS:
        return False
    known_as = {str(directory), str(directory.resolve())}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            match process.cmdline():
                case [*_, "-m", _, path] if path in known_as:
                    return True
    return False


def _age(directory: Path) -> float | None:
    """Seconds since run.json was written; None if it is not there, or is from the future."""
    try:
        age = time.time() - (directory / RUN_FILE).stat().st_mtime
    except OSError:
        return None
    return age if age >= 0 else None
