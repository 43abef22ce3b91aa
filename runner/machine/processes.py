"""Processes: the cores they may use, children that end with their parent, the kernel they run on."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
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
    """Have the kernel kill this process when its parent ends, so that no rank outlives a killed launcher (Linux)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == 1:
            os._exit(1)


def usable_cores() -> int:
    """The number of cores this process may use; in a container maybe fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def under_wsl(release: Path = _RELEASE) -> bool:
    """Whether this is Linux on Windows (WSL), by its kernel's name."""
    try:
        return "microsoft" in release.read_text(errors="replace").lower()
    except OSError:
        return False
