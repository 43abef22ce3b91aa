"""The live scaling table against separate runs: one run that loses a rank half-way, and a run of each size.

    python -m tests.benchmarks.live_scaling [--prompts 96] [--batch-size 8] [--new-tokens 32]

Fixed length, demo model, CPU. The last line is one JSON object with the speedup of two ranks by both ways.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from rankdeck.runner import protocol, start
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.state import RunState, Snapshot, apply
from rankdeck.runner.state.settings import all_settings
from rankdeck.tui.sources.client import SocketSource
from tests import ROOT

STORIES = (ROOT / "sample_prompts" / "stories.txt").read_text().splitlines()


async def run_through(config: RunConfig, folder: Path, *, half_way: bool) -> RunState:
    """A whole run; `half_way` leaves one of its ranks active from the middle on."""
    started = start.launch(config, run_dir=folder / f"run-{time.monotonic_ns()}")
    source, state, turned = SocketSource(started.directory, started.died), RunState(), False
    async for message in source.events():
        state = message.state if isinstance(message, Snapshot) else apply(state, message)
        if half_way and not turned and state.done >= state.prompts // 2:
            turned = True
            await source.send(protocol.SetActiveRanks(active_ranks=1))
    await asyncio.to_thread(started.process.wait)
    return state


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        prompts = Path(name) / "p.txt"
        prompts.write_text("".join(f"{STORIES[number % 100]}\n" for number in range(options.prompts)))

        async def run(ranks: int, *, half_way: bool = False) -> RunState:
            config = RunConfig(
                prompts=str(prompts), device="cpu", ranks=ranks, batch_size=options.batch_size,
                max_new_tokens=options.new_tokens, ignore_eos=True,
            )  # fmt: skip
            return await run_through(config, Path(name), half_way=half_way)

        live = await run(2, half_way=True)
        rates = {}
        for ranks in (1, 2):
            ended = (await run(ranks)).ended
            assert ended is not None
            rates[ranks] = ended.summary.tokens_per_second
    table = {row.active_ranks: row for row in all_settings(live) if row.batch_size == options.batch_size}
    line = {
        "benchmark": "live_scaling",
        "live_speedup": round(table[2].speedup or 0.0, 2),
        "separate_speedup": round(rates[2] / rates[1], 2),
        "live_tokens_per_second": {ranks: round(row.tokens_per_second, 1) for ranks, row in table.items()},
        "separate_tokens_per_second": {ranks: round(rate, 1) for ranks, rate in rates.items()},
        **vars(options),
        "date": time.strftime("%Y-%m-%d"),
    }
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
