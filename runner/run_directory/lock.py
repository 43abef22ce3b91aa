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


def renew_lock(directory: Path, descriptor: int) -> int:
    """Hold the run's lock although somebody has removed its file. Returns the descriptor that holds it now.

    Raises:
        RunFileError: another supervisor has the run.
    """
    try:
        if (directory / LOCK_FILE).stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except FileNotFoundError:
        pass
    except OSError:
        return descriptor  # it cannot be reached for now
    try:
        renewed = hold_lock(directory)
    except OSError:  # a full disk
        return descriptor
    os.close(descriptor)
    return renewed


def moved_to(descriptor: int) -> Path | None:
    """Where the run directory of this lock is now, if somebody has moved it and that can be told."""
    with contextlib.suppress(OSError):
        directory = Path(os.readlink(f"/proc/self/fd/{descriptor}")).parent
        if os.path.samestat((directory / LOCK_FILE).stat(), os.fstat(descriptor)):
            return directory
    return None


def supervisor_alive(directory: Path) -> bool:
    """Whether a supervisor holds the run's lock; the lock of a killed process is released."""
    try:
        descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
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
