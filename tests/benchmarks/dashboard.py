"""What the dashboard costs in each view, and how soon it answers a key, with ranks and GPUs at full rate.

    python -m tests.benchmarks.dashboard [--ranks 8] [--gpus 8] [--seconds 10] [--presses 40] [--sizes 80x24,120x40]

A scripted run is replayed at its own pace, in a real terminal: ranks at work, four ticks a second, a sample of
every GPU a second, knobs that turn. CPU is in percent of a core, and includes reading the journal; bytes are those that
reach the terminal. Key to paint: milliseconds from a key's byte to those of what it changes, of keys that change the
view and of those that move in it. The last line is one JSON object.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rankdeck.runner import protocol
from rankdeck.runner.protocol import StepsInFlight, encode_line
from rankdeck.tui.screens.views import VIEWS
from tests import scripted
from tests.benchmarks.watching import cost_of_view
from tests.scripted_steering import SteeredScript
from tests.terminal import Terminal

HOME_MARK = "Throughput"
"""What only the Overview shows."""

BATCH_SECONDS = 6
TURNS = {6: 16, 14: 32, 20: 16}
"""At these rounds the batch size is turned, so that the chart has bands and the table rows."""


def journal(path: Path, ranks: int, gpus: int, seconds: float) -> None:
    """Write a run of at least so many seconds."""
    script = SteeredScript(ranks, gpus=gpus, prompts=1_000_000, batch_size=8).begun()
    for number in range(2 + int(seconds / BATCH_SECONDS)):
        if number in TURNS:
            script.size(TURNS[number])
        _round(script, ranks, gpus)
    path.write_bytes(b"".join(encode_line(event) for event in script.events))


def _round(script: SteeredScript, ranks: int, gpus: int) -> None:
    """A batch on every rank."""
    batches, prompts = [], []
    for rank in range(ranks):
        script.begin_batch(rank)
        batches.append(script.batches)
        prompts.append(range(script.next_index, script.next_index + script.batch_size))
        script.next_index += script.batch_size
    for beat in range(1, 4 * BATCH_SECONDS + 1):
        steps = [
            StepsInFlight(rank=rank, batch=batch, step=min(50, 2 * beat + rank % 3), output_tokens=2 * beat)
            for rank, batch in enumerate(batches)
        ]
        script.wait(0.25)
        devices = [scripted.gpu(index, script.at) for index in range(gpus)]
        processes = [protocol.ProcessSample(rank=rank, cpu_percent=97.0, rss_bytes=3 * 2**30) for rank in range(ranks)]
        sampled = beat % 4 == 0
        script.add(
            protocol.Tick(
                steps=steps,
                devices=(devices or None) if sampled else None,
                processes=processes if sampled else None,
            )
        )
    for rank, batch in enumerate(batches):
        script.wait(0.02).finish_batch(rank, batch, prompts[rank])


def latency(terminal: Terminal, key: str, painted: Callable[[], bool]) -> float:
    """Milliseconds until `painted`, once the terminal has taken in what came."""
    began = time.monotonic()
    terminal.send(key)
    found: float | None = None
    while found is None:
        pieces = terminal.burst(5)
        assert pieces, f"{key!r} changed nothing:\n{terminal.text}"
        for arrived, data in pieces:
            terminal.show(data)
            if found is None and painted():
                found = arrived
    return 1000 * (found - began)


def backgrounds(terminal: Terminal) -> list[str]:
    """What stands behind each line: where the cursor of a list is."""
    return [terminal.screen.buffer[row][6].bg for row in range(terminal.screen.lines)]


def watch(run: Path, size: str, options: argparse.Namespace) -> dict[str, object]:
    columns, rows = map(int, size.split("x"))
    command = [str(Path(sys.executable).with_name("rankdeck")), "replay", str(run)]
    costs: dict[str, dict[str, float]] = {}
    switching: dict[str, list[float]] = {view.name: [] for view in VIEWS}
    moving: list[float] = []
    with Terminal(command, columns=columns, rows=rows) as terminal:
        terminal.wait_for("tok/s now", seconds=60)
        terminal.read(2)
        for view in VIEWS:
            if view.key != "1":
                terminal.send(view.key)
            terminal.read(1.5)
            costs[view.name] = cost_of_view(terminal, options.seconds)
        terminal.send("1")
        terminal.wait_for(HOME_MARK)
        others = [view for view in VIEWS if view.key != "1"]
        for press in range(options.presses):
            view = others[press % len(others)]
            switching[view.name].append(latency(terminal, view.key, lambda: HOME_MARK not in terminal.text))
            terminal.read(0.1 + 0.037 * (press % 5))
            switching["overview"].append(latency(terminal, "1", lambda: HOME_MARK in terminal.text))
            terminal.read(0.1 + 0.041 * (press % 5))
        terminal.send("2")
        terminal.read(1)
        terminal.send("k")
        terminal.read(1)
        for press in range(options.presses):
            before = backgrounds(terminal)
            key = "k" if press % 6 < 3 else "j"
            moving.append(latency(terminal, key, lambda before=before: backgrounds(terminal) != before))
            terminal.read(0.1 + 0.037 * (press % 5))
    return {
        "views": costs,
        "switching_ms": {name: spread(times) for name, times in switching.items()},
        "moving_ms": spread(moving),
        "all_keys_ms": spread([*moving, *(time for times in switching.values() for time in times)]),
    }


def spread(times: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(times), 1),
        "p95": round(statistics.quantiles(times, n=20, method="inclusive")[-1], 1),
        "most": round(max(times), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--presses", type=int, default=40)
    parser.add_argument("--sizes", default="80x24,120x40")
    options = parser.parse_args()
    if options.presses < (least := 2 * (len(VIEWS) - 1)):
        parser.error(f"--presses: a spread takes two presses of each view's key, {least} in all")
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "events.jsonl"
        journal(run, options.ranks, options.gpus, len(VIEWS) * (options.seconds + 3) + 2 * options.presses + 30)
        result = {size: watch(run, size, options) for size in options.sizes.split(",")}
    result |= {"benchmark": "dashboard", "ranks": options.ranks, "gpus": options.gpus, "cores": os.cpu_count()}
    result |= {"load": round(os.getloadavg()[0], 1), "date": time.strftime("%Y-%m-%d")}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
