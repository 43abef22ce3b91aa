"""Processes: the processor and kernel they run on, the cores they may use, how they end with each other, their name."""

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
_PROCESSORS = Path("/proc/cpuinfo")


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


def rename(name: str, argument: str, new: str) -> None:
    """Call this forked process `name`, and one argument of its command line `new`, which may not be longer, so that
    lists of processes tell it from its parent (Linux).
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()  # from the third
        begin, end = (int(fields[field - 3]) for field in (_ARGUMENTS_BEGIN, _ARGUMENTS_END))
        if not 0 < begin < end:
            return  # a process that may not know the addresses reads 0
        arguments = ctypes.string_at(begin, end - begin).split(b"\0")
        if argument.encode() in arguments:
            at = arguments.index(argument.encode())
            arguments[at] = new.encode().ljust(len(arguments[at]), b"\0")
            line = b"\0".join(arguments)
            assert len(line) == end - begin
            ctypes.memmove(begin, line, len(line))


def usable_cores() -> int:
    """The number of cores this process may use; in a container maybe fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """What the processor calls itself (Linux), else `CPU`."""
    try:
        lines = _PROCESSORS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "CPU"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "CPU") or "CPU"


def under_wsl(release: Path = _RELEASE) -> bool:
    """Whether this is Linux on Windows (WSL), by its kernel's name."""
    try:
        return "microsoft" in release.read_text(errors="replace").lower()
    except OSError:
        return False
