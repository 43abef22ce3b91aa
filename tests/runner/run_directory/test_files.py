"""A run's files of lines: written whole, read line by line, and told from other people's files."""

import os
from pathlib import Path

import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.protocol import encode_line
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory import files, private_files
from rankdeck.runner.run_directory.files import LineWriter, belongs_to_a_run, mend, stranger_among_files
from rankdeck.runner.run_directory.lock import LOCK_FILE
from rankdeck.runner.run_directory.private_files import (
    is_file,
    make_accessible,
    open_if_file,
    open_regular,
    unused_name,
)
from rankdeck.runner.run_directory.run_file import RESERVE_FILE, RUN_FILE, RunFileError
from tests.runner.run_directory.test_rundir import record

WRITTEN = [
    "events.jsonl", "outputs.jsonl", "prompts.jsonl", "runner.log", "run.json", ".reserve", "supervisor.lock",
    "accelerate.yaml", "rank-0.log", "rank-12.log", "model-folder.json", "model-folder.lock",
]  # fmt: skip
OTHERS = ["answers.jsonl", "outputs.jsonl.damaged", "rank-0.txt", "my-rank-0.log", "notes.log", "run.json~"]


# --- what belongs to a run ------------------------------------------------------------------------


def test_the_files_of_a_run_have_the_names_that_others_rely_on():
    assert {RUN_FILE, LOCK_FILE, RESERVE_FILE, files.LOG_FILE, files.EVENTS_FILE} < set(WRITTEN)
    assert set(files.WRITTEN) == {name for name in WRITTEN if not name.startswith("rank-")}


@pytest.mark.parametrize("name", [*WRITTEN, *OTHERS])
def test_a_run_writes_its_own_files_and_no_others(tmp_path, name):
    (tmp_path / RUN_FILE).touch()
    (tmp_path / LOCK_FILE).touch()
    assert belongs_to_a_run(tmp_path / name) == (name in WRITTEN)
    (tmp_path / LOCK_FILE).unlink()
    assert not belongs_to_a_run(tmp_path / name), "a folder without a lock is nobody's run"
    (tmp_path / LOCK_FILE).touch()
    (tmp_path / RUN_FILE).unlink()
    assert not belongs_to_a_run(tmp_path / name)


def test_a_loop_of_links_belongs_to_no_run(tmp_path):
    (tmp_path / "outputs.jsonl").symlink_to("outputs.jsonl")
    assert not belongs_to_a_run(tmp_path / "outputs.jsonl")


@pytest.mark.parametrize("name", [*WRITTEN, *OTHERS])
def test_what_is_no_file_in_the_place_of_one_that_a_run_writes_is_told(tmp_path, name):
    (tmp_path / "events.jsonl").touch()
    assert stranger_among_files(tmp_path) is None
    (tmp_path / "target").touch()
    path = tmp_path / name
    path.unlink(missing_ok=True)
    for made, gone, words in (
        (lambda: path.symlink_to("target"), path.unlink, "a link, not a file: the run would write what it leads to"),
        (lambda: os.mkfifo(path), path.unlink, "a pipe, not a file"),
        (path.mkdir, path.rmdir, "a folder, not a file"),
    ):
        made()
        assert stranger_among_files(tmp_path) == (f"{path} is {words}; remove it" if name in WRITTEN else None)
        gone()


# --- writing --------------------------------------------------------------------------------------


def test_lines_are_appended_and_synced_only_where_there_is_something_to_sync(tmp_path, monkeypatch):
    synced: list[int] = []
    monkeypatch.setattr(files.os, "fsync", synced.append)
    path = tmp_path / "f"
    path.write_bytes(b"0\n")
    writer = LineWriter(path)
    writer.sync()
    assert synced == []
    writer.sync(anyway=True)
    assert synced == [writer.descriptor], "what was written before it was opened"
    writer.write(b"1\n2\n")
    assert path.read_bytes() == b"0\n1\n2\n", "the system has it at once"
    writer.write(b"")
    writer.close()
    assert len(synced) == 2
    assert path.read_bytes() == b"0\n1\n2\n"


def test_a_write_that_the_system_takes_in_parts_is_written_whole(tmp_path):
    writer = LineWriter(tmp_path / "f")
    file = writer._file

    class InParts:
        def write(self, view: memoryview) -> int:
            return file.write(view[:2])

        def __getattr__(self, name: str) -> object:
            return getattr(file, name)

    writer._file = InParts()  # type: ignore[assignment]
    writer.write(b"12345\n")
    assert (tmp_path / "f").read_bytes() == b"12345\n"


# --- reading --------------------------------------------------------------------------------------


def test_a_damaged_record_is_named_with_its_line(tmp_path):
    path = tmp_path / run_directory.OUTPUTS_FILE
    path.write_bytes(encode_line(record(0)) + b'{"index":1}\n' + encode_line(record(2)))
    found = run_directory.read_outputs(tmp_path)
    assert next(found).index == 0
    with pytest.raises(RunFileError, match=r"outputs\.jsonl:2: damaged, not a record: "):
        next(found)
    path.write_bytes(b"[" * 100_000 + b"\n")
    with pytest.raises(RunFileError, match=r"outputs\.jsonl:1: damaged"):
        next(run_directory.read_outputs(tmp_path))


def test_a_run_without_outputs_has_none_and_one_without_a_journal_is_damaged(tmp_path):
    assert list(run_directory.read_outputs(tmp_path)) == []
    with pytest.raises(RunFileError, match=r"events\.jsonl: cannot be read: No such file"):
        list(run_directory.read_events(tmp_path))


def test_events_are_read_in_order_and_the_first_says_where_the_run_is_now(tmp_path):
    begun = protocol.RunStarted(at=1, name="r", directory="/r", config=RunConfig(prompts="p"), prompts=1)
    (tmp_path / run_directory.EVENTS_FILE).write_bytes(encode_line(begun) + encode_line(protocol.Tick(at=2)))
    first, second = run_directory.read_events(tmp_path)
    assert (first.directory, second) == (str(tmp_path), protocol.Tick(at=2))  # type: ignore[union-attr]


@pytest.mark.parametrize("ranks", [257, 10**9])
def test_a_journal_of_more_ranks_than_a_run_may_have_is_none(tmp_path, ranks):
    (tmp_path / run_directory.EVENTS_FILE).write_text(f'{{"type":"ranks_launched","attempt":1,"world_size":{ranks}}}\n')
    with pytest.raises(RunFileError, match=rf"events\.jsonl:1: damaged: {ranks:,} ranks are more than there can be"):
        list(run_directory.read_events(tmp_path))


def test_half_a_line_behind_a_link_is_somebody_elses(tmp_path):
    (tmp_path / "real").write_bytes(b"half")
    (tmp_path / "link").symlink_to("real")
    assert mend(tmp_path / "link") == 0
    assert (tmp_path / "real").read_bytes() == b"half"


def test_a_file_that_is_whole_is_not_touched_by_mending(tmp_path):
    (tmp_path / "f").write_bytes(b"1\n")
    os.utime(tmp_path / "f", ns=(5, 5))
    assert mend(tmp_path / "f") == 0
    assert (tmp_path / "f").stat().st_mtime_ns == 5


# --- opening --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "what"),
    [(Path.mkdir, "a directory"), (os.mkfifo, "a pipe"), (lambda path: path.symlink_to("/dev/null"), "a device")],
)
def test_what_is_no_file_is_called_what_it_is_and_nothing_stays_open(tmp_path, make, what):
    make(tmp_path / "f")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=f"it is {what}.*, not a file"):
        open_regular(tmp_path / "f")
    assert len(os.listdir("/proc/self/fd")) == before
    assert not is_file(tmp_path / "f")
    assert open_if_file(tmp_path / "f") is None


def test_there_is_a_file_where_links_lead_to_one(tmp_path):
    (tmp_path / "f").touch()
    (tmp_path / "link").symlink_to("f")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    found = {name: is_file(tmp_path / name) for name in ("f", "link", "loop", "dangling", "nowhere", "f/x")}
    assert found == {"f": True, "link": True, "loop": False, "dangling": False, "nowhere": False, "f/x": False}


def test_a_file_that_cannot_be_reached_is_not_said_to_be_missing(tmp_path, monkeypatch):
    def away(_: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "stat", away)
    for look in (is_file, open_if_file):
        with pytest.raises(OSError, match="Input/output error"):
            look(tmp_path / "f")


@pytest.mark.parametrize("mode", [os.R_OK, os.W_OK])
def test_an_owner_without_permission_is_given_it_back_and_what_a_link_leads_to_stays(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(private_files.os, "access", lambda path, wanted: not wanted & mode)
    (tmp_path / "f").write_text("x")
    (tmp_path / "f").chmod(0o000)
    (tmp_path / "link").symlink_to("f")
    make_accessible(tmp_path / "link")
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o000
    file = open_if_file(tmp_path / "f")
    assert file is not None
    assert file.read() == b"x"
    file.close()
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600


def test_a_file_that_may_be_read_and_written_keeps_its_mode(tmp_path):
    (tmp_path / "f").touch()
    (tmp_path / "f").chmod(0o640)
    make_accessible(tmp_path / "f")
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640


def test_no_file_of_a_run_is_opened_through_a_link_or_inherited_or_waited_for(tmp_path):
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(OSError, match="symbolic links"):
        private_files.open_private(tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    for descriptor in (private_files.open_private(tmp_path / "new"), private_files.open_private(tmp_path / "pipe")):
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)
    with open_regular(tmp_path / "link") as file:
        assert not os.get_inheritable(file.fileno())


def test_what_is_set_aside_takes_no_name_that_is_taken_even_by_a_link_that_leads_nowhere(tmp_path):
    path = tmp_path / "f"
    assert unused_name(path).name == "f.damaged"
    (tmp_path / "f.damaged").symlink_to("nowhere")
    assert unused_name(path).name == "f.damaged-2"
    (tmp_path / "f.damaged-2").mkdir()
    assert unused_name(path).name == "f.damaged-3"


def test_half_a_line_is_cut_off_even_where_the_owners_permission_was_taken_away(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_bytes(b"1\nhalf")
    path.chmod(0o400)
    monkeypatch.setattr(private_files.os, "access", lambda path, wanted: False)
    assert mend(path) == 4
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"1\n", 0o600)


def test_a_file_that_somebody_else_gave_us_is_written_to_though_it_cannot_be_made_private(tmp_path, monkeypatch):
    def theirs(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(private_files.os, "fchmod", theirs)
    LineWriter(tmp_path / "f").write(b"1\n")
    assert (tmp_path / "f").read_bytes() == b"1\n"


def test_a_file_that_cannot_be_read_is_named_with_the_systems_reason(tmp_path, monkeypatch):
    def away(_: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files, "open_regular", away)
    for name, read in (("outputs", run_directory.read_outputs), ("events", run_directory.read_events)):
        with pytest.raises(RunFileError, match=rf"^{tmp_path}/{name}\.jsonl: cannot be read: Input/output error$"):
            list(read(tmp_path))


def test_of_several_links_the_first_by_name_is_told(tmp_path):
    for name in ("run.json", "outputs.jsonl", "rank-3.log"):
        (tmp_path / name).symlink_to("nowhere")
    assert str(stranger_among_files(tmp_path)).startswith(f"{tmp_path}/outputs.jsonl is a link")
