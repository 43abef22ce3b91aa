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
