"""What watching costs: first paint beside a bare Textual app's, and CPU and bytes to the terminal during a run.

    python -m tests.benchmarks.watching [--repeats 8] [--seconds 20]

First paint: seconds from starting the process to the first words on a real terminal's screen, for `rankdeck
run` and for a Textual app of one line, alternating. CPU and bytes: of the dashboard attached to a run of the
demo model on two CPU ranks, at 80x24 and at 120x40. The last line is one JSON object.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import psutil

from rankdeck.runner import start
from rankdeck.runner.protocol.config import RunConfig
from tests.benchmarks import sides
from tests.terminal import Terminal

BARE = "from textual.app import App\nfrom textual.widgets import Static\n"
BARE += "class Bare(App):\n    def compose(self):\n        yield Static('Throughput')\nBare().run()"
PAINTED = "Throughput"


def first_paint(command: list[str], environ: dict[str, str]) -> float:
    """Seconds until the first words are on the screen."""
    began = time.monotonic()
    with Terminal(command, columns=80, rows=24, environ=environ) as terminal:
        while PAINTED not in terminal.text:
            terminal.read(0.005)
            assert time.monotonic() - began < 20, terminal.text
        return time.monotonic() - began


def cost(directory: Path, size: tuple[int, int], seconds: float, environ: dict[str, str]) -> dict[str, float]:
    """CPU in percent of a core, and bytes a second, of a dashboard attached to the run."""
    command = [str(Path(sys.executable).with_name("rankdeck")), "attach", str(directory)]
    with Terminal(command, columns=size[0], rows=size[1], environ=environ) as terminal:
        terminal.wait_for("in flight", seconds=120)
        terminal.read(3)
        return cost_of_view(terminal, seconds)


def cost_of_view(terminal: Terminal, seconds: float) -> dict[str, float]:
    """CPU in percent of a core, and bytes a second, of what runs in the terminal now."""
    process = psutil.Process(terminal.pid)
    before, count, began = process.cpu_times(), terminal.bytes_out, time.monotonic()
    terminal.read(seconds)
    after, taken = process.cpu_times(), time.monotonic() - began
    used = after.user + after.system - before.user - before.system
    return {
        "cpu_percent": round(100 * used / taken, 1),
        "kilobytes_per_second": round((terminal.bytes_out - count) / taken / 1000, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--only-paint", action="store_true")
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    with sides.scratch() as folder:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["HF_HUB_OFFLINE"] = "1"  # the run ends with an unknown model, and leaves the cores to the next
        environ = dict(os.environ)
        prompts = folder / "p.txt"
        prompts.write_text("".join(f"prompt number {number}\n" for number in range(20_000)))
        few = folder / "few.txt"
        few.write_text("hello\n")
        run = [str(Path(sys.executable).with_name("rankdeck")), "run", str(few), "--model", "nobody/nothing"]
        paints: dict[str, list[float]] = {"bare": [], "rankdeck": []}
        for _ in range(options.repeats + 1):
            paints["bare"].append(first_paint([sys.executable, "-c", BARE], environ))
            paints["rankdeck"].append(first_paint(run, environ))
        result = {
            "benchmark": "watching",
            # The first of each wrote the bytecode.
            **{f"first_paint_{side}": round(statistics.median(times[1:]), 3) for side, times in paints.items()},
            "cores": os.cpu_count(),
            "date": time.strftime("%Y-%m-%d"),
        }
        if options.only_paint:
            sys.stdout.write(json.dumps(result) + "\n")
            return
        config = RunConfig(prompts=str(prompts), ranks=2, batch_size=8, device="cpu")
        started = start.launch(config, run_dir=folder / "run-watched")
        result["80x24"] = cost(started.directory, (80, 24), options.seconds, environ)
        result["120x40"] = cost(started.directory, (120, 40), options.seconds, environ)
        started.process.terminate()
        started.process.wait(20)
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
