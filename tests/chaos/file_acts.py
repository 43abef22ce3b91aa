"""Files of a run deleted, cut, replaced and damaged by somebody else.

What is done to outputs.jsonl is done while the supervisor is stopped, and only while a record is missing there: so the
run cannot have looked at the file for the last time already, and has no excuse for an end without all records.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rankdeck.runner import run_directory
from tests.chaos import processes
from tests.chaos.acts import act

if TYPE_CHECKING:
    from tests.chaos.flight import Flight

JUNK = b"\xff"
"""In no text, so that damage never passes for another answer."""


REST_SECONDS = 10.0
"""How long the ranks of a killed supervisor may take to go."""


@act("delete outputs")
async def delete_outputs(flight: Flight) -> bool:
    return _touch_outputs(flight, lambda outputs: outputs.unlink())


@act("truncate outputs")
async def truncate_outputs(flight: Flight) -> bool:
    return _touch_outputs(
        flight, lambda outputs: os.truncate(outputs, flight.random.randint(0, outputs.stat().st_size))
    )


@act("replace outputs")
async def replace_outputs(flight: Flight) -> bool:
    return _touch_outputs(flight, _replace_by_copy)


@act("damage outputs", 0.5)
async def damage_outputs(flight: Flight) -> bool:
    return _touch_outputs(flight, lambda outputs: _damage(flight, outputs))


@act("delete journal")
async def delete_journal(flight: Flight) -> bool:
    journal = flight.directory / run_directory.EVENTS_FILE
    if not journal.exists():
        return False
    journal.unlink()
    return True


@act("damage journal of a resting run")
async def damage_resting_journal(flight: Flight) -> bool:
    return await _at_rest(flight, run_directory.EVENTS_FILE)


@act("damage outputs of a resting run", 0.5)
async def damage_resting_outputs(flight: Flight) -> bool:
    return await _at_rest(flight, run_directory.OUTPUTS_FILE)


@act("remove socket")
async def remove_socket(flight: Flight) -> bool:
    run_directory.socket_path(flight.directory).unlink(missing_ok=True)
    return True


@act("delete rank log")
async def delete_rank_log(flight: Flight) -> bool:
    logs = sorted(flight.directory.glob("rank-*.log"))
    if not logs:
        return False
    flight.random.choice(logs).unlink()
    return True


def _touch_outputs(flight: Flight, touch: Callable[[Path], object]) -> bool:
    outputs = flight.directory / run_directory.OUTPUTS_FILE
    supervisor = flight.started.process
    supervisor.send_signal(signal.SIGSTOP)
    try:
        # At once: it has stopped, or ended (and is waited for elsewhere).
        os.waitid(os.P_PID, supervisor.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        unfinished = outputs.exists() and outputs.read_bytes().count(b"\n") < flight.prompts
        if unfinished:
            touch(outputs)
        return unfinished
    except ChildProcessError:
        return False  # it has ended, and been waited for
    finally:
        supervisor.send_signal(signal.SIGCONT)


async def _at_rest(flight: Flight, name: str) -> bool:
    """Kill the supervisor, wait until the run rests, and damage a file."""
    flight.kill_supervisor()
    for process in flight.processes():
        process.signal(signal.SIGCONT)  # a rank that hangs would never see that its supervisor is gone
    await asyncio.to_thread(processes.all_gone, flight.mark, REST_SECONDS)
    path = flight.directory / name
    if flight.complete() or not path.exists() or not path.stat().st_size:
        return False
    _damage(flight, path)
    return True


def _replace_by_copy(outputs: Path) -> None:
    copy = outputs.with_name("copy-by-somebody")
    shutil.copyfile(outputs, copy)
    os.replace(copy, outputs)


def _damage(flight: Flight, path: Path) -> None:
    """Overwrite a range of bytes in the middle."""
    size = path.stat().st_size
    length = flight.random.randint(1, 60)
    start = flight.random.randint(0, max(0, size - length))
    with path.open("r+b") as file:
        file.seek(start)
        file.write(JUNK * min(length, size - start))
