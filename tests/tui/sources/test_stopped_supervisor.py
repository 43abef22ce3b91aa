"""A supervisor that is stopped or does not answer: who attaches, or tells it to stop, hears so within seconds."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import msgspec
import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.machine import kernel
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory.run_file import RunFile
from rankdeck.runner.state import RunState, Snapshot, apply
from rankdeck.runner.state.summary import summarise
from rankdeck.tui.panels.overview.notice import silence_lines
from rankdeck.tui.plain.view import PlainView
from rankdeck.tui.session import watch as watching
from rankdeck.tui.sources import client
from rankdeck.tui.sources.client import SocketSource, SourceError
from rankdeck.tui.sources.followed_run import FollowedRun
from rankdeck.tui.words.text import plain
from tests import scripted
from tests.runner.supervisor.test_supervisor import PROMPTS, watch
from tests.scripted_source import ScriptedSource


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


async def test_a_viewer_hears_that_its_supervisor_was_stopped_and_that_it_goes_on(launch, monkeypatch):
    assert client.QUIET_SECONDS <= 5
    monkeypatch.setattr(client, "QUIET_SECONDS", 1.0)
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.05")
    started = launch(PROMPTS)
    run = FollowedRun(SocketSource(started.directory, started.died))
    silences: list[str | None] = []
    hear = run._hear_silence

    def heard(said: str | None) -> None:
        hear(said)
        silences.append(run.silence)
        if said is not None:
            started.process.send_signal(signal.SIGCONT)

    monkeypatch.setattr(run, "_hear_silence", heard)
    begun = False
    async for _ in run.follow():
        if run.state.first_batch_at is not None and not begun:
            begun = True
            started.process.send_signal(signal.SIGSTOP)
    words = f"its supervisor (process {started.process.pid}) is stopped; `kill -CONT {started.process.pid}`"
    assert silences[0] is not None
    assert words in silences[0]
    assert (silences[1], run.silence) == (None, None)
    assert run.state.ended is not None


async def test_a_line_and_the_notice_say_that_a_supervisor_is_silent(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(client, "QUIET_SECONDS", 0.05)
    path = tmp_path / "s"
    monkeypatch.setattr(run_directory, "socket_path", lambda _: path)
    go_on = asyncio.Event()
    told: list[str] = []
    ended = scripted.running().ended().events[-1]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(protocol.encode_line(Snapshot(state=scripted.running().state)))
        await go_on.wait()
        writer.write(protocol.encode_line(ended))
        writer.close()

    class Listening(PlainView):
        def aside(self, line: str) -> None:
            told.append(line)
            go_on.set()

    async with await asyncio.start_unix_server(serve, str(path)):
        await asyncio.wait_for(watching._follow(SocketSource(tmp_path), Listening(lambda _: None), steerable=True), 10)
    who = f"rankdeck: its supervisor (process {os.getpid()})"
    assert told == [f"{who} has said nothing for 0 s (it is running)", f"rankdeck: {watching.ANSWERS_AGAIN}"]
    assert "stopped; these figures are stale" in plain(silence_lines("it is stopped", 80))
    assert silence_lines(None, 80) == []


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


async def test_a_supervisor_that_was_waited_for_is_said_to_be_there_once_it_listens(tmp_path: Path, monkeypatch):
    for seconds in ("REMARK_SECONDS", "ANSWER_SECONDS", "SILENT_SECONDS"):
        monkeypatch.setattr(client, seconds, 0.0)
    monkeypatch.setattr(run_directory, "socket_path", lambda _: tmp_path / "s")
    said: list[str | None] = []
    with socket.socket(socket.AF_UNIX) as listening:

        def hear(words: str | None) -> None:
            if words is not None:
                listening.bind(str(tmp_path / "s"))
                listening.listen()
            said.append(words)

        source = SocketSource(tmp_path, lambda: False)
        source.on_silence = hear
        with pytest.raises(SourceError, match="does not answer"):
            await asyncio.wait_for(anext(source.events()), 10)
    assert said == ["waiting for its supervisor, which does not listen yet", None]


@pytest.fixture
def held(tmp_path: Path, monkeypatch):
    """A run whose lock is held, by a supervisor whose socket is not here."""
    config = RunConfig(prompts="p.txt")
    run_directory.write_run_file(tmp_path, RunFile(name="r", started_at=1, config=config, prompts=1))
    for seconds, value in (("CONNECT_SECONDS", 0.0), ("REMARK_SECONDS", 0.0), ("REACH_SECONDS", 0.05)):
        monkeypatch.setattr(client, seconds, value)
    monkeypatch.setattr(run_directory, "socket_path", lambda _: tmp_path / "elsewhere.sock")
    descriptor = run_directory.hold_lock(tmp_path)
    yield tmp_path
    os.close(descriptor)


async def test_a_supervisor_that_cannot_be_reached_is_not_waited_for_without_end(held, capsys):
    said: list[str | None] = []
    source = SocketSource(held)
    source.on_silence = said.append
    with pytest.raises(SourceError, match=r"holds the run, but its socket .*elsewhere.sock cannot be reached"):
        await asyncio.wait_for(anext(source.events()), 10)
    assert said == ["waiting for its supervisor, which does not listen yet"]
    assert await asyncio.wait_for(watching._stop(SocketSource(held), now=False), 10) == watching.EXIT_DIED
    assert "waiting for its supervisor" in capsys.readouterr().err


async def test_a_run_that_ended_before_it_could_be_told_to_stop_was_not_stopped(held, capsys):
    config = RunConfig(prompts="p.txt")
    begun = protocol.RunStarted(at=1, name="r", directory="/r", config=config, prompts=1)
    ended = protocol.RunEnded(at=2, status="completed", exit_status=0, summary=summarise(apply(RunState(), begun)))
    (held / run_directory.EVENTS_FILE).write_bytes(protocol.encode_line(begun) + protocol.encode_line(ended))
    run = run_directory.read_run_file(held)
    over = msgspec.structs.replace(run, status="completed", exit_status=0, ended_at=2.0, summary=ended.summary)
    run_directory.write_run_file(held, over)
    assert await asyncio.wait_for(watching._stop(SocketSource(held), now=False), 10) == watching.EXIT_DIED
    shown = capsys.readouterr()
    assert "completed" in shown.out
    assert "had ended before it could be told to stop" in shown.err


async def test_stop_says_what_keeps_the_run_from_ending(capsys):
    class Reached(ScriptedSource):
        reached = True

    full = "outputs cannot be put in order or copied: No space left on device"
    running, ended = Snapshot(state=scripted.running().state), scripted.completed().events[-1]
    pauses = [protocol.Paused(reason=full, asked=False), protocol.Paused(reason="asked for", asked=True)]
    assert await watching._stop(Reached([running, *pauses, ended]), now=False) == 0
    assert capsys.readouterr().err == f"rankdeck: the run cannot end yet: {full}\n"
