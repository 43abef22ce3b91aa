"""Where a run is taken up: outputs are the truth, the journal is mended around, and strangers are nobody's records."""

import json
import os
import shutil
from pathlib import Path

import msgspec
import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.inputs import frozen_prompts
from rankdeck.runner.inputs.frozen_prompts import PromptIndex, freeze
from rankdeck.runner.protocol import AnyEvent, OutputRecord, encode_line
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory.resumption import ResumePoint, find_resume_point, missing_records
from rankdeck.runner.run_directory.run_file import RunFile, RunFileError
from rankdeck.runner.state import RunState, apply

CONFIG = RunConfig(prompts="p.txt")


@pytest.fixture
def prompts(tmp_path: Path) -> PromptIndex:
    source = tmp_path / "prompts.txt"
    source.write_text("".join(f"prompt {number}\n" for number in range(8)))
    run = tmp_path / "run"
    run.mkdir()
    return freeze(str(source), run / run_directory.PROMPTS_FILE, column=None, limit=None, chat=False)


@pytest.fixture
def run(prompts: PromptIndex) -> Path:
    return prompts.path.parent


def record(index: int, *, error: str | None = None, batch: int = 1) -> OutputRecord:
    return OutputRecord(
        index=index,
        id=str(index),
        prompt=f"prompt {index}",
        text="" if error else "text",
        prompt_tokens=2,
        output_tokens=0 if error else 3,
        finish_reason="error" if error else "stop",
        error=error,
        rank=0,
        batch=batch,
    )


def journal(*more: AnyEvent) -> list[bytes]:
    events = [
        protocol.RunStarted(at=1, name="r", directory="/r", config=CONFIG, prompts=8),
        protocol.RanksLaunched(at=2, attempt=3, world_size=1, restarts_left=0),
        protocol.BatchStarted(at=3, rank=0, batch=7, rows=4),
        *more,
    ]
    return [encode_line(event) for event in events]


def write(run: Path, outputs: list[bytes] | None = None, events: list[bytes] | None = None) -> None:
    if outputs is not None:
        (run / run_directory.OUTPUTS_FILE).write_bytes(b"".join(outputs))
    if events is not None:
        (run / run_directory.EVENTS_FILE).write_bytes(b"".join(events))


def lines(*records: OutputRecord) -> list[bytes]:
    return [encode_line(one) for one in records]


def taken_up(point: ResumePoint, run: Path) -> RunState:
    """The state after a supervisor's first events."""
    file = RunFile(name="r", started_at=1.0, config=CONFIG, prompts=8)
    state = point.state
    for event in point.first_events(run, file):
        state = apply(state, event)
    return state


def test_a_run_that_has_written_nothing_begins_at_its_start(run, prompts):
    point = find_resume_point(run, prompts)
    assert (point.resumed, point.ledger.count, point.next_batch, point.mended) == (False, 0, 1, [])
    begun = point.first_events(run, RunFile(name="r", started_at=1, config=CONFIG, prompts=8))
    assert [type(event) for event in begun] == [protocol.RunStarted]


def test_it_goes_on_after_the_last_batch_of_journal_and_outputs(run, prompts):
    write(run, lines(record(0, batch=4)), journal())
    assert find_resume_point(run, prompts).next_batch == 8
    write(run, lines(record(0, batch=9)))
    assert find_resume_point(run, prompts).next_batch == 10


def test_counts_are_those_of_the_outputs_whatever_the_journal_says(run, prompts):
    events = journal(*(protocol.Output(at=4, record=record(index)) for index in (0, 1, 2)))
    write(run, lines(record(1), record(5, error="does not fit"), record(6, error="no")), events)
    point = find_resume_point(run, prompts)
    assert (point.state.completed, point.state.failed) == (3, 0), "as the journal has it"
    state = taken_up(point, run)
    assert (state.completed, state.failed, state.prompt_tokens, state.output_tokens) == (1, 2, 6, 3)
    assert list(point.ledger) == [1, 5, 6]


@pytest.mark.parametrize(
    "damage",
    [b"x" * 30 + b"\n", b"\x00" * 30 + b"\n", b"\xff\n", b"[" * 200_000 + b"\n", b'{"type":"new"}\n'],
    ids=["x", "zeros", "no UTF-8", "nested", "unknown"],
)
def test_damaged_lines_of_the_journal_are_set_aside_and_the_rest_is_read(run, prompts, damage):
    good = journal()
    write(run, lines(record(2)), [*good[:2], damage, *good[2:], damage])
    point = find_resume_point(run, prompts)
    assert (point.state.name, point.state.attempt, point.next_batch) == ("r", 3, 8)
    assert point.mended == ["events.jsonl: 2 damaged lines were set aside in events.jsonl.damaged"]
    assert (run / "events.jsonl.damaged").read_bytes() == damage * 2
    assert (run / run_directory.EVENTS_FILE).read_bytes() == b"".join(good)
    assert find_resume_point(run, prompts).mended == [], "once mended, it is whole"


@pytest.mark.parametrize("first", [b"x\n", b""])
def test_a_journal_that_has_lost_its_first_event_is_set_aside_as_a_whole(run, prompts, first):
    write(run, lines(record(2)), [first, *journal()[1:]])
    point = find_resume_point(run, prompts)
    state = taken_up(point, run)
    assert (state.name, state.completed, point.resumed) == ("r", 1, True)
    assert point.mended == [
        "events.jsonl had lost its first event: it is events.jsonl.damaged now, and a new journal begins"
    ]
    assert not (run / run_directory.EVENTS_FILE).exists()


@pytest.mark.parametrize(
    "absurd",
    [
        b'{"type":"ranks_launched","at":2,"attempt":1,"world_size":1000000000000,"restarts_left":0}\n',
        b'{"type":"ranks_launched","at":2,"attempt":1,"world_size":-1,"restarts_left":0}\n',
    ],
)
def test_an_event_with_figures_that_no_supervisor_writes_is_damaged_too(run, prompts, absurd):
    write(run, [], [*journal(), absurd])
    assert find_resume_point(run, prompts).state.attempt == 3
    assert (run / "events.jsonl.damaged").read_bytes() == absurd


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path)])
def test_what_is_no_file_is_no_journal_and_makes_way(run, prompts, make):
    make(run / run_directory.EVENTS_FILE)
    write(run, lines(record(2)))
    point = find_resume_point(run, prompts)
    assert point.ledger.count == 1
    assert not os.path.lexists(run / run_directory.EVENTS_FILE)
    assert os.path.lexists(run / "events.jsonl.damaged")


def test_the_journal_of_a_newer_version_is_refused_and_left_alone(run, prompts):
    newer = protocol.RunStarted(at=1, name="r", directory="/r", config=CONFIG, prompts=8, version=99)
    write(run, [], [encode_line(newer), b'{"type":"new"}\n'])
    before = (run / run_directory.EVENTS_FILE).read_bytes()
    with pytest.raises(RunFileError, match=r"events\.jsonl:1: written by a newer rankdeck"):
        find_resume_point(run, prompts)
    assert (run / run_directory.EVENTS_FILE).read_bytes() == before


def test_damaged_records_are_set_aside_and_their_prompts_done_again(run, prompts):
    whole = lines(*(record(index) for index in range(4)))
    torn = whole[1][:20] + b"x" * 30 + whole[1][50:]
    write(run, [whole[0], torn, whole[2], whole[3], b'{"index":7,"id'], journal())
    point = find_resume_point(run, prompts)
    assert list(point.ledger) == [0, 2, 3]
    assert (run / run_directory.OUTPUTS_FILE).read_bytes() == whole[0] + whole[2] + whole[3]
    assert (run / "outputs.jsonl.damaged").read_bytes() == torn
    assert point.mended == [
        "14 bytes of half-written lines were cut off",
        "outputs.jsonl: 1 line not of this run was set aside in outputs.jsonl.damaged; prompts without a record are "
        "done again",
    ]


@pytest.mark.parametrize("filling", [b"\xff", b"x"], ids=["no UTF-8", "text"])
def test_two_records_that_damage_has_run_together_are_none(run, prompts, filling):
    """A key that is cut off swallows the end of its record and the start of the next, with whose text it goes on."""
    first, second = encode_line(record(1)), encode_line(record(2))
    cut = first.index(b'rank"')
    together = first[: cut + 2] + filling * 40 + second[second.index(b'pt":') :]
    assert msgspec.json.decode(together, type=OutputRecord).index == 1, "the test needs a line that can be decoded"
    write(run, [encode_line(record(0)), together], [])
    point = find_resume_point(run, prompts)
    assert sorted(point.ledger) == [0]
    assert (run / "outputs.jsonl.damaged").read_bytes() == together
    write(run, [encode_line(record(0)), together], [])
    with pytest.raises(run_directory.RunFileError, match=r"outputs\.jsonl:2: damaged, not a record"):
        list(run_directory.read_outputs(run))


def test_a_record_that_was_written_in_another_way_is_still_one(run, prompts):
    spaced = json.dumps(msgspec.to_builtins(record(1)), ensure_ascii=False).encode() + b"\n"
    write(run, [spaced, encode_line(record(0)).replace(b"\n", b"\r\n")], [])
    assert sorted(find_resume_point(run, prompts).ledger) == [0, 1]


def test_of_two_records_of_one_prompt_the_first_counts_and_the_other_is_set_aside(run, prompts):
    first, second = record(3), msgspec.structs.replace(record(3), text="another")
    write(run, lines(record(0), first, second, record(0)))
    point = find_resume_point(run, prompts)
    assert list(point.ledger) == [0, 3]
    assert [one.text for one in run_directory.read_outputs(run)] == ["text", "text"]
    assert (run / "outputs.jsonl.damaged").read_bytes() == encode_line(second)
    assert point.counts.completed == 2


@pytest.mark.parametrize(
    "foreign",
    [
        record(8),
        record(-1),
        msgspec.structs.replace(record(2), prompt="of another run"),
        msgspec.structs.replace(record(2), id="other"),
    ],
)
def test_a_record_of_another_run_is_none_of_this(run, prompts, foreign):
    write(run, lines(record(1), foreign, record(3)))
    assert list(find_resume_point(run, prompts).ledger) == [1, 3]
    assert (run / "outputs.jsonl.damaged").read_bytes() == encode_line(foreign)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_outputs_that_are_no_file_are_no_records(run, prompts, make):
    make(run / run_directory.OUTPUTS_FILE)
    write(run, None, journal())
    assert find_resume_point(run, prompts).ledger.count == 0


def test_records_in_any_order_are_taken_as_they_are(run, prompts):
    write(run, lines(record(5), record(1)))
    before = (run / run_directory.OUTPUTS_FILE).stat()
    point = find_resume_point(run, prompts)
    assert (list(point.ledger), point.mended) == ([1, 5], [])
    assert (run / run_directory.OUTPUTS_FILE).stat().st_mtime_ns == before.st_mtime_ns


def test_missing_records_are_counted_without_a_change_to_the_file(run, prompts):
    assert missing_records(run, prompts) == 8
    content = [*lines(*(record(index) for index in range(7))), encode_line(record(6)), b"x\n"]
    write(run, content)
    assert missing_records(run, prompts) == 1
    assert (run / run_directory.OUTPUTS_FILE).read_bytes() == b"".join(content)
    write(run, [*content, encode_line(record(7))[:-1]])
    assert missing_records(run, prompts) == 1, "the end of a line is part of it"
    write(run, [*content, encode_line(record(7))])
    assert missing_records(run, prompts) == 0


def test_all_records_are_compared_with_the_prompts_in_one_opening_of_their_file(tmp_path, monkeypatch):
    source = tmp_path / "many.txt"
    source.write_text("".join(f"prompt {number}\n" for number in range(200)))
    index = freeze(str(source), tmp_path / run_directory.PROMPTS_FILE, column=None, limit=None, chat=False)
    write(tmp_path, lines(*(record(number) for number in range(199, -1, -1))))
    opened, reading = [], frozen_prompts.reading
    monkeypatch.setattr(frozen_prompts, "reading", lambda *file: (opened.append(file), reading(*file))[1])
    assert find_resume_point(tmp_path, index).ledger.count == 200
    assert len(opened) == 1


def test_a_run_that_was_copied_is_where_it_is_now_not_where_it_was_written(run, prompts):
    write(run, events=journal())
    copy = run.with_name("copy")
    shutil.copytree(run, copy)
    for directory in (run, copy):
        first, *_ = run_directory.read_events(directory)
        assert isinstance(first, protocol.RunStarted)
        assert first.directory == str(directory)
        assert taken_up(find_resume_point(directory, prompts), directory).directory == str(directory)


def test_a_journal_alone_or_records_alone_are_a_run_that_was_begun(run, prompts):
    write(run, events=journal())
    assert find_resume_point(run, prompts).resumed
    (run / run_directory.EVENTS_FILE).unlink()
    write(run, lines(record(0)))
    assert find_resume_point(run, prompts).resumed


def test_what_was_mended_is_told_in_order_with_both_files_halves_together(run, prompts):
    write(run, [*lines(record(0)), b"x" * 1000], [*journal(), b"damage\n", b"y" * 234])
    (run / "outputs.jsonl.damaged").touch()
    content = (run / run_directory.OUTPUTS_FILE).read_bytes()
    (run / run_directory.OUTPUTS_FILE).write_bytes(b"a\nb\n" + content)
    assert find_resume_point(run, prompts).mended == [
        "1,234 bytes of half-written lines were cut off",
        "outputs.jsonl: 2 lines not of this run were set aside in outputs.jsonl.damaged-2; prompts without a record "
        "are done again",
        "events.jsonl: 1 damaged line was set aside in events.jsonl.damaged",
    ]


def test_a_line_that_is_there_twice_is_removed_and_nothing_is_set_aside(run, prompts):
    write(run, lines(record(0), record(0)))
    assert find_resume_point(run, prompts).mended == [
        "outputs.jsonl: 1 line not of this run was removed; prompts without a record are done again"
    ]
    assert sorted(path.name for path in run.iterdir()) == ["outputs.jsonl", "prompts.jsonl"]


def test_the_first_events_say_what_the_run_is_and_what_its_records_add_up_to(run, prompts):
    file = RunFile(name="mine", started_at=12.5, config=CONFIG, prompts=8)
    failed = msgspec.structs.replace(record(1, error="no"), batch=None, rank=None)
    write(run, lines(record(0, batch=6), failed))
    point = find_resume_point(run, prompts)
    assert point.next_batch == 7
    assert point.first_events(run, file) == [
        protocol.RunStarted(name="mine", directory=str(run), config=CONFIG, prompts=8, asked_at=12.5),
        protocol.RunTakenUp(config=CONFIG, completed=1, failed=1, prompt_tokens=4, output_tokens=3),
    ]
    write(run, events=journal())
    (taken_up_again,) = find_resume_point(run, prompts).first_events(run, file)
    assert isinstance(taken_up_again, protocol.RunTakenUp), "the journal has begun already"
