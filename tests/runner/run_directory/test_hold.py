"""A supervisor's hold on its directory: one supervisor a run, whatever happens to the lock's file or the directory."""

import os
from pathlib import Path

import pytest

from rankdeck.runner import run_directory
from rankdeck.runner.run_directory import lock
from rankdeck.runner.run_directory.run_file import RunFileError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    run.mkdir()
    return run


def test_a_lock_whose_file_was_removed_is_taken_again(directory):
    hold = run_directory.Hold(directory)
    (directory / lock.LOCK_FILE).unlink()
    assert not run_directory.supervisor_alive(directory)
    hold.renew()
    assert run_directory.supervisor_alive(directory)
    hold.renew()
    assert run_directory.supervisor_alive(directory)


def test_a_run_that_another_supervisor_has_taken_meanwhile_is_left_to_it(directory, monkeypatch):
    monkeypatch.setattr(lock, "LOCK_SECONDS", 0.0)
    hold = run_directory.Hold(directory)
    (directory / lock.LOCK_FILE).unlink()
    other = run_directory.hold_lock(directory)
    with pytest.raises(RunFileError, match="already has a live supervisor"):
        hold.renew()
    os.close(other)


def test_a_directory_that_stays_is_not_lost(directory):
    hold = run_directory.Hold(directory)
    assert (hold.lost(), hold.now_at()) == (None, directory)


def test_a_directory_whose_inode_changes_where_it_is_is_not_lost(directory, tmp_path, monkeypatch):
    link = tmp_path / "link"
    link.symlink_to(directory)
    hold = run_directory.Hold(link)
    monkeypatch.setattr(hold, "_inode", hold._inode + 1)
    assert hold.lost() is None


def test_a_directory_that_was_moved_is_found(directory, tmp_path):
    hold = run_directory.Hold(directory)
    directory.rename(tmp_path / "moved")
    assert hold.now_at() == tmp_path / "moved"
    assert hold.lost() == (
        f"{directory} was moved to {tmp_path / 'moved'} while the run went on; "
        f"`rankdeck resume {tmp_path / 'moved'}` goes on with it"
    )
    directory.mkdir()
    assert "was moved" in (hold.lost() or ""), "another directory of its name is not the run's"


def test_a_directory_that_was_removed_is_said_to_be(directory):
    hold = run_directory.Hold(directory)
    (directory / lock.LOCK_FILE).unlink()
    directory.rmdir()
    assert (hold.lost(), hold.now_at()) == (
        f"{directory} was removed while the run went on, and what was in it is lost",
        None,
    )
