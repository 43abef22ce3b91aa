"""A run's files: private whatever the umask, and read without being caught by what is no file."""

import os
from pathlib import Path

import msgspec
import pytest

from rankdeck.runner import run_directory, start
from rankdeck.runner.inputs.frozen_prompts import freeze
from rankdeck.runner.launching.accelerate import write_accelerate_config
from rankdeck.runner.protocol import Summary
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory import run_file
from rankdeck.runner.run_directory.creation import create_directory
from rankdeck.runner.run_directory.private_files import lines_of, open_private, open_regular
from rankdeck.runner.run_directory.run_file import NotARunError, RunFile, RunFileError
from tests.runner.run_directory.test_rundir import record, write_records

RUN = RunFile(name="r", started_at=1.0, config=RunConfig(prompts="p"), prompts=1)
SUMMARY = Summary(
    prompts=1, completed=1, failed=0, prompt_tokens=2, output_tokens=4, seconds=1.0, tokens_per_second=4.0,
    padding_waste=0.0, length="natural length", ranks=[],
)  # fmt: skip


@pytest.fixture(params=[0o000, 0o022])
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def test_everything_a_run_writes_is_for_its_owner_alone(tmp_path, umask):
    (tmp_path / "p.txt").write_text("one\n")
    run = tmp_path / "run"
    run.mkdir()
    freeze(str(tmp_path / "p.txt"), run / run_directory.PROMPTS_FILE, column=None, limit=None, chat=False)
    run_directory.write_run_file(run, RUN)
    run_directory.reserve_room(run)
    write_records(run, record(0))
    write_accelerate_config(run / "accelerate.yaml", True)
    os.close(open_private(run / run_directory.LOG_FILE))
    hold = run_directory.Hold(run)
    assert hold.lost() is None
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in run.iterdir()}
    assert len(modes) == 7
    assert set(modes.values()) == {"0o600"}, modes


def test_the_log_of_a_run_is_private_too(tmp_path, umask, monkeypatch):
    monkeypatch.setattr(start.subprocess, "Popen", lambda *_, **__: None)
    start.start_supervisor(tmp_path)
    assert (tmp_path / run_directory.LOG_FILE).stat().st_mode & 0o777 == 0o600


def test_what_is_no_file_keeps_its_mode():
    before = os.stat("/dev/null").st_mode
    os.close(open_private(Path("/dev/null"), os.O_WRONLY))
    assert os.stat("/dev/null").st_mode == before


def test_a_copy_of_the_outputs_has_the_mode_that_the_user_gives_files(tmp_path, umask):
    write_records(tmp_path, record(0))
    run_directory.copy_outputs(tmp_path, tmp_path / "copy.jsonl")
    (tmp_path / "ordinary").touch()
    assert (tmp_path / "copy.jsonl").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_a_directory_that_is_there_already_becomes_private(tmp_path):
    wanted = tmp_path / "shared"
    wanted.mkdir()
    wanted.chmod(0o755)
    new = create_directory(wanted, name=None, prompts="p.txt")
    assert (new.path, new.created) == (wanted, False)
    assert wanted.stat().st_mode & 0o777 == 0o700


def test_a_directory_of_another_user_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("rankdeck.runner.run_directory.creation.os.getuid", lambda: os.geteuid() + 1)
    with pytest.raises(RunFileError, match="belongs to another user"):
        create_directory(tmp_path, name=None, prompts="p.txt")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_only_files_are_read(tmp_path, make):
    path = tmp_path / run_directory.RUN_FILE
    make(path)
    with pytest.raises(OSError, match="not a file"):
        open_regular(path)
    with pytest.raises(RunFileError, match=r"run\.json: cannot be read as a run: it is .*, not a file"):
        run_directory.read_run_file(tmp_path)
    for name in (run_directory.OUTPUTS_FILE, run_directory.EVENTS_FILE):
        make(tmp_path / name)
    with pytest.raises(RunFileError, match=r"outputs\.jsonl: cannot be read"):
        list(run_directory.read_outputs(tmp_path))
    with pytest.raises(RunFileError, match=r"events\.jsonl: cannot be read"):
        list(run_directory.read_events(tmp_path))


def test_a_line_that_never_ends_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("rankdeck.runner.run_directory.private_files.LONGEST_LINE", 4)
    (tmp_path / "f").write_bytes(b"123456\n78\n")
    with open_regular(tmp_path / "f") as file:
        assert list(lines_of(file)) == [b"1234", b"56\n", b"78\n"]


def changed(**fields: object) -> bytes:
    return msgspec.json.encode({**msgspec.to_builtins(RUN), **fields})


def summed_up(**figures: int) -> bytes:
    return changed(status="completed", summary={**msgspec.to_builtins(SUMMARY), **figures})


@pytest.mark.parametrize(
    "content",
    [
        changed(started_at=1e30),
        changed(started_at=-1),
        changed(ended_at=1e12),
        changed(prompts=-1),
        changed(prompts=10**18),
        changed(config={"prompts": "p", "ranks": 10**18}),
        changed(supervisor_pid=-1),
        summed_up(completed=10**18),
        summed_up(failed=-1),
        summed_up(output_tokens=10**18),
        changed(name="\udcff".encode("utf-8", "surrogatepass").decode("latin-1")).replace("í".encode(), b"\xff"),
        b'{"zz":' + b"[" * 200_000 + b"]" * 200_000 + b"," + changed()[1:],
        b"",
        b"\x00" * 100,
    ],
)
def test_a_run_file_with_figures_that_no_run_can_have_is_unreadable(tmp_path, content):
    (tmp_path / run_directory.RUN_FILE).write_bytes(content)
    with pytest.raises(RunFileError, match="cannot be read as a run") as raised:
        run_directory.read_run_file(tmp_path)
    assert not isinstance(raised.value, NotARunError)


def test_a_run_file_with_the_figures_of_a_run_that_is_over_is_read(tmp_path):
    (tmp_path / run_directory.RUN_FILE).write_bytes(summed_up())
    assert run_directory.read_run_file(tmp_path).summary == SUMMARY


def test_no_more_of_a_run_file_is_read_than_a_run_can_have(tmp_path, monkeypatch):
    monkeypatch.setattr(run_file, "MAX_BYTES", 100)
    run_directory.write_run_file(tmp_path, RUN)
    with pytest.raises(RunFileError, match="it has more than 100 bytes"):
        run_directory.read_run_file(tmp_path)


def test_a_run_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path, monkeypatch):
    run_directory.write_run_file(tmp_path, RUN)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_file.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run_directory.write_run_file(tmp_path, msgspec.structs.replace(RUN, status="failed"))
    assert run_directory.read_run_file(tmp_path) == RUN
    assert [path.name for path in tmp_path.iterdir()] == [run_directory.RUN_FILE]


def test_a_run_file_is_on_disk_before_it_replaces_the_old_one(tmp_path, monkeypatch):
    did = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(run_file.os, "fsync", lambda descriptor: (did.append("sync"), fsync(descriptor))[1])
    monkeypatch.setattr(run_file.os, "replace", lambda *paths: (did.append("replace"), replace(*paths))[1])
    run_directory.write_run_file(tmp_path, RUN)
    assert did == ["sync", "replace"]


def test_the_last_run_file_is_written_in_the_room_that_was_kept_for_it(tmp_path, monkeypatch):
    run_directory.write_run_file(tmp_path, RUN)
    run_directory.reserve_room(tmp_path)
    reserve = tmp_path / run_file.RESERVE_FILE
    assert reserve.stat().st_blocks * 512 >= run_file.RESERVE_BYTES, "it takes the room"
    replace_file = run_file.replace_file

    def if_room(path: Path, content: bytes) -> None:
        if reserve.exists() or len(content) > 2000:
            raise OSError(28, "No space left on device")
        replace_file(path, content)

    monkeypatch.setattr(run_file, "replace_file", if_room)
    stopped = msgspec.structs.replace(RUN, status="stopped", exit_status=130, lengths=list(range(5000)))
    run_directory.write_last_run_file(tmp_path, stopped)
    assert run_directory.read_run_file(tmp_path) == msgspec.structs.replace(stopped, lengths=[])
    assert [path.name for path in tmp_path.iterdir()] == [run_directory.RUN_FILE]


def test_where_there_is_room_the_last_run_file_is_whole_and_the_reserve_goes(tmp_path):
    run_directory.reserve_room(tmp_path)
    run = msgspec.structs.replace(RUN, status="completed", lengths=[1, 2])
    run_directory.write_last_run_file(tmp_path, run)
    assert run_directory.read_run_file(tmp_path) == run
    assert [path.name for path in tmp_path.iterdir()] == [run_directory.RUN_FILE]


def test_no_room_to_reserve_is_no_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_file.os, "posix_fallocate", full)
    run_directory.reserve_room(tmp_path)
    assert list(tmp_path.iterdir()) == []
