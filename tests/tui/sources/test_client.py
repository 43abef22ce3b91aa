"""A live run over its socket, with a supervisor of the test's own: what is sent, what ends it, what is said then."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.machine import kernel
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory.run_file import RunFile
from rankdeck.runner.state import Snapshot, ToViewer
from rankdeck.tui.sources import client
from rankdeck.tui.sources.client import SocketSource, SourceError
from tests import scripted

RUNNING, ENDED = scripted.running(), scripted.completed()
SNAPSHOT = Snapshot(state=RUNNING.state)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run_directory, "socket_path", lambda _: tmp_path / "s")
    return tmp_path / "s"


@contextlib.asynccontextmanager
async def supervisor(path: Path, serve: Serve) -> AsyncIterator[None]:
    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve(reader, writer)
        writer.close()

    server = await asyncio.start_unix_server(closing, str(path))
    yield
    server.close()


def saying(*lines: bytes | ToViewer, heard: list[bytes] | None = None) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        if heard is not None:
            heard.append(line)
        writer.writelines(line if isinstance(line, bytes) else protocol.encode_line(line) for line in lines)
        await writer.drain()

    return serve


async def all_of(source: SocketSource) -> list[ToViewer]:
    async with asyncio.timeout(10):
        return [message async for message in source.events()]


def run_json(directory: Path, **fields: Any) -> None:
    run = RunFile(name="r", started_at=1.0, config=RunConfig(prompts="p"), prompts=1)
    run_directory.write_run_file(directory, msgspec.structs.replace(run, **fields))


async def test_a_supervisor_that_hangs_up_without_a_word_is_another_runs_and_the_right_one_is_waited_for(
    tmp_path, path, monkeypatch
):
    """Its run was removed, and a new one of the same name began."""
    monkeypatch.setattr(run_directory, "supervisor_alive", lambda directory: True)
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readline())
        if len(heard) == 3:
            writer.writelines(protocol.encode_line(message) for message in (SNAPSHOT, ENDED.events[-1]))
            await writer.drain()

    async with supervisor(path, serve):
        assert await all_of(SocketSource(tmp_path)) == [SNAPSHOT, ENDED.events[-1]]
    assert heard == [protocol.encode_line(protocol.ViewerHello())] * 3


async def test_a_viewer_greets_hears_everything_and_leaves_at_the_end(tmp_path, path):
    heard: list[bytes] = []
    end = ENDED.events[-1]
    async with supervisor(path, saying(SNAPSHOT, protocol.Tick(at=2), end, protocol.Tick(at=3), heard=heard)):
        source = SocketSource(tmp_path)
        assert not source.reached
        assert await all_of(source) == [SNAPSHOT, protocol.Tick(at=2), end]
        assert source.reached
    assert heard == [protocol.encode_line(protocol.ViewerHello())]


async def test_commands_wait_for_the_connection_and_go_out_after_the_greeting_in_order(tmp_path, path):
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend([await reader.readline() for _ in range(3)])
        writer.write(protocol.encode_line(SNAPSHOT))
        heard.append(await reader.readline())
        writer.write(protocol.encode_line(ENDED.events[-1]))

    orders = [protocol.SetBatchSize(batch_size=2), protocol.Stop(now=False), protocol.Stop(now=True)]
    async with supervisor(path, serve):
        source = SocketSource(tmp_path)
        for order in orders[:2]:
            await source.send(order)
        async with asyncio.timeout(10):
            async for message in source.events():
                if message == SNAPSHOT:
                    await source.send(orders[2])
    assert heard == [protocol.encode_line(line) for line in (protocol.ViewerHello(), *orders)]


async def test_a_viewer_that_is_refused_hears_why(tmp_path, path):
    async with supervisor(path, saying(protocol.Refused(reason="too many viewers"))):
        with pytest.raises(SourceError, match=r"^too many viewers$"):
            await all_of(SocketSource(tmp_path))


@pytest.mark.parametrize("line", [b"nonsense\n", b'{"type":"from_the_future"}\n', b"\xff\n"])
async def test_what_cannot_be_understood_is_said_with_the_question_of_versions(tmp_path, path, line):
    async with supervisor(path, saying(SNAPSHOT, line)):
        with pytest.raises(SourceError, match=r"the supervisor sent something unknown \(.*\); are both of one version"):
            await all_of(SocketSource(tmp_path))


async def test_a_line_that_never_ends_loses_the_supervisor(tmp_path, path, monkeypatch):
    monkeypatch.setattr(protocol, "MAX_LINE_BYTES", 4096)
    async with supervisor(path, saying(b"x" * 20_000)):
        with pytest.raises(SourceError, match=r"lost the supervisor \("):
            await all_of(SocketSource(tmp_path))


async def test_the_longest_line_that_may_be_sent_is_read(tmp_path, path):
    long = protocol.LogLine(at=1, source="supervisor", text="x" * 300_000)
    async with supervisor(path, saying(SNAPSHOT, long, ENDED.events[-1])):
        assert (await all_of(SocketSource(tmp_path)))[1] == long


async def test_a_supervisor_that_is_gone_is_said_so_with_what_it_leaves(tmp_path, path):
    run_json(tmp_path)
    async with supervisor(path, saying(SNAPSHOT)):
        with pytest.raises(
            SourceError, match=r"the supervisor is gone; finished outputs are in .*outputs.jsonl, its log"
        ):
            await all_of(SocketSource(tmp_path))


@pytest.mark.parametrize("status", ["completed", "stopped", "failed"])
async def test_a_viewer_that_missed_the_end_takes_it_from_run_json(tmp_path, path, status):
    end = ENDED.events[-1]
    assert isinstance(end, protocol.RunEnded)
    run_json(tmp_path, status=status, exit_status=5, ended_at=7.0, cause="because", summary=end.summary)
    async with supervisor(path, saying(SNAPSHOT)):
        (_, last) = await all_of(SocketSource(tmp_path))
    assert last == protocol.RunEnded(at=7.0, status=status, exit_status=5, summary=end.summary, cause="because")


async def test_half_a_line_is_the_end_of_what_a_supervisor_says_and_no_nonsense(tmp_path, path):
    end = ENDED.events[-1]
    assert isinstance(end, protocol.RunEnded)
    run_json(tmp_path, status="completed", exit_status=0, ended_at=end.at, summary=end.summary)
    async with supervisor(path, saying(SNAPSHOT, protocol.encode_line(protocol.Tick(at=2))[:-5])):
        assert (await all_of(SocketSource(tmp_path)))[1:] == [end]


def journal(directory: Path, events: Sequence[protocol.AnyEvent], tail: bytes = b"") -> None:
    lines = b"".join(protocol.encode_line(event) for event in events)
    (directory / run_directory.EVENTS_FILE).write_bytes(lines + tail)


async def test_a_viewer_that_missed_the_end_gets_the_last_state_if_the_journal_is_whole(tmp_path, path):
    end = ENDED.events[-1]
    assert isinstance(end, protocol.RunEnded)
    run_json(tmp_path, status="completed", exit_status=0, ended_at=end.at, summary=end.summary)
    journal(tmp_path, ENDED.events)
    async with supervisor(path, saying(SNAPSHOT)):
        (_, last) = await all_of(SocketSource(tmp_path))
    assert isinstance(last, Snapshot)
    assert msgspec.structs.replace(last.state, directory=ENDED.state.directory) == ENDED.state


@pytest.mark.parametrize(
    ("events", "tail"),
    [
        (ENDED.events[:-1], b""),
        (ENDED.events, b"half a li"),
        ([event for event in ENDED.events if not isinstance(event, protocol.Output)], b""),
    ],
)
async def test_a_journal_that_lacks_something_does_not_tell_how_a_run_left_off(tmp_path, path, events, tail):
    end = ENDED.events[-1]
    assert isinstance(end, protocol.RunEnded)
    run_json(tmp_path, status="completed", exit_status=0, ended_at=end.at, summary=end.summary)
    journal(tmp_path, events, tail)
    async with supervisor(path, saying(SNAPSHOT)):
        assert (await all_of(SocketSource(tmp_path)))[1:] == [end]


@pytest.mark.parametrize("lacks", ["summary", "exit_status"])
async def test_an_end_that_run_json_does_not_have_whole_is_none(tmp_path, path, lacks):
    end = ENDED.events[-1]
    assert isinstance(end, protocol.RunEnded)
    fields = {"status": "failed", "exit_status": 5, "summary": end.summary, lacks: None}
    run_json(tmp_path, **fields)
    async with supervisor(path, saying(SNAPSHOT)):
        with pytest.raises(SourceError, match="the supervisor is gone"):
            await all_of(SocketSource(tmp_path))


async def test_the_end_is_waited_for_while_the_supervisor_still_holds_the_run(tmp_path, path):
    end = ENDED.events[-1]
    assert isinstance(end, protocol.RunEnded)
    run_json(tmp_path)
    lock = run_directory.hold_lock(tmp_path)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await saying(SNAPSHOT)(reader, writer)
        writer.close()
        asyncio.get_running_loop().call_later(
            0.1, lambda: run_json(tmp_path, status="completed", exit_status=0, ended_at=9.0, summary=end.summary)
        )

    async with supervisor(path, serve):
        (_, last) = await all_of(SocketSource(tmp_path))
    os.close(lock)
    assert isinstance(last, protocol.RunEnded)
    assert last.at == 9.0


async def test_a_supervisor_that_holds_the_run_and_never_ends_it_is_not_waited_for_for_ever(
    tmp_path, path, monkeypatch
):
    monkeypatch.setattr(client, "GONE_SECONDS", 0.1)
    run_json(tmp_path)
    lock = run_directory.hold_lock(tmp_path)
    async with supervisor(path, saying(SNAPSHOT)):
        with pytest.raises(SourceError, match="the supervisor is gone"):
            await all_of(SocketSource(tmp_path))
    os.close(lock)


# --- no connection --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (b"first\nno module named x\n\n", "the supervisor did not start: no module named x (its log: {log})"),
        (b"caf\xe9\n", "the supervisor did not start: caf\ufffd (its log: {log})"),
        (b"x" * 100_000 + b"\nlast\n", "the supervisor did not start: last (its log: {log})"),
        (b" \n", "run r has no live supervisor"),
        (None, "run r has no live supervisor"),
    ],
)
async def test_of_a_supervisor_that_did_not_start_the_last_words_are_said_at_once(tmp_path, path, log, said):
    run = tmp_path / "r"
    run.mkdir()
    if log is not None:
        (run / "runner.log").write_bytes(log)
    source = SocketSource(run, lambda: True)
    with pytest.raises(SourceError) as raised:
        await all_of(source)
    assert str(raised.value) == said.format(log=run / "runner.log")
    assert not source.reached


async def test_a_run_without_a_supervisor_is_given_up_after_a_while_and_not_before(tmp_path, path, monkeypatch):
    monkeypatch.setattr(client, "CONNECT_SECONDS", 0.2)
    run_json(tmp_path)
    begun = asyncio.get_running_loop().time()
    with pytest.raises(SourceError, match="has no live supervisor"):
        await all_of(SocketSource(tmp_path, lambda: False))
    assert asyncio.get_running_loop().time() - begun >= 0.2


async def test_a_run_that_was_over_before_it_could_be_watched_is_told_from_its_journal(tmp_path, path):
    run_json(tmp_path, status="completed", exit_status=0)
    journal = tmp_path / run_directory.EVENTS_FILE
    journal.write_bytes(b"".join(protocol.encode_line(event) for event in ENDED.events))
    found = await all_of(SocketSource(tmp_path, lambda: True))
    assert found[1:] == ENDED.events[1:]
    journal.write_bytes(b"nonsense\n")
    with pytest.raises(SourceError, match="the run has ended, but the rest of its journal cannot be read: "):
        await all_of(SocketSource(tmp_path, lambda: True))


async def test_a_run_that_was_taken_up_and_over_before_it_could_be_watched_tells_its_newest_end(tmp_path, path):
    """The journal has the end of the first supervisor, too, which may have been another one."""
    config = ENDED.state.config
    assert config is not None
    taken_up = protocol.RunTakenUp(at=9e9, config=config, completed=9, failed=0, prompt_tokens=1, output_tokens=1)
    end = ENDED.events[-1]
    assert isinstance(end, protocol.RunEnded)
    newest = msgspec.structs.replace(end, at=9e9 + 1, status="failed", exit_status=2, cause="there is no such folder")
    run_json(tmp_path, status="failed", exit_status=2)
    journal(tmp_path, [*ENDED.events, taken_up, newest])
    first, *others = await all_of(SocketSource(tmp_path, lambda: True))
    assert others == [taken_up, newest]
    assert isinstance(first, Snapshot)
    assert (first.state.done, first.state.ended) == (ENDED.state.done, None)


async def test_an_end_that_did_not_come_into_the_journal_is_taken_from_run_json(tmp_path, path):
    end = ENDED.events[-1]
    assert isinstance(end, protocol.RunEnded)
    run_json(tmp_path, status="completed", exit_status=0, ended_at=end.at, summary=end.summary)
    journal(tmp_path, ENDED.events[:-1])
    found = await all_of(SocketSource(tmp_path, lambda: True))
    assert (len(found), found[-1]) == (len(ENDED.events), end)


# --- patience, and what is left behind ------------------------------------------------------------


def test_each_patience_is_long_enough_for_a_busy_machine_and_short_enough_for_a_person():
    assert 1 <= client.ANSWER_SECONDS < 5 <= client.SILENT_SECONDS == 30
    assert client.QUIET_SECONDS == 5.0, "a supervisor says something four times a second"
    assert client.GONE_SECONDS == 5.0
    assert client.REMARK_SECONDS < client.CONNECT_SECONDS < client.REACH_SECONDS <= 30
    assert client.LAST_BYTES == 64 * 1024


async def test_the_connection_is_closed_whoever_leaves_first(tmp_path, path):
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(protocol.encode_line(SNAPSHOT))
        assert await reader.read() == b""
        gone.set()

    async with supervisor(path, serve):
        source = SocketSource(tmp_path)
        events = source.events()
        await anext(events)
        writer = source._writer
        assert writer is not None
        await events.aclose()  # type: ignore[attr-defined]
        assert writer.is_closing()
        await asyncio.wait_for(gone.wait(), 10)
        assert source._writer is None, "nothing more is sent to it"


async def test_a_connection_that_is_reset_is_a_supervisor_that_is_gone(tmp_path, path, monkeypatch):
    run_json(tmp_path)

    async def reset(self: object, reader: object, writer: object) -> bytes:
        raise ConnectionResetError

    monkeypatch.setattr(SocketSource, "_next_line", reset)
    async with supervisor(path, saying(SNAPSHOT)):
        with pytest.raises(SourceError) as raised:
            await all_of(SocketSource(tmp_path))
    assert str(raised.value) == (
        f"the supervisor is gone; finished outputs are in {tmp_path / 'outputs.jsonl'}, "
        f"its log is {tmp_path / 'runner.log'}"
    )


async def test_a_run_that_goes_on_elsewhere_is_not_told_from_its_journal(tmp_path, path):
    run_json(tmp_path)
    (tmp_path / run_directory.EVENTS_FILE).write_bytes(protocol.encode_line(ENDED.events[0]))
    with pytest.raises(SourceError, match="has no live supervisor"):
        await all_of(SocketSource(tmp_path, lambda: True))


@pytest.mark.parametrize(
    ("pid", "doing", "who", "said", "stopped"),
    [
        (None, None, "its supervisor", "", None),
        (7, None, "its supervisor (process 7)", "", None),
        (7, "running", "its supervisor (process 7)", " (it is running)", None),
        (
            7,
            "stopped",
            "its supervisor (process 7)",
            " (it is stopped)",
            "its supervisor (process 7) is stopped; `kill -CONT 7` resumes it",
        ),
    ],
)
def test_a_look_at_a_supervisor_says_what_is_known_of_it(monkeypatch, pid, doing, who, said, stopped):
    peer = SimpleNamespace(pid=pid) if pid is not None else None
    monkeypatch.setattr(client.kernel, "peer_process", lambda _: peer)
    monkeypatch.setattr(
        client.kernel, "look_at", lambda of: kernel.ProcessLook(doing, 0.0) if doing and of == 7 else None
    )
    writer = SimpleNamespace(get_extra_info=lambda name: name)
    assert client._look_at_supervisor(writer) == (who, said, stopped)  # type: ignore[arg-type]


async def test_one_that_leaves_after_a_silence_is_not_said_to_answer_again(tmp_path, path, monkeypatch):
    monkeypatch.setattr(client, "QUIET_SECONDS", 0.01)
    run_json(tmp_path)
    said: list[str | None] = []
    silent = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(protocol.encode_line(SNAPSHOT))
        await silent.wait()

    def hear(words: str | None) -> None:
        said.append(words)
        silent.set()

    source = SocketSource(tmp_path)
    source.on_silence = hear
    async with supervisor(path, serve):
        with pytest.raises(SourceError, match="the supervisor is gone"):
            await all_of(source)
    assert len(said) == 1
    assert said[0] is not None
