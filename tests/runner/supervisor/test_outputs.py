"""Records and events on their way to disk: a record before its event, and files that others touch put right."""

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.inputs.frozen_prompts import freeze
from rankdeck.runner.protocol import OutputRecord
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory import files, records
from rankdeck.runner.run_directory.output_copy import Stamp
from rankdeck.runner.run_directory.records import Ledger
from rankdeck.runner.scheduling.scheduler import Scheduler
from rankdeck.runner.state import RunState
from rankdeck.runner.supervisor.event_stream import EventStream
from rankdeck.runner.supervisor.outputs import Finished, Outputs


class Desk:
    """The outputs of a run of ten prompts with its journal, and what was said of trouble."""

    def __init__(self, directory: Path) -> None:
        source = directory.parent / "p.txt"
        source.write_text("".join(f"prompt {number}\n" for number in range(10)))
        prompts = freeze(str(source), directory / run_directory.PROMPTS_FILE, column=None, limit=None, chat=False)
        self.directory = directory
        self.path, self.journal = directory / run_directory.OUTPUTS_FILE, directory / run_directory.EVENTS_FILE
        self.trouble: list[str | None] = []
        self.scheduler = Scheduler(prompts.lengths, order="input", batch_size=4, active_ranks=1)
        self.events = EventStream(directory, RunState())
        self.events.emit(protocol.RunStarted(name="r", directory="/r", config=RunConfig(prompts="p"), prompts=10))
        controls = SimpleNamespace(set_trouble=self.trouble.append)
        self.outputs = Outputs(directory, prompts, Ledger(10), self.scheduler, controls, self.events)

    def answer(self, *indices: int) -> None:
        for index in indices:
            self.outputs.keep(record(index))

    def indices(self) -> list[int]:
        return [one.index for one in run_directory.read_outputs(self.directory)]

    def copy_to(self, target: Path, **may) -> Callable[[], Stamp]:
        return lambda: run_directory.copy_outputs(self.directory, target, **may)

    def log(self) -> str:
        return "\n".join(line.text for line in self.events.state.log)


def record(index: int) -> OutputRecord:
    return OutputRecord(
        index=index, id=str(index), prompt=f"prompt {index}", text="t", prompt_tokens=2, output_tokens=3,
        finish_reason="stop", rank=0, batch=1,
    )  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    directory = tmp_path / "run"
    directory.mkdir()
    return Desk(directory)


def test_a_record_is_in_the_file_before_anybody_hears_of_it(desk, monkeypatch):
    heard: list[tuple[str, list[int]]] = []
    emit = desk.events.emit
    monkeypatch.setattr(
        desk.events, "emit", lambda event: (heard.append((type(event).__name__, desk.indices())), emit(event))
    )
    desk.answer(3, 1)
    assert heard == [("Output", [3]), ("Output", [3, 1])]


def test_an_event_is_in_the_journal_before_a_viewer_hears_of_it(desk, monkeypatch):
    shown: list[bool] = []
    monkeypatch.setattr(
        desk.events.viewers, "offer", lambda line: shown.append(desk.journal.read_bytes().endswith(line))
    )
    desk.events.emit(protocol.Stopping(now=False))
    desk.answer(0)
    assert shown == [True, True]


def test_a_second_record_of_a_prompt_is_dropped(desk):
    desk.answer(2)
    desk.outputs.keep(msgspec.structs.replace(record(2), text="another"))
    desk.outputs.keep(msgspec.structs.replace(record(2), index=10))
    assert [one.text for one in run_directory.read_outputs(desk.directory)] == ["t"]
    assert desk.events.state.completed == 1


def test_a_prompt_that_is_given_up_has_a_record_with_its_own_prompt_and_id(desk):
    desk.outputs.give_up(4, "no room", 1, 7)
    (one,) = run_directory.read_outputs(desk.directory)
    assert (one.index, one.id, one.prompt, one.text) == (4, "4", "prompt 4", "")
    assert (one.finish_reason, one.error, one.rank, one.batch) == ("error", "no room", 1, 7)
    assert (desk.events.state.failed, desk.events.state.completed) == (1, 0)


async def test_looking_after_the_outputs_syncs_them(desk, monkeypatch):
    synced = []
    monkeypatch.setattr(files.os, "fsync", synced.append)
    desk.answer(0)
    assert synced == []
    await desk.outputs.look_after()
    await desk.outputs.look_after()
    assert len(synced) == 1


async def test_trouble_is_said_at_once_and_tried_again_until_it_is_over(desk, monkeypatch):
    write = files.LineWriter.write

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    desk.answer(0)
    desk.outputs.store._writer.write = full  # type: ignore[method-assign,union-attr]
    desk.answer(1)
    assert desk.trouble == ["outputs.jsonl cannot be written: No space left on device"]
    assert desk.indices() == [0]
    monkeypatch.setattr(files.LineWriter, "write", write)
    await desk.outputs.look_after()
    assert (desk.indices(), desk.outputs.store.trouble) == ([0, 1], None)


def in_place_of(path: Path, make) -> None:
    path.unlink()
    make(path)


TOUCHES = {
    "removed": lambda path: path.unlink(),
    "truncated": lambda path: os.truncate(path, 0),
    "cut in the middle of a line": lambda path: os.truncate(path, 150),
    "moved away": lambda path: path.rename(path.with_name("elsewhere")),
    "written over": lambda path: path.write_bytes(b"hello\n"),
    "replaced by an edited copy": lambda path: in_place_of(path, lambda path: path.write_bytes(EDITED)),
    "a line appended": lambda path: path.open("ab").write(b'{"index":0}\n'),
    "a directory in its place": lambda path: in_place_of(path, Path.mkdir),
    "a pipe in its place": lambda path: in_place_of(path, os.mkfifo),
    "a loop in its place": lambda path: in_place_of(path, lambda path: path.symlink_to(path)),
    "/dev/null in its place": lambda path: in_place_of(path, lambda path: path.symlink_to("/dev/null")),
}


EDITED = b"".join(protocol.encode_line(msgspec.structs.replace(record(index), text="edited")) for index in range(3))


@pytest.mark.parametrize("touch", TOUCHES)
async def test_a_touched_file_has_every_record_again_and_goes_on(desk, touch):
    desk.answer(2, 0, 1)
    TOUCHES[touch](desk.path)
    await desk.outputs.look_after()
    assert desk.indices() == [0, 1, 2]
    assert "outputs.jsonl was" in desk.log()
    desk.answer(3)
    assert desk.indices() == [0, 1, 2, 3]
    assert all(one.text == "t" for one in run_directory.read_outputs(desk.directory))
    assert (desk.scheduler.unsettled, desk.outputs.store.trouble) == (6, None)


@pytest.mark.parametrize("touch", ["truncated", "written over"])
async def test_records_that_are_in_no_file_any_more_go_back_to_the_queue(desk, touch):
    batch = desk.scheduler.next_batch(0)
    desk.answer(*batch.indices)
    desk.scheduler.finish(batch.batch)
    os.truncate(desk.journal, 0)
    TOUCHES[touch](desk.path)
    desk.answer(9)
    await desk.outputs.look_after()
    assert desk.indices() == [9]
    state = desk.events.state
    assert (state.completed, state.failed, state.prompt_tokens, state.output_tokens) == (1, 0, 2, 3)
    assert "4 records are lost: their prompts are done again" in desk.log()
    assert desk.scheduler.next_batch(0).indices == (0, 1, 2, 3)
    desk.answer(0, 1, 2, 3)
    assert (desk.indices(), desk.events.state.completed) == ([9, 0, 1, 2, 3], 5)


async def test_records_that_come_while_the_file_is_put_right_are_neither_lost_nor_doubled(desk, monkeypatch):
    desk.answer(0, 1)
    os.truncate(desk.path, 0)
    os.truncate(desk.journal, 0)
    put_right = Outputs._put_right

    def meanwhile(self: Outputs, ledger: Ledger) -> object:
        desk.answer(5)
        done = put_right(self, ledger)
        desk.answer(6)
        return done

    monkeypatch.setattr(Outputs, "_put_right", meanwhile)
    await desk.outputs.look_after()
    assert desk.indices() == [5, 6]
    assert desk.events.state.completed == 2
    assert [index for index in range(10) if desk.outputs.is_done(index)] == [5, 6]


async def test_records_that_were_only_in_memory_when_the_file_was_removed_are_written_once(desk, monkeypatch):
    desk.answer(0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as without_room:
        without_room.setattr(files.LineWriter, "write", full)
        desk.answer(1, 2)
        desk.path.unlink()
    await desk.outputs.look_after()
    assert (desk.indices(), len(desk.outputs.store)) == ([0, 1, 2], 0)


async def test_records_are_lost_only_once(desk):
    desk.answer(0, 1)
    os.truncate(desk.path, 0)
    os.truncate(desk.journal, 0)
    await desk.outputs.look_after()
    with desk.path.open("ab") as file:
        file.write(b"stranger\n")
    await desk.outputs.look_after()
    assert desk.log().count("2 records are lost") == 1


async def test_a_file_edited_without_a_change_of_its_size_is_found_out_at_the_end(desk):
    desk.answer(*range(10))
    desk.path.write_bytes(desk.path.read_bytes().replace(b'"t"', b'"T"', 1))
    assert await desk.outputs.finish(None, lambda: False) == Finished(whole=True)
    assert [one.text for one in run_directory.read_outputs(desk.directory)] == ["t"] * 10
    assert (desk.directory / "outputs.jsonl.damaged").exists()


async def test_the_end_tells_a_file_that_lacks_records_from_one_that_is_whole(desk):
    desk.answer(*range(10))
    os.truncate(desk.path, 0)
    os.truncate(desk.journal, 0)
    finished = await desk.outputs.finish(None, lambda: False)
    assert not finished.whole
    assert desk.scheduler.unsettled == 10


async def test_a_file_damaged_again_while_its_losses_are_counted_ends_the_run_as_any_other(desk, monkeypatch):
    desk.answer(*range(10))
    desk.path.write_bytes(desk.path.read_bytes()[:400])
    os.truncate(desk.journal, 0)
    replace = records._replace

    def damaged(path: Path, *more: object) -> None:
        replace(path, *more)
        path.write_bytes(b"hello\n" + path.read_bytes())

    monkeypatch.setattr(records, "_replace", damaged)
    finished = await desk.outputs.finish(None, lambda: False)
    left = 10 - desk.scheduler.unsettled
    assert (finished, 0 < left < 10) == (Finished(whole=False), True)
    assert (desk.events.state.completed, desk.events.state.output_tokens) == (left, 3 * left)


async def test_a_copy_that_cannot_be_made_leaves_the_file_whole(desk, tmp_path):
    desk.answer(3, 1)
    finished = await desk.outputs.finish(desk.copy_to(tmp_path / "nowhere" / "copy.jsonl"), lambda: False)
    assert finished.whole
    assert "No such file or directory" in (finished.trouble or "")
    assert desk.indices() == [1, 3]


async def test_a_copy_whose_name_is_taken_is_given_up_at_once_and_the_run_says_where_its_outputs_are(desk, tmp_path):
    desk.answer(3, 1)
    taken = tmp_path / "copy.jsonl"
    taken.write_text("another's")
    finished = await desk.outputs.finish(desk.copy_to(taken), lambda: False)
    assert (finished.whole, finished.copied) == (True, None)
    assert f"{taken} exists and is not this run's copy" in (finished.trouble or "")
    assert taken.read_text() == "another's"


async def test_a_full_disk_at_the_end_is_waited_for_unless_there_is_a_hurry(desk, monkeypatch):
    desk.answer(3, 1)
    tries = []

    def full(*_: object) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("rankdeck.runner.supervisor.outputs.RETRY_SECONDS", 0.0)
    monkeypatch.setattr("rankdeck.runner.run_directory.records.os.fsync", full)
    assert await desk.outputs.finish(None, lambda: False) == Finished(whole=True)
    assert desk.indices() == [1, 3]
    assert desk.trouble[-1] is None
    tries.clear()
    desk.answer(0)
    finished = await desk.outputs.finish(None, lambda: True)
    assert not finished.whole
    assert "No space left" in (finished.trouble or "")


JOURNAL_TOUCHES = ["removed", "moved away", "a directory in its place", "a pipe in its place", "a loop in its place"]


@pytest.mark.parametrize("touch", JOURNAL_TOUCHES)
async def test_a_journal_that_was_taken_away_has_every_event_again(desk, touch):
    desk.answer(0, 1)
    before = desk.journal.read_bytes()
    TOUCHES[touch](desk.journal)
    await desk.events.look_after()
    assert desk.journal.read_bytes().startswith(before)
    assert "events.jsonl was" in desk.log()
    desk.answer(2)
    events = list(run_directory.read_events(desk.directory))
    assert [event.record.index for event in events if isinstance(event, protocol.Output)] == [0, 1, 2]
    assert isinstance(events[0], protocol.RunStarted)


async def test_a_journal_that_was_cut_short_goes_on_from_there(desk):
    desk.answer(0)
    os.truncate(desk.journal, 0)
    await desk.events.look_after()
    desk.answer(1)
    assert desk.events.journal.trouble is None
    told = [event for event in run_directory.read_events(desk.directory) if isinstance(event, protocol.Output)]
    assert [event.record.index for event in told] == [1]


def test_the_journal_keeps_a_tick_a_second_and_each_that_has_telemetry(desk, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("rankdeck.runner.supervisor.event_stream.time.monotonic", lambda: clock[0])
    for quarter in range(13):
        clock[0] = 100 + quarter / 4
        desk.events.emit(protocol.Tick(steps=[], processes=[] if quarter in (4, 5) else None))
    ticks = [event for event in run_directory.read_events(desk.directory) if isinstance(event, protocol.Tick)]
    assert [round(event.at - ticks[0].at, 2) for event in ticks] == [0.0, 1.0, 1.25, 2.5]


def failure(index: int) -> OutputRecord:
    return msgspec.structs.replace(record(index), finish_reason="error", error="no room", output_tokens=0)


async def test_what_is_left_is_counted_by_kind_and_told_with_what_was_lost(desk):
    desk.answer(0, 1, 2)
    desk.outputs.keep(failure(3))
    lines = desk.path.read_bytes().splitlines(keepends=True)
    desk.path.write_bytes(lines[1] + lines[3])
    os.truncate(desk.journal, 0)
    desk.answer(4)
    await desk.outputs.look_after()
    (lost,) = [event for event in run_directory.read_events(desk.directory) if isinstance(event, protocol.RecordsLost)]
    assert (lost.records, lost.completed, lost.failed, lost.prompt_tokens, lost.output_tokens) == (2, 2, 1, 6, 6)
    assert "2 records are lost: their prompts are done again" in desk.log()


@pytest.mark.parametrize(("count", "said"), [(1, "1 record is written again"), (3, "3 records are written again")])
async def test_the_log_says_what_was_done_to_the_file_and_how_many_records_it_has_again(desk, count, said):
    desk.answer(*range(count))
    desk.path.unlink()
    await desk.outputs.look_after()
    assert desk.log() == f"outputs.jsonl was removed; {said}"
    assert not any(isinstance(event, protocol.RecordsLost) for event in run_directory.read_events(desk.directory))


async def test_lines_of_strangers_are_put_aside_and_the_log_says_where(desk):
    desk.answer(0)
    with desk.path.open("ab") as file:
        file.write(b"stranger\n")
    await desk.outputs.look_after()
    assert desk.log() == (
        "outputs.jsonl was written to by somebody else; lines that are not this run's are in outputs.jsonl.damaged"
    )
    assert (desk.directory / "outputs.jsonl.damaged").read_bytes() == b"stranger\n"


async def test_a_file_that_is_as_it_was_is_put_in_order_without_a_word(desk):
    desk.answer(3, 1)
    assert await desk.outputs.put_right() == 0
    assert (desk.indices(), desk.log(), desk.outputs.store.trouble) == ([1, 3], "", None)
    desk.answer(0)
    assert desk.indices() == [1, 3, 0]


async def test_a_file_that_cannot_be_put_right_is_held_and_tried_again(desk, monkeypatch):
    desk.answer(0, 1)
    desk.path.unlink()

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Outputs, "_put_right", fails)
        await desk.outputs.look_after()
        assert desk.outputs.store.trouble == "outputs.jsonl cannot be put right: No space left on device"
        with pytest.raises(OSError, match="No space left"):
            await desk.outputs.put_right()
    desk.answer(2)
    assert desk.trouble[-1] == desk.outputs.store.trouble, "the run pauses"
    await desk.outputs.look_after()
    assert (desk.indices(), desk.outputs.store.trouble) == ([0, 1, 2], None)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EISDIR])
async def test_what_waiting_does_not_cure_is_not_waited_for(desk, number):
    def copy() -> Stamp:
        raise OSError(number, "so it is")

    finished = await desk.outputs.finish(copy, lambda: False)
    assert finished.whole
    assert finished.trouble is not None
    assert finished.trouble.startswith("outputs cannot be put in order or copied: ")
    assert "so it is" in finished.trouble
    assert desk.trouble == []


async def test_the_copy_is_made_of_the_whole_file_and_its_stamp_returned(desk, tmp_path):
    desk.answer(3, 1)
    finished = await desk.outputs.finish(desk.copy_to(tmp_path / "copy.jsonl"), lambda: False)
    assert finished == Finished(whole=True, copied=run_directory.stamp_of(tmp_path / "copy.jsonl"))
    assert (tmp_path / "copy.jsonl").read_bytes() == desk.path.read_bytes()
    assert desk.trouble == [None]


async def test_a_run_that_is_cancelled_while_its_file_is_put_right_waits_for_the_thread_that_writes_it(
    desk, monkeypatch
):
    desk.answer(1, 0)
    begun, may_end, put_right, ended = threading.Event(), threading.Event(), Outputs._put_right, []

    def slowly(self: Outputs, ledger: Ledger) -> object:
        begun.set()
        assert may_end.wait(20)
        done = put_right(self, ledger)
        ended.append(True)
        return done

    monkeypatch.setattr(Outputs, "_put_right", slowly)
    work = asyncio.create_task(desk.outputs.put_right())
    await asyncio.to_thread(begun.wait, 20)
    work.cancel()
    await asyncio.sleep(0)
    assert not work.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert (ended, desk.indices()) == ([True], [0, 1])


# --- what is told of a file that was put right ------------------------------------------------------


async def test_records_that_were_only_in_memory_are_counted_once_among_what_is_left(desk, monkeypatch):
    desk.answer(0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as without_room:
        without_room.setattr(files.LineWriter, "write", full)
        desk.answer(1, 2)
    os.truncate(desk.path, 0)
    os.truncate(desk.journal, 0)
    await desk.outputs.look_after()
    assert desk.indices() == [1, 2]
    state = desk.events.state
    assert (state.completed, state.prompt_tokens, state.output_tokens) == (2, 4, 6)


async def test_what_was_wrong_with_a_file_that_nobody_was_seen_to_touch_is_told_all_the_same(desk):
    desk.answer(0, 1)
    with desk.path.open("ab") as file:
        file.write(b"stranger\n")
    assert await desk.outputs.put_right() == 0
    aside = "lines that are not this run's are in outputs.jsonl.damaged"
    assert desk.log() == f"outputs.jsonl was touched by somebody else; {aside}"
    desk.path.unlink()
    assert await desk.outputs.put_right() == 0
    assert desk.log().splitlines()[1:] == ["outputs.jsonl was touched by somebody else; 2 records are written again"]


async def test_a_journal_that_was_removed_as_well_still_has_the_records_as_long_as_it_is_open(desk):
    desk.answer(0, 1)
    os.truncate(desk.path, 0)
    desk.journal.unlink()
    await desk.outputs.look_after()
    assert desk.indices() == [0, 1]
    assert desk.log() == "outputs.jsonl was cut short by somebody else; 2 records are written again"


def test_a_chat_that_is_given_up_has_its_messages_as_its_prompt(tmp_path):
    source, directory = tmp_path / "p.jsonl", tmp_path / "run"
    directory.mkdir()
    source.write_text(
        '{"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]}\n'
    )
    prompts = freeze(str(source), directory / run_directory.PROMPTS_FILE, column=None, limit=None, chat=False)
    scheduler = Scheduler(prompts.lengths, order="input", batch_size=4, active_ranks=1)
    events = EventStream(directory, RunState())
    Outputs(directory, prompts, Ledger(1), scheduler, SimpleNamespace(), events).give_up(0, "no room", 1)  # type: ignore[arg-type]
    assert [one.prompt for one in run_directory.read_outputs(directory)] == ["system: be kind\nuser: hello"]
