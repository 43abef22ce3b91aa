"""What the dashboard costs in each view, and how soon it answers a key, with ranks and GPUs at full rate.

    python -m tests.benchmarks.dashboard [--ranks 8] [--gpus 8] [--seconds 10] [--presses 40] [--sizes 80x24,120x40]

The supervisor and the dashboard are the real ones, in a real terminal; the ranks are simulated at about ten messages
a second each, the GPUs scripted. CPU is in percent of a core; bytes are those that reach the terminal. Key to paint:
milliseconds from a key's byte to those of what it changes, of keys that change the view and of those that move in
it. The last line is one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rankdeck.runner import __main__ as supervisor_main
from rankdeck.runner import run_directory, start
from rankdeck.runner.machine.telemetry import Telemetry
from rankdeck.runner.protocol import DeviceSample, ProcessSample
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.tui.screens.views import VIEWS
from tests import scripted
from tests.benchmarks.load import ROOT, launch_command
from tests.benchmarks.watching import cost_of_view
from tests.terminal import Terminal

HOME_MARK = "Throughput"
"""It is on the Overview, and on no other view."""


class ScriptedTelemetry:
    """In the place of runner.machine.telemetry: GPUs whose figures move as those of a busy machine do."""

    reason = None

    def __init__(self, gpus: int) -> None:
        self.gpus = gpus

    def sample_devices(self) -> list[DeviceSample]:
        return [scripted.gpu(index, time.time()) for index in range(self.gpus)]

    def sample_processes(self, pids: Mapping[int, int]) -> list[ProcessSample]:
        return [ProcessSample(rank=rank, cpu_percent=97.0, rss_bytes=3 * 2**30) for rank in pids]

    def close(self) -> None:
        pass


def supervise(directory: str, gpus: int) -> None:
    """Be the supervisor of a run on scripted GPUs."""
    if gpus:
        Telemetry.open = lambda: ScriptedTelemetry(gpus)  # type: ignore[method-assign,assignment,return-value]
    sys.argv[1:] = [directory]
    supervisor_main.main(launch_command)


def launch(folder: Path, ranks: int, gpus: int) -> start.Started:
    """A run of many prompts on simulated ranks."""

    def start_supervisor(directory: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "tests.benchmarks.dashboard", "--supervise", str(directory)]
        with (directory / run_directory.LOG_FILE).open("ab") as log:
            return subprocess.Popen(
                [*command, "--gpus", str(gpus)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "LOAD_GPUS": str(gpus)},
            )

    source, model = folder / "p.txt", folder / "model"
    source.write_text("".join(f"prompt number {number}\n" for number in range(200_000)))
    model.mkdir()
    (model / "config.json").write_text("{}")
    start.start_supervisor = start_supervisor
    config = RunConfig(prompts=str(source), model=str(model), ranks=ranks, batch_size=16, device="cpu")
    return start.launch(config, run_dir=folder / "run")


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


def watch(directory: Path, size: str, options: argparse.Namespace) -> dict[str, object]:
    columns, rows = map(int, size.split("x"))
    command = [str(Path(sys.executable).with_name("rankdeck")), "attach", str(directory)]
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
    parser.add_argument("--supervise")
    options = parser.parse_args()
    if options.supervise:
        supervise(options.supervise, options.gpus)
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_STATE_HOME"] = str(Path(name) / "state")
        started = launch(Path(name), options.ranks, options.gpus)
        try:
            while not run_directory.supervisor_alive(started.directory):
                assert not started.died(), (started.directory / run_directory.LOG_FILE).read_text()
                time.sleep(0.05)
            result = {size: watch(started.directory, size, options) for size in options.sizes.split(",")}
        finally:
            started.process.terminate()
            started.process.wait(20)
    result |= {"benchmark": "dashboard", "ranks": options.ranks, "gpus": options.gpus, "cores": os.cpu_count()}
    result |= {"load": round(os.getloadavg()[0], 1), "date": time.strftime("%Y-%m-%d")}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
