"""What the tests marked `gpu` share besides fixtures: the mark itself, the prompts, a run that one waits for."""

import contextlib
import functools
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from rankdeck.runner import run_directory, start
from rankdeck.runner.machine import telemetry
from rankdeck.runner.protocol import AnyEvent, DeviceSample, OutputRecord, RankReady, RunEnded, Tick
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.start import Started
from rankdeck.runner.state import RunState, apply
from tests import ROOT

DEVICE = "cuda"
NEW_TOKENS = 32
PROMPTS = (ROOT / "sample_prompts" / "stories.txt").read_text(encoding="utf-8").splitlines()[:32]

BEYOND = "<beyond>"
"""A token that the tokenizer knows and the model's embedding has no row for."""

SLOWER_STEPS = (
    "batches go by transformers' generate, not by the decode loop",
    "decode steps are not captured as CUDA graphs, so they are slower",
)
"""What the static engine says of a batch that is not run as fast as it can be."""

BY, ALL_BY = 130.0, 155.0
"""Seconds from the beginning of these tests after which a run is given up; those that start last have until the second.
All of it is within what the step "tests" of tests/gpu/plan.py is allowed."""

GPUS = telemetry.count_visible_gpus(os.environ)

ON_A_GPU = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(GPUS == 0, reason="no NVIDIA GPU on this machine"),
]

ON_TWO_GPUS = pytest.mark.skipif(GPUS < 2, reason="one GPU on this machine; needs two")


@contextlib.contextmanager
def first_gpu_alone() -> Iterator[None]:
    """What is launched meanwhile sees the first GPU only, however many there are."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if GPUS > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = telemetry.visible_gpus(os.environ)[0].uuid
    try:
        yield
    finally:
        if GPUS > 1:
            os.environ.pop("CUDA_VISIBLE_DEVICES")
            if before is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


def figures(samples: Sequence[DeviceSample], name: str) -> list[float]:
    """What the samples have of a figure. Skips the test, with the sample's own reason, where the GPU has none."""
    assert samples, "NVML has sampled no GPU"
    found = [value for sample in samples if (value := getattr(sample, name)) is not None]
    if not found:
        assert name in samples[-1].unavailable, f"{name} is missing without a reason: {samples[-1]}"
        pytest.skip(f"{name}: {samples[-1].unavailable[name]}")
    return found


@dataclass
class Flight:
    """A run that was launched. If it goes on at `deadline`, by the monotonic clock, it is ended, and has failed."""

    started: Started
    deadline: float

    def wait(self) -> int:
        """Its exit status, once it has ended. One that hangs is ended: other tests need not wait for it again."""
        if not self.over():
            raise AssertionError(f"it was not over in time, and was ended\n{self.said}")
        return self.started.process.wait()

    def over(self) -> bool:
        """Wait for its end; whether it came by itself."""
        try:
            self.started.process.wait(max(0.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.end()
            return False
        return True

    def end(self) -> None:
        """End it, if it goes on."""
        if not self.started.died():
            self.started.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.started.process.wait(20)

    @functools.cached_property
    def events(self) -> list[AnyEvent]:
        """All that happened, once it has ended."""
        self.wait()
        return list(run_directory.read_events(self.started.directory))

    @functools.cached_property
    def state(self) -> RunState:
        return functools.reduce(apply, self.events, RunState())

    @functools.cached_property
    def records(self) -> list[OutputRecord]:
        self.wait()
        return list(run_directory.read_outputs(self.started.directory))

    @property
    def causes(self) -> list[str | None]:
        """Why it ended: one None if all ranks left by themselves, as they were told."""
        return [event.cause for event in self.events if isinstance(event, RunEnded)]

    @property
    def samples(self) -> list[DeviceSample]:
        """What NVML said of its GPUs."""
        return [device for event in self.events if isinstance(event, Tick) for device in event.devices or []]

    @property
    def said(self) -> str:
        """What it said of its end, for the message of a test that fails."""
        run = run_directory.read_run_file(self.started.directory)
        log = (self.started.directory / run_directory.LOG_FILE).read_text(errors="replace")
        return f"{run.status}: {run.cause}\n{log[-2000:]}"


class Flights:
    """Runs by name. Those of `alone` are launched when they are asked for, once all others are over.

    `began` is when the tests began, by the monotonic clock.
    """

    def __init__(self, folder: Path, alone: Mapping[str, RunConfig], began: float) -> None:
        self._folder, self._alone, self._began = folder, alone, began
        self._begun: dict[str, Flight] = {}

    def launch(self, name: str, config: RunConfig, by: float = BY) -> None:
        self._begun[name] = Flight(start.launch(config, run_dir=self._folder / name), self._began + by)

    def __getitem__(self, name: str) -> Flight:
        if name not in self._begun:
            for flight in self._begun.values():
                flight.over()  # one that hangs fails the tests that ask for it, not this one
            with first_gpu_alone():
                self.launch(name, self._alone[name], ALL_BY)
        return self._begun[name]

    def end(self) -> None:
        for flight in self._begun.values():
            flight.end()


ALIKE = 0.9
"""Of the answers. Two words that are as good may change places where sums are rounded in another order, and from there
on an answer is another one."""


def check_answers_and_engine(flight: Flight, cpu: Flight, engine: str) -> None:
    """That the run had the engine that was asked for, on a GPU, and answered as the CPU did."""
    assert flight.wait() == 0, flight.said
    assert cpu.wait() == 0, cpu.said
    ready = [event for event in flight.events if isinstance(event, RankReady)]
    assert {(event.engine, event.device.partition(":")[0]) for event in ready} == {(engine, DEVICE)}, flight.said
    expected, found = (
        {record.index: (record.text, record.output_tokens) for record in one.records} for one in (cpu, flight)
    )
    assert not [record.error for record in flight.records if record.error]
    assert len(set(expected.values())) > len(expected) / 2, "the answers do not tell the prompts apart"
    differing = [index for index, answer in found.items() if answer != expected[index]]
    assert len(differing) <= (1 - ALIKE) * len(found), f"{len(differing)} of {len(found)} answers differ: {differing}"
