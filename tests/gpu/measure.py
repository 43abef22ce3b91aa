"""How each kind of step is done: what it launches, until when it waits, and the case lines that come of it.

A case is written down as soon as it is over: a step that is given up, or killed, leaves those that it got to.
"""

import asyncio
import contextlib
import math
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil

from rankdeck.runner import protocol, run_directory, start
from rankdeck.runner.machine.telemetry import Telemetry
from rankdeck.runner.protocol import AnyEvent, DeviceSample
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.state import RunState, Snapshot, apply
from rankdeck.tui.sources.client import SocketSource, SourceError
from tests.benchmarks import nvidia_smi, random_model, sides
from tests.benchmarks.nvidia_smi import NvidiaSmi
from tests.gpu import journal, recording, summary
from tests.gpu.plan import Step
from tests.terminal import Terminal

PROMPTS = 512
"""A sweep's trials take them again and again."""

PROMPT_TOKENS = 48
"""Of the longest of the short prompts, at most, in the tokenizer of these models."""

ROOM = 0.85
"""Of the device's memory: a step that is estimated to need more is skipped."""

SMALL_ROUNDS = 3
"""Rounds at each of the first two settings of the run whose knobs are turned."""

ROUNDS_AT_MOST = 7
"""Of its last setting, so that the recording stays small."""

WATCHED = (False, True, False, True)
WATCHED_SHARE = 0.6
"""Of the seconds that a case is measured for, each time: there are two of each kind."""

KEPT_CHARACTERS = 20_000
"""Of a log, in log.txt."""

END_SECONDS = 15.0
PAUSE_SECONDS = 0.1

Write = Callable[[dict[str, Any]], None]


class StepError(Exception):
    """A step went wrong or took too long; the text says how."""


@dataclass(frozen=True)
class Bench:
    """What all steps share: the machine, its scale, and where things are."""

    folder: Path
    models: Path
    out: Path
    device: str
    gpus: int
    gpu: str
    dtype: str
    new_tokens: int
    least_seconds: float


@dataclass(frozen=True)
class Model:
    """A model that was made, and what random_model.py says of it."""

    folder: Path
    size: str
    copy_bytes_per_second: float
    memory_bytes: int | None


def make_model(bench: Bench, size: str, seconds: float) -> tuple[Model, dict[str, Any]]:
    """In a process of its own, so that this one never holds the device; with what the process said.

    Raises:
        StepError: it cannot be made.
    """
    folder = bench.models / f"random-{size}"
    command = [sys.executable, "-m", "tests.benchmarks.random_model", str(folder), "--size", size]
    command += ["--device", bench.device, "--dtype", bench.dtype]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise StepError(f"the {size} model was not there after {seconds:.0f} s") from None
    if done.returncode != 0:
        raise StepError(f"the {size} model could not be made: {done.stderr[-1500:]}")
    said = msgspec.json.decode(done.stdout.splitlines()[-1])
    return Model(folder, size, said["copy_bytes_per_second"], said["memory_bytes"]), said


def why_not_here(bench: Bench, step: Step, model: Model) -> str | None:
    """Why the GPU cannot hold the ranks of a step at its smallest batch size; None if it can."""
    if model.memory_bytes is None:
        return None
    cache = min(step.batch_sizes) * (PROMPT_TOKENS + bench.new_tokens) * random_model.kv_bytes_per_token(model.size)
    needed = ranks_per_gpu(bench, step) * (2 * random_model.parameters(model.size) + 1.25 * cache)
    if needed <= ROOM * model.memory_bytes:
        return None
    return f"needs some {needed / 1e9:.0f} of {model.memory_bytes / 1e9:.0f} GB"


def case(step: Step, batch_size: int, ranks: int, note: str = "") -> dict[str, Any]:
    """The beginning of a case's line: its name, and what it is."""
    name = summary.name_of(step.size, step.engine, batch_size, ranks, note)
    of = {"step": step.name, "size": step.size, "engine": step.engine, "batch_size": batch_size, "ranks": ranks}
    return {"case": name, **of}


def ranks_of(bench: Bench, step: Step) -> tuple[int, ...]:
    """The numbers of ranks of a step; those of a step for several GPUs have one each."""
    return tuple(ranks for ranks in step.ranks if not step.least_gpus or ranks <= bench.gpus)


def ranks_per_gpu(bench: Bench, step: Step) -> int:
    return math.ceil(max(ranks_of(bench, step)) / max(1, bench.gpus))


def config(bench: Bench, step: Step, model: Model, prompts: int, **settings: Any) -> RunConfig:
    """A run of this step over so many prompts, at fixed length."""
    return RunConfig(
        prompts=str(write_prompts(bench.folder, prompts)),
        model=str(model.folder),
        ranks=max(ranks_of(bench, step)),
        ranks_per_gpu=ranks_per_gpu(bench, step) if bench.device == "cuda" else None,
        engine=step.engine,  # type: ignore[arg-type]
        device=bench.device,  # type: ignore[arg-type]
        dtype=bench.dtype,  # type: ignore[arg-type]
        max_new_tokens=bench.new_tokens,
        ignore_eos=True,
        max_restarts=0,
        **settings,
    )


def write_prompts(folder: Path, count: int) -> Path:
    """A file of so many of the short prompts."""
    stories = sides.STORIES.read_text(encoding="utf-8").splitlines()
    path = folder / f"prompts-{count}.txt"
    path.write_text("".join(f"{stories[number % len(stories)]}\n" for number in range(count)), encoding="utf-8")
    return path


# --- the kinds of steps -----------------------------------------------------------------------


def article(bench: Bench, step: Step, model: Model, seconds: float, write: Write) -> None:
    """The plain script, with NVML and nvidia-smi looking on."""
    (size,) = step.batch_sizes
    job = sides.Job(
        model=str(model.folder),
        prompts=write_prompts(bench.folder, PROMPTS),
        new_tokens=bench.new_tokens,
        fixed=True,
        ranks=1,
        device=bench.device,
        dtype=bench.dtype,
    )
    arguments = ["--batch-size", str(size), "--least-seconds", str(bench.least_seconds)]
    with NvidiaSmi(bench.folder / "smi-article.csv", bench.gpu) as smi, sampled() as samples:
        try:
            done = sides.script(job, "article.py", bench.folder, *arguments, seconds=seconds)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            raise StepError(str(error)) from None
        last = done.pop("ended_at")
        first = last - done["seconds"]
        own = nvidia_smi.means(smi.samples(), first, last)
    seen = [device for at, devices in samples if first <= at <= last for device in devices if device.uuid == bench.gpu]
    nvml = journal.means(seen, journal.NVML_FIGURES)
    gpm = journal.means(seen, journal.GPM_FIGURES)
    write(
        {
            **case(step, size, 1),
            **done,
            "busy_percent": nvml.get("busy_percent"),
            "dram_percent": gpm.get("dram_percent"),
            "tensor_percent": gpm.get("tensor_percent"),
            **journal.per_joule(done["tokens_per_second"], nvml),
            "nvml": nvml,
            "gpm": gpm,
            "unavailable": seen[-1].unavailable if seen else {},
            "nvidia_smi": own | journal.per_joule(done["tokens_per_second"], own),
        }
    )


def sweep(bench: Bench, step: Step, model: Model, seconds: float, write: Write) -> None:
    """Every batch size with every number of ranks, in one launch: each is a case."""
    plan = SweepPlan(
        batch_sizes=list(step.batch_sizes),
        ranks=list(ranks_of(bench, step)),
        repeats=1,
        least_rounds=2,
        least_seconds=bench.least_seconds,
    )
    with launched(bench, step, config(bench, step, model, PROMPTS, sweep=plan)) as (run, smi):
        tail = Tail(run.directory)
        over = 0
        for _ in until_its_end(run, seconds):
            tail.read()
            told = journal.told(tail.events)
            for trial in told.trials[over:]:
                setting, stretch = trial.event.record.trial, trial.stretch
                if stretch is None:
                    line = case(step, setting.batch_size, setting.active_ranks, f": {trial.event.record.outcome}")
                    write(line | {"reason": trial.event.record.reason})
                else:
                    line = case(step, stretch.rows, stretch.ranks)
                    write(line | journal.figures(told, stretch, smi.samples()))
            over = len(told.trials)


def steer(bench: Bench, step: Step, model: Model, seconds: float, write: Write) -> None:
    """One rank at the small batch size, then all, then all at the large one: the last is the case."""
    small, large = step.batch_sizes
    ranks = max(step.ranks)
    turns = [(small * SMALL_ROUNDS, protocol.SetActiveRanks(active_ranks=ranks))]
    turns.append((small * SMALL_ROUNDS * (1 + ranks), protocol.SetBatchSize(batch_size=large)))
    rounds = rounds_for(bench.least_seconds, known_batch_seconds(bench, large))
    settings = config(bench, step, model, turns[-1][0] + large * ranks * rounds, batch_size=small)
    with launched(bench, step, settings) as (run, smi):
        try:
            asyncio.run(turning(run, turns, seconds))
            for _ in until_its_end(run, END_SECONDS):
                pass
        finally:
            told = journal.told(recording.events_of(run.directory))
            stretch = journal.of_setting(told, ranks, large, model.copy_bytes_per_second)
            if stretch is not None:
                write(case(step, large, ranks) | journal.figures(told, stretch, smi.samples()))
        if stretch is None:
            raise StepError("the run was over before it reached its last setting")


def rounds_for(least_seconds: float, batch_seconds: float | None) -> int:
    """Rounds at the last setting: one to warm up, then as many as should take `least_seconds`."""
    if not batch_seconds:
        return SMALL_ROUNDS + 1
    return min(ROUNDS_AT_MOST, max(SMALL_ROUNDS, 1 + math.ceil(least_seconds / batch_seconds)))


def known_batch_seconds(bench: Bench, batch_size: int) -> float | None:
    """What a batch of this size took in the sweep, if there was one."""
    told = journal.told(recording.events_of(run_path(bench, "static")))
    stretches = [trial.stretch for trial in told.trials if trial.stretch is not None]
    known = [stretch.result.batch_seconds for stretch in stretches if stretch.rows == batch_size]
    return known[0] if known else None


async def turning(run: start.Started, turns: Sequence[tuple[int, protocol.Command]], seconds: float) -> None:
    """Follow the run to its end; send each command once so many prompts are done, as a person at the keys would."""
    source, state, left = SocketSource(run.directory, run.died), RunState(), list(turns)
    await source.send(protocol.SetActiveRanks(active_ranks=1))
    try:
        async with asyncio.timeout(seconds):
            async for message in source.events():
                state = message.state if isinstance(message, Snapshot) else apply(state, message)
                while left and state.done >= left[0][0]:
                    await source.send(left.pop(0)[1])
    except TimeoutError:
        raise StepError(f"given up after {seconds:.0f} s") from None
    except SourceError as error:
        raise StepError(str(error)) from None


def watch(bench: Bench, step: Step, model: Model, seconds: float, write: Write) -> None:
    """One run; nobody watches, then the dashboard does, and again: the cases are the whole batches in each time."""
    (size,) = step.batch_sizes
    deadline = time.monotonic() + seconds
    with launched(bench, step, config(bench, step, model, size * 400, batch_size=size)) as (run, smi):
        tail = Tail(run.directory)

        def wait_until(true: Callable[[], bool], terminal: Terminal | None = None) -> None:
            for _ in until_its_end(run, deadline - time.monotonic(), terminal):
                tail.read()
                if true():
                    return
            raise StepError("the run was over too soon")

        wait_until(lambda: tail.batches() >= 1)
        rates: dict[bool, list[float]] = {False: [], True: []}
        costs: list[float] = []
        for watched in WATCHED:
            with attached(run) if watched else contextlib.nullcontext() as terminal:
                if terminal is not None:
                    wait_until(lambda terminal=terminal: terminal.bytes_out > 0, terminal)
                    process = psutil.Process(terminal.pid)
                    before, since = process.cpu_times(), time.monotonic()
                first = time.time()
                least = WATCHED_SHARE * bench.least_seconds
                wait_until(lambda first=first, least=least: tail.enough(first, least), terminal)
                last = time.time()
                if terminal is not None:
                    after = process.cpu_times()
                    used = after.user + after.system - before.user - before.system
                    costs.append(100 * used / (time.monotonic() - since))
            told = journal.told(tail.events)
            stretch = journal.between(told, size, first, last, model.copy_bytes_per_second)
            assert stretch is not None
            rates[watched].append(stretch.result.tokens_per_second)
            line = case(step, size, 1, ", watched" if watched else ", unwatched")
            write(line | journal.figures(told, stretch, smi.samples()))
    ratios = [on / off for off, on in zip(rates[False], rates[True], strict=True)]
    figures = {"ratio": statistics.fmean(rates[True]) / statistics.fmean(rates[False]), "ratios": ratios}
    write({"watching": figures | {"cpu_percent": statistics.fmean(costs)}})


KINDS = {"article": article, "sweep": sweep, "steer": steer, "watch": watch}


# --- runs -------------------------------------------------------------------------------------


def run_path(bench: Bench, name: str) -> Path:
    return bench.folder / f"run-{name.replace(' ', '-')}"


@contextlib.contextmanager
def launched(bench: Bench, step: Step, settings: RunConfig) -> Iterator[tuple[start.Started, NvidiaSmi]]:
    """The step's run, with nvidia-smi looking on; ended afterwards in any case, and recorded if the step says so."""
    directory = run_path(bench, step.name)
    with NvidiaSmi(bench.folder / f"smi-{directory.name}.csv", bench.gpu) as smi:
        try:
            run = start.launch(settings, run_dir=directory)
        except start.InputError as error:
            raise StepError(str(error)) from None
        try:
            yield run, smi
        except StepError:
            keep_logs(bench.out, step, directory)
            raise
        finally:
            end(run)
            if step.recording is not None and recording.events_of(directory):
                target = bench.out / f"recording-{step.recording}"
                recording.record(directory, step.recording, bench.models, target)


def keep_logs(out: Path, step: Step, directory: Path) -> None:
    """Add what the run and its ranks said last to log.txt: the machine may be far away, and the run's folder gone."""
    for path in sorted(directory.glob("*.log")):
        keep_text(out, f"{step.name}: {path.name}", path.read_text(errors="replace"))


def keep_text(out: Path, title: str, text: str) -> None:
    """Add the end of a text to log.txt."""
    with (out / "log.txt").open("a", encoding="utf-8") as file:
        file.write(f"=== {title} ===\n{text[-KEPT_CHARACTERS:]}\n")


def until_its_end(run: start.Started, seconds: float, terminal: Terminal | None = None) -> Iterator[None]:
    """Comes back every little while, and once more when the run has ended; what `terminal` is sent is read meanwhile.

    Raises:
        StepError: the end does not come within `seconds`, or is not a good one.
    """
    deadline = time.monotonic() + seconds
    while not run.died():
        if time.monotonic() > deadline:
            raise StepError(f"given up after {seconds:.0f} s")
        if terminal is None:
            time.sleep(PAUSE_SECONDS)
        elif not terminal.read(PAUSE_SECONDS):
            raise StepError(f"the dashboard ended:\n{terminal.text}")
        yield
    yield
    if run.process.returncode != 0:
        cause = run_directory.read_run_file(run.directory).cause
        raise StepError(cause or f"the run ended with status {run.process.returncode}")


def end(run: start.Started) -> None:
    """End the supervisor, if it is there; its ranks leave with it."""
    if run.died():
        return
    run.process.terminate()
    try:
        run.process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        run.process.kill()
        run.process.wait()


class Tail:
    """The journal of a live run, read as it grows: unlike a viewer this costs the supervisor nothing."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / run_directory.EVENTS_FILE
        self._position, self._rest = 0, b""
        self._decoder: Any = msgspec.json.Decoder(AnyEvent)
        self.events: list[AnyEvent] = []

    def read(self) -> None:
        """Add the lines that have come; one that is half written has to wait."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            data = file.read()
        self._position += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.events += [self._decoder.decode(line) for line in lines]

    def batches(self) -> int:
        return sum(isinstance(event, protocol.BatchFinished) for event in self.events)

    def enough(self, first: float, least_seconds: float) -> bool:
        """Whether the whole batches since `first`, without the first of them, took long enough."""
        recent = [batch for batch in journal.told(self.events).batches if batch.began >= first]
        return len(recent) >= 3 and recent[-1].ended - recent[1].began >= least_seconds


def attached(run: start.Started) -> Terminal:
    """The dashboard on a terminal that is only read empty."""
    return Terminal([*sides.RANKDECK, "attach", str(run.directory)], columns=120, rows=40, emulate=False)


@contextlib.contextmanager
def sampled() -> Iterator[list[tuple[float, list[DeviceSample]]]]:
    """NVML's samples once a second, for what is no run of rankdeck."""
    samples: list[tuple[float, list[DeviceSample]]] = []
    over = threading.Event()

    def look() -> None:
        telemetry = Telemetry.open()
        while not over.wait(1.0):
            if devices := telemetry.sample_devices():
                samples.append((time.time(), devices))
        telemetry.close()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()
