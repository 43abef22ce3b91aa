"""What may happen to a run: each act is a function of the flight, with a name and a weight.

An act returns False where there was nothing to do it to. Knobs and requests are here; what kills and stops is in
`process_acts`, what touches files in `file_acts`, what fills the disk in `disk_acts`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rankdeck.runner import protocol, run_directory

if TYPE_CHECKING:
    from tests.chaos.flight import Flight

Do = Callable[["Flight"], Awaitable[bool]]


@dataclass(frozen=True)
class Act:
    """Something that happens to a run; acts are chosen in proportion to their weights."""

    name: str
    do: Do
    weight: float


KNOWN: dict[str, Act] = {}


def act(name: str, weight: float = 1.0) -> Callable[[Do], Do]:
    """Make a function known as an act."""

    def known(do: Do) -> Do:
        KNOWN[name] = Act(name, do, weight)
        return do

    return known


@act("stop")
async def stop(flight: Flight) -> bool:
    return await flight.send(protocol.Stop())


@act("stop now")
async def stop_now(flight: Flight) -> bool:
    return await flight.send(protocol.Stop(now=True))


@act("batch size")
async def batch_size(flight: Flight) -> bool:
    return await flight.send(protocol.SetBatchSize(batch_size=flight.random.randint(1, 20)))


@act("active ranks")
async def active_ranks(flight: Flight) -> bool:
    return await flight.send(protocol.SetActiveRanks(active_ranks=flight.random.randint(1, 3)))


@act("pause")
async def pause(flight: Flight) -> bool:
    if not await flight.send(protocol.Pause()):
        return False
    await asyncio.sleep(flight.random.uniform(0, 0.1))
    return await flight.send(protocol.Resume())


@act("stall")
async def stall(flight: Flight) -> bool:
    """A viewer that connects and never reads."""
    try:
        _, writer = await asyncio.open_unix_connection(str(run_directory.socket_path(flight.directory)), limit=1024)
    except OSError:
        return False
    writer.write(protocol.encode_line(protocol.ViewerHello()))
    flight.stalled.append(writer)
    return True
