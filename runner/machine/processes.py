"""Processes: the cores they may use, how they end with each other, what they are called, the kernel they run on."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ARGUMENTS_BEGIN, _ARGUMENTS_END = 48, 49
"""Fields of /proc/PID/stat, counted from 1: where the kernel finds the command line in the process's memory."""
_RELEASE = Path("/proc/sys/kernel/osrelease")


def die_with_parent() -> Callable[[], None] | None:
    """A `preexec_fn` that has the kernel end the child when its parent dies in any way; None except on Linux."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before the call above
            os._exit(1)

    return ask


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent ends (Linux)."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        os._exit(1)


def outlive_parent() -> None:
    """Undo `end_with_parent`."""
    _prctl(_PR_SET_PDEATHSIG, 0)


def adopt_orphans() -> None:
    """Have the kernel make this process the parent of all processes that those below it leave behind (Linux).

    So each of them can be found from here, however it came to be.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def rename(name: str, old: bytes, new: bytes) -> None:
    """Call this forked process `name`, and replace `old` by `new` in its command line, so that lists of processes tell
    it from its parent (Linux). `new` may not be longer than `old`.
    """
    if not sys.platform.startswith("linux"):
        return
    assert len(new) <= len(old)
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()  # from the third
        begin, end = (int(fields[field - 3]) for field in (_ARGUMENTS_BEGIN, _ARGUMENTS_END))
        # The kernel lets a process read these addresses as 0 where it may not know them.
        if 0 < begin < end:
            line = ctypes.string_at(begin, end - begin).replace(old, new.ljust(len(old), b"\0"), 1)
            ctypes.memmove(begin, line, end - begin)


def usable_cores() -> int:
    """The number of cores this process may use; in a container maybe fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def under_wsl(release: Path = _RELEASE) -> bool:
    """Whether this is Linux on Windows (WSL), by its kernel's name."""
    try:
        return "microsoft" in release.read_text(errors="replace").lower()
    except OSError:
        return False
