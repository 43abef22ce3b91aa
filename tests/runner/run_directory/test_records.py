"""outputs.jsonl put right: each record once, in order, from wherever it still is; strangers set aside."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.protocol import OutputRecord, encode_line
from rankdeck.runner.run_directory import records
from rankdeck.runner.run_directory.records import Ledger, PutRight, Source, put_right, record_in
from tests.runner.run_directory.test_rundir import record, write_records

LINES = [encode_line(record(index)) for index in range(4)]


def ledger_of(lines: list[bytes] = LINES) -> Ledger:
    ledger = Ledger(10)
    for index, line in enumerate(lines):
        ledger.note(index, line)
    return ledger


def outputs(directory: Path) -> Path:
    return directory / run_directory.OUTPUTS_FILE


def indices(directory: Path) -> list[int]:
    return [one.index for one in run_directory.read_outputs(directory)]


def test_a_file_in_order_is_left_as_it_is(tmp_path):
    ledger = write_records(tmp_path, record(0), record(1), record(5))
    before = outputs(tmp_path).stat()
    assert put_right(tmp_path, ledger) == PutRight()
    assert outputs(tmp_path).stat() == before


def test_a_line_that_stands_twice_in_a_row_is_there_once_afterwards(tmp_path):
    outputs(tmp_path).write_bytes(LINES[0] + LINES[1] * 2 + LINES[2] + LINES[3])
    assert put_right(tmp_path, ledger_of()) == PutRight(changed=True)
    assert outputs(tmp_path).read_bytes() == b"".join(LINES)


def test_what_is_missing_comes_from_memory_from_another_file_or_from_the_journal(tmp_path):
    outputs(tmp_path).write_bytes(LINES[2])
    journal = b'{"type":"ranks_ready","at":1}\n' + encode_line(protocol.Output(at=2, record=record(3)))
    elsewhere = [Source(io.BytesIO(LINES[0])), Source(io.BytesIO(LINES[1])), Source(io.BytesIO(journal), record_in)]
    assert put_right(tmp_path, ledger_of(), elsewhere) == PutRight(changed=True, regained=3)
    assert outputs(tmp_path).read_bytes() == b"".join(LINES)
    assert outputs(tmp_path).stat().st_mode & 0o777 == 0o600


def test_what_is_nowhere_is_lost_and_named(tmp_path):
    outputs(tmp_path).write_bytes(LINES[2])
    assert put_right(tmp_path, ledger_of(), [Source(io.BytesIO(LINES[1]))]).lost == (0, 3)
    assert indices(tmp_path) == [1, 2]


def test_a_line_that_somebody_changes_while_it_is_copied_is_not_taken(tmp_path, monkeypatch):
    outputs(tmp_path).write_bytes(LINES[1] + LINES[0])
    replace = records._replace

    def edited(path: Path, lines: Iterator[bytes]) -> None:
        path.write_bytes(path.read_bytes().replace(b"text", b"TEXT"))
        replace(path, lines)

    monkeypatch.setattr(records, "_replace", edited)
    with pytest.raises(OSError, match="is being changed by somebody else"):
        put_right(tmp_path, ledger_of(LINES[:2]))
    assert not list(tmp_path.glob(".outputs.jsonl.*"))


def test_an_edited_record_is_set_aside_and_the_one_that_was_written_takes_its_place(tmp_path):
    edited = LINES[1].replace(b"text", b"TEXT")
    outputs(tmp_path).write_bytes(LINES[0] + edited + LINES[2] + LINES[3])
    done = put_right(tmp_path, ledger_of(), [Source(io.BytesIO(LINES[1]))])
    assert done.aside is not None
    assert done.aside.read_bytes() == edited
    assert outputs(tmp_path).read_bytes() == b"".join(LINES)


def test_a_record_that_is_there_twice_is_kept_once(tmp_path):
    outputs(tmp_path).write_bytes(b"".join(LINES) + LINES[1])
    assert put_right(tmp_path, ledger_of()) == PutRight(changed=True)
    assert outputs(tmp_path).read_bytes() == b"".join(LINES)


def test_each_file_that_is_set_aside_has_a_name_of_its_own(tmp_path):
    for number in (1, 2):
        outputs(tmp_path).write_bytes(f"stranger {number}\n".encode() + b"".join(LINES))
        put_right(tmp_path, ledger_of())
    assert (tmp_path / "outputs.jsonl.damaged").read_text() == "stranger 1\n"
    assert (tmp_path / "outputs.jsonl.damaged-2").read_text() == "stranger 2\n"


@pytest.mark.parametrize("in_its_place", ["nothing", "directory", "pipe", "loop", "device", "dangling link", "foreign"])
def test_whatever_lies_in_its_place_gives_way_to_the_records(tmp_path, in_its_place):
    path = outputs(tmp_path)
    match in_its_place:
        case "directory":
            path.mkdir()
            (path / "mine").touch()
        case "pipe":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path)
        case "device":
            path.symlink_to("/dev/null")
        case "dangling link":
            path.symlink_to(tmp_path / "nowhere")
        case "foreign":
            path.write_bytes(b"\x00\xff[" + b"[" * 100_000 + b"\n")
    done = put_right(tmp_path, ledger_of(), [Source(io.BytesIO(b"".join(LINES)))])
    assert (done.regained, done.lost) == (4, ())
    assert not path.is_symlink()
    assert path.read_bytes() == b"".join(LINES)
    if in_its_place == "directory":
        assert (tmp_path / "outputs.jsonl.damaged" / "mine").exists(), "what somebody has put there is not deleted"


def test_a_disk_without_room_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path, monkeypatch):
    outputs(tmp_path).write_bytes(b"stranger\n" + LINES[1] + LINES[0])

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rankdeck.runner.run_directory.records.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        put_right(tmp_path, ledger_of())
    assert outputs(tmp_path).read_bytes() == b"stranger\n" + LINES[1] + LINES[0]
    assert [path.name for path in tmp_path.iterdir()] == [run_directory.OUTPUTS_FILE]


def test_an_ordered_file_is_on_disk_before_it_replaces_the_other(tmp_path, monkeypatch):
    ledger = write_records(tmp_path, record(1), record(0))
    did = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (did.append("sync"), fsync(descriptor))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (did.append("replace"), replace(*paths))[1])
    put_right(tmp_path, ledger)
    assert did == ["sync", "replace"]


def test_the_ledger_knows_a_line_only_as_it_was_written():
    ledger = ledger_of()
    assert [ledger.prompt_of(line) for line in LINES] == [0, 1, 2, 3]
    strange = [LINES[0][:-1], LINES[0].replace(b'"p"', b'"q"'), LINES[1].replace(b":1,", b":2,"), b"{}\n", b"\xff\n"]
    assert [ledger.prompt_of(line) for line in strange] == [None] * len(strange)
    assert ledger.prompt_of(encode_line(record(99))) is None
    assert ledger.prompt_of(encode_line(record(-1))) is None
    earlier = ledger.copy()
    ledger.forget(2)
    assert (list(ledger), ledger.count, 2 in ledger) == ([0, 1, 3], 3, False)
    assert (list(earlier), earlier.count) == ([0, 1, 2, 3], 4)


@given(st.permutations(range(4)), st.sets(st.integers(0, 3)), st.lists(st.binary(max_size=5), max_size=3))
def test_any_file_becomes_the_records_that_can_be_found(tmp_path_factory, order, in_memory, strangers):
    directory = tmp_path_factory.mktemp("run")
    in_file = [LINES[index] for index in order if index not in in_memory]
    outputs(directory).write_bytes(b"".join([*(one + b"\n" for one in strangers), *in_file]))
    memory = io.BytesIO(b"".join(LINES[index] for index in in_memory))
    assert put_right(directory, ledger_of(), [Source(memory)]).lost == ()
    assert outputs(directory).read_bytes() == b"".join(LINES)


def test_a_record_of_the_journal_is_the_line_that_was_written():
    odd = OutputRecord(
        index=1, id="ü", prompt="\u2028", text="\x1b[31m\n", prompt_tokens=1, output_tokens=1,
        finish_reason="stop",
    )  # fmt: skip
    assert record_in(encode_line(protocol.Output(at=1.5, record=odd))) == encode_line(odd)
    assert record_in(b'{"type":"tick","at":1,"steps":[]}\n') == b""
    assert record_in(b"xxx\n") == b""


def test_prompts_just_beyond_the_last_have_no_record_and_a_hash_of_zero_is_one(monkeypatch):
    ledger = ledger_of()
    assert (10 in ledger, 9 in ledger, -1 in ledger, 3 in ledger, len(ledger)) == (False, False, False, True, 10)
    assert ledger.prompt_of(encode_line(record(10))) is None
    monkeypatch.setattr(records, "hash", lambda line: 0, raising=False)
    ledger.note(9, b"a line")
    assert 9 in ledger
    assert (list(ledger), ledger.count) == ([0, 1, 2, 3, 9], 5)


def test_whoever_counts_the_lines_of_the_new_file_is_told_each_in_order_and_none_of_a_file_that_stays(tmp_path):
    told: list[bytes] = []
    outputs(tmp_path).write_bytes(LINES[3] + LINES[1])
    put_right(tmp_path, ledger_of(), [Source(io.BytesIO(LINES[0] + LINES[2]))], told.append)
    assert told == LINES
    put_right(tmp_path, ledger_of(), (), told.append)
    assert told == LINES


def test_what_the_file_itself_has_is_taken_before_what_is_found_elsewhere(tmp_path):
    outputs(tmp_path).write_bytes(LINES[1] + LINES[0])
    untouched = io.BytesIO(b"".join(LINES))
    untouched.seek(5)
    ledger = ledger_of(LINES[:2])
    assert put_right(tmp_path, ledger, [Source(untouched)]) == PutRight(changed=True)
    assert untouched.tell() == 5, "nothing was missing"
