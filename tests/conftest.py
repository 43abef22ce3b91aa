"""What the tests share: a state directory of their own, and runs with stand-in ranks."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from rankdeck.runner import run_directory, start
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.start import Started
from tests import ROOT, checkpoints

# A busy machine takes its time over an example: that is no failure.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-seeds", type=int, default=40, help="runs of the chaos test with stand-in ranks")


MOST_SECONDS, MOST_SECONDS_OF_REAL_RUNS = 300, 1800
"""Longest that a test may take. Only a loop without an end takes this long."""


@pytest.fixture(autouse=True)
def an_end(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that does not come to its end fails, with the line where it is, instead of holding up all the others."""
    real = any(request.node.get_closest_marker(name) for name in ("slow", "versions", "gpu", "vllm"))
    seconds = MOST_SECONDS_OF_REAL_RUNS if real else MOST_SECONDS

    def fail(*_: object) -> None:
        pytest.fail(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds, 10)  # again, should something have caught it
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs of a test go into a directory of its own, never among the user's; their preferences do not count."""
    home = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return home


def start_standin_supervisor(directory: Path) -> "subprocess.Popen[bytes]":
    """As runner.start does it, with stand-in ranks."""
    with (directory / run_directory.LOG_FILE).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.standin", str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=ROOT,
        )


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    """Where a run is to live that outlives its terminal; it does not outlive the test."""
    directory = tmp_path / "run"
    yield directory
    if run_directory.supervisor_alive(directory):
        supervisor = run_directory.read_run_file(directory).supervisor_pid
        assert supervisor is not None
        os.kill(supervisor, signal.SIGTERM)


@pytest.fixture
def standin_model(tmp_path: Path) -> Path:
    """A folder that passes for a model, of a size that nobody can tell: stand-in ranks load nothing from it."""
    folder = checkpoints.whole(tmp_path / "standin-model", hidden_size=None)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


@pytest.fixture
def launch(tmp_path: Path, standin_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Started]]:
    """Start a run with stand-in ranks over the given prompts; every supervisor is gone when the test is."""
    monkeypatch.setattr(start, "start_supervisor", start_standin_supervisor)
    begun: list[Started] = []

    def go(prompts: list[str] | Path, *, force: bool = False, **settings: Any) -> Started:
        if isinstance(prompts, list):
            path = tmp_path / f"prompts-{len(begun)}.txt"
            path.write_text("".join(f"{prompt}\n" for prompt in prompts))
        else:
            path = prompts
        values = {"model": str(standin_model), "ranks": 2, "batch_size": 4, "device": "cpu", **settings}
        begun.append(start.launch(RunConfig(prompts=str(path), **values), force=force))
        return begun[-1]

    yield go
    for started in begun:
        if started.process.poll() is None:
            started.process.terminate()
        started.process.wait(20)
