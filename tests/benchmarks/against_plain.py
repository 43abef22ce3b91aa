"""rankdeck with its dashboard attached, against the plain accelerate script: same work, alternating, as a ratio.

    python -m tests.benchmarks.against_plain [--repeats 3] [--batch-size 16] [--new-tokens 50] [--fixed] [--defaults]

Same model, prompts, ranks, batch size and dtype. Without --defaults rankdeck also keeps the file's order and the
article's shares (`--order input --dispatch split`); with it, it runs as it would by itself. Both sides leave out
loading and warm-up. The last line is one JSON object.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runner import launcher, models
from tests.terminal import Terminal

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ROOT / "sample_prompts" / "stories.txt"


def plain(model: str, prompts: Path, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    config = folder / "accelerate.yaml"
    launcher.write_accelerate_config(config, options.ranks, on_cpu=True)
    command = launcher.accelerate_command(config, options.ranks, "tests.benchmarks.article", [])
    script = [str(ROOT / "tests/benchmarks/article.py"), model, str(prompts), str(options.batch_size)]
    script += [str(options.new_tokens), "fixed" if options.fixed else "natural"]
    command = [*command[: command.index("-m", 3)], *script]
    environment = launcher.rank_environment(os.environ, options.ranks, True, launcher.usable_cores())
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"prompts"')))


def rankdeck(model: str, prompts: Path, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    run_dir = folder / f"run-{time.monotonic_ns()}"
    command = [
        str(Path(sys.executable).with_name("rankdeck")),
        "run",
        str(prompts),
        "--model",
        model,
        "--device",
        "cpu",
    ]
    command += ["--ranks", str(options.ranks), "--batch-size", str(options.batch_size), "--run-dir", str(run_dir)]
    command += ["--max-new-tokens", str(options.new_tokens), *(["--ignore-eos"] if options.fixed else [])]
    command += [] if options.defaults else ["--order", "input", "--dispatch", "split"]
    if options.unwatched:
        subprocess.run([*command, "--plain"], check=True, stdout=subprocess.DEVNULL)
        return json.loads((run_dir / "run.json").read_text())["summary"]
    # The terminal itself is at the other end of an SSH line; only what it is sent costs this machine.
    with Terminal(command, columns=80, rows=24, emulate=False) as terminal:
        while not (run_dir / "run.json").exists() or '"summary": null' in (run_dir / "run.json").read_text():
            terminal.read(0.2)
        terminal.read(0.5)
        terminal.send("q")
        terminal.wait()
    return json.loads((run_dir / "run.json").read_text())["summary"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=50)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--fixed", action="store_true")
    parser.add_argument("--defaults", action="store_true")
    parser.add_argument("--unwatched", action="store_true", help="plain lines instead of the dashboard")
    options = parser.parse_args()
    model = models.resolve("demo", lambda *_: None).path_or_id
    ratios, rows = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts = folder / "prompts.txt"
        prompts.write_text("\n".join(PROMPTS.read_text().splitlines()[: options.limit]) + "\n")
        for repeat in range(options.repeats):
            sides = [plain, rankdeck] if repeat % 2 == 0 else [rankdeck, plain]
            result = {side.__name__: side(model, prompts, options, folder) for side in sides}
            rate = {name: one["tokens_per_second"] for name, one in result.items()}
            ratios.append(rate["rankdeck"] / rate["plain"])
            rows.append({name: round(value, 1) for name, value in rate.items()})
            sys.stderr.write(f"{repeat + 1}: plain {rate['plain']:.1f} tok/s, rankdeck {rate['rankdeck']:.1f}\n")
            assert options.fixed or result["plain"]["output_tokens"] == result["rankdeck"]["output_tokens"], result
    settings = {name: value for name, value in vars(options).items() if name != "repeats"}
    line = {
        "benchmark": "against_plain",
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "tokens_per_second": rows,
        **settings,
        "machine": f"{launcher.usable_cores()} cores, {platform.machine()}",
        "date": time.strftime("%Y-%m-%d"),
    }
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
