"""How each kind of step is done: what it launches, how long it waits, and which case lines it writes.

A case is written as soon as it is over: a step that times out or is killed keeps the cases it finished.
"""

import asyncio
import contextlib
import math
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil

from rankdeck.runner import protocol, start
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.state import RunState, Snapshot, apply
from rankdeck.tui.sources.client import SocketSource, SourceError
from tests.benchmarks import nvidia_smi, sides
from tests.benchmarks.nvidia_smi import NvidiaSmi
from tests.gpu import journal, recording, summary
from tests.gpu.bench import Bench, Model, StepError, config, ranks_of, write_prompts
from tests.gpu.launches import END_SECONDS, Tail, attached, launched, run_path, sampled, until_its_end
from tests.gpu.plan import Step
from tests.terminal import Terminal

PROMPTS = 512
"""A sweep's trials take them again and again."""

SMALL_ROUNDS = 3
"""Rounds at each of the first two settings of the run whose knobs are turned."""

ROUNDS_AT_MOST = 7
"""Of its last setting, so that the recording stays small."""

WATCHED = (False, True, False)
"""Watched between two times unwatched: a machine that grows steadily faster or slower changes nothing."""

Write = Callable[[dict[str, Any]], None]


def case(step: Step, batch_size: int, ranks: int, note: str = "") -> dict[str, Any]:
    """The beginning of a case's line: its name, and what it is."""
    way = "" if step.decoding == "auto" else f" by {step.decoding}"
    name = summary.name_of(step.size, f"{step.engine}{way}", batch_size, ranks, note)
    of = {"step": step.name, "size": step.size, "engine": step.engine, "batch_size": batch_size, "ranks": ranks}
    return {"case": name, **of}


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
    """Follow the run to its end; send each command once that many prompts are done, as a person at the keys would."""
    source, state, left = SocketSource(run.directory, run.died), RunState(), list(turns)
    await source.send(protocol.SetActiveRanks(active_ranks=1))
    try:
        async with asyncio.timeout(seconds):
            async for message in source.events():
                state = message.state if isinstance(message, Snapshot) else apply(state, message)
                while left and state.done >= left[0][0]:
                    await source.send(left.pop(0)[1])
    except TimeoutError:
        raise StepError(f"timed out after {seconds:.0f} s") from None
    except SourceError as error:
        raise StepError(str(error)) from None


def watch(bench: Bench, step: Step, model: Model, seconds: float, write: Write) -> None:
    """One run; nobody watches, then the dashboard does, then nobody: the cases are the whole batches in each time."""
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
        cost = 0.0
        for watched in WATCHED:
            with attached(run) if watched else contextlib.nullcontext() as terminal:
                if terminal is not None:
                    wait_until(lambda terminal=terminal: terminal.bytes_out > 0, terminal)
                    process = psutil.Process(terminal.pid)
                    before, since = process.cpu_times(), time.monotonic()
                first = time.time()
                wait_until(lambda first=first: tail.enough(first, bench.least_seconds), terminal)
                last = time.time()
                if terminal is not None:
                    after = process.cpu_times()
                    used = after.user + after.system - before.user - before.system
                    cost = 100 * used / (time.monotonic() - since)
            told = journal.told(tail.events)
            stretch = journal.between(told, size, first, last, model.copy_bytes_per_second)
            assert stretch is not None
            rates[watched].append(stretch.result.tokens_per_second)
            line = case(step, size, 1, ", watched" if watched else ", unwatched")
            write(line | journal.figures(told, stretch, smi.samples()))
    (on,), off = rates[True], rates[False]
    figures = {"ratio": on / statistics.fmean(off), "ratios": [on / rate for rate in off]}
    write({"watching": figures | {"cpu_percent": cost}})


KINDS = {"article": article, "sweep": sweep, "steer": steer, "watch": watch}
