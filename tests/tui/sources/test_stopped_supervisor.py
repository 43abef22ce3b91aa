"""A supervisor that is stopped or does not answer: who attaches, or tells it to stop, hears so within seconds."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.machine import kernel
from rankdeck.tui.session import watch as watching
from rankdeck.tui.sources import client
from rankdeck.tui.sources.client import SocketSource, SourceError
from tests.runner.supervisor.test_supervisor import PROMPTS, watch


async def test_a_stopped_supervisor_is_named_and_goes_on_when_it_is_continued(launch, monkeypatch, capsys):
    assert client.ANSWER_SECONDS < 5
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.2)
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.05")
    started = launch(PROMPTS)
    events = SocketSource(started.directory, started.died).events()
    await anext(events)
    started.process.send_signal(signal.SIGSTOP)
    await asyncio.to_thread(os.waitpid, started.process.pid, os.WUNTRACED)
    pid = started.process.pid
    with pytest.raises(SourceError, match=rf"supervisor \(process {pid}\) is stopped; `kill -CONT {pid}`"):
        await watch(started)
    status = await watching._stop(SocketSource(started.directory), now=False)
    assert (status, "is stopped" in capsys.readouterr().err) == (watching.EXIT_DIED, True)
    started.process.send_signal(signal.SIGCONT)
    last = [event async for event in events][-1]
    assert isinstance(last, protocol.RunEnded)
    assert last.status == "stopped", "the order waited in the socket"


async def test_a_supervisor_that_runs_and_does_not_answer_is_waited_for_longer(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.01)
    monkeypatch.setattr(client, "SILENT_SECONDS", 0.05)
    path = tmp_path / "s"
    monkeypatch.setattr(run_directory, "socket_path", lambda _: path)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    looks: list[int] = []
    monkeypatch.setattr(kernel, "look_at", lambda pid: looks.append(pid) or kernel.ProcessLook("running", 0.0))
    with pytest.raises(SourceError, match=rf"\(process {os.getpid()}\) does not answer \(it is running\); its log is"):
        await asyncio.wait_for(anext(SocketSource(tmp_path).events()), 10)
    assert looks == [os.getpid()] * 2
    monkeypatch.setattr(kernel, "peer_process", lambda _: None)
    with pytest.raises(SourceError, match="its supervisor does not answer; its log is"):
        await asyncio.wait_for(anext(SocketSource(tmp_path).events()), 10)
    listening.close()


async def test_a_live_supervisor_that_does_not_listen_yet_is_waited_for_until_it_is_gone(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(client, "CONNECT_SECONDS", -1.0)
    monkeypatch.setattr(run_directory, "socket_path", lambda _: tmp_path / "nobody listens")
    alive = iter([True, True, False])
    monkeypatch.setattr(run_directory, "supervisor_alive", lambda _: next(alive))
    with pytest.raises(SourceError, match="has no live supervisor"):
        await asyncio.wait_for(anext(SocketSource(tmp_path).events()), 10)
    assert not list(alive), "it may be reading millions of prompts"
