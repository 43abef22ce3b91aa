"""What the kernel says: whose the other end of a socket is, what a process is doing, whom it has killed for lack of
memory, how many files may be open.

None where the system cannot tell. Judges nothing and ends no process.
"""

import contextlib
import resource
import socket
import struct
from pathlib import Path
from typing import Literal, NamedTuple

import psutil


class PeerProcess(NamedTuple):
    """The process at the other end of a unix socket; `pid` is None if it has none in this pid namespace."""

    pid: int | None
    uid: int


def peer_process(connection: socket.socket) -> PeerProcess | None:
    """Who connected, or who listens; None where there is no SO_PEERCRED (macOS)."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return PeerProcess(pid if pid > 0 else None, uid)


def descends_from(pid: int, ancestor: int) -> bool:
    """Whether a live process is `ancestor`, or was started by it or by one of its descendants."""
    try:
        return pid == ancestor or any(parent.pid == ancestor for parent in psutil.Process(pid).parents())
    except (psutil.Error, OSError):
        return False


Doing = Literal["stopped", "waiting in the kernel", "running"]


class ProcessLook(NamedTuple):
    """What a process is doing, the seconds of CPU that it has used so far, and the bytes that it has moved.

    Those are what it has read and written, however it did, and its memory, which grows with the files that it maps.
    """

    doing: Doing
    cpu_seconds: float
    moved_bytes: int = 0


_DOING: dict[str, Doing] = {
    psutil.STATUS_STOPPED: "stopped",
    psutil.STATUS_TRACING_STOP: "stopped",
    psutil.STATUS_DISK_SLEEP: "waiting in the kernel",
}


def look_at(pid: int) -> ProcessLook | None:
    """What the process is doing now; None if it is gone or cannot be seen. One that sleeps counts as running."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            doing = _DOING.get(process.status(), "running")
            return ProcessLook(doing, times.user + times.system, process.memory_info().rss + _passed_on(process))
    except (psutil.Error, OSError):
        return None


def _passed_on(process: psutil.Process) -> int:
    """Bytes that a process has read and written, of files or not; 0 where nobody counts them (macOS)."""
    try:
        counted = process.io_counters()
    except (AttributeError, psutil.Error, OSError):
        return 0
    return int(counted.read_bytes + counted.write_bytes + counted.read_chars + counted.write_chars)


_EVENTS = Path("/proc/vmstat")


def out_of_memory_kills(events: Path = _EVENTS) -> int | None:
    """How many processes the kernel has killed since it started because memory ran out, here or in a container."""
    with contextlib.suppress(OSError):
        for line in events.read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.isdecimal():
                return int(count)
    return None


MOST_DESCRIPTORS = 1 << 20
"""Where the hard limit is higher, or there is none."""


def descriptor_limit() -> int:
    """How many descriptors this process may have open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def raise_descriptor_limit() -> None:
    """Let this process open as many files as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS has a lower limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
