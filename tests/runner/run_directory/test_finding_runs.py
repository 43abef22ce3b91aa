"""Finding runs by name, by directory, the newest that is live; and telling what is there and cannot be read."""

import os
from pathlib import Path

import pytest

from rankdeck.runner import run_directory
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory import places
from rankdeck.runner.run_directory.run_file import RunFile, RunFileError


def run_in(directory: Path, started_at: float = 1.0) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    run = RunFile(name=directory.name, started_at=started_at, config=RunConfig(prompts="p"), prompts=1)
    run_directory.write_run_file(directory, run)
    return directory


@pytest.fixture
def root(state_home: Path) -> Path:
    path = run_directory.runs_directory()
    assert path == state_home / "rankdeck" / "runs"
    path.mkdir(parents=True)
    return path


def test_a_run_is_found_by_its_name_before_a_folder_of_that_name_here_and_else_by_its_path(root, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    inner, outer = run_in(tmp_path / "here" / "both"), run_in(root / "both")
    assert run_directory.find_run("both") == outer
    assert run_directory.find_run("./both") in (inner, outer)
    only = run_in(tmp_path / "here" / "only")
    for name in ("only", "./only", str(only), f"../here/{only.name}"):
        assert run_directory.find_run(name) == only


def test_runs_are_listed_by_the_names_that_commands_take(root, tmp_path):
    run_in(root / "first", 1.0).rename(root / "renamed")
    run_in(tmp_path / "elsewhere", 2.0)
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    listed = run_directory.list_runs()
    assert [run.name for _, run in listed] == ["linked", "renamed"]
    assert [run_directory.find_run(run.name) for _, run in listed] == [directory for directory, _ in listed]


def test_a_run_that_is_not_there_is_answered_with_those_that_are(root):
    with pytest.raises(RunFileError, match=r"there is no run called 'x'; there are no runs yet$"):
        run_directory.find_run("x")
    for number in range(12):
        run_in(root / f"run{number}", started_at=float(number))
    known = ", ".join(f"run{number}" for number in range(11, 1, -1))
    with pytest.raises(RunFileError, match=f"there is no run called 'x'; known are: {known}$"):
        run_directory.find_run("x")


@pytest.mark.parametrize("name", ["nul\0", "x" * 5000])
def test_a_name_that_no_file_can_have_is_no_run(root, name):
    with pytest.raises(RunFileError, match="there is no run called "):
        run_directory.find_run(name)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_should_be_a_run_and_is_no_file_is_named(root, make):
    (root / "odd").mkdir()
    make(root / "odd" / "run.json")
    with pytest.raises(RunFileError, match=f"{root}/odd/run.json: cannot be read as a run: it is not a file"):
        run_directory.find_run("odd")


def test_runs_that_cannot_be_read_are_listed_apart_by_name(root):
    run_in(root / "fine")
    (root / "stranger").mkdir()
    for name in ("b", "a", "c"):
        (root / name).mkdir()
        (root / name / "run.json").write_text("{")
    assert [path for path, _ in run_directory.list_runs()] == [root / "fine"]
    found = run_directory.unreadable_runs()
    assert [path.name for path, _ in found] == ["a", "b", "c"]
    assert "cannot be read as a run" in str(found[0][1])


def test_a_run_elsewhere_is_listed_where_it_is(root, tmp_path):
    places.register(run_in(tmp_path / "elsewhere"), "linked")
    assert [path for path, _ in run_directory.list_runs()] == [tmp_path / "elsewhere"]
    assert root.stat().st_mode & 0o700 == 0o700
    with pytest.raises(FileExistsError):
        places.register(tmp_path, "linked")


def test_only_links_to_the_run_itself_are_taken_away_with_it(root, tmp_path):
    run_in(root / "mine")
    for name in ("one", "two"):
        places.register(run_in(tmp_path / name), name)
    places.register(tmp_path / "one", "again")
    places.unregister(tmp_path / "one")
    assert sorted(path.name for path in root.iterdir()) == ["mine", "two"]
    places.unregister(root / "mine")
    assert (root / "mine").is_dir()


def test_without_a_place_of_runs_there_is_nothing_to_take_away(state_home, tmp_path):
    places.unregister(tmp_path)
    assert not state_home.exists()
    assert run_directory.list_runs() == []
    assert run_directory.unreadable_runs() == []


def test_the_place_of_runs_is_made_for_its_owner_alone(state_home, tmp_path):
    places.register(run_in(tmp_path / "run"), "x")
    assert run_directory.runs_directory().stat().st_mode & 0o777 == 0o700


def test_the_newest_run_that_is_live_is_found_even_if_its_run_json_cannot_be_read(root, tmp_path):
    with pytest.raises(RunFileError, match="no run is live; `rankdeck list` shows those there were"):
        run_directory.newest_live_run()
    for name, at in (("old", 1.0), ("new", 2.0), ("newest", 3.0)):
        run_in(root / name, started_at=at)
    places.register(run_in(tmp_path / "damaged"), "damaged")
    (tmp_path / "damaged" / "run.json").write_text("{")
    locks = [run_directory.hold_lock(tmp_path / "damaged")]
    assert run_directory.newest_live_run() == tmp_path / "damaged"
    locks += [run_directory.hold_lock(root / name) for name in ("old", "new")]
    assert run_directory.newest_live_run() == root / "new"
    for descriptor in locks:
        os.close(descriptor)


def test_a_socket_is_in_the_users_folder_and_called_after_the_whole_path(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "RUNTIME_ROOT", tmp_path)
    path = run_directory.socket_path(tmp_path / "run")
    assert path.parent == tmp_path / f"rankdeck-{os.getuid()}"
    assert (len(path.name), path.suffix) == (21, ".sock")
    (tmp_path / "link").symlink_to("run")
    monkeypatch.chdir(tmp_path)
    assert {run_directory.socket_path(Path(name)) for name in ("run", "./run", "link")} == {path}
    assert run_directory.socket_path(tmp_path / "run2") != path
    run_directory.socket_path(Path("caf\udce9"))


def test_a_folder_of_sockets_of_another_user_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "RUNTIME_ROOT", tmp_path)
    uid = os.getuid()
    monkeypatch.setattr(places.os, "getuid", lambda: uid + 1)
    with pytest.raises(RunFileError, match=f"rankdeck-{uid + 1} must be a directory of your own with mode 0700"):
        run_directory.socket_path(tmp_path)
