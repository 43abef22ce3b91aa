"""The run directory: whole files, torn lines, input order, who is alive."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from rankdeck.runner import run_directory, start
from rankdeck.runner.machine import doctor
from rankdeck.runner.protocol import OutputRecord, encode_line
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory import lock, places
from rankdeck.runner.run_directory.files import LineWriter
from rankdeck.runner.run_directory.records import Ledger, PutRight, put_right
from rankdeck.runner.run_directory.run_file import RunFile, RunFileError


def record(index: int, text: str = "text") -> OutputRecord:
    return OutputRecord(
        index=index, id=str(index), prompt="p", text=text, prompt_tokens=1, output_tokens=1, finish_reason="stop"
    )


def write_records(directory: Path, *records: OutputRecord) -> Ledger:
    """Write outputs.jsonl; returns the ledger of a run of ten prompts that has written it."""
    writer, ledger = LineWriter(directory / run_directory.OUTPUTS_FILE), Ledger(10)
    for one in records:
        writer.write(encode_line(one))
        ledger.note(one.index, encode_line(one))
    writer.close()
    return ledger


def test_outputs_are_put_into_input_order_with_their_texts(tmp_path):
    ledger = write_records(tmp_path, record(2, "c\u2028"), record(0, "ä" * 1000), record(5), record(1))
    assert put_right(tmp_path, ledger) == PutRight(changed=True)
    assert [one.index for one in run_directory.read_outputs(tmp_path)] == [0, 1, 2, 5]
    assert next(run_directory.read_outputs(tmp_path)).text == "ä" * 1000
    assert [path.name for path in tmp_path.iterdir()] == [run_directory.OUTPUTS_FILE], "nothing temporary is left"


def test_a_line_still_being_written_is_left_out(tmp_path):
    write_records(tmp_path, record(0))
    with (tmp_path / run_directory.OUTPUTS_FILE).open("ab") as file:
        file.write(b'{"index":1,"id"')
    assert [one.index for one in run_directory.read_outputs(tmp_path)] == [0]


def test_what_could_not_be_written_whole_is_cut_off_again(tmp_path, monkeypatch):
    writer = LineWriter(tmp_path / "lines")
    writer.write(b"whole\n")

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, view):
            self.file.write(view[:3])
            raise OSError(28, "No space left on device")

        def __getattr__(self, name):
            return getattr(self.file, name)

    writer._file = Full(writer._file)
    with pytest.raises(OSError, match="No space left"):
        writer.write(b"torn line\n")
    assert (tmp_path / "lines").read_bytes() == b"whole\n"


def test_run_json_round_trips_and_a_broken_one_is_named(tmp_path):
    run = RunFile(name="n", started_at=1.0, config=RunConfig(prompts="p.txt", temperature=0.5), prompts=3)
    run_directory.write_run_file(tmp_path, run)
    assert run_directory.read_run_file(tmp_path) == run
    (tmp_path / run_directory.RUN_FILE).write_text('{"name": 3}')
    with pytest.raises(RunFileError, match=r"run\.json: cannot be read as a run"):
        run_directory.read_run_file(tmp_path)
    with pytest.raises(RunFileError, match="is not a run directory"):
        run_directory.read_run_file(tmp_path / "nowhere")


def test_run_json_holds_a_cause_that_names_a_file_whose_name_is_not_utf8(tmp_path):
    run = RunFile(name="n", started_at=1.0, config=RunConfig(prompts="p.txt"), prompts=3, cause="caf\udce9: no room")
    run_directory.write_run_file(tmp_path, run)
    assert run_directory.read_run_file(tmp_path).cause == "caf?: no room"


def test_a_supervisor_is_alive_exactly_while_its_process_is(tmp_path):
    assert not run_directory.supervisor_alive(tmp_path)
    code = (
        "import sys; from pathlib import Path; from rankdeck.runner import run_directory;"
        "run_directory.hold_lock(Path(sys.argv[1]));"
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    assert run_directory.supervisor_alive(tmp_path)
    with pytest.raises(RunFileError, match="already has a live supervisor"):
        run_directory.hold_lock(tmp_path)
    holder.kill()
    holder.communicate()
    assert not run_directory.supervisor_alive(tmp_path), "a killed supervisor holds nothing"


def test_the_socket_has_a_short_private_place_however_long_the_directory_is(tmp_path):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    path = run_directory.socket_path(deep)
    assert len(os.fsencode(path)) <= doctor.LONGEST_SOCKET
    assert path == run_directory.socket_path(deep / ".." / deep.name), "one directory, one socket"
    assert path != run_directory.socket_path(tmp_path)
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o720], ids=oct)
def test_a_runtime_directory_others_can_enter_is_refused(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(places, "RUNTIME_ROOT", tmp_path)
    (tmp_path / f"rankdeck-{os.getuid()}").mkdir()
    (tmp_path / f"rankdeck-{os.getuid()}").chmod(mode)
    with pytest.raises(RunFileError, match="mode 0700"):
        run_directory.socket_path(tmp_path)


@pytest.mark.parametrize("kind", ["a file", "a dangling link", "a link to a directory", "nothing can be made"])
def test_whatever_is_in_the_place_of_the_runtime_directory_is_refused_in_words(kind, tmp_path, monkeypatch):
    root = tmp_path / "root"
    monkeypatch.setattr(places, "RUNTIME_ROOT", root)
    if kind != "nothing can be made":
        root.mkdir()
    path = root / f"rankdeck-{os.getuid()}"
    if kind == "a file":
        path.touch(mode=0o700)
    elif kind == "a dangling link":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "a link to a directory":
        (tmp_path / "private").mkdir(mode=0o700)
        path.symlink_to(tmp_path / "private")
    words = "cannot be made" if kind == "nothing can be made" else "must be a directory of your own with mode 0700"
    with pytest.raises(RunFileError, match=words):
        run_directory.socket_path(tmp_path)


def test_a_run_that_could_not_listen_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "RUNTIME_ROOT", tmp_path)
    (tmp_path / f"rankdeck-{os.getuid()}").touch()
    prompts = tmp_path / "p.txt"
    prompts.write_text("one\n")
    config = RunConfig(prompts=str(prompts), model="demo", device="cpu", ranks=1)
    with pytest.raises(start.InputError, match="must be a directory of your own"):
        start.launch(config, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_copy_of_the_outputs_replaces_its_target_in_one_step(tmp_path):
    write_records(tmp_path, record(0))
    target = tmp_path / "copies" / "out.jsonl"
    target.parent.mkdir()
    target.write_text("old")
    run_directory.copy_outputs(tmp_path, target, force=True)
    assert target.read_bytes() == (tmp_path / run_directory.OUTPUTS_FILE).read_bytes()
    assert len(list(target.parent.iterdir())) == 1


def test_runs_are_listed_newest_first_and_strangers_left_out(state_home):
    root = run_directory.runs_directory()
    for name, at in (("old", 1.0), ("new", 2.0)):
        (root / name).mkdir(parents=True)
        run_directory.write_run_file(
            root / name, RunFile(name=name, started_at=at, config=RunConfig(prompts="p"), prompts=1)
        )
    (root / "stranger").mkdir()
    assert [run.name for _, run in run_directory.list_runs()] == ["new", "old"]


def test_a_journal_that_cannot_be_understood_is_named_with_its_line(tmp_path):
    (tmp_path / run_directory.EVENTS_FILE).write_text('{"type":"ranks_ready","at":1}\n{"type":"from_the_future"}\n')
    with pytest.raises(RunFileError, match=r"events\.jsonl:2: not an event this version knows"):
        list(run_directory.read_events(tmp_path))


def test_a_supervisor_that_was_started_a_moment_ago_is_waited_for_and_one_that_is_gone_is_not(tmp_path):
    run = RunFile(name="r", status="running", started_at=0, config=RunConfig(prompts="p"), prompts=1)
    run_directory.write_run_file(tmp_path, run)
    taken: list[int] = []
    starting = threading.Timer(0.3, lambda: taken.append(run_directory.hold_lock(tmp_path)))
    starting.start()
    assert run_directory.supervisor_comes(tmp_path)
    starting.join()
    os.close(taken.pop())
    os.utime(tmp_path / run_directory.RUN_FILE, (0, 0))
    assert not run_directory.supervisor_comes(tmp_path)
    run_directory.write_run_file(tmp_path, msgspec.structs.replace(run, status="completed"))
    assert not run_directory.supervisor_comes(tmp_path)


def test_a_run_file_from_the_future_is_no_supervisor_that_comes(tmp_path, monkeypatch):
    """The clock was set back: nobody is waited for until it has caught up."""
    run = RunFile(name="r", status="running", started_at=0, config=RunConfig(prompts="p"), prompts=1)
    run_directory.write_run_file(tmp_path, run)
    os.utime(tmp_path / run_directory.RUN_FILE, (time.time() + 3600,) * 2)
    monkeypatch.setattr(lock.time, "sleep", lambda _: pytest.fail("it is waited for"))
    assert not run_directory.supervisor_comes(tmp_path)
