"""A file that must not lose a line: what cannot be written is kept in order, what others do to the file is noticed."""

import os
from pathlib import Path

import pytest

from rankdeck.runner.run_directory import files
from rankdeck.runner.run_directory.files import LineWriter, mend
from rankdeck.runner.run_directory.store import Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lines.jsonl"


def full_until(monkeypatch: pytest.MonkeyPatch, after: int) -> list[bool]:
    """Have writing fail from the line after `after` lines on, while the returned list has True in it."""
    full, written = [True], [0]
    write = LineWriter.write

    def write_if_room(self: LineWriter, lines: bytes) -> None:
        if full[0] and written[0] >= after:
            raise OSError(28, "No space left on device")
        written[0] += 1
        write(self, lines)

    monkeypatch.setattr(LineWriter, "write", write_if_room)
    return full


def test_lines_that_cannot_be_written_are_kept_in_order_and_written_when_there_is_room(path, monkeypatch):
    full = full_until(monkeypatch, after=1)
    store = Store(path)
    for number in range(4):
        store.write(b"%d\n" % number)
    assert store.trouble == "lines.jsonl cannot be written: No space left on device"
    assert (path.read_bytes(), len(store)) == (b"0\n", 3)
    assert not store.flush()
    full[0] = False
    store.write(b"4\n")
    assert path.read_bytes() == b"0\n", "a line does not overtake those that wait"
    assert store.flush()
    assert (path.read_bytes(), store.trouble, len(store)) == (b"0\n1\n2\n3\n4\n", None, 0)


def test_only_a_file_that_may_drop_lines_drops_them_the_oldest_first(path, monkeypatch):
    monkeypatch.setattr("rankdeck.runner.run_directory.store.MAX_KEPT_LINES", 2)
    full = full_until(monkeypatch, after=0)
    kept, dropping = Store(path), Store(path.with_name("journal"), may_drop=True)
    for number in range(4):
        kept.write(b"%d\n" % number)
        dropping.write(b"%d\n" % number)
    full[0] = False
    assert kept.flush()
    assert dropping.flush()
    assert path.read_bytes() == b"0\n1\n2\n3\n"
    assert path.with_name("journal").read_bytes() == b"2\n3\n"


def test_a_line_is_synced_once_and_a_disk_that_is_full_only_then_is_trouble(path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: (synced.append(descriptor), fsync(descriptor))[1])
    store = Store(path)
    store.sync()
    assert synced == [], "nothing was written"
    store.write(b"1\n")
    assert synced == [], "a write does not wait for the disk"
    store.sync()
    store.sync()
    assert len(synced) == 1

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    store.write(b"2\n")
    store.sync()
    assert store.trouble == "lines.jsonl cannot be written: No space left on device"
    assert not store.flush(), "what was written is not on disk yet"
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: (synced.append(descriptor), fsync(descriptor))[1])
    assert store.flush()
    assert len(synced) == 2
    assert path.read_bytes() == b"1\n2\n"


def test_saving_says_how_many_lines_are_not_on_disk(path, monkeypatch):
    full_until(monkeypatch, after=0)
    store = Store(path)
    store.write(b"1\n")
    store.write(b"2\n")
    with pytest.raises(OSError, match="No space left on device; 2 lines are not on disk"):
        store.save()


def test_saving_syncs(path, monkeypatch):
    synced = []
    monkeypatch.setattr(files.os, "fsync", synced.append)
    store = Store(path)
    store.write(b"1\n")
    store.save()
    assert len(synced) == 1


@pytest.mark.parametrize("before", [b"", b"1\n"])
def test_half_a_line_that_a_failed_write_left_is_cut_off_before_the_next(path, monkeypatch, before):
    store = Store(path)
    if before:
        store.write(before)
    write = LineWriter.write

    def torn(self: LineWriter, lines: bytes) -> None:
        os.write(self.descriptor, lines[:2])  # and it cannot be cut off again
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(LineWriter, "write", torn)
    store.write(b"23456\n")
    monkeypatch.setattr(LineWriter, "write", write)
    assert path.read_bytes() == before + b"23"
    assert store.touched() is None
    assert store.flush()
    assert path.read_bytes() == before + b"23456\n"


TOUCHES = {
    "removed": lambda path: path.unlink(),
    "replaced": lambda path: (path.with_name("new").write_bytes(b"1\n"), path.with_name("new").rename(path)),
    "cut short": lambda path: os.truncate(path, 1),
    "written to": lambda path: path.open("ab").write(b"x\n"),
    "something that is not a file": lambda path: (path.unlink(), path.mkdir()),
    "not a file": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link that leads nowhere": lambda path: (path.unlink(), path.symlink_to(path)),
    "replaced ": lambda path: (path.unlink(), path.symlink_to("/dev/null")),
}


@pytest.mark.parametrize("words", TOUCHES)
@pytest.mark.parametrize("from_before", [True, False])
def test_what_somebody_does_to_the_file_is_noticed_and_said(path, words, from_before):
    if from_before:
        path.write_bytes(b"1\n")
    store = Store(path)
    if not from_before:
        store.write(b"1\n")
    assert store.touched() is None
    TOUCHES[words](path)
    said = store.touched()
    assert said is not None
    assert words.strip() in said


def test_what_the_store_itself_writes_is_no_touch(path):
    store = Store(path)
    assert store.touched() is None, "nothing was written yet"
    for line in (b"1\n", b"\xc3\xa4\xc3\xb6\n", b"3\n"):
        store.write(line)
        assert store.touched() is None
    store.save()
    assert store.touched() is None


def test_after_the_file_was_put_right_it_goes_on_with_the_lines_that_came_meanwhile(path):
    store = Store(path)
    store.write(b"1\n")
    store.hold("lines.jsonl was removed")
    store.write(b"2\n")
    in_memory = len(store)
    store.write(b"3\n")
    assert path.read_bytes() == b"1\n", "nothing is written meanwhile"
    assert store.backlog().read() == b"2\n3\n"
    path.unlink()
    path.write_bytes(b"1\n2\n")
    store.resume(in_memory)
    assert (path.read_bytes(), store.trouble, store.touched()) == (b"1\n2\n3\n", None, None)


def test_the_file_that_is_written_can_be_read_after_it_was_removed(path):
    store = Store(path)
    with store.opened() as file:
        assert file is None
    store.write(b"1\n")
    path.unlink()
    with store.opened() as file:
        assert file is not None
        assert file.read() == b"1\n"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_it_is_private_whatever_the_umask_and_whoever_made_it(path, umask):
    before = os.umask(umask)
    try:
        Store(path).write(b"1\n")
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o644)
        Store(path).write(b"2\n")
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


@pytest.mark.parametrize("torn", [1, 65_535, 65_536, 65_537, 200_000])
@pytest.mark.parametrize("before", [b"", b"one\n", b"one\ntwo\n" * 20_000])
def test_half_a_line_of_any_length_is_cut_off_and_no_more(path, torn, before):
    path.write_bytes(before + b"x" * torn)
    assert mend(path) == torn
    assert path.read_bytes() == before
    assert mend(path) == 0


def test_there_is_nothing_to_mend_where_there_is_no_file(path):
    assert mend(path) == 0
    os.mkfifo(path)
    assert mend(path) == 0


def test_a_file_that_was_written_before_is_gone_on_with_and_one_that_is_removed_before_a_line_was_is_not_missed(path):
    assert Store(path).touched() is None
    path.write_bytes(b"1\n")
    store = Store(path)
    store.write(b"2\n")
    assert (path.read_bytes(), len(store), store.in_memory(), store.touched()) == (b"1\n2\n", 0, [], None)


def test_a_run_on_a_file_system_that_is_away_for_a_moment_is_not_said_to_have_been_touched(path, monkeypatch):
    store = Store(path)
    store.write(b"1\n")

    def away(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "stat", away)
    monkeypatch.setattr(os, "lstat", away)
    assert store.touched() is None


def test_lines_in_memory_can_be_read_in_order_without_being_lost(path):
    store = Store(path)
    store.hold("outputs are looked through")
    assert store.trouble == "outputs are looked through"
    store.write(b"1\n")
    store.write(b"2\n")
    assert not path.exists()
    assert (store.in_memory(), store.backlog().read(), len(store)) == ([b"1\n", b"2\n"], b"1\n2\n", 2)
    store.resume()
    assert (path.read_bytes(), store.trouble, len(store)) == (b"1\n2\n", None, 0)


def test_what_is_resumed_is_another_file_and_the_old_one_is_let_go(path):
    store = Store(path)
    store.write(b"1\n")
    before = len(os.listdir("/proc/self/fd"))
    path.rename(path.with_name("away"))
    path.write_bytes(b"1\n")
    assert store.touched() is not None
    store.resume()
    store.write(b"2\n")
    assert (path.read_bytes(), path.with_name("away").read_bytes()) == (b"1\n2\n", b"1\n")
    assert len(os.listdir("/proc/self/fd")) == before
    assert store.touched() is None


def test_saving_what_is_on_disk_already_or_was_never_written_is_no_trouble(path):
    store = Store(path)
    store.save()
    assert not path.exists() or path.read_bytes() == b""
    store.write(b"1\n")
    store.save()
    store.save()
    assert path.read_bytes() == b"1\n"


def test_the_reason_of_trouble_is_the_systems_and_goes_when_a_try_succeeds(path, monkeypatch):
    def fails(self: LineWriter, lines: bytes) -> None:
        raise OSError(5, None)

    write = LineWriter.write
    monkeypatch.setattr(LineWriter, "write", fails)
    store = Store(path)
    store.write(b"1\n")
    assert store.trouble == "lines.jsonl cannot be written: Input/output error"
    monkeypatch.setattr(LineWriter, "write", write)
    assert store.flush()
    assert store.trouble is None
