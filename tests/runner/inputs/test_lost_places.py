"""Places that are gone or are something else: each is said in words, whatever path was to be found from there."""

import os
from pathlib import Path

import pytest

from rankdeck.runner import run_directory
from rankdeck.runner.inputs import paths
from rankdeck.runner.run_directory import creation
from rankdeck.runner.run_directory.run_file import RunFileError
from rankdeck.tui.sources import runs


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    yield tmp_path
    os.chdir(tmp_path)  # here monkeypatch can go on from


def test_relative_paths_in_a_working_directory_that_is_gone_are_refused_in_words(nowhere):
    words = "the working directory is gone; give the whole path"
    with pytest.raises(RunFileError, match=f"--run-dir: x: {words}"):
        creation.create_directory(Path("x"), name=None, prompts="p.txt")
    assert words in (paths.why_unwritable(Path("out.jsonl"), force=True) or "")
    assert words in (paths.why_unreadable("p.txt", None) or "")
    assert creation.create_directory(nowhere / "x", name=None, prompts="p.txt").created


def test_runs_that_cannot_be_listed_are_not_said_to_be_none(state_home):
    assert "no runs yet" in next(runs.table_lines())
    state_home.parent.mkdir(exist_ok=True)
    if state_home.exists():
        state_home.rmdir()
    state_home.touch()
    for lines in (runs.table_lines(), runs.json_lines()):
        with pytest.raises(RunFileError, match="the place of your runs, cannot be read: Not a directory"):
            list(lines)
    with pytest.raises(RunFileError, match="cannot be read"):
        run_directory.newest_live_run()
