"""A journal as a supervisor takes it up and puts it back: nothing is lost where the disk fails meanwhile."""

import io
import os
from pathlib import Path

import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.protocol import PROTOCOL_VERSION, encode_line
from rankdeck.runner.protocol.config import MAX_RANKS, RunConfig
from rankdeck.runner.run_directory import journal
from rankdeck.runner.run_directory.journal import Story, take_up_journal, write_again
from rankdeck.runner.run_directory.run_file import RunFileError
from rankdeck.runner.state import RunState

BEGUN = protocol.RunStarted(at=1, name="r", directory="/r", config=RunConfig(prompts="p"), prompts=8)
DAMAGE = b"x" * 20 + b"\n"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def written(directory: Path, *lines: bytes | protocol.AnyEvent) -> Path:
    path = directory / run_directory.EVENTS_FILE
    path.write_bytes(b"".join(line if isinstance(line, bytes) else encode_line(line) for line in lines))
    return path


def test_without_a_journal_there_is_no_story_and_none_is_made(tmp_path):
    assert take_up_journal(tmp_path) == Story(begun=False, state=RunState(), next_batch=1, cut=0, said=[])
    assert names(tmp_path) == []
    written(tmp_path)
    assert take_up_journal(tmp_path) == Story()


def test_the_next_batch_comes_after_the_largest_that_was_started(tmp_path):
    ranks = protocol.RanksLaunched(at=2, attempt=1, world_size=2)
    batches = [protocol.BatchStarted(at=3, rank=rank, batch=batch, rows=1) for rank, batch in ((0, 5), (1, 9), (0, 6))]
    written(tmp_path, BEGUN, ranks, *batches, b'{"type":"ti')
    story = take_up_journal(tmp_path)
    assert (story.begun, story.next_batch, story.cut, story.said) == (True, 10, 11, [])
    assert story.state.name == "r"


@pytest.mark.parametrize(("ranks", "damaged"), [(0, True), (1, False), (MAX_RANKS, False), (MAX_RANKS + 1, True)])
def test_only_as_many_ranks_as_there_can_be_are_believed(tmp_path, ranks, damaged):
    written(tmp_path, BEGUN, protocol.RanksLaunched(at=2, attempt=1, world_size=ranks))
    assert bool(take_up_journal(tmp_path).said) == damaged
    assert (tmp_path / "events.jsonl.damaged").exists() == damaged


def test_a_journal_of_this_version_is_read_and_of_a_newer_one_refused_wherever_it_says_so(tmp_path):
    assert BEGUN.version == PROTOCOL_VERSION
    newer = encode_line(BEGUN).replace(b'"version":%d' % PROTOCOL_VERSION, b'"version":%d' % (PROTOCOL_VERSION + 1))
    written(tmp_path, BEGUN, newer)
    words = rf"events\.jsonl:2: written by a newer rankdeck \(protocol {PROTOCOL_VERSION + 1}, this one knows"
    with pytest.raises(RunFileError, match=words):
        take_up_journal(tmp_path)


def test_a_journal_of_an_older_version_is_read(tmp_path):
    older = encode_line(BEGUN).replace(b'"version":%d' % PROTOCOL_VERSION, b'"version":1')
    assert older != encode_line(BEGUN)
    written(tmp_path, older, protocol.Tick(at=2))
    story = take_up_journal(tmp_path)
    assert (story.begun, story.state.name, story.said) == (True, "r", [])


def test_one_damaged_line_is_counted_as_one_wherever_it_stands(tmp_path):
    tick = encode_line(protocol.Tick(at=2))
    for lines in ([BEGUN, DAMAGE], [BEGUN, DAMAGE, tick], [BEGUN, tick, DAMAGE]):
        for path in tmp_path.iterdir():
            path.unlink()
        path = written(tmp_path, *lines)
        assert take_up_journal(tmp_path).said == ["events.jsonl: 1 damaged line was set aside in events.jsonl.damaged"]
        assert path.read_bytes() == encode_line(BEGUN) + tick * (tick in lines)
        assert (tmp_path / "events.jsonl.damaged").read_bytes() == DAMAGE


def test_a_long_part_is_copied_whole(tmp_path):
    long = encode_line(protocol.LogLine(at=2, source="supervisor", text="x" * 1_500_000))
    path = written(tmp_path, BEGUN, long, DAMAGE, long)
    take_up_journal(tmp_path)
    assert path.read_bytes() == encode_line(BEGUN) + long * 2


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_journal_that_cannot_be_mended_is_as_it_was(tmp_path, monkeypatch, fails):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    content = encode_line(BEGUN) + DAMAGE
    path = written(tmp_path, content)
    monkeypatch.setattr(journal.os, fails, fail)
    with pytest.raises(OSError, match="No space left"):
        take_up_journal(tmp_path)
    monkeypatch.undo()
    assert path.read_bytes() == content
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_a_mended_journal_is_on_disk_before_it_replaces_the_other(tmp_path, monkeypatch):
    did: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (did.append("sync"), fsync(descriptor))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (did.append("replace"), replace(*paths))[1])
    written(tmp_path, BEGUN, DAMAGE)
    take_up_journal(tmp_path)
    assert did == ["sync", "sync", "replace"]


@pytest.mark.parametrize("in_its_place", ["nothing", "a file", "a directory", "a link to a directory"])
def test_a_journal_is_put_back_from_its_beginning_whatever_took_its_place(tmp_path, in_its_place):
    path = tmp_path / run_directory.EVENTS_FILE
    (tmp_path / "folder").mkdir()
    match in_its_place:
        case "a file":
            path.write_text("foreign")
        case "a directory":
            path.mkdir()
        case "a link to a directory":
            path.symlink_to("folder")
    content = io.BytesIO(b"1\n2\n")
    content.seek(2)
    write_again(path, content)
    assert path.read_bytes() == b"1\n2\n"
    assert not path.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600
    left = ["events.jsonl.damaged"] if in_its_place == "a directory" else []
    assert names(tmp_path) == sorted(["events.jsonl", "folder", *left])


def test_a_journal_that_cannot_be_put_back_leaves_nothing_half_done(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    path = tmp_path / run_directory.EVENTS_FILE
    path.write_text("foreign")
    monkeypatch.setattr(journal.os, "replace", fail)
    with pytest.raises(OSError, match="Read-only"):
        write_again(path, io.BytesIO(b"1\n"))
    assert (path.read_text(), names(tmp_path)) == ("foreign", ["events.jsonl"])


def test_what_was_no_file_makes_way_and_is_named(tmp_path):
    (tmp_path / "events.jsonl").mkdir()
    (tmp_path / "events.jsonl.damaged").touch()
    story = take_up_journal(tmp_path)
    assert story == Story(
        said=["events.jsonl was not a file: it is events.jsonl.damaged-2 now, and a new journal begins"]
    )
    assert names(tmp_path) == ["events.jsonl.damaged", "events.jsonl.damaged-2"]


def test_several_damaged_lines_are_counted_and_both_files_are_private(tmp_path):
    tick = encode_line(protocol.Tick(at=2))
    written(tmp_path, BEGUN, *[DAMAGE, tick] * 1200).chmod(0o600)
    before = os.umask(0)
    try:
        said = take_up_journal(tmp_path).said
    finally:
        os.umask(before)
    assert said == ["events.jsonl: 1,200 damaged lines were set aside in events.jsonl.damaged"]
    assert (tmp_path / "events.jsonl").read_bytes() == encode_line(BEGUN) + tick * 1200
    assert (tmp_path / "events.jsonl.damaged").read_bytes() == DAMAGE * 1200
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_journal_that_begins_with_another_event_tells_no_story(tmp_path):
    path = written(tmp_path, protocol.Tick(at=1), protocol.BatchStarted(at=2, rank=0, batch=7, rows=1))
    content = path.read_bytes()
    story = take_up_journal(tmp_path)
    assert (story.begun, story.next_batch, story.state) == (False, 1, RunState())
    assert (names(tmp_path), (tmp_path / "events.jsonl.damaged").read_bytes()) == (["events.jsonl.damaged"], content)


def test_a_run_that_is_taken_up_twice_is_read_to_its_end(tmp_path):
    later = protocol.RunTakenUp(
        at=5, config=RunConfig(prompts="p"), completed=1, failed=2, prompt_tokens=3, output_tokens=4
    )
    written(tmp_path, BEGUN, later, protocol.BatchStarted(at=6, rank=0, batch=3, rows=1))
    story = take_up_journal(tmp_path)
    assert (story.state.completed, story.state.failed, story.said) == (1, 2, [])
    assert story.state.directory == str(tmp_path), "where it is now"
