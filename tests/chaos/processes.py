"""The processes of one run, found by a mark in their environment, whatever their command lines are.

A forked process has its parent's, and what a rank starts has it, too. Viewers are not marked.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MARK = "RANKDECK_CHAOS"


@contextmanager
def marked(mark: str) -> Iterator[None]:
    """What is started inside is found by `mark`."""
    os.environ[MARK] = mark
    try:
        yield
    finally:
        del os.environ[MARK]


@dataclass(frozen=True)
class Found:
    """A process that lives: `state` is the kernel's letter for it."""

    pid: int
    parent: int
    state: str

    def signal(self, number: signal.Signals) -> None:
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass


def find(mark: str) -> list[Found]:
    """The living processes with this mark, by pid; zombies are not among them."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            if wanted not in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                continue
            # After the name, in brackets, which may contain anything: state, parent, …
            state, parent = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
        except OSError:  # gone meanwhile, or another user's
            continue
        if state not in "ZX":
            found.append(Found(int(name), int(parent), state))
    return sorted(found, key=lambda process: process.pid)


def ranks(processes: list[Found], supervisor: int) -> list[Found]:
    """The ranks among a run's processes: those at the ends of the tree, below the launcher or left by it."""
    parents = {process.parent for process in processes}
    return [
        process
        for process in processes
        if process.pid not in parents and process.parent != supervisor and process.pid != supervisor
    ]


def launchers(processes: list[Found], supervisor: int) -> list[Found]:
    """What stands between the supervisor and its ranks."""
    below = {process.pid for process in ranks(processes, supervisor)} | {supervisor}
    return [process for process in processes if process.pid not in below]


def all_gone(mark: str, seconds: float, nap: Callable[[float], None] = time.sleep) -> list[Found]:
    """Wait up to `seconds` for the last marked process to go. Returns those that stay."""
    deadline = time.monotonic() + seconds
    while (left := find(mark)) and time.monotonic() < deadline:
        nap(0.05)
    return left
