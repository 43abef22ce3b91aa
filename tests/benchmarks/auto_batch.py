"""`--batch-size auto` against the best fixed batch size found by hand: the same job with each, in one run, as a ratio.

    python -m tests.benchmarks.auto_batch [--prompts 100] [--new-tokens 50] [--sizes 8,16,25,50] [--repeats 1]

Seconds are those of run.json: first batch handed out to last result in. The last line is one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rankdeck.runner.machine import processes

ROOT = Path(__file__).resolve().parents[2]
STORIES = (ROOT / "sample_prompts" / "stories.txt").read_text().splitlines()


def run(size: str, options: argparse.Namespace, prompts: Path, folder: Path) -> dict[str, float]:
    run_dir = folder / f"{size}-{time.monotonic_ns()}"
    command = [str(Path(sys.executable).with_name("rankdeck")), "run", str(prompts), "--model", "demo", "--plain"]
    command += ["--device", "cpu", "--ranks", str(options.ranks), "--batch-size", size, "--run-dir", str(run_dir)]
    command += ["--max-new-tokens", str(options.new_tokens), *(["--ignore-eos"] if options.fixed else [])]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    summary = json.loads((run_dir / "run.json").read_text())["summary"]
    sizes = [
        json.loads(line)
        for line in (run_dir / "events.jsonl").read_text().splitlines()
        if line.startswith('{"type":"batch_size_changed"')
    ]
    return {
        "tokens_per_second": summary["tokens_per_second"],
        "reason": sizes[-1]["reason"],
        "size": sizes[-1]["batch_size"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--new-tokens", type=int, default=50)
    parser.add_argument("--sizes", default="8,16,25,50")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--fixed", action="store_true", help="fixed length")
    options = parser.parse_args()
    rates: dict[str, list[float]] = {}
    auto: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        prompts = Path(name) / "p.txt"
        lines = [STORIES[number % len(STORIES)] for number in range(options.prompts)]
        prompts.write_text("".join(f"{line}\n" for line in lines))
        for _ in range(options.repeats):
            for size in [*options.sizes.split(","), "auto"]:
                result = run(size, options, prompts, Path(name))
                rates.setdefault(size, []).append(result["tokens_per_second"])
                sys.stderr.write(f"{size}: {result}\n")
                auto = result if size == "auto" else auto
    means = {size: sum(values) / len(values) for size, values in rates.items()}
    best = max((size for size in means if size != "auto"), key=means.__getitem__)
    line = {
        "benchmark": "auto_batch",
        "ratio": round(means["auto"] / means[best], 3),
        "best_fixed": best,
        "auto_settled": auto["size"],
        "reason": auto["reason"],
        "tokens_per_second": {size: round(value, 1) for size, value in means.items()},
        **{name: value for name, value in vars(options).items() if name != "sizes"},
        "machine": f"{processes.usable_cores()} cores, {os.uname().machine}",
        "date": time.strftime("%Y-%m-%d"),
    }
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
