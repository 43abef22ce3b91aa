"""What the tests marked `gpu` share besides fixtures: the mark itself, the prompts, a run that one waits for."""

import contextlib
import functools
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from rankdeck.runner import run_directory, start
from rankdeck.runner.machine import telemetry
from rankdeck.runner.protocol import AnyEvent, DeviceSample, OutputRecord, Tick
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.start import Started
from rankdeck.runner.state import RunState, apply
from tests import ROOT

DEVICE = "cuda"
NEW_TOKENS = 32
PROMPTS = (ROOT / "sample_prompts" / "stories.txt").read_text(encoding="utf-8").splitlines()[:32]

BEYOND = "<beyond>"
"""A token that the tokenizer knows and the model's embedding has no row for."""

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


@dataclass
class Flight:
    """A run that was launched."""

    started: Started

    def wait(self, seconds: float = 100) -> int:
        """Its exit status, once it has ended. One that hangs is ended: other tests need not wait for it again."""
        try:
            return self.started.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(f"it was not over after {seconds} s\n{self.said}") from None

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
    """Runs by name. Those of `alone` are launched when they are asked for, once all others are over."""

    def __init__(self, folder: Path, alone: Mapping[str, RunConfig]) -> None:
        self._folder, self._alone = folder, alone
        self._begun: dict[str, Flight] = {}

    def launch(self, name: str, config: RunConfig) -> None:
        self._begun[name] = Flight(start.launch(config, run_dir=self._folder / name))

    def __getitem__(self, name: str) -> Flight:
        if name not in self._begun:
            for flight in self._begun.values():
                flight.wait()
            with first_gpu_alone():
                self.launch(name, self._alone[name])
        return self._begun[name]

    def end(self) -> None:
        for flight in self._begun.values():
            flight.end()
