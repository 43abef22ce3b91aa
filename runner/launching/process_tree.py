"""A process and all that came of it: found even where their parents are gone, and ended. Does not know what they do."""

import asyncio
import contextlib
import os
from collections.abc import Collection

import psutil

TERMINATE_SECONDS = 3.0
LOOK_SECONDS = 0.05


class ProcessTree:
    """The tree below process `root`.

    With `adopted`, whatever else this process is the parent of belongs to it: orphans, for one that adopts them.
    """

    def __init__(self, root: int, *, adopted: bool) -> None:
        self._root, self._adopted = root, adopted
        self._found: set[psutil.Process] = set()
        self.remember(root)

    def remember(self, pid: int) -> None:
        """Add a process: it is found even if its parents are gone."""
        with contextlib.suppress(psutil.Error, OSError):
            self._found.add(psutil.Process(pid))

    async def end(self, *, spare: Collection[int] = ()) -> None:
        """Terminate every process of the tree but those to `spare`, kill those that stay; wait until none is left."""
        clock = asyncio.get_running_loop().time
        for signal_all in (psutil.Process.terminate, psutil.Process.kill):
            deadline = clock() + TERMINATE_SECONDS
            signalled: set[psutil.Process] = set()
            while (alive := self._alive(spare)) and clock() < deadline:
                for process in alive - signalled:
                    with contextlib.suppress(psutil.Error, OSError):
                        signal_all(process)
                signalled |= alive
                await asyncio.sleep(LOOK_SECONDS)
        self._found = {process for process in self._found if process.pid in spare}

    def _alive(self, spare: Collection[int]) -> set[psutil.Process]:
        self._find()
        alive = {process for process in self._found if _is_alive(process)}
        for process in self._found - alive:
            if process.pid != self._root:  # that one is waited for by whoever started it
                _reaped(process.pid)
        return {process for process in alive if process.pid not in spare}

    def _find(self) -> None:
        children: dict[int, list[psutil.Process]] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                children.setdefault(process.ppid(), []).append(process)
        below = [process.pid for process in self._found if process.is_running()]
        if self._adopted:
            below.append(os.getpid())
        while below:
            new = set(children.pop(below.pop(), ()))
            self._found |= new
            below += [process.pid for process in new]


async def exit_status_of(pid: int) -> int:
    """Wait until an orphan that this process has adopted ends; returns how, as RankExited has it."""
    while True:
        if (status := _reaped(pid)) is not None:
            return status
        await asyncio.sleep(LOOK_SECONDS)


def _reaped(pid: int) -> int | None:
    """The exit status of a child that has ended; None of any other process."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if ended else None


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.Error, OSError):
        return False
