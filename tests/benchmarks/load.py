"""What many ranks and viewers cost the supervisor, and what a million prompts cost the scheduler.

    python -m tests.benchmarks.load [--ranks 64] [--viewers 4] [--seconds 30] [--prompts 1000000]

The supervisor is the real one; the ranks are simulated in a process of their own at about ten messages a second
each, the viewers are clients that take every event in. The last line is one JSON object.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from rankdeck.runner import __main__ as supervisor_main
from rankdeck.runner import run_directory, start
from rankdeck.runner.inputs import frozen_prompts
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.scheduling.scheduler import Scheduler
from rankdeck.tui.sources.client import SocketSource
from tests import checkpoints

ROOT = Path(__file__).resolve().parents[2]


def launch_command(config_file: Path, module: str, arguments: Sequence[str]) -> list[str]:
    """In the place of `accelerate launch`."""
    return [sys.executable, str(Path(__file__).parent / "load_ranks.py"), *arguments]


def start_supervisor(directory: Path) -> "subprocess.Popen[bytes]":
    with (directory / run_directory.LOG_FILE).open("ab") as log:
        command = [sys.executable, "-m", "tests.benchmarks.load", "--supervise", str(directory)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT)


async def supervise(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """CPU and memory of the supervisor, in percent of a core and MiB, while the ranks are at work."""
    source, model = folder / "p.txt", checkpoints.whole(folder / "model", hidden_size=None)
    source.write_text("".join(f"prompt number {number}\n" for number in range(200_000)))
    start.start_supervisor = start_supervisor
    config = RunConfig(prompts=str(source), model=str(model), ranks=options.ranks, batch_size=16, device="cpu")
    started = start.launch(config, run_dir=folder / "run")
    counts = [0] * options.viewers

    async def view(number: int) -> None:
        async for _ in SocketSource(started.directory, started.died).events():
            counts[number] += 1

    viewers = [asyncio.create_task(view(number)) for number in range(options.viewers)]
    await asyncio.sleep(8)
    process = psutil.Process(started.process.pid)
    before, events, began = process.cpu_times(), sum(counts), time.monotonic()
    await asyncio.sleep(options.seconds)
    after, seconds = process.cpu_times(), time.monotonic() - began
    cpu = (after.user + after.system - before.user - before.system) / seconds
    result = {
        "supervisor_cpu_percent": round(100 * cpu, 1),
        "events_per_second_per_viewer": round((sum(counts) - events) / seconds / max(1, options.viewers), 1),
        "supervisor_rss_mib": round(process.memory_info().rss / 2**20, 1),
    }
    for viewer in viewers:
        viewer.cancel()
    started.process.terminate()
    started.process.wait(20)
    return result


def dispatch(count: int, ranks: int, folder: Path) -> dict[str, float]:
    """Seconds and memory for handing out `count` prompts, texts read from disk, to `ranks` ranks."""
    source = folder / "many.txt"
    with source.open("w") as file:
        file.writelines(f"prompt number {number} of a million\n" for number in range(count))
    process = psutil.Process()
    index = frozen_prompts.freeze(str(source), folder / "many.jsonl", column=None, limit=None, chat=False)
    before, began = process.memory_info().rss, time.perf_counter()
    scheduler = Scheduler(index.lengths, order="length", batch_size=16, active_ranks=ranks)
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--viewers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--supervise")
    options = parser.parse_args()
    if options.supervise:
        sys.argv[1:] = [options.supervise]
        supervisor_main.main(launch_command)
    with tempfile.TemporaryDirectory() as name:
        result = {"benchmark": "load", "ranks": options.ranks, "viewers": options.viewers}
        result |= asyncio.run(supervise(options, Path(name)))
        result |= dispatch(options.prompts, 1000, Path(name))
    result |= {"cores": os.cpu_count() or 0, "date": time.strftime("%Y-%m-%d")}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
