"""Runs that a step launches: watched from the journal, ended in time whatever happens, with what they said last kept.

Knows processes, logs, the journal as a file, and who looks on; does not know what is measured.
"""

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from rankdeck.runner import protocol, run_directory, start
from rankdeck.runner.machine.telemetry import Telemetry
from rankdeck.runner.protocol import AnyEvent, DeviceSample
from rankdeck.runner.protocol.config import RunConfig
from tests.benchmarks import sides
from tests.benchmarks.nvidia_smi import NvidiaSmi
from tests.gpu import journal, recording
from tests.gpu.bench import Bench, StepError
from tests.gpu.plan import Step
from tests.terminal import Terminal

KEPT_CHARACTERS = 20_000
"""How much of a log is kept in log.txt."""

END_SECONDS = 15.0
PAUSE_SECONDS = 0.1


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
        except Exception:
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
    """Yields every PAUSE_SECONDS, and once more when the run has ended; drains `terminal` meanwhile.

    Raises:
        StepError: the run does not end within `seconds`, or fails.
    """
    deadline = time.monotonic() + seconds
    while not run.died():
        if time.monotonic() > deadline:
            raise StepError(f"timed out after {seconds:.0f} s")
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
    """The dashboard on a terminal whose output is read and dropped."""
    return Terminal([*sides.RANKDECK, "attach", str(run.directory)], columns=120, rows=40, emulate=False)


@contextlib.contextmanager
def sampled() -> Iterator[list[tuple[float, list[DeviceSample]]]]:
    """NVML's samples once a second, for work that is not a rankdeck run."""
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
