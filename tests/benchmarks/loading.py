"""Seconds from the command to the first batch, by engine and phase, beside a bare script and an earlier revision.

    python -m tests.benchmarks.loading [--repeats 5] [--ranks 2] [--engines static,continuous] [--baseline-ref main]
                                       [--cold]

Each round runs all sides once, the order turning, and each figure is the least of the rounds: the machine may be
shared, and nothing makes a start faster than it is. The bare script is one process that imports torch and
transformers and loads the demo model: no rank can be ready before. Each engine starts twice: first where nothing is
known of the model yet (`static, first start`), then with what that start has kept. `--cold` drops the weights from the
page cache before each run. The last line is one JSON object.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rankdeck.runner import run_directory
from rankdeck.runner.inputs import models
from rankdeck.runner.machine import processes
from rankdeck.runner.state.loading_time import LoadingTime, after

ROOT = Path(__file__).resolve().parents[2]
BARE = """
import os, sys, time
import torch, transformers
imported = time.time()
torch.set_num_threads(int(sys.argv[2]))
transformers.AutoTokenizer.from_pretrained(sys.argv[1])
transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
print(imported, time.time())
"""


def bare(model: str, options: argparse.Namespace) -> dict[str, float]:
    threads = str(max(1, processes.usable_cores() // options.ranks))
    began = time.time()
    done = subprocess.run([sys.executable, "-c", BARE, model, threads], capture_output=True, text=True, check=True)
    imported, loaded = (float(word) for word in done.stdout.split())
    return {"importing": imported - began, "loading": loaded - imported, "total": loaded - began}


def rankdeck(model: str, options: argparse.Namespace, tree: Path, engine: str, cache: Path) -> dict[str, float]:
    """One run of the revision in `tree`, as its journal tells it; `starting` is measured here, for all alike.

    `cache` is in the place of the user's, where findings on the model are kept.
    """
    with tempfile.TemporaryDirectory() as name:
        run_dir = Path(name) / "run"
        command = [sys.executable, "-P", "-c", "from rankdeck.tui.commands.cli import main; main()", "run"]
        command += [str(ROOT / "sample_prompts" / "stories.txt"), "--model", model, "--device", "cpu", "--plain"]
        command += ["--ranks", str(options.ranks), "--limit", str(options.ranks), "--batch-size", "1"]
        command += ["--max-new-tokens", "2", "--engine", engine, "--run-dir", str(run_dir)]
        began = time.time()
        environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "XDG_CACHE_HOME": str(cache)}
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True, cwd=tree)
        loading = LoadingTime()
        for event in run_directory.read_events(run_dir):
            loading = after(loading, event)
    starting = loading.began["model"] - began
    return {**loading.phases, "starting": starting, "total": starting + loading.seconds - _starting(loading)}


def first_start(model: str, options: argparse.Namespace, tree: Path, engine: str, cache: Path) -> dict[str, float]:
    """`rankdeck` with an empty `cache`."""
    shutil.rmtree(cache, ignore_errors=True)
    return rankdeck(model, options, tree, engine, cache)


def _starting(loading: LoadingTime) -> float:
    return loading.phases.get("starting", 0.0)


def forget(model: str) -> None:
    """Drop the model's weights from the page cache."""
    for path in Path(model).glob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def least(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The least of each phase, and of the whole: these need not add up."""
    return {phase: round(min(one[phase] for one in rounds), 2) for phase in rounds[0]}


def measure(sides: dict[str, Callable[[], dict[str, float]]], repeats: int, prepare: Callable[[], None]) -> dict:
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for repeat in range(repeats):
        names = list(sides)
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            prepare()
            rounds[name].append(sides[name]())
            sys.stderr.write(f"{repeat + 1}: {name} {rounds[name][-1]['total']:.2f} s\n")
    return {name: least(taken) for name, taken in rounds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--engines", default="static,continuous", help="with commas between them")
    parser.add_argument("--baseline-ref", help="a revision of this repository to measure as well")
    parser.add_argument("--cold", action="store_true", help="drop the weights from the page cache before each run")
    options = parser.parse_args()
    model = models.resolve("demo", lambda *_: None).path_or_id
    sides: dict[str, Callable[[], dict[str, float]]] = {"bare": lambda: bare(model, options)}
    prepare = (lambda: forget(model)) if options.cold else (lambda: None)
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name) / "baseline"
        for engine in options.engines.split(","):
            given = (model, options, ROOT, engine, Path(name) / engine)
            sides |= {f"{engine}, first start": partial(first_start, *given), engine: partial(rankdeck, *given)}
            if options.baseline_ref:
                sides[f"{engine}, baseline"] = partial(rankdeck, model, options, tree, engine, Path(name) / "before")
        if options.baseline_ref:
            subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, options.baseline_ref], cwd=ROOT,
                           check=True)  # fmt: skip
        try:
            figures = measure(sides, options.repeats, prepare)
        finally:
            if options.baseline_ref:
                subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)
    line = {
        "benchmark": "loading",
        "seconds": figures,
        **vars(options),
        "machine": f"{processes.usable_cores()} cores, {platform.machine()}",
        "date": time.strftime("%Y-%m-%d"),
    }
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
