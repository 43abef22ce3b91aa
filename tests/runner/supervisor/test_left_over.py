"""Processes that could not leave with their supervisor are ended by whoever comes next."""

import signal
import subprocess
import sys

import psutil
import pytest

from rankdeck.runner import protocol, run_directory, start
from rankdeck.runner.launching.left_over import end_left_over
from rankdeck.tui.sources.client import SocketSource
from tests.runner.supervisor.test_supervisor import PROMPTS, outputs, processes_of, watch
from tests.tui.commands.test_cli import rankdeck


@pytest.fixture
async def stopped(launch, monkeypatch):
    """A run whose supervisor was killed while the launcher and two ranks were stopped; with the latter."""
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.3")  # the run must not end while its processes are looked for
    started = launch(PROMPTS)
    async for message in SocketSource(started.directory, started.died).events():
        if isinstance(message, protocol.BatchFinished):
            break
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.03")
    left = [process for process in processes_of(started.directory) if process.pid != started.process.pid]
    for process in left:
        process.send_signal(signal.SIGSTOP)
    started.process.kill()
    started.process.wait()
    yield started.directory, left
    for process in left:
        if process.is_running():
            process.kill()


def lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


async def test_resume_kills_what_an_earlier_launch_has_left_and_says_so(stopped):
    directory, left = stopped
    assert len(left) >= 3
    assert all(map(lives, left)), "a stopped process does not notice that its supervisor is gone"
    again = start.resume(directory, {})
    _, seen = await watch(again)
    assert again.process.wait(20) == 0
    assert len(outputs(directory)) == len(PROMPTS)
    assert not any(map(lives, left))
    said = [message.text for message in seen if isinstance(message, protocol.LogLine) and "earlier" in message.text]
    assert said == [f"killed {len(left)} processes left over from an earlier launch"]


async def test_stop_kills_what_a_run_without_a_supervisor_has_left(stopped):
    directory, left = stopped
    result = rankdeck("stop", str(directory))
    number = f"killed {len(left)} processes left over from an earlier launch"
    assert (result.exit_code, result.stdout) == (0, f"{directory.name} is not live; {number}\n")
    assert not any(map(lives, left))
    assert start.end_left_over(directory) is None


async def test_ranks_of_a_live_run_are_never_taken_for_left_over(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.03")
    started = launch(PROMPTS)
    async for message in SocketSource(started.directory, started.died).events():
        if isinstance(message, protocol.BatchFinished):
            break
    assert start.end_left_over(started.directory) is None
    state, _ = await watch(started)
    assert (started.process.wait(20), state.attempt) == (0, 1)


def test_only_what_was_launched_for_this_run_is_ended(tmp_path):
    socket = run_directory.socket_path(tmp_path)
    wait = [sys.executable, "-c", "input()"]
    arguments = {
        "theirs": ["--run-dir", str(tmp_path), "--socket", str(socket)],
        "another run's": ["--run-dir", str(tmp_path), "--socket", str(socket.with_suffix(".other"))],
        "the socket as another argument": ["--run-dir", str(tmp_path), "--socket", "x", str(socket)],
        "no rank": ["--socket", str(socket)],
    }
    processes = {name: subprocess.Popen([*wait, *words], stdin=subprocess.PIPE) for name, words in arguments.items()}
    try:
        assert end_left_over(socket) == "killed 1 process left over from an earlier launch"
        assert processes["theirs"].wait(5) is not None
        assert [name for name, process in processes.items() if process.poll() is None] == list(arguments)[1:]
        assert end_left_over(socket) is None
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
