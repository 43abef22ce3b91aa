"""One GPU, one command, under ten minutes: what rankdeck does there beside the article's way, as JSON lines.

    python -m tests.benchmarks.on_gpu [--sizes 7B,1B] [--budget 560] [--out FILE]
    python -m tests.benchmarks.on_gpu --tiny --device cpu        every path of this script, on a CPU, in two minutes

Models of Llama's shape with random weights in bfloat16 (random_model.py), fixed length. Cases: the article's script at
batch size 16 on one rank; rankdeck static and continuous at each of `--batch-sizes` with each of `--ranks`, all ranks
on the one GPU. Every case has `--rounds` full batches per rank, so compare tokens/s between batch sizes, not seconds.
The most telling cases come first. A case is begun only if the budget has room for it; what is skipped says why.

Each result is a line as soon as it is there, also in `--out`. Of a run of rankdeck it has: tokens/s; tokens per joule
(NVML's energy counter over the same seconds); MBU as a sweep has it; means of NVML and GPM figures from the journal
between first batch and last result, beside nvidia-smi's own (nvidia_smi.py). The last line has everything.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from rankdeck.runner import run_directory
from rankdeck.runner.protocol import AccountClosed, BatchFinished, BatchStarted, DeviceSample, Output, RankReady, Tick
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.supervisor.peak_bandwidth import peak_bandwidth
from rankdeck.runner.supervisor.trial_meter import TrialMeter
from tests.benchmarks import nvidia_smi, random_model, sides
from tests.benchmarks.nvidia_smi import NvidiaSmi

FIGURES = ("busy_percent", "memory_used_bytes", "power_watts", "sm_clock_mhz")
GPM_FIGURES = ("sm_percent", "occupancy_percent", "tensor_percent", "dram_percent")
PROMPT_TOKENS = 48
"""Of the longest of the short prompts, at most, in the tokenizer of these models."""

ROOM = 0.85
"""Of the device's memory: a case that is estimated to need more is skipped."""

SHARED_GPU = "ranks_per_gpu" in {field.name for field in msgspec.structs.fields(RunConfig)}


@dataclass(frozen=True)
class Case:
    """One line of the result; `engine` is rankdeck's, or `article` for the plain script."""

    size: str
    engine: str
    batch_size: int
    ranks: int

    def prompts(self, rounds: int) -> int:
        return self.batch_size * self.ranks * rounds


class Lines:
    """JSON lines to stdout, and to a file as well where one is named; each is out before the next case begins."""

    def __init__(self, path: Path | None) -> None:
        self._file = path.open("w", encoding="utf-8") if path is not None else None

    def write(self, line: dict[str, Any]) -> None:
        for target in filter(None, (sys.stdout, self._file)):
            target.write(json.dumps(line) + "\n")
            target.flush()


def cases(sizes: Sequence[str], batch_sizes: Sequence[int], ranks: Sequence[int]) -> list[Case]:
    """All of them: one rank before several, and of several the most before the others."""
    engines = [engine for engine in ("static", "continuous") if engine in sides.engines()]
    planned = [Case(size, "article", 16, 1) for size in sizes]
    for count in sorted(ranks, key=lambda count: (count > 1, -count)):
        planned += [Case(size, engine, rows, count) for size in sizes for engine in engines for rows in batch_sizes]
    return planned


def memory_estimate(case: Case, new_tokens: int) -> float:
    """Bytes on the device: each rank's weights, keys and values, and a quarter of these for what is copied about."""
    cache = case.batch_size * (PROMPT_TOKENS + new_tokens) * random_model.kv_bytes_per_token(case.size)
    return case.ranks * (2 * random_model.parameters(case.size) + 1.25 * cache)


@contextlib.contextmanager
def model_folder() -> Iterator[Path]:
    """Where models of some 16 GB are kept: in memory if there is room, else on the disk."""
    shared = Path("/dev/shm")
    roomy = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 40e9
    with tempfile.TemporaryDirectory(prefix="rankdeck-models-", dir=shared if roomy else None) as name:
        yield Path(name)


def make_model(folder: Path, size: str, options: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own, so that this one never holds the device."""
    command = [sys.executable, "-m", "tests.benchmarks.random_model", str(folder / size), "--size", size]
    done = subprocess.run(
        [*command, "--device", options.device, "--dtype", options.dtype], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"the {size} model could not be made: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_case(
    case: Case, model: dict[str, Any], options: argparse.Namespace, folder: Path, seconds: float
) -> dict[str, Any]:
    """The case's figures; `seconds` is how long it may take at most."""
    count = case.prompts(options.rounds)
    stories = sides.STORIES.read_text(encoding="utf-8").splitlines()
    prompts = folder / f"prompts-{count}.txt"
    prompts.write_text("".join(f"{stories[number % len(stories)]}\n" for number in range(count)), encoding="utf-8")
    job = sides.Job(
        model=model["folder"],
        prompts=prompts,
        new_tokens=options.new_tokens,
        fixed=True,
        ranks=case.ranks,
        device=options.device,
        dtype=options.dtype,
    )
    with NvidiaSmi(folder / f"smi-{time.monotonic_ns()}.csv") as smi:
        if case.engine == "article":
            figures = sides.script(job, "article.py", folder, "--batch-size", str(case.batch_size), seconds=seconds)
            ended = figures.pop("ended_at")
            means = nvidia_smi.means(smi.samples(), ended - figures["seconds"], ended)
            return figures | {"nvidia_smi": means | per_joule(figures, means)}
        settings: dict[str, Any] = {"engine": case.engine, "batch_size": case.batch_size}
        if SHARED_GPU and options.device == "cuda":
            settings["ranks_per_gpu"] = case.ranks
        summary = sides.rankdeck(job, settings, folder, seconds=seconds)
        # Its line for the last moment is not written yet.
        time.sleep(nvidia_smi.EVERY_MS / 1000)
        samples = smi.samples()
    directory = Path(summary.pop("directory"))
    summary.pop("ranks")
    told = from_journal(directory, samples, model["copy_bytes_per_second"])
    told["nvidia_smi"] |= per_joule(summary, told["nvidia_smi"])
    return summary | told


Account = tuple[BatchFinished | AccountClosed, float]
"""What a rank said of a batch or a stint, and when that began."""


def per_joule(figures: dict[str, Any], means: dict[str, float]) -> dict[str, float]:
    """Output tokens per joule by nvidia-smi's power, where it has one."""
    watts = means.get("power_watts")
    return {"tokens_per_joule": round(figures["tokens_per_second"] / watts, 4)} if watts else {}


def from_journal(directory: Path, samples: Sequence[nvidia_smi.Sample], copied: float) -> dict[str, Any]:
    """What the run's events say of its devices, beside what nvidia-smi said meanwhile."""
    ready: dict[int, RankReady] = {}
    begun: dict[int, float] = {}
    finished: list[Account] = []
    ticks: list[tuple[float, list[DeviceSample]]] = []
    first = last = 0.0
    for event in run_directory.read_events(directory):
        if isinstance(event, RankReady):
            ready[event.rank] = event
        elif isinstance(event, BatchStarted):
            first = first or event.at
            begun[event.batch] = event.at
        elif isinstance(event, BatchFinished | AccountClosed):
            finished.append((event, begun.get(event.batch, event.at)))
            begun[event.batch] = last = event.at  # a continuous rank's next stint begins where this one ended
        elif isinstance(event, Output):
            last = event.at
        elif isinstance(event, Tick) and event.devices:
            ticks.append((event.at, event.devices))
    inside = [(at, devices) for at, devices in ticks if first <= at <= last]
    ranks = list(ready.values())
    meter = TrialMeter(ranks, first)
    for event, at in finished:
        meter.add_batch(event.rank, at, event.at, event.result)
    for at, devices in inside:
        meter.add_samples(at, devices)
    peak, source = peak_bandwidth(ranks)
    peak, source = (peak, source) if peak is not None else (copied, "measured by a copy")
    result = meter.result({rank.rank: peak for rank in ranks}) if all_have_worked(ranks, finished) else None
    seen = [devices[0] for _, devices in inside]
    # Of rows that come and go the accounts do not say how long they were: what the cache had to be read for is unknown.
    continuous = any(rank.engine == "continuous" for rank in ranks)
    return {
        "mbu": result.mbu if result and not continuous else None,
        "bandwidth_source": source,
        "tokens_per_joule": result.tokens_per_joule if result else None,
        "peak_memory_bytes": result.peak_memory_bytes if result else None,
        "journal": mean_of(seen, FIGURES) | ({"samples": len(seen)} if seen else {}),
        "gpm": mean_of(seen, GPM_FIGURES),
        "unavailable": seen[-1].unavailable if seen else {},
        "nvidia_smi": nvidia_smi.means(samples, first, last),
    }


def all_have_worked(ranks: Sequence[RankReady], finished: Sequence[Account]) -> bool:
    """Whether every rank has finished a batch: a meter divides by what each did."""
    return bool(ranks) and {rank.rank for rank in ranks} <= {event.rank for event, _ in finished}


def mean_of(samples: Sequence[DeviceSample], names: Sequence[str]) -> dict[str, float]:
    found = {}
    for name in names:
        values = [value for sample in samples if (value := getattr(sample, name)) is not None]
        if values:
            found[name] = round(statistics.fmean(values), 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny models and batches: a test of this script")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--sizes", help=f"some of {','.join(random_model.SHAPES)}  [default: 7B,1B]")
    parser.add_argument("--batch-sizes", help="[default: 16,64,256]")
    parser.add_argument("--ranks", help="[default: 1,2,4]")
    parser.add_argument("--new-tokens", type=int, help="[default: 100]")
    parser.add_argument("--rounds", type=int, default=2, help="full batches per rank")
    parser.add_argument("--budget", type=float, default=560, help="seconds after which no case is begun")
    parser.add_argument("--case-seconds", type=float, default=150, help="a case that takes longer is given up")
    parser.add_argument("--out", type=Path, help="a file for the lines as well")
    options = parser.parse_args()
    defaults = ("tiny", "4,8", "1,2", 8) if options.tiny else ("7B,1B", "16,64,256", "1,2,4", 100)
    for name, default in zip(("sizes", "batch_sizes", "ranks", "new_tokens"), defaults, strict=True):
        setattr(options, name, getattr(options, name) or default)
    began = time.monotonic()
    lines = Lines(options.out)
    results: list[dict[str, Any]] = []
    models: dict[str, dict[str, Any]] = {}
    longest: dict[str, float] = {}
    planned = cases(
        options.sizes.split(","),
        [int(number) for number in options.batch_sizes.split(",")],
        [int(number) for number in options.ranks.split(",")],
    )
    with sides.scratch() as folder, model_folder() as kept:
        for case in planned:
            line: dict[str, Any] = {"case": msgspec.to_builtins(case), "prompts": case.prompts(options.rounds)}
            left = options.budget - (time.monotonic() - began)
            case_began = time.monotonic()
            # One more of this size takes what the longest of them took; of a size not yet seen nothing is known.
            if left <= longest.get(case.size, 0.0):
                line["skipped"] = f"{max(0.0, left):.0f} s of the budget are left"
            else:
                try:
                    if case.size not in models:
                        models[case.size] = make_model(kept, case.size, options) | {"folder": str(kept / case.size)}
                        lines.write({"model": models[case.size]})
                        case_began = time.monotonic()
                    memory = models[case.size]["memory_bytes"]
                    needed = memory_estimate(case, options.new_tokens)
                    if memory is not None and needed > ROOM * memory:
                        line["skipped"] = f"needs some {needed / 1e9:.0f} of {memory / 1e9:.0f} GB"
                    else:
                        allowed = min(options.case_seconds, left + 30)
                        line |= run_case(case, models[case.size], options, folder, allowed)
                except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                    line["error"] = str(error)[-1500:]
                    sides.end_supervisors(folder)
                longest[case.size] = max(longest.get(case.size, 0.0), time.monotonic() - case_began)
            line["took_seconds"] = round(time.monotonic() - case_began, 1)
            results.append(line)
            lines.write(line)
    everything = {"benchmark": "on_gpu", "results": results, "models": models, **vars(options)}
    everything |= {"out": str(options.out), "seconds": round(time.monotonic() - began, 1)}
    lines.write(everything | {"length": "fixed length", "date": time.strftime("%Y-%m-%d")})


if __name__ == "__main__":
    main()
