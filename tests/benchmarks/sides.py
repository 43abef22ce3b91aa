"""What benchmarks with several sides share: the work, a plain script's and rankdeck's way to do it, the last line.

A side gets the same prompts, model, precision and length as every other, and gives its own figures: output tokens
(no padding), seconds of generating (no loading, no warm-up) and their ratio. Sides take turns in beginning.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from rankdeck.runner import run_directory, start
from rankdeck.runner.inputs import models
from rankdeck.runner.launching.accelerate import write_accelerate_config
from rankdeck.runner.launching.environment import rank_environment
from rankdeck.runner.machine import processes
from rankdeck.runner.protocol import config
from tests.benchmarks import mixed
from tests.terminal import Terminal

ROOT = Path(__file__).resolve().parents[2]
STORIES = ROOT / "sample_prompts" / "stories.txt"
BENCHMARKS = Path(__file__).parent
RANKDECK = [sys.executable, "-c", "from rankdeck.tui.commands.cli import main; main()"]

View = Literal["plain", "dashboard", "nobody"]
"""Who watches a run: lines in a log, the dashboard on a terminal, or no process at all."""

TOLERANCE = 0.02
"""Of all output tokens, at natural length: one answer that goes another way may be 200 tokens longer."""

QUIET = 0.1
"""Of all cores' time: what a machine's own housekeeping may take."""

QUIET_SECONDS = 2.0

Figures = dict[str, Any]
"""At least prompts, output_tokens, seconds, tokens_per_second and wall_seconds, as JSON has them."""


@dataclass(frozen=True)
class Job:
    """The work that is the same on every side."""

    model: str
    prompts: Path
    new_tokens: int
    fixed: bool = False
    chat: bool = False
    ranks: int = 2
    device: str = "cpu"
    dtype: str = "float32"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for prompts and runs. What is started meanwhile runs this checkout, and adds no run to the user's."""
    with tempfile.TemporaryDirectory(prefix="rankdeck-benchmark-", ignore_cleanup_errors=True) as name:
        paths = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
        os.environ |= {"PYTHONPATH": paths, "XDG_STATE_HOME": str(Path(name) / "state")}
        try:
            yield Path(name)
        finally:
            end_supervisors(Path(name))


def end_supervisors(folder: Path) -> None:
    """Runs that took too long outlive the command that was watching them."""
    for directory in folder.glob("run-*"):
        with contextlib.suppress(run_directory.RunFileError, ProcessLookupError):
            pid = run_directory.read_run_file(directory).supervisor_pid
            if pid is not None and run_directory.supervisor_alive(directory):
                os.kill(pid, signal.SIGTERM)


def demo_model() -> str:
    """The demo model's folder."""
    return models.resolve("demo", lambda *_: None).path_or_id


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """What is asked of all sides alike."""
    said = "a: 100 short prompts; b: 200 mixed ones; c: 200 questions after one passage of some 400 tokens"
    parser.add_argument("--case", choices=("a", "b", "c"), default="a", help=said)
    parser.add_argument("--length", choices=("natural", "fixed"), default="natural")
    parser.add_argument("--new-tokens", type=int, help="at most  [default: 100, in case b 200, in case c 50]")
    parser.add_argument("--limit", type=int, help="only the first so many prompts")
    parser.add_argument("--ranks", type=int, default=min(2, processes.usable_cores()))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--wait", type=float, default=0, help="seconds, at most, for a quiet machine before each side")


def job_of(options: argparse.Namespace, folder: Path) -> Job:
    """The work of `add_job_arguments`; its prompts are written into `folder`."""
    if options.case == "a":
        lines = STORIES.read_text(encoding="utf-8").splitlines()
        prompts = folder / "stories.txt"
        prompts.write_text("".join(f"{line}\n" for line in lines[: options.limit]), encoding="utf-8")
    else:
        prompts = folder / "prompts.jsonl"
        texts = mixed.prompts() if options.case == "b" else mixed.about_one_passage()
        mixed.write(prompts, texts[: options.limit])
    options.new_tokens = options.new_tokens or {"a": 100, "b": 200, "c": 50}[options.case]
    return Job(
        model=demo_model(),
        prompts=prompts,
        new_tokens=options.new_tokens,
        fixed=options.length == "fixed",
        chat=options.case != "a",
        ranks=options.ranks,
    )


def script(job: Job, name: str, folder: Path, *arguments: str, seconds: float | None = None) -> Figures:
    """A script of this folder under `accelerate launch`, with rankdeck's threads and backend: as its article has it, by
    way of torchrun.

    It is told the job and `arguments`, and prints its figures as a line of JSON. After `seconds` it is given up.
    """
    on_cpu = job.device == "cpu"
    config_file = folder / f"accelerate-{job.ranks}.yaml"
    write_accelerate_config(config_file, on_cpu)  # of one process: the flags say how many there are
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config_file)]
    command += ["--num_machines", "1", "--num_processes", str(job.ranks)]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--multi_gpu", "--main_process_port", "0"] if job.ranks > 1 else []
    command += [str(BENCHMARKS / name), job.model, str(job.prompts)]
    command += ["--new-tokens", str(job.new_tokens), "--dtype", job.dtype, *arguments]
    command += [*(["--fixed"] if job.fixed else []), *(["--chat"] if job.chat else [])]
    cores = processes.usable_cores()
    environment = rank_environment(os.environ, job.ranks, on_cpu, cores, expandable_segments=False)
    return printed_figures(command, environment, seconds)


def printed_figures(command: Sequence[str], environment: Mapping[str, str], seconds: float | None = None) -> Figures:
    """What a side's command says of itself, with the seconds of the whole command."""
    began = time.monotonic()
    done = finished(command, environment, seconds)
    line = next(line for line in done.stdout.splitlines() if line.startswith('{"prompts"'))
    return json.loads(line) | {"wall_seconds": round(time.monotonic() - began, 1)}


def finished(
    command: Sequence[str], environment: Mapping[str, str] | None = None, seconds: float | None = None
) -> "subprocess.CompletedProcess[str]":
    """The command, at its end; one that fails says all that it said.

    Raises:
        RuntimeError: it failed.
        subprocess.TimeoutExpired: it took longer, and was ended; a supervisor that it started goes on.
    """
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        raise
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{out}{err}")
    return subprocess.CompletedProcess(command, 0, out, err)


def has_package(python: str, name: str) -> bool:
    """Whether this Python is there, and has a package of this name."""
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is None)"
    try:
        return subprocess.run([python, "-I", "-c", look], capture_output=True).returncode == 0
    except OSError:
        return False


def rankdeck(
    job: Job, settings: Mapping[str, Any], folder: Path, view: View = "plain", seconds: float | None = None
) -> Figures:
    """A run of rankdeck: its run.json's summary, and its `directory`. `settings` are RunConfig's.

    Its seconds go from the first batch handed out to the last result in; the dashboard's start-up is part of no side.
    """
    run_dir = folder / f"run-{time.monotonic_ns()}"
    asked: dict[str, Any] = {"model": job.model, "device": job.device, "dtype": job.dtype, "ranks": job.ranks}
    asked |= {"max_new_tokens": job.new_tokens, "ignore_eos": job.fixed, "chat": job.chat, **settings}
    began = time.monotonic()
    if view == "nobody":
        started = start.launch(config.from_mapping({"prompts": str(job.prompts), **asked}), run_dir=run_dir)
        started.process.wait()
    else:
        command = [*RANKDECK, "run", str(job.prompts), "--run-dir", str(run_dir), *flags(asked)]
        if view == "plain":
            finished([*command, "--plain"], seconds=seconds)
        else:
            _on_a_terminal(command, run_dir)
    run = json.loads((run_dir / "run.json").read_text())
    summary = run["summary"]
    if summary is None or summary["failed"]:
        raise RuntimeError(f"rankdeck's run went wrong: {run['cause'] or summary}")
    prefill = round(sum(account["prefill_seconds"] for account in accounts(run_dir)) / job.ranks, 2)
    wall = round(time.monotonic() - began, 1)
    return summary | {"prefill_seconds": prefill, "wall_seconds": wall, "directory": str(run_dir)}


def accounts(run_dir: Path) -> Iterator[dict[str, Any]]:
    """The accounts of a run's batches."""
    with (run_dir / "events.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            event = json.loads(line)
            if event["type"] in ("batch_finished", "stint_finished"):
                yield event["result"]


def _on_a_terminal(command: Sequence[str], run_dir: Path) -> None:
    # The terminal itself is at the other end of an SSH line; only what it is sent costs this machine.
    with Terminal(command, columns=80, rows=24, emulate=False) as terminal:
        while _goes_on(run_dir / "run.json") and terminal.read(0.2):
            pass
        terminal.read(0.5)
        with contextlib.suppress(OSError):  # it ended before it was told to
            terminal.send("q")
        terminal.wait()


def _goes_on(run_file: Path) -> bool:
    return not run_file.exists() or json.loads(run_file.read_text())["status"] == "running"


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the command line has them."""
    said: list[str] = []
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            said.append(flag)
        elif value is not False and value is not None:
            said += [flag, str(value)]
    return said


def compare(
    benchmark: str,
    job: Job,
    known: Mapping[str, Callable[[], Figures]],
    options: argparse.Namespace,
    parser: argparse.ArgumentParser,
    missing: Mapping[str, str] | None = None,
) -> None:
    """Sides that `--sides` names do the job in turn; the last line has them as ratios over the first of them.

    `missing` are sides that cannot be had here, each with its reason: they are left out, and the talk says so.
    """
    missing = missing or {}
    asked = options.sides.split(",")
    if unknown := [name for name in asked if name not in {*known, *missing}]:
        parser.error(f"--sides: {unknown[0]!r} is none of {', '.join([*known, *missing])}")
    for name in missing:
        if name in asked:
            say(f"left out: {name}: {missing[name]}")
    here = [name for name in asked if name not in missing]
    if not here:
        parser.error(f"--sides: {asked[0]} cannot be had here")
    done = rounds(
        {name: known[name] for name in here},
        options.repeats,
        lambda figures: check_same_work(figures, job, TOLERANCE),
        options.wait,
    )
    settings = {name: value for name, value in vars(options).items() if name != "sides"}
    others = {name: compared(done, name)["ratio"] for name in here[1:]}
    finish(benchmark, **compared(done, here[0]), base=here[0], ratio_over=others, **settings)


def rounds(
    sides: Mapping[str, Callable[[], Figures]],
    repeats: int,
    look: Callable[[Mapping[str, Figures]], None] = lambda _: None,
    wait: float = 0,
) -> list[dict[str, Figures]]:
    """Every side's figures, `repeats` times, each time another one first; `look` may refuse a round.

    Before each side it waits for the machine to be quiet, up to `wait` seconds; `busy_before` is what it found.
    """
    done = []
    names = list(sides)
    for repeat in range(repeats):
        turn = repeat % len(names)
        figures = {}
        for name in names[turn:] + names[:turn]:
            busy = busy_once_quiet(wait)
            one = figures[name] = {**sides[name](), "busy_before": busy}
            rate = f"{one['tokens_per_second']:.1f} tok/s, {one['output_tokens']:,} tokens in {one['seconds']:.1f} s"
            say(f"{repeat + 1}/{repeats} {name}: {rate} ({busy:.0%} busy before)")
        look(figures)
        done.append({name: figures[name] for name in names})
    return done


def busy_once_quiet(wait: float) -> float:
    """The share of all cores that was busy for the last seconds, as soon as it is small; after `wait` whatever it is.

    Threads that spin while they wait, as llama.cpp's do, lose far more to other processes than threads that sleep.
    """
    deadline = time.monotonic() + wait
    while (busy := psutil.cpu_percent(QUIET_SECONDS) / 100) > QUIET and time.monotonic() < deadline:
        pass
    return busy


def check_same_work(figures: Mapping[str, Figures], job: Job, tolerance: float) -> None:
    """Every side answered every prompt, with as many tokens as the first: exactly so where the length is fixed.

    At natural length an answer may go another way: the shape of a batch changes how floats are rounded, and greedy
    decoding takes the other of two words that are as good. `tolerance` is the share of tokens that may differ.
    """
    (first, *others) = figures
    for other in others:
        ours, theirs = figures[other], figures[first]
        prompts = [one.get("completed", one["prompts"]) for one in (ours, theirs)]
        assert prompts[0] == prompts[1], f"{other} answered {prompts[0]} prompts, {first} {prompts[1]}"
        allowed = 0 if job.fixed else tolerance * theirs["output_tokens"]
        apart = abs(ours["output_tokens"] - theirs["output_tokens"])
        assert apart <= allowed, (
            f"{other} has {ours['output_tokens']} output tokens, {first} {theirs['output_tokens']}: not the same work"
        )


def compared(done: Sequence[Mapping[str, Figures]], base: str) -> dict[str, Any]:
    """Of several rounds: each side's tokens/s over `base`'s of the same round, their median, and the rates."""
    names = list(done[0])
    rate = {name: [one[name]["tokens_per_second"] for one in done] for name in names}
    ratios = {
        name: [ours / theirs for ours, theirs in zip(rate[name], rate[base], strict=True)]
        for name in names
        if name != base
    }
    return {
        "ratio": {name: round(statistics.median(values), 3) for name, values in ratios.items()},
        "ratios": {name: [round(value, 3) for value in values] for name, values in ratios.items()},
        "tokens_per_second": {name: [round(value, 1) for value in values] for name, values in rate.items()},
        "output_tokens": {name: done[-1][name]["output_tokens"] for name in names},
        "padding_waste": {
            name: done[-1][name]["padding_waste"] for name in names if done[-1][name].get("padding_waste") is not None
        },
        "prefill_seconds": {
            name: [one[name]["prefill_seconds"] for one in done]
            for name in names
            if done[0][name].get("prefill_seconds")
        },
        "wall_seconds": {name: [one[name].get("wall_seconds") for one in done] for name in names},
        "busy_before": {name: [round(one[name]["busy_before"], 2) for one in done] for name in names},
    }


def say(text: str) -> None:
    """Talk goes to stderr: stdout is for the last line."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def finish(benchmark: str, **figures: Any) -> None:
    """The last line."""
    line = {
        "benchmark": benchmark,
        **figures,
        "machine": f"{processes.usable_cores()} cores, {platform.machine()}",
        "date": time.strftime("%Y-%m-%d"),
    }
    sys.stdout.write(json.dumps(line) + "\n")
