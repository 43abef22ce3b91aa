"""What many ranks and viewers cost the supervisor, and what a million prompts cost the scheduler.

    python -m tests.benchmarks.load [--ranks 64] [--viewers 4] [--seconds 30] [--prompts 1000000]

The supervisor is the real one; its ranks are the tests' stand-ins (tests/standin), processes that say about ten things
a second each, as busy ranks do; the viewers are clients that take every event in. It is measured once every rank has
done a batch. The last line is one JSON object.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path

import psutil

from rankdeck.runner import protocol, run_directory, start
from rankdeck.runner.inputs import frozen_prompts
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.scheduling.scheduler import Scheduler
from rankdeck.runner.start import Started
from rankdeck.tui.sources.client import SocketSource
from tests import checkpoints
from tests.benchmarks import sides
from tests.conftest import start_standin_supervisor

BATCH_SIZE = 16
STEPS = 16
STANDIN = {"STANDIN_STEPS": str(STEPS), "STANDIN_STEP_SECONDS": "0.19", "STANDIN_SPREAD": "0.2"}
"""Batches of 3 to 3.7 s, of which a rank reports the steps, then the outputs, then the account: ten messages a
second. Ranks of one pace would end their batches all at once."""

MESSAGES_A_BATCH = STEPS + BATCH_SIZE + 1
PROMPT = "Tell me in some hundred characters, or a few more, what number {} is good for; who asked for it, and when; "
PROMPT += "which of the others it goes with, and why nobody has found a better one."
"""A stand-in's answer is as long."""

PROMPTS_A_RANK = 3000
"""Work for ten minutes."""

START_SECONDS = 60.0


async def supervise(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """CPU and memory of the supervisor, in percent of a core and MiB, while the ranks are at work."""
    source, model = folder / "p.txt", checkpoints.whole(folder / "model", hidden_size=None)
    source.write_text("".join(f"{PROMPT.format(number)}\n" for number in range(PROMPTS_A_RANK * options.ranks)))
    for name, value in STANDIN.items():
        os.environ.setdefault(name, value)
    start.start_supervisor = start_standin_supervisor
    config = RunConfig(prompts=str(source), model=str(model), ranks=options.ranks, batch_size=BATCH_SIZE, device="cpu")
    started = start.launch(config, run_dir=folder / "run-load")
    try:
        return await measure(started, options)
    finally:
        started.process.terminate()
        started.process.wait(20)


async def measure(started: Started, options: argparse.Namespace) -> dict[str, float]:
    """Watch the run until every rank is at work, then for so many seconds.

    Raises:
        RuntimeError: it has ended before that, or not every rank has done a batch in time.
    """
    counts, batches = [0] * options.viewers, [0] * options.ranks
    all_at_work = asyncio.Event()

    async def view(number: int) -> None:
        async for message in SocketSource(started.directory, started.died).events():
            counts[number] += 1
            if number == 0 and isinstance(message, protocol.BatchFinished):
                batches[message.rank] += 1
                if all(batches):
                    all_at_work.set()

    viewers = [asyncio.create_task(view(number)) for number in range(options.viewers)]
    at_work = asyncio.create_task(all_at_work.wait())
    try:
        await asyncio.wait({at_work, *viewers}, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        check_at_work(started, viewers, batches)
        process = psutil.Process(started.process.pid)
        before, events, done, began = process.cpu_times(), sum(counts), sum(batches), time.monotonic()
        await asyncio.sleep(options.seconds)
        after, seconds = process.cpu_times(), time.monotonic() - began
        check_at_work(started, viewers, batches)
    finally:
        for task in (at_work, *viewers):
            task.cancel()
    cpu = (after.user + after.system - before.user - before.system) / seconds
    said = MESSAGES_A_BATCH * (sum(batches) - done)
    return {
        "supervisor_cpu_percent": round(100 * cpu, 1),
        "messages_per_second_per_rank": round(said / seconds / options.ranks, 1),
        "events_per_second_per_viewer": round((sum(counts) - events) / seconds / options.viewers, 1),
        "supervisor_rss_mib": round(process.memory_info().rss / 2**20, 1),
    }


def check_at_work(started: Started, viewers: "list[asyncio.Task[None]]", batches: list[int]) -> None:
    """Require that nobody has stopped watching, and that every rank has done a batch."""
    ended = [repr(viewer.exception() or "the run has ended") for viewer in viewers if viewer.done()]
    idle = [rank for rank, count in enumerate(batches) if not count]
    if ended or idle:
        log = (started.directory / run_directory.LOG_FILE).read_text(errors="replace").splitlines()
        raise RuntimeError("\n".join([*ended, f"ranks that have done no batch: {idle}", *log[-10:]]))


def dispatch(count: int, ranks: int, folder: Path) -> dict[str, float]:
    """Seconds and memory for handing out `count` prompts, texts read from disk, to `ranks` ranks."""
    source = folder / "many.txt"
    with source.open("w") as file:
        file.writelines(f"prompt number {number} of a million\n" for number in range(count))
    process = psutil.Process()
    index = frozen_prompts.freeze(str(source), folder / "many.jsonl", column=None, limit=None, chat=False)
    before, began = process.memory_info().rss, time.perf_counter()
    scheduler = Scheduler(index.lengths, order="length", batch_size=BATCH_SIZE, active_ranks=ranks)
    done = 0
    while scheduler.unsettled:
        held = [scheduler.next_batch(rank) for rank in range(ranks)]
        for batch in held:
            if batch is None:
                continue
            index.read(batch.indices)
            for position in batch.indices:
                done += scheduler.settle(position)
            scheduler.finish(batch.batch)
    seconds = time.perf_counter() - began
    assert done == count
    grown = (process.memory_info().rss - before) / 2**20
    return {
        "dispatch_seconds": round(seconds, 2),
        "prompts_per_second": round(count / seconds),
        "grown_mib": round(grown, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--viewers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--prompts", type=int, default=1_000_000)
    options = parser.parse_args()
    if options.ranks < 1 or options.viewers < 1:
        parser.error("there must be at least one rank and one viewer")
    busy = round(os.getloadavg()[0], 1)
    with sides.scratch() as folder:
        result = {"benchmark": "load", "ranks": options.ranks, "viewers": options.viewers}
        result |= asyncio.run(supervise(options, folder))
        result |= dispatch(options.prompts, 1000, folder)
    result |= {"cores": os.cpu_count() or 0, "load_before": busy, "date": time.strftime("%Y-%m-%d")}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
