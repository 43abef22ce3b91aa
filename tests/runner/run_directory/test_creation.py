"""The directory of a new run: how it is named, that it is private and empty, and that it goes if the run does."""

import time
from pathlib import Path

import pytest

from rankdeck.runner import run_directory
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory import creation
from rankdeck.runner.run_directory.creation import NewDirectory, create_directory, register_run
from rankdeck.runner.run_directory.run_file import RunFile, RunFileError


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noon, and stays it."""
    monkeypatch.setattr(creation.time, "localtime", lambda: time.struct_time((2026, 3, 4, 12, 0, 5, 2, 63, 0)))


def modes(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize(
    ("prompts", "stem"),
    [
        ("stories.jsonl", "stories"),
        ("/a/b/my prompts (2).txt", "my-prompts-2"),
        ("A_b-3.c.csv", "A_b-3-c"),
        ("-", "stdin"),
        ("日本.txt", "run"),
        ("x" * 40 + ".txt", "x" * 32),
    ],
)
def test_a_directory_without_a_name_is_called_after_its_prompts_and_the_time(noon, prompts, stem):
    new = create_directory(None, name=None, prompts=prompts)
    assert new == NewDirectory(run_directory.runs_directory() / f"{stem}-20260304-120005", True)
    assert modes(new.path) == 0o700
    assert modes(new.path.parent) == 0o700, "nobody else sees what runs there are"


def test_runs_begun_in_the_same_second_are_told_apart_by_a_number(noon):
    names = [create_directory(None, name=None, prompts="p.txt").path.name for _ in range(3)]
    assert names == ["p-20260304-120005", "p-20260304-120005-2", "p-20260304-120005-3"]


def test_where_every_number_is_taken_that_is_said(noon, monkeypatch):
    def taken(path: Path, **_: object) -> None:
        if path.name != "runs":
            raise FileExistsError

    monkeypatch.setattr(Path, "mkdir", taken)
    with pytest.raises(RunFileError, match=r"no run directory can be made: .*and a thousand more exist already"):
        create_directory(None, name=None, prompts="p.txt")


def test_a_name_is_taken_once():
    new = create_directory(None, name="mine", prompts="p.txt")
    assert new == NewDirectory(run_directory.runs_directory() / "mine", True)
    assert modes(new.path) == 0o700
    with pytest.raises(RunFileError, match="--name: a run called mine exists already; choose another name"):
        create_directory(None, name="mine", prompts="p.txt")


def test_a_directory_that_was_asked_for_is_made_with_its_parents_and_is_known_by_its_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    new = create_directory(Path("a/b"), name="mine", prompts="p.txt")
    assert new == NewDirectory(tmp_path / "a" / "b", True)
    assert modes(new.path) == 0o700
    assert not run_directory.runs_directory().exists(), "it is not there"


@pytest.mark.parametrize("in_it", ["nothing", "a file", "is a file"])
def test_only_an_empty_directory_is_taken(tmp_path, in_it):
    wanted = tmp_path / "wanted"
    if in_it == "is a file":
        wanted.touch()
    else:
        wanted.mkdir()
        if in_it == "a file":
            (wanted / "x").touch()
    if in_it == "nothing":
        assert create_directory(wanted, name=None, prompts="p") == NewDirectory(wanted, False)
    else:
        with pytest.raises(RunFileError, match=r"--run-dir: .*wanted exists and is not empty; name another"):
            create_directory(wanted, name=None, prompts="p")


def test_where_no_directory_can_be_made_the_reason_is_said(tmp_path, state_home):
    (tmp_path / "file").touch()
    with pytest.raises(RunFileError, match=r"no run directory can be made: .*Not a directory"):
        create_directory(tmp_path / "file" / "x", name=None, prompts="p")
    state_home.touch()
    for name in (None, "mine"):
        with pytest.raises(RunFileError, match="no run directory can be made: "):
            create_directory(None, name=name, prompts="p")


def test_a_place_whose_name_cannot_be_recorded_is_refused(tmp_path, monkeypatch):
    with pytest.raises(RunFileError, match=r"no run directory can be made: .*not valid UTF-8"):
        create_directory(tmp_path / "caf\udce9", name=None, prompts="p")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "caf\udce9"))
    with pytest.raises(RunFileError, match=r"no run directory can be made: .*not valid UTF-8"):
        create_directory(None, name=None, prompts="p")
    assert create_directory(tmp_path / "fine", name=None, prompts="p").created


@pytest.mark.parametrize("there_before", [True, False])
def test_a_run_that_does_not_start_leaves_what_was_there_before_and_no_name(tmp_path, there_before):
    wanted = tmp_path / "wanted"
    if there_before:
        wanted.mkdir()
    new = create_directory(wanted, name=None, prompts="p")
    run = RunFile(name="twin", started_at=1.0, config=RunConfig(prompts="p"), prompts=1)
    run_directory.write_run_file(new.path, run)
    register_run(new.path, run)
    assert run_directory.find_run("twin") == wanted
    new.remove()
    assert wanted.exists() == there_before
    assert not there_before or not list(wanted.iterdir())
    assert not list(run_directory.runs_directory().iterdir())


@pytest.mark.parametrize("there_before", [True, False])
def test_what_others_have_put_into_the_directory_of_a_run_that_does_not_start_stays(tmp_path, there_before):
    wanted = tmp_path / "wanted"
    if there_before:
        wanted.mkdir()
    new = create_directory(wanted, name=None, prompts="p")
    for name in ("run.json", "prompts.jsonl", "runner.log", ".prompts.jsonl.partial", ".run.json.x7"):
        (wanted / name).write_text("the run's")
    (wanted / "gen.log").write_text("theirs")
    (wanted / "prompts.jsonl.bak").write_text("theirs")
    (wanted / "sub").mkdir()
    new.remove()
    assert sorted(path.name for path in wanted.iterdir()) == ["gen.log", "prompts.jsonl.bak", "sub"]


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o710, 0o702, 0o700])
def test_a_directory_that_anybody_else_could_look_into_is_made_private(tmp_path, mode):
    wanted = tmp_path / "wanted"
    wanted.mkdir()
    wanted.chmod(mode)
    create_directory(wanted, name=None, prompts="p")
    assert modes(wanted) == 0o700


def test_a_directory_of_another_user_is_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(creation.os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    words = f"--run-dir: {tmp_path} belongs to another user, who could read the run; name another$"
    with pytest.raises(RunFileError, match=words):
        create_directory(tmp_path, name=None, prompts="p")


def test_what_stands_in_the_way_of_a_directory_is_said_with_its_flag(tmp_path, monkeypatch):
    monkeypatch.setattr(creation, "why_nowhere", lambda wanted: f"{wanted} leads nowhere")
    with pytest.raises(RunFileError, match=f"^--run-dir: {tmp_path} leads nowhere$"):
        create_directory(tmp_path, name=None, prompts="p")
    assert create_directory(None, name="mine", prompts="p").created, "nobody asks of a place that was not named"


def test_a_run_that_has_the_name_it_was_given_is_not_written_again(tmp_path):
    run = RunFile(name="twin", started_at=1.0, config=RunConfig(prompts="p"), prompts=1)
    register_run(tmp_path, run)
    assert not list(tmp_path.glob("run.json")), "only a name with a number is news"
