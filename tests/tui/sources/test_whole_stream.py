"""A reader that stood still gets every answer all the same, once, and is told that the other events are elsewhere."""

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.state import RunState, Snapshot, ToViewer
from rankdeck.tui.session import watch as watching
from rankdeck.tui.sources.client import SocketSource, SourceError
from rankdeck.tui.sources.whole_stream import WholeStream
from tests import scripted
from tests.scripted_source import ScriptedSource

SUMMARY = scripted.completed().state.ended.summary
TICK = protocol.Tick(at=5.0)


class Told(ScriptedSource):
    """A source whose run is in `directory`; what its stream says of a gap is kept."""

    def __init__(self, directory: Path, *messages: ToViewer) -> None:
        super().__init__(messages)
        self.directory = directory
        self.gaps: list[str] = []


async def all_of(source: Told, *, whole: bool = True) -> list[ToViewer]:
    stream = WholeStream(source, whole=whole, on_gap=source.gaps.append)
    return [message async for message in stream.events()]


def outputs(messages: list[ToViewer]) -> list[int]:
    return [message.record.index for message in messages if isinstance(message, protocol.Output)]


def output(index: int) -> protocol.Output:
    return protocol.Output(at=1.0, record=scripted.record(index))


def snapshot(done: int) -> Snapshot:
    return Snapshot(state=RunState(completed=done - done // 3, failed=done // 3, now=7.0))


def end(records: int) -> protocol.RunEnded:
    summary = msgspec.structs.replace(SUMMARY, completed=records - 1, failed=1)
    return protocol.RunEnded(at=9.0, status="completed", exit_status=0, summary=summary)


def write(directory: Path, *indexes: int, tail: bytes = b"") -> None:
    lines = b"".join(protocol.encode_line(scripted.record(index)) for index in indexes)
    (directory / run_directory.OUTPUTS_FILE).write_bytes(lines + tail)


async def test_where_nothing_was_dropped_every_message_is_passed_on_and_no_file_is_read(tmp_path):
    said = [snapshot(0), output(1), TICK, output(0), end(2)]
    source = Told(tmp_path, *said)
    assert await all_of(source) == said
    assert source.gaps == []


async def test_what_was_dropped_comes_before_the_snapshot_that_stands_for_it(tmp_path):
    write(tmp_path, 3, 1, 4, 0, 2, 5)  # 2 and 5 are newer than the snapshot: their events come
    source = Told(tmp_path, snapshot(0), output(3), snapshot(4), output(2), output(5), end(6))
    messages = await all_of(source)
    assert outputs(messages) == [3, 1, 4, 0, 2, 5]
    assert messages[5] == snapshot(4)
    assert {message.at for message in messages[2:5]} == {7.0}
    assert [message.record for message in messages[2:5]] == [scripted.record(index) for index in (1, 4, 0)]


async def test_no_answer_comes_twice_even_if_the_file_is_in_input_order_by_the_time_a_snapshot_is_read(tmp_path):
    """A reader that stands still until the run is over finds a snapshot of its middle, and events after that."""
    write(tmp_path, 0, 1, 2, 3, 4, 5)
    # 4 and 3 were dropped, and the snapshot stands for 5, 4 and 3; the events of 0, 1 and 2 come behind it.
    source = Told(tmp_path, snapshot(0), output(5), snapshot(3), output(0), output(1), output(2), end(6))
    messages = await all_of(source)
    assert sorted(outputs(messages)) == [0, 1, 2, 3, 4, 5]
    assert messages[-1] == end(6)


async def test_what_was_dropped_at_the_end_comes_before_the_end(tmp_path):
    write(tmp_path, 0, 1, 2, 3)
    messages = await all_of(Told(tmp_path, snapshot(0), output(2), end(4)))
    assert outputs(messages) == [2, 0, 1, 3]
    assert messages[-1] == end(4)
    assert messages[2].at == 9.0


async def test_a_run_that_ended_meanwhile_may_say_so_in_a_snapshot(tmp_path):
    write(tmp_path, 0, 1, 2)
    ended = Snapshot(state=msgspec.structs.replace(snapshot(3).state, ended=end(3)))
    messages = await all_of(Told(tmp_path, snapshot(0), output(1), ended, end(3)))
    assert outputs(messages) == [1, 0, 2]
    assert messages[-1] == ended, "the end is said once"


async def test_answers_older_than_the_viewer_are_not_shown_unless_it_began_the_run(tmp_path):
    write(tmp_path, 7, 3, 1)
    assert outputs(await all_of(Told(tmp_path, snapshot(2), output(1), end(3)), whole=False)) == [1]
    assert outputs(await all_of(Told(tmp_path, snapshot(2), output(1), end(3)), whole=True)) == [7, 3, 1]


async def test_answers_older_than_the_viewer_are_known_even_if_the_file_is_in_order_by_then(tmp_path):
    write(tmp_path, 7, 3)
    source = Told(tmp_path, snapshot(2))
    collecting = asyncio.ensure_future(all_of(source, whole=False))
    while not source.said_all:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    with (tmp_path / run_directory.OUTPUTS_FILE).open("ab") as file:
        file.write(protocol.encode_line(scripted.record(1)))
    write_anew = tmp_path / "anew"
    write_anew.mkdir()
    write(write_anew, 0, 1, 3, 7)
    (write_anew / run_directory.OUTPUTS_FILE).replace(tmp_path / run_directory.OUTPUTS_FILE)
    source.say(output(1), end(4))
    assert outputs(await collecting) == [1, 0]


async def test_a_journal_that_lacks_answers_is_made_whole_too(tmp_path):
    """On a full disk it is the journal that goes without."""
    write(tmp_path, 0, 1, 2)
    started = scripted.starting().events[0]
    assert outputs(await all_of(Told(tmp_path, started, output(0), end(3)), whole=False)) == [0, 1, 2]


async def test_lines_that_are_no_record_are_passed_over(tmp_path):
    half = protocol.encode_line(scripted.record(3))[:-1]
    write(
        tmp_path,
        0,
        tail=b'{"index": 9}\nwhat\n' + b"[" * 5000 + b"\n" + protocol.encode_line(scripted.record(2)) + half,
    )
    assert outputs(await all_of(Told(tmp_path, snapshot(0), end(2)))) == [0, 2]


@pytest.mark.parametrize(
    ("records", "said"), [(3, "1 record is missing from this view"), (1002, "1,000 records are missing from this view")]
)
async def test_answers_that_are_found_nowhere_are_said_after_the_end(tmp_path, records, said):
    write(tmp_path, 0, 1)
    stream = WholeStream(Told(tmp_path, snapshot(0), end(records)), whole=True, on_gap=lambda _: None).events()
    seen = [await anext(stream) for _ in range(4)]
    with pytest.raises(SourceError, match=f"^{said}, and .*outputs.jsonl does not have the rest either"):
        await anext(stream)
    assert outputs(seen) == [0, 1]
    assert seen[-1] == end(records)


async def test_a_run_without_its_outputs_is_no_reason_to_break(tmp_path):
    with pytest.raises(SourceError, match="2 records are missing from this view"):
        await all_of(Told(tmp_path, snapshot(0), end(2)))
    assert await all_of(Told(tmp_path, snapshot(2), end(2)), whole=False) == [snapshot(2), end(2)]


async def test_the_gap_is_said_once_and_where_its_other_events_are(tmp_path):
    write(tmp_path, 0, 1, 2)
    source = Told(tmp_path, snapshot(0), snapshot(0), output(1), snapshot(2), end(3))
    await all_of(source)
    (said,) = source.gaps
    assert f"every answer is shown, other events are in {tmp_path / run_directory.EVENTS_FILE}" in said


async def test_the_files_are_closed_by_a_viewer_that_leaves_early(tmp_path):
    write(tmp_path, 0)
    stream = WholeStream(Told(tmp_path, snapshot(1), TICK), whole=False, on_gap=lambda _: None)
    events = stream.events()
    await anext(events)
    assert stream._earlier._file is not None
    await events.aclose()
    assert stream._earlier._file.closed


@pytest.mark.parametrize("as_json", [True, False])
async def test_a_reader_that_stood_still_until_the_run_was_over_still_gets_every_answer(launch, capsys, as_json):
    """As `rankdeck run --json | slow` does: the view is stuck in its write, and reads nothing meanwhile."""
    prompts = [f"prompt {number} {'x' * 100_000}" for number in range(100)]
    started = launch(prompts)
    view = watching._JsonView() if as_json else watching.PlainView()
    show, stuck = view.show, []

    def stand_still(message: ToViewer) -> None:
        if isinstance(message, protocol.RanksReady) and not stuck:
            stuck.append(True)
            deadline = time.monotonic() + 60
            while run_directory.supervisor_alive(started.directory) and time.monotonic() < deadline:
                time.sleep(0.05)
        show(message)

    view.show = stand_still
    source = SocketSource(started.directory, started.died)
    assert await asyncio.wait_for(watching._follow(source, view, steerable=True, whole=True), 60) == 0
    shown = capsys.readouterr()
    assert "every answer is shown" in shown.err
    lines = shown.out.splitlines()
    if as_json:
        messages = [msgspec.json.decode(line) for line in lines]
        came = [message["record"]["index"] for message in messages if message["type"] == "output"]
        assert messages[-1]["type"] == "run_ended"
        assert messages[-2]["state"]["completed"] == len(prompts), "the journal tells how the run left off"
    else:
        came = [int(line.split("#")[1].split(" ")[0]) for line in lines if " -> " in line]
        assert "outputs: " in lines[-1]
        assert any(f"{len(prompts)} of {len(prompts)} prompts completed" in line for line in lines)
    assert sorted(came) == list(range(len(prompts)))
