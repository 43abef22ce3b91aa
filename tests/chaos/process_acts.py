"""Processes killed, stopped and continued: ranks, launcher, supervisor, viewers, dashboards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from tests.chaos import processes
from tests.chaos.acts import act
from tests.chaos.processes import Found

if TYPE_CHECKING:
    from tests.chaos.flight import Flight

STOPPED_SECONDS = 0.7
"""Longest that a process is stopped which is to go on."""

LONG_SECONDS = (8.0, 15.0)

WATCH = """
import asyncio, sys
from pathlib import Path
from rankdeck.tui.sources.client import SocketSource
async def watch():
    async for message in SocketSource(Path(sys.argv[1])).events():
        print(type(message).__name__, flush=True)
asyncio.run(watch())
"""


@act("kill rank")
async def kill_rank(flight: Flight) -> bool:
    return _signal_one(flight, processes.ranks, signal.SIGKILL)


@act("kill launcher")
async def kill_launcher(flight: Flight) -> bool:
    return _signal_one(flight, processes.launchers, signal.SIGKILL)


@act("kill supervisor")
async def kill_supervisor(flight: Flight) -> bool:
    return flight.kill_supervisor()


@act("kill all")
async def kill_all(flight: Flight) -> bool:
    """As when the machine's memory, or its power, runs out: everything at once, in any order."""
    everything = flight.processes()
    flight.random.shuffle(everything)
    for process in everything:
        process.signal(signal.SIGKILL)
    return bool(everything)


@act("terminate supervisor", 0.5)
async def terminate_supervisor(flight: Flight) -> bool:
    flight.started.process.terminate()
    return True


@act("stop rank and continue")
async def stop_rank(flight: Flight) -> bool:
    return await _stop_a_while(flight, processes.ranks)


@act("stop launcher and continue")
async def stop_launcher(flight: Flight) -> bool:
    return await _stop_a_while(flight, processes.launchers)


@act("stop supervisor and continue")
async def stop_supervisor(flight: Flight) -> bool:
    return await _stop_a_while(flight, _supervisor)


@act("stop supervisor for long", 0.1)
async def stop_supervisor_for_long(flight: Flight) -> bool:
    """Long enough for ranks, viewers and the watch over hung ranks to think that something is wrong."""
    return await _stop_a_while(flight, _supervisor, LONG_SECONDS)


@act("hang rank", 0.5)
async def hang_rank(flight: Flight) -> bool:
    """A rank stops and is never continued: somebody has to notice."""
    return flight.has_patience and _signal_one(flight, processes.ranks, signal.SIGSTOP)


@act("kill viewer")
async def kill_viewer(flight: Flight) -> bool:
    viewer = subprocess.Popen(
        [sys.executable, "-c", WATCH, str(flight.directory)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert viewer.stdout is not None
    await asyncio.to_thread(viewer.stdout.readline)
    viewer.kill()
    viewer.communicate()
    return True


@act("kill dashboard", 0.2)
async def kill_dashboard(flight: Flight) -> bool:
    with _dashboard(flight) as dashboard:
        await asyncio.sleep(flight.random.uniform(0.3, 2.0))
        dashboard.kill()
    return True


@act("stop dashboard and continue", 0.2)
async def stop_dashboard(flight: Flight) -> bool:
    with _dashboard(flight) as dashboard:
        await asyncio.sleep(flight.random.uniform(0.5, 2.0))
        dashboard.send_signal(signal.SIGSTOP)
        await asyncio.sleep(flight.random.uniform(0, STOPPED_SECONDS))
        dashboard.send_signal(signal.SIGCONT)
        await asyncio.sleep(flight.random.uniform(0, 0.3))
    return True


@contextlib.contextmanager
def _dashboard(flight: Flight) -> Iterator[subprocess.Popen[bytes]]:
    """`rankdeck attach` in a terminal of its own; what it writes is read and dropped."""
    master, slave = pty.openpty()
    dashboard = subprocess.Popen(
        [sys.executable, "-m", "rankdeck.tui.commands.cli", "attach", str(flight.directory)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    os.close(slave)
    os.set_blocking(master, False)

    def drop() -> None:
        try:
            os.read(master, 65536)
        except OSError:  # hung up, or nothing there after all
            pass

    loop = asyncio.get_running_loop()
    loop.add_reader(master, drop)
    try:
        yield dashboard
    finally:
        loop.remove_reader(master)
        dashboard.kill()
        dashboard.wait()
        os.close(master)


Choice = Callable[[list[Found], int], Sequence[Found]]
"""From a run's processes and its supervisor's pid to those that an act is about."""


def _one(flight: Flight, choose: Choice) -> Found | None:
    candidates = choose(flight.processes(), flight.started.process.pid)
    return flight.random.choice(candidates) if candidates else None


def _signal_one(flight: Flight, choose: Choice, number: signal.Signals) -> bool:
    if (process := _one(flight, choose)) is None:
        return False
    process.signal(number)
    return True


def _supervisor(found: list[Found], supervisor: int) -> Sequence[Found]:
    return [process for process in found if process.pid == supervisor]


async def _stop_a_while(flight: Flight, choose: Choice, seconds: tuple[float, float] = (0, STOPPED_SECONDS)) -> bool:
    if (process := _one(flight, choose)) is None:
        return False
    process.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(flight.random.uniform(*seconds))
    finally:
        process.signal(signal.SIGCONT)
    return True
