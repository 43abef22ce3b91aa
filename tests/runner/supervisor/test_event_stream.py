"""Every event's way: stamped, in the state, in the journal and at the viewers; and a journal that is not written."""

import errno
import time

import msgspec
import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory import store as stores
from rankdeck.runner.state import RunState, Snapshot
from rankdeck.runner.supervisor import event_stream
from rankdeck.runner.supervisor.event_stream import EventStream
from tests.runner.supervisor.in_process import ready


@pytest.fixture
def stream(tmp_path) -> EventStream:
    return EventStream(tmp_path, RunState())


def journal(stream: EventStream) -> list:
    return list(run_directory.read_events(stream._directory))


def texts(stream: EventStream) -> list[tuple[str, str]]:
    return [(line.source, line.text) for line in stream.state.log]


def test_an_event_has_the_time_of_day_to_a_tenth_of_a_millisecond(stream, monkeypatch):
    before = time.time()
    stream.emit(protocol.Stopping(now=False))
    (event,) = journal(stream)
    assert before - 1 <= event.at <= time.time() + 1
    monkeypatch.setattr(event_stream.time, "monotonic", lambda: 1000.123456)
    stream._clock_offset = 5.0
    stream.emit(protocol.Stopping(now=True))
    assert journal(stream)[1].at == 1005.1235


def test_time_goes_forward_though_somebody_sets_the_clock_of_the_machine(stream, monkeypatch):
    stream.emit(protocol.Stopping(now=False))
    monkeypatch.setattr(event_stream.time, "time", lambda: 0.0)
    stream.emit(protocol.Stopping(now=True))
    first, second = journal(stream)
    assert second.at >= first.at


def ticks(stream: EventStream) -> list[float]:
    return [event.at for event in journal(stream) if isinstance(event, protocol.Tick)]


def test_the_journal_has_a_tick_with_telemetry_at_once_and_of_others_one_in_more_than_a_second(stream, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(event_stream.time, "monotonic", lambda: now[0])
    stream._clock_offset = 100.0
    shown: list[bytes] = []
    monkeypatch.setattr(stream.viewers, "offer", shown.append)
    for now[0] in (0.0, 0.25, 1.0, 1.09):
        stream.emit(protocol.Tick())
    assert ticks(stream) == [100.0]
    now[0] = 1.11
    stream.emit(protocol.Tick())
    assert ticks(stream) == [100.0, 101.11]
    now[0] = 1.3
    stream.emit(protocol.Tick(devices=[], processes=[]))
    now[0] = 2.3
    stream.emit(protocol.Tick())
    assert ticks(stream) == [100.0, 101.11, 101.3], "a second counts from the last one, whatever that had"
    assert len(shown) == 7, "viewers get them all"


def test_a_viewer_that_comes_gets_the_state_of_now(stream):
    stream.log("supervisor", "hello")
    snapshot = msgspec.json.decode(stream.viewers._snapshot(), type=Snapshot)
    assert snapshot.state.log == stream.state.log


def test_each_line_of_a_text_is_a_line_of_the_log_with_its_source_and_the_time(stream, capsys):
    stream.log("rank 3", "one\n two\n\nthree \n\n")
    assert texts(stream) == [("rank 3", "one"), ("rank 3", " two"), ("rank 3", ""), ("rank 3", "three")]
    printed = capsys.readouterr().err.splitlines()
    assert [line[8:] for line in printed] == [" rank 3: one", " rank 3:  two", " rank 3: ", " rank 3: three"]
    assert all(line[2] == line[5] == ":" for line in printed)


def test_a_log_that_cannot_be_written_is_still_shown(stream, monkeypatch):
    class Full:
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(event_stream.sys, "stderr", Full())
    stream.log("supervisor", "hello")
    assert texts(stream) == [("supervisor", "hello")]


def test_a_knob_that_was_turned_and_the_ranks_that_are_ready_are_in_the_log(stream):
    config = RunConfig(prompts="p", ranks=1)
    stream.emit(protocol.RunStarted(name="n", directory="/d", config=config, prompts=1))
    stream.emit(protocol.RanksLaunched(attempt=1, world_size=1))
    stream.emit(ready(0))
    assert texts(stream) == []
    stream.emit(protocol.RanksReady())
    assert texts(stream)[0][0] == "supervisor"
    assert texts(stream)[0][1].startswith("all ranks are ready after ")
    stream.emit(protocol.BatchSizeChanged(batch_size=5, auto=False, reason="as asked for"))
    assert texts(stream)[1:] == [("knobs", "batch size 5: as asked for")]


async def test_a_journal_that_could_not_be_written_is_tried_again_in_order(stream, monkeypatch):
    stream.emit(protocol.Stopping(now=False))
    write = stores.LineWriter.write

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(stores.LineWriter, "write", full)
    stream.emit(protocol.Stopping(now=True))
    await stream.look_after()
    assert stream.journal.trouble is not None
    monkeypatch.setattr(stores.LineWriter, "write", write)
    await stream.look_after()
    assert stream.journal.trouble is None
    assert [type(event).__name__ for event in journal(stream)] == ["Stopping", "Stopping"]


def test_a_journal_that_cannot_be_written_for_long_keeps_the_newest_lines_only(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "MAX_KEPT_LINES", 3)
    stream = EventStream(tmp_path, RunState())
    stream.journal.hold("full")
    for number in range(5):
        stream.emit(protocol.LogLine(source="s", text=str(number)))
    kept = [msgspec.json.decode(line, type=protocol.AnyEvent).text for line in stream.journal.in_memory()]
    assert kept == ["2", "3", "4"]


async def test_a_journal_that_was_removed_is_written_again_with_what_it_had_and_the_log_says_so(stream):
    stream.emit(protocol.Stopping(now=False))
    (stream._directory / run_directory.EVENTS_FILE).unlink()
    await stream.look_after()
    assert texts(stream) == [("supervisor", "events.jsonl was removed; the journal goes on")]
    assert [type(event).__name__ for event in journal(stream)] == ["Stopping", "LogLine"]
    await stream.look_after()
    assert len(texts(stream)) == 1, "once"


async def test_a_journal_that_was_cut_short_goes_on_after_what_is_left(stream):
    for now in (False, True):
        stream.emit(protocol.Stopping(now=now))
    path = stream._directory / run_directory.EVENTS_FILE
    first = path.read_bytes().splitlines(keepends=True)[0]
    with path.open("r+b") as file:
        file.truncate(len(first))
    await stream.look_after()
    assert [type(event).__name__ for event in journal(stream)] == ["Stopping", "LogLine"]
    assert journal(stream)[0].now is False


async def test_a_journal_that_cannot_be_put_back_is_held_until_it_can(stream, monkeypatch):
    stream.emit(protocol.Stopping(now=False))
    (stream._directory / run_directory.EVENTS_FILE).unlink()

    def fails(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(event_stream, "write_again", fails)
        await stream.look_after()
        assert stream.journal.trouble == "events.jsonl was removed"
        stream.emit(protocol.Stopping(now=True))
    await stream.look_after()
    assert stream.journal.trouble is None
    assert [getattr(event, "now", None) for event in journal(stream)] == [False, True, None]
