"""A disk that is full, and has space again.

`TinyDisk` is a file system of its own, for one run: what it says when it is full is the kernel's own word. It takes the
right to mount. `SizeLimit` makes every write to a file fail instead, which needs no right.
"""

from __future__ import annotations

import asyncio
import errno
import resource
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rankdeck.runner.start import InputError
from tests.chaos.acts import act

if TYPE_CHECKING:
    from tests.chaos.flight import Flight

FULL_SECONDS = 1.5
"""Longest that a disk stays full."""


class Disk(Protocol):
    """What the run of a flight writes to."""

    def fill(self, flight: Flight) -> None: ...
    def free(self, flight: Flight) -> None: ...


class TinyDisk:
    """A small file system in memory, mounted at `path` until it is closed."""

    def __init__(self, path: Path, megabytes: int = 16) -> None:
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "tmpfs", str(path)], check=True)
        self.path = path
        self._filler = path / "filler"

    def fill(self, flight: Flight) -> None:
        with self._filler.open("ab", buffering=0) as file:
            for block in (b"\0" * 65536, b"\0"):
                while True:
                    try:
                        file.write(block)
                    except OSError as error:
                        if error.errno != errno.ENOSPC:
                            raise
                        break

    def free(self, flight: Flight) -> None:
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)


class SizeLimit:
    """No process of the run may write to a file, as far as they are there when it is filled."""

    def fill(self, flight: Flight) -> None:
        self._limit(flight, 0)

    def free(self, flight: Flight) -> None:
        self._limit(flight, resource.RLIM_INFINITY)

    def _limit(self, flight: Flight, size: int) -> None:
        for process in flight.processes():
            with suppress(ProcessLookupError):
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@act("fill disk", 1.5)
async def fill_disk(flight: Flight) -> bool:
    async with _full_disk(flight, FULL_SECONDS):
        return True


@act("fill disk, kill supervisor")
async def fill_disk_and_kill(flight: Flight) -> bool:
    """Killed while the disk is full: what was held in memory is gone, and may be half on disk."""
    async with _full_disk(flight, FULL_SECONDS / 2):
        flight.kill_supervisor()
    return True


@act("fill disk, kill supervisor, resume")
async def fill_disk_and_resume(flight: Flight) -> bool:
    """A supervisor that starts on a full disk."""
    async with _full_disk(flight, FULL_SECONDS / 2):
        flight.kill_supervisor()
        with suppress(InputError):  # refused: again when there is space
            flight.resume_if_needed()
        async with _full_disk(flight, FULL_SECONDS):
            pass
    return True


@act("fill disk, stop now", 0.5)
async def fill_disk_and_stop(flight: Flight) -> bool:
    async with _full_disk(flight, FULL_SECONDS / 2):
        return await flight.send_stop_now()


@asynccontextmanager
async def _full_disk(flight: Flight, most_seconds: float) -> AsyncIterator[None]:
    """Fill the disk, and wait up to `most_seconds`; it has space again in the end."""
    flight.disk.fill(flight)
    try:
        await asyncio.sleep(flight.random.uniform(0, most_seconds))
        yield
    finally:
        flight.disk.free(flight)
