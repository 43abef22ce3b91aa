"""Where runs are found: by a name of their own outside the usual place, too; and where their sockets are."""

import os
from pathlib import Path

import pytest

from rankdeck.runner import run_directory
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory import places
from rankdeck.runner.run_directory.creation import register_run
from rankdeck.runner.run_directory.run_file import RunFile, RunFileError


def run_at(directory: Path, started_at: float = 1.0) -> None:
    """Begin a run called `twin` in a directory outside the usual place."""
    directory.mkdir()
    run = RunFile(name="twin", started_at=started_at, config=RunConfig(prompts="p"), prompts=1)
    run_directory.write_run_file(directory, run)
    register_run(directory, run)


def test_a_run_whose_name_is_taken_has_the_name_under_which_it_is_found(tmp_path):
    for number in (1, 2, 3):
        run_at(tmp_path / f"place {number}")
    for number, name in enumerate(("twin", "twin-2", "twin-3"), 1):
        assert run_directory.find_run(name) == tmp_path / f"place {number}"
        assert run_directory.read_run_file(tmp_path / f"place {number}").name == name


def test_a_run_that_does_not_start_takes_its_own_name_with_it_and_no_other(tmp_path):
    for number in (1, 2):
        run_at(tmp_path / f"place {number}")
    places.unregister(tmp_path / "place 1")
    with pytest.raises(RunFileError, match="there is no run called 'twin'"):
        run_directory.find_run("twin")
    assert run_directory.find_run("twin-2") == tmp_path / "place 2"


def test_runs_are_suggested_by_the_names_under_which_they_are_found_the_newest_first(tmp_path):
    for number in (1, 2, 3):
        run_at(tmp_path / f"place {number}", started_at=float(number))
    with pytest.raises(RunFileError, match=r"there is no run called 'twim'; known are: twin-3, twin-2, twin$"):
        run_directory.find_run("twim")


SQUATTERS = {
    "a link to a private folder of the user's": lambda path: path.symlink_to(path.parent / "own"),
    "a file": Path.touch,
    "a link that leads nowhere": lambda path: path.symlink_to(path.parent / "nowhere"),
}


@pytest.mark.parametrize("squat", SQUATTERS.values(), ids=SQUATTERS.keys())
def test_what_is_in_the_place_of_the_folder_of_sockets_is_named_and_refused(tmp_path, monkeypatch, squat):
    monkeypatch.setattr(places, "RUNTIME_ROOT", tmp_path)
    (tmp_path / "own").mkdir(mode=0o700)
    squat(tmp_path / f"rankdeck-{os.getuid()}")
    with pytest.raises(RunFileError, match="must be a directory of your own with mode 0700; remove what is there"):
        run_directory.socket_path(tmp_path)
