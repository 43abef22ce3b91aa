"""Whether a sweep's figures hold: its best cell run alone, and settings it has not seen against the plan made from it.

    python -m tests.benchmarks.sweep_holds [--repeats 2] [--new-tokens 32]

One sweep (batch sizes 1, 4, 16 on 1 and 2 ranks), then runs by themselves. Ratios are tokens/s of the run over
those of the cell (the best) or of the prediction (the held-out ones). The last line is one JSON object.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rankdeck.runner.machine import processes

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ROOT / "sample_prompts" / "stories.txt"
RANKDECK = str(Path(sys.executable).with_name("rankdeck"))
COMMON = ["--model", "demo", "--device", "cpu", "--plain"]

HELD_OUT = ((2, 8, 100), (2, 12, 48), (1, 8, 32), (2, 16, 100))
"""Ranks, batch size, prompts: no cell of the sweep, by its size or by a last round that is not full."""


def run(ranks: int, size: int, prompts: int, new_tokens: int, folder: Path) -> float:
    """tokens/s of one run by itself."""
    directory = folder / f"run-{time.monotonic_ns()}"
    command = [RANKDECK, "run", str(PROMPTS), *COMMON, "--ignore-eos", "--max-new-tokens", str(new_tokens)]
    command += ["--ranks", str(ranks), "--batch-size", str(size), "--limit", str(prompts), "--run-dir", str(directory)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return float(json.loads((directory / "run.json").read_text())["summary"]["tokens_per_second"])


def plan(sweep: Path, ranks: int, size: int, prompts: int) -> float:
    """tokens/s as predicted from the sweep."""
    command = [RANKDECK, "plan", str(sweep), "--ranks", str(ranks), "--batch-size", str(size)]
    done = subprocess.run([*command, "--prompts", str(prompts), "--json"], check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["rows"][0]["tokens_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--new-tokens", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sweep = folder / "sweep"
        command = [RANKDECK, "sweep", str(PROMPTS), *COMMON, "--batch-sizes", "1,4,16", "--ranks", "1,2"]
        command += ["--repeats", str(options.repeats), "--max-new-tokens", str(options.new_tokens)]
        began = time.monotonic()
        subprocess.run([*command, "--run-dir", str(sweep)], check=True, stdout=subprocess.DEVNULL)
        took = time.monotonic() - began
        best = json.loads((sweep / "run.json").read_text())["sweep"]["best"]
        ranks, size = best["active_ranks"], best["batch_size"]
        # As many prompts as fill every round: the cell is of full batches.
        full = len(PROMPTS.read_text().splitlines()) // (ranks * size) * ranks * size
        alone = run(ranks, size, full, options.new_tokens, folder) / best["tokens_per_second"]["mean"]
        sys.stderr.write(f"best cell {ranks} x {size}, run alone: {alone:.3f} of it\n")
        held = {}
        for setting in HELD_OUT:
            held["{}x{}, {} prompts".format(*setting)] = round(
                run(*setting, options.new_tokens, folder) / plan(sweep, *setting), 3
            )
            sys.stderr.write(f"{list(held.items())[-1]}\n")
    line = {
        "benchmark": "sweep_holds",
        "best": f"{ranks}x{size}",
        "alone_over_cell": round(alone, 3),
        "run_over_plan": held,
        "sweep_seconds": round(took, 1),
        "repeats": options.repeats,
        "new_tokens": options.new_tokens,
        "machine": f"{processes.usable_cores()} cores, {platform.machine()}",
        "date": time.strftime("%Y-%m-%d"),
    }
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
