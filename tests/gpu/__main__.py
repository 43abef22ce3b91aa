"""`make gpu`: every test marked `gpu`, then the benchmark, within a budget of seconds, on a machine without network.

    python -m tests.gpu [--out FOLDER] [--budget SECONDS] [--steps NAME,NAME] [--device cpu]
    python -m tests.gpu --kit [--python-version 3.12] [--platform aarch64]
                                          pack what a bare machine lacks into .gpu-kit/
    python -m tests.gpu --ship FOLDER     make the recordings in a folder of results rankdeck's own

The steps and their order are in plan.py. Without a GPU the same steps are done with tiny models on the CPU. Models are
of Llama's shape with random weights, made on the device, in memory where there is room for it; every length is fixed.
What is missing on this machine, or keeps torch from its GPUs, is said before anything slow is begun.

Results are in FOLDER as soon as they are there: results.jsonl (a line for the machine, each model, the tests, each
case), tests.txt (what pytest said), summary.md, log.txt (of what went wrong), and two recordings, recording-run/ and
recording-sweep/. The end of stdout is the summary. Exit status: 0; 1 if a test failed or a step went wrong; 2 if it
could not begin.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from tests.gpu import plan, requirements
from tests.gpu.plan import Step, Taken
from tests.gpu.requirements import RequirementError

MARKED = "tests/gpu/marked"
ROOM_FOR_MODELS = 20e9
"""Bytes: of 7 and of 1 billion parameters in bfloat16, and some to spare."""


class Lines:
    """The results, each written down before the next step begins."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self.all: list[dict[str, Any]] = []

    def write(self, line: dict[str, Any]) -> None:
        """Write a line of results.jsonl, and the summary of all so far."""
        from tests.gpu.summary import summary

        self.all.append(line)
        with (self._out / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        (self._out / "summary.md").write_text(summary(self.all), encoding="utf-8")


class Run:
    """One `make gpu`: the clock, the results, and the steps that are over."""

    def __init__(
        self, out: Path, budget: float, device: str, gpus: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.lines = Lines(out)
        self.out, self.device, self.gpus = out, device, gpus
        self._clock, self._budget = clock, budget
        self._began = clock()
        self._taken: list[Taken] = []
        self._models: dict[str, Any] = {}
        self.went_wrong = False

    @property
    def left(self) -> float:
        return self._budget - (self._clock() - self._began)

    def go(self, steps: list[Step], folder: Path, models: Path) -> None:
        """Do the steps that there is time for."""
        from tests.gpu.bench import Bench, StepError
        from tests.gpu.launches import keep_text
        from tests.gpu.machine import first_gpu

        on_gpu = self.device == "cuda"
        bench = Bench(
            folder=folder,
            models=models,
            out=self.out,
            device=self.device,
            gpus=self.gpus,
            gpu=first_gpu(),
            dtype="bfloat16" if on_gpu else "float32",
            new_tokens=100 if on_gpu else 8,
            least_seconds=10.0 if on_gpu else 0.0,
        )
        for step in steps:
            with_model = bool(step.size) and step.size not in self._models
            if why := plan.why_not_begun(step, self.left, self._taken, with_model=with_model):
                self._skip(step, why)
                continue
            say(f"{step.name} … ({self.left:.0f} s left)")
            try:
                self._do(bench, step)
            except Exception as error:  # whatever it is: the machine may be lent for these minutes only
                self.went_wrong = True
                said = str(error) if isinstance(error, StepError) else f"{type(error).__name__}: {error}"
                self.lines.write({"step": step.name, "error": said[-2000:]})
                keep_text(self.out, step.name, traceback.format_exc())
                say(f"{step.name}: {said[-2000:]}")

    def _do(self, bench: Any, step: Step) -> None:
        from tests.gpu import measure
        from tests.gpu.bench import why_not_here

        if step.kind == "tests":
            with self._timed(step) as seconds:
                self._test(bench.folder, seconds)
            return
        model = self._model(bench, step.size)
        why = why_not_here(bench, step, model) if model else f"there is no {step.size} model"
        # Making the model may have taken longer than planned.
        if why := why or plan.why_not_begun(step, self.left, self._taken, with_model=False):
            self._skip(step, why)
            return
        with self._timed(step) as seconds:
            measure.KINDS[step.kind](bench, step, model, seconds, self._case)

    def _model(self, bench: Any, size: str) -> Any:
        """The model of this size, made when it is first asked for; None if that went wrong: it is not tried again."""
        from tests.gpu.bench import make_model

        if size not in self._models:
            self._models[size] = None
            self._models[size], said = make_model(bench, size, plan.allowed_for_model(size, self.left))
            self.lines.write({"model": said})
        return self._models[size]

    @contextlib.contextmanager
    def _timed(self, step: Step) -> Iterator[float]:
        """The seconds after which the step times out; what it took is kept for later steps of its kind."""
        began, went_wrong = self._clock(), True
        try:
            yield plan.allowed(step, self.left, self._taken)
            went_wrong = False
        finally:
            self._taken.append(Taken(step, self._clock() - began, went_wrong))
            self.lines.write({"step": step.name, "took_seconds": round(self._taken[-1].seconds, 1)})

    def _skip(self, step: Step, why: str) -> None:
        self.lines.write({"step": step.name, "skipped": why})
        say(f"{step.name}: skipped: {why}")

    def _case(self, line: dict[str, Any]) -> None:
        self.lines.write(line)
        if rate := line.get("tokens_per_second"):
            say(f"  {line['case']}: {rate:,.1f} tok/s")

    def _test(self, folder: Path, seconds: float) -> None:
        """The tests marked gpu. A test that fails stops nothing."""
        report = self.out / "tests.txt"
        command = [sys.executable, "-m", "pytest", MARKED, "-m", "gpu", "-v", "-p", "no:cacheprovider"]
        command += ["--durations=0", "--durations-min=1", f"--basetemp={folder / 'tests'}"]
        with report.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=requirements.ROOT,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait(seconds)
            except BaseException as error:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                status = -1
            finally:
                end_supervisors(folder / "tests")
        told = report.read_text(errors="replace")
        failures = re.findall(r"^(?:FAILED|ERROR) .*", told, re.MULTILINE)
        last = told.strip().splitlines()[-1].strip("= ") if told.strip() else "pytest said nothing"
        outcome = last if status >= 0 else f"timed out after {seconds:.0f} s: see tests.txt"
        # 5 is pytest's own for nothing collected.
        self.went_wrong = self.went_wrong or status != 0
        self.lines.write({"tests": {"outcome": outcome, "status": status, "failures": failures}})
        say(f"  {outcome}")


def end_supervisors(folder: Path) -> None:
    """End the supervisors of tests that were killed: they outlive pytest."""
    from rankdeck.runner import run_directory

    for run_file in folder.glob(f"**/{run_directory.RUN_FILE}"):
        with contextlib.suppress(run_directory.RunFileError, ProcessLookupError):
            pid = run_directory.read_run_file(run_file.parent).supervisor_pid
            if pid is not None and run_directory.supervisor_alive(run_file.parent):
                os.kill(pid, signal.SIGTERM)


@contextlib.contextmanager
def folders() -> Iterator[tuple[Path, Path]]:
    """A folder for runs and one for models; models of some 16 GB are in memory if there is room, else on the disk."""
    shared = Path("/dev/shm")
    roomy = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > ROOM_FOR_MODELS
    with (
        tempfile.TemporaryDirectory(prefix="rankdeck-gpu-", ignore_cleanup_errors=True) as runs,
        tempfile.TemporaryDirectory(prefix="rankdeck-models-", dir=shared if roomy else None) as models,
    ):
        os.environ["XDG_STATE_HOME"] = str(Path(runs) / "state")
        os.environ["XDG_CONFIG_HOME"] = str(Path(runs) / "config")
        os.environ["HF_HUB_OFFLINE"] = "1"
        if shutil.disk_usage(models).free < ROOM_FOR_MODELS:
            say(f"{models} has less than {ROOM_FOR_MODELS / 1e9:.0f} GB free: a large model may not fit there")
        yield Path(runs), Path(models)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _terminated(*_: object) -> NoReturn:
    raise SystemExit(1)


def benchmark(options: argparse.Namespace) -> int:
    """Run the steps; the exit status."""
    from rankdeck.runner.machine import telemetry
    from tests.gpu import machine

    gpus = 0 if options.device == "cpu" else telemetry.count_visible_gpus(os.environ)
    device = "cuda" if gpus else "cpu"
    if options.device == "cuda" and not gpus:
        raise RequirementError(f"no GPU: {telemetry.why_no_gpu(os.environ)}")
    steps = plan.select(options.steps.split(",") if options.steps else None, gpus)
    if not gpus:
        steps = [plan.with_tiny_models(step) for step in steps]
    budget = options.budget or plan.budget(gpus)
    run = Run(options.out, budget, device, gpus)
    facts = machine.look(device)
    if gpus and (odd := machine.check_torch(facts)):
        say(odd)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ("results.jsonl", "log.txt"):
        (options.out / name).unlink(missing_ok=True)
    run.lines.write({"machine": machine.words(facts, device, gpus)})
    signal.signal(signal.SIGTERM, _terminated)
    try:
        with folders() as (folder, models):
            run.go(steps, folder, models)
    finally:
        say("\n" + (options.out / "summary.md").read_text(encoding="utf-8"))
        say(f"{budget - run.left:.0f} of {budget:.0f} s; everything is in {options.out}")
    return 1 if run.went_wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="the folder of the results")
    seconds = f"{plan.BUDGET:.0f}; {plan.BUDGET_ON_SEVERAL:.0f} on several GPUs, {plan.BUDGET_WITHOUT_GPU:.0f} on none"
    parser.add_argument("--budget", type=float, help=f"seconds  [default: {seconds}]")
    parser.add_argument("--steps", help="only these, by name")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="[default: cuda if there is a GPU]")
    parser.add_argument("--kit", action="store_true", help="pack .gpu-kit/; needs a network")
    parser.add_argument("--python-version", default="3.12", help="the Python that --kit packs for")
    parser.add_argument("--platform", choices=tuple(requirements.PLATFORMS), default="x86_64", help="of that machine")
    parser.add_argument("--ship", type=Path, metavar="FOLDER", help="ship the recordings of these results")
    options = parser.parse_args()
    requirements.use_this_checkout()
    try:
        if options.kit:
            size = requirements.pack(options.python_version, options.platform)
            say(f"{requirements.KIT}: {size / 1e6:.1f} MB for Python {options.python_version} on {options.platform}")
            return 0
        with tempfile.TemporaryDirectory(prefix="rankdeck-kit-") as installed:
            if requirements.missing(requirements.PACKED) and requirements.KIT.is_dir():
                requirements.install_kit(Path(installed))
            requirements.check()
            if options.ship is not None:
                return ship(options.ship)
            return benchmark(options)
    except (RequirementError, ValueError) as error:
        say(str(error))
        return 2


def ship(results: Path) -> int:
    from tests.gpu import recording

    for place in recording.ship(results):
        say(f"{place} now comes from {results}")
    say("set the seconds in docs/pictures.py to moments of the new run, then: make pictures")
    say("tests/tui/report and tests/tui/sources/test_replay.py contain figures of the sample: update them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
