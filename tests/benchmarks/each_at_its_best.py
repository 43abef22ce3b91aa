"""rankdeck's engines on the same prompts, each at its own best batch size: the decode loop, continuous, vLLM; in turn.

    python -m tests.benchmarks.each_at_its_best [--case a|b|c] [--length natural|fixed] [--repeats 3]
        [--batch-sizes 16,32,64,100] [--sides generate,static,continuous,vllm] [--device cpu|cuda] [--ranks N]

Run it with a Python that has vLLM beside rankdeck (`make test-vllm` makes one, .venv-vllm/bin/python), else that side
is left out. `static` decodes by its own loop, which is a CUDA graph on a GPU and runs as it is on a CPU; `generate`
is the static engine by transformers' own `generate`. First each side runs once at each batch size, then all of them
take turns at the one at which they were fastest. Cases and figures are those of engines.py; the last line is one JSON
object, with `batch_size` of each side and `tuning`, its tokens/s at every size.
"""

import argparse
import dataclasses
from functools import partial
from typing import Any

from rankdeck.runner.inputs import vllm_package
from tests.benchmarks import sides

SIDES: dict[str, dict[str, Any]] = {
    "generate": {"engine": "static", "decoding": "generate"},
    "static": {"engine": "static"},
    "continuous": {"engine": "continuous"},
    "vllm": {"engine": "vllm"},
}


def missing_of(device: str) -> dict[str, str]:
    """Sides that cannot be had here, and why."""
    build = vllm_package.installed()
    if build is None:
        return {"vllm": "this Python has no vLLM"}
    return {} if build.device == device else {"vllm": f"this vLLM is {build}"}


def tuned(job: sides.Job, names: list[str], sizes: list[int], run: Any, wait: float) -> dict[str, dict[int, float]]:
    """Each side's tokens/s at each batch size, from one run each."""
    found: dict[str, dict[int, float]] = {name: {} for name in names}
    for name in names:
        for size in sizes:
            sides.busy_once_quiet(wait)
            found[name][size] = round(run({**SIDES[name], "batch_size": size})["tokens_per_second"], 1)
            sides.say(f"{name} at batch size {size}: {found[name][size]} tok/s")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sides.add_job_arguments(parser)
    parser.set_defaults(length=None)
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--batch-sizes", default="16,32,64,100")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    short = options.case == "a"
    options.length = options.length or ("fixed" if short else "natural")
    options.new_tokens = options.new_tokens or (50 if short else None)
    missing = missing_of(options.device)
    sizes = [int(size) for size in options.batch_sizes.split(",")]
    names = [name for name in options.sides.split(",") if name in SIDES and name not in missing]
    with sides.scratch() as folder:
        job = dataclasses.replace(sides.job_of(options, folder), device=options.device, dtype=options.dtype)
        run = partial(sides.rankdeck, job, folder=folder)
        tuning = tuned(job, names, sizes, run, options.wait)
        best = {name: max(rates, key=lambda size, rates=rates: rates[size]) for name, rates in tuning.items()}
        options.batch_size, options.tuning = best, tuning
        known = {name: partial(run, {**SIDES[name], "batch_size": best[name]}) for name in names}
        sides.compare("each_at_its_best", job, known, options, parser, missing)


if __name__ == "__main__":
    main()
