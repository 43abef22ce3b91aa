"""The copy of the outputs: whose file it may replace, and whose not."""

import errno
import os
from pathlib import Path

import pytest

from rankdeck.runner import run_directory
from rankdeck.runner.run_directory.output_copy import OutputTakenError, copy_outputs, stamp_of


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / run_directory.OUTPUTS_FILE).write_text("half")
    return directory


@pytest.fixture(params=["with hard links", "without hard links"])
def target(request, tmp_path: Path, monkeypatch) -> Path:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if request.param == "without hard links":
        monkeypatch.setattr(os, "link", refused)
    (tmp_path / "copies").mkdir()
    return tmp_path / "copies" / "out.jsonl"


def test_a_run_replaces_its_own_earlier_copy(run, target):
    own = copy_outputs(run, target)
    assert own == stamp_of(target)
    (run / run_directory.OUTPUTS_FILE).write_text("whole")
    again = copy_outputs(run, target, own=own)
    assert target.read_text() == "whole"
    assert again == stamp_of(target) != own
    assert [path.name for path in target.parent.iterdir()] == ["out.jsonl"]


def corrected(path: Path) -> None:
    path.write_text("HALF")
    os.utime(path, ns=(1, 1))


def replaced(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.write_text("half")


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("touch", [corrected, replaced, linked])
@pytest.mark.parametrize("remembered", [True, False])
def test_a_file_that_is_not_the_runs_own_copy_is_left_as_it_is_without_force(run, target, touch, remembered):
    own = copy_outputs(run, target)
    touch(target)
    before = target.read_text(), stamp_of(target), sorted(target.parent.iterdir())
    (run / run_directory.OUTPUTS_FILE).write_text("whole")
    with pytest.raises(OutputTakenError, match="is not this run's copy, so it was left as it is"):
        copy_outputs(run, target, own=own if remembered else None)
    assert (target.read_text(), stamp_of(target), sorted(target.parent.iterdir())) == before
    copy_outputs(run, target, force=True)
    assert target.read_text() == "whole"


def test_a_name_as_long_as_a_name_may_be_is_taken(run, target):
    long = target.with_name("x" * 250 + ".json")
    copy_outputs(run, long)
    assert [path.name for path in long.parent.iterdir()] == [long.name]


def test_a_file_that_is_replaced_keeps_its_mode(run, target):
    target.write_text("private")
    target.chmod(0o600)
    copy_outputs(run, target, force=True)
    assert target.stat().st_mode & 0o777 == 0o600
    assert target.read_text() == "half"


def other_inode(path: Path) -> None:
    stat = path.stat()
    path.rename(path.with_name("elsewhere"))
    path.write_text("HALF")
    os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))


def other_size(path: Path) -> None:
    stat = path.stat()
    path.write_text("half and more")
    os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))


def other_time(path: Path) -> None:
    path.write_text("HALF")
    os.utime(path, ns=(7, 7))


@pytest.mark.parametrize("touch", [other_inode, other_size, other_time])
def test_one_thing_that_differs_is_enough_to_leave_a_file_alone(run, target, touch):
    own = copy_outputs(run, target)
    touch(target)
    before = target.read_text()
    words = f"^{target} exists and is not this run's copy, so it was left as it is; copy outputs.jsonl elsewhere$"
    with pytest.raises(OutputTakenError, match=words):
        copy_outputs(run, target, own=own)
    assert target.read_text() == before


@pytest.mark.parametrize("refusal", ["EPERM", "EOPNOTSUPP", "ENOSYS", "EMLINK"])
def test_a_file_system_without_hard_links_is_known_by_how_it_refuses_one(run, tmp_path, monkeypatch, refusal):
    def refused(*_: object, **__: object) -> None:
        raise OSError(getattr(errno, refusal), refusal)

    monkeypatch.setattr(os, "link", refused)
    assert copy_outputs(run, tmp_path / "out") == stamp_of(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "half"


def test_any_other_refusal_is_one_and_leaves_nothing(run, target, monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "link", refused)
    with pytest.raises(OSError, match="Disk quota exceeded"):
        copy_outputs(run, target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(("mode", "kept"), [(0o755, 0o644), (0o600, 0o600), (0o666, 0o666), (0o4777, 0o666)])
def test_a_copy_is_never_made_a_program(run, target, mode, kept):
    target.touch()
    target.chmod(mode)
    copy_outputs(run, target, force=True)
    assert target.stat().st_mode & 0o7777 == kept


def test_nothing_that_is_there_has_no_stamp_and_a_link_has_its_own(tmp_path):
    assert stamp_of(tmp_path / "nowhere") is None
    (tmp_path / "f").write_text("12345")
    (tmp_path / "link").symlink_to("f")
    status = (tmp_path / "f").stat()
    assert stamp_of(tmp_path / "f") == (status.st_ino, 5, status.st_mtime_ns)
    assert stamp_of(tmp_path / "link") != stamp_of(tmp_path / "f")
