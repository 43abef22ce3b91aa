"""run.json: replaced whole or not at all, with room kept for the last one, and refused where it can't be true."""

import os
from pathlib import Path

import msgspec
import pytest

from rankdeck.runner import run_directory
from rankdeck.runner.protocol import Summary
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.engines import EngineRecord
from rankdeck.runner.run_directory import run_file
from rankdeck.runner.run_directory.run_file import LATEST, MOST, RESERVE_BYTES, RESERVE_FILE, RunFile, RunFileError
from rankdeck.runner.state.costs import CostPoint

RUN = RunFile(name="r", started_at=1.0, config=RunConfig(prompts="p"), prompts=1, lengths=[3, 4], loading={"load": 1.0})
SUMMARY = Summary(
    prompts=1, completed=1, failed=0, prompt_tokens=2, output_tokens=4, seconds=1.0, tokens_per_second=4.0,
    padding_waste=0.0, length="natural length", ranks=[],
)  # fmt: skip


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_that_is_replaced_is_on_disk_before_the_old_one_is_gone_and_private(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_text("old")
    path.chmod(0o644)
    did: list[str] = []
    fsync, replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        did.append(f"sync {os.fstat(descriptor).st_size}")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", lambda *paths: (did.append(path.read_text()), replace(*paths))[1])
    run_directory.replace_file(path, b"newer")
    assert did == ["sync 5", "old"]
    assert (path.read_bytes(), names(tmp_path), path.stat().st_mode & 0o777) == (b"newer", ["f"], 0o600)


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_file_that_cannot_be_replaced_is_as_it_was_with_nothing_beside_it(tmp_path, monkeypatch, fails):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "f").write_text("old")
    monkeypatch.setattr(os, fails, fail)
    with pytest.raises(OSError, match="No space left"):
        run_directory.replace_file(tmp_path / "f", b"new")
    monkeypatch.undo()
    assert ((tmp_path / "f").read_text(), names(tmp_path)) == ("old", ["f"])


def test_a_run_of_an_earlier_release_is_read_though_it_has_a_setting_that_is_no_more(tmp_path):
    earlier = msgspec.to_builtins(RUN)
    earlier["config"]["compile"] = False
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(earlier))
    assert run_directory.read_run_file(tmp_path) == RUN


def test_run_json_can_be_read_by_people(tmp_path):
    run_directory.write_run_file(tmp_path, RUN)
    content = (tmp_path / "run.json").read_text()
    assert '{\n  "name": "r",\n' in content
    assert content.endswith("}\n")


def test_room_is_kept_and_given_back_with_the_last_run_file(tmp_path):
    run_directory.reserve_room(tmp_path)
    reserve = tmp_path / RESERVE_FILE
    assert (reserve.stat().st_size, reserve.stat().st_blocks * 512 >= RESERVE_BYTES) == (RESERVE_BYTES, True)
    run_directory.reserve_room(tmp_path)
    run_directory.write_last_run_file(tmp_path, RUN)
    assert names(tmp_path) == ["run.json"]
    assert run_directory.read_run_file(tmp_path) == RUN
    run_directory.write_last_run_file(tmp_path, RUN)


def test_where_no_room_can_be_kept_no_half_of_it_stays_and_nothing_is_left_open(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "posix_fallocate", full)
    run_directory.reserve_room(tmp_path)
    run_directory.reserve_room(tmp_path / "nowhere")
    assert names(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == before


def full_while(monkeypatch: pytest.MonkeyPatch, reserve: Path, *, most: int = 10**9) -> list[RunFile]:
    """Have run.json find no room while the reserve is there, or if it is larger than `most`."""
    tried: list[RunFile] = []
    write = run_file.write_run_file

    def write_if_room(directory: Path, run: RunFile) -> None:
        tried.append(run)
        if reserve.exists() or len(msgspec.json.encode(run)) > most:
            raise OSError(28, "No space left on device")
        write(directory, run)

    monkeypatch.setattr(run_file, "write_run_file", write_if_room)
    return tried


def test_on_a_full_disk_the_last_run_file_takes_the_room_that_was_kept_and_leaves_out_what_is_long(
    tmp_path, monkeypatch
):
    run = msgspec.structs.replace(RUN, costs=[CostPoint(active_ranks=1, rows=2)], cause="the disk was full")
    run_directory.reserve_room(tmp_path)
    tried = full_while(monkeypatch, tmp_path / RESERVE_FILE)
    run_directory.write_last_run_file(tmp_path, run)
    assert tried[0] == run
    assert run_directory.read_run_file(tmp_path) == msgspec.structs.replace(run, costs=[], lengths=[])
    assert names(tmp_path) == ["run.json"]


def test_where_even_that_is_not_enough_it_is_said(tmp_path, monkeypatch):
    run_directory.reserve_room(tmp_path)
    full_while(monkeypatch, tmp_path / RESERVE_FILE, most=0)
    with pytest.raises(OSError, match="No space left"):
        run_directory.write_last_run_file(tmp_path, RUN)


def read(directory: Path, run: RunFile) -> RunFile:
    run_directory.write_run_file(directory, run)
    return run_directory.read_run_file(directory)


def test_the_largest_and_smallest_figures_that_a_run_can_have_are_read(tmp_path):
    for started, ended, count in ((0.0, 0.0, 0), (LATEST, LATEST, MOST)):
        figures = dict.fromkeys(("prompts", "completed", "failed", "output_tokens"), count)
        run = msgspec.structs.replace(
            RUN,
            started_at=started,
            ended_at=ended,
            prompts=count,
            supervisor_pid=count,
            summary=msgspec.structs.replace(SUMMARY, **figures),
        )
        assert read(tmp_path, run) == run


@pytest.mark.parametrize("name", ["prompts", "completed", "failed", "output_tokens"])
@pytest.mark.parametrize("count", [-1, MOST + 1])
def test_every_count_of_a_summary_is_checked(tmp_path, name, count):
    run = msgspec.structs.replace(RUN, summary=msgspec.structs.replace(SUMMARY, **{name: count}))
    with pytest.raises(RunFileError, match=rf"run\.json: cannot be read as a run: {name} is out of range"):
        read(tmp_path, run)


@pytest.mark.parametrize("name", ["started_at", "ended_at"])
@pytest.mark.parametrize("at", [-0.5, LATEST * 1.01])
def test_every_time_is_checked(tmp_path, name, at):
    with pytest.raises(RunFileError, match=f"cannot be read as a run: {name} .* is not a time"):
        read(tmp_path, msgspec.structs.replace(RUN, **{name: at}))


def test_a_run_file_of_just_the_most_bytes_is_read(tmp_path, monkeypatch):
    run_directory.write_run_file(tmp_path, RUN)
    size = (tmp_path / "run.json").stat().st_size
    monkeypatch.setattr(run_file, "MAX_BYTES", size)
    assert run_directory.read_run_file(tmp_path) == RUN
    monkeypatch.setattr(run_file, "MAX_BYTES", size - 1)
    with pytest.raises(RunFileError, match=f"it has more than {size - 1:,} bytes"):
        run_directory.read_run_file(tmp_path)


@pytest.mark.parametrize("where", ["nowhere", "file", "empty"])
def test_a_directory_without_run_json_is_no_run(tmp_path, where):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(run_file.NotARunError, match=f"{tmp_path / where} is not a run directory: it has no run.json"):
        run_directory.read_run_file(tmp_path / where)


@pytest.mark.parametrize(
    ("status", "ended"), [("running", False), ("completed", True), ("failed", True), ("stopped", True)]
)
def test_a_run_has_ended_once_run_json_says_so(tmp_path, status, ended):
    assert not run_directory.has_ended(tmp_path), "there is no run"
    run_directory.write_run_file(tmp_path, msgspec.structs.replace(RUN, status=status))
    assert run_directory.has_ended(tmp_path) == ended
    (tmp_path / "run.json").write_text("{")
    assert not run_directory.has_ended(tmp_path)


@pytest.mark.parametrize("rate", ["-1", "1e16", "1e400"])
def test_a_speed_that_no_engine_has_is_refused(tmp_path, rate):
    record = EngineRecord(
        engine="static", batch_size=1, tokens_per_second=7.25, batches=1, seconds=1.0,
        prompt_tokens=1.0, prompt_bytes=1.0, output_tokens=1.0,
    )  # fmt: skip
    run = msgspec.structs.replace(RUN, engine_record=record)
    assert read(tmp_path, run) == run
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace("7.25", rate))
    with pytest.raises(RunFileError):
        run_directory.read_run_file(tmp_path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"zz":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "it is nested too deep"),
        (b'{"name": 3}', "Expected `str`, got `int` - at `$.name`"),
        (b"[]", "Expected `object`, got `array`"),
    ],
)
def test_why_a_run_file_cannot_be_read_is_said_after_its_path(tmp_path, content, why):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(RunFileError) as raised:
        run_directory.read_run_file(tmp_path)
    assert str(raised.value) == f"{tmp_path}/run.json: cannot be read as a run: {why}"


@pytest.mark.parametrize("setting", ["prompts", "supervisor_pid", "ranks"])
def test_counts_of_the_run_itself_have_both_bounds(tmp_path, setting):
    for count in (-1, MOST + 1):
        changes = {"config": RunConfig(prompts="p", ranks=count)} if setting == "ranks" else {setting: count}
        with pytest.raises(RunFileError, match=f": {setting} is out of range$"):
            read(tmp_path, msgspec.structs.replace(RUN, **changes))


def test_a_run_file_that_lacks_what_later_versions_write_is_read(tmp_path):
    (tmp_path / "run.json").write_bytes(b'{"name":"n","started_at":1,"config":{"prompts":"p"},"prompts":2}')
    assert msgspec.structs.asdict(run_directory.read_run_file(tmp_path)) == {
        "name": "n", "status": "running", "started_at": 1.0, "config": RunConfig(prompts="p"), "prompts": 2,
        "prompts_digest": None, "remarks": [], "environment": None, "supervisor_pid": None, "output_force": False,
        "model_files": {}, "inode": None,
        "output_stamp": None, "ended_at": None, "exit_status": None, "cause": None, "summary": None, "sweep": None,
        "costs": [], "lengths": [], "loading": {}, "engine_hint": None, "engine_record": None,
    }  # fmt: skip
