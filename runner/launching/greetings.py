"""The launch of `rankdeck hello`: ranks that greet, gather and leave, without a run."""

import asyncio
import os
import tempfile
from pathlib import Path

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.launching import accelerate, last_words
from rankdeck.runner.launching.environment import rank_environment
from rankdeck.runner.launching.parent import RankParent
from rankdeck.runner.machine import telemetry
from rankdeck.runner.machine.processes import usable_cores
from rankdeck.runner.protocol.framing import GREETINGS


class HelloError(Exception):
    """The ranks could not greet; the text says why."""


async def greetings_of(
    ranks: int, on_cpu: bool, launch_command: accelerate.LaunchCommand = accelerate.accelerate_command
) -> list[str]:
    """What each of `ranks` ranks says, gathered by themselves.

    Raises:
        HelloError: a rank could not be launched, or failed.
        OSError: the launcher cannot be started.
    """
    ends: asyncio.Queue[protocol.RankExited] = asyncio.Queue()

    def hear(report: protocol.FromParent) -> None:
        if isinstance(report, protocol.RankExited):
            ends.put_nowait(report)

    parent = RankParent(log=lambda line: None, adopts_orphans=False)
    parent.hear = hear
    environment = rank_environment(os.environ, ranks, on_cpu, usable_cores(), expandable_segments=False)
    gpus = {} if on_cpu else telemetry.rank_variables(os.environ)
    with tempfile.TemporaryDirectory(prefix="rankdeck-hello-") as folder:
        config_file, store = Path(folder) / "accelerate.yaml", Path(folder) / "store"
        accelerate.write_accelerate_config(config_file, on_cpu)
        try:
            await parent.start(launch_command(config_file, "rankdeck.runner.rank.hello", []), environment)
            place = str(store) if ranks > 1 else None
            parent.order(
                *(
                    protocol.StartRank(rank=rank, world_size=ranks, store=place, environment=gpus)
                    for rank in range(ranks)
                )
            )
            await _all_left(parent, ends, ranks)
        finally:
            await parent.end()
    for line in parent.lines:
        if line.startswith(GREETINGS):
            said: list[str] = msgspec.json.decode(line.removeprefix(GREETINGS), type=list[str])
            return said
    raise HelloError("the ranks left without their greetings")


async def _all_left(parent: RankParent, ends: "asyncio.Queue[protocol.RankExited]", ranks: int) -> None:
    gone = asyncio.create_task(parent.gone())
    try:
        for _ in range(ranks):
            end = asyncio.create_task(ends.get())
            await asyncio.wait({gone, end}, return_when=asyncio.FIRST_COMPLETED)
            if not end.done():
                end.cancel()
                raise HelloError(await parent.why_gone())
            if end.result().status:
                raise HelloError(await _why(parent, end.result()))
    finally:
        gone.cancel()


async def _why(parent: RankParent, end: protocol.RankExited) -> str:
    await parent.end()  # then all that its processes printed has been read
    return f"rank {end.rank}: {end.error or last_words.end_of_rank(end.status, list(parent.lines))}"
