"""`rankdeck report`: which run is set beside which, and where the files go."""

from pathlib import Path
from typing import Any

import pytest

from rankdeck.tui.report import write
from tests.reports import write_run
from tests.tui.commands.test_cli import rankdeck


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was made of which runs, and put where."""
    got: list[Any] = []

    def put(report: str, place: Path) -> list[Path]:
        got.append((report, place))
        return [place / "report.html", place / "report.md"]

    monkeypatch.setattr(write, "make", lambda directory, other: got.append((directory, other)) or "report")
    monkeypatch.setattr(write, "put", put)
    return got


def test_a_report_goes_into_the_runs_own_directory_unless_another_is_named(made: list[Any], tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for directory in (one, other):
        write_run(directory)
    result = rankdeck("report", str(one))
    assert (result.exit_code, result.stdout) == (0, f"{one / 'report.html'}\n{one / 'report.md'}\n")
    assert made == [(one, None), ("report", one)]
    made.clear()
    assert rankdeck("report", str(one), "--compare", str(other), "--output", str(tmp_path / "out")).exit_code == 0
    assert made == [(one, other), ("report", tmp_path / "out")]


def test_a_run_is_set_beside_another_that_is_there(made: list[Any], tmp_path: Path) -> None:
    one = tmp_path / "one"
    write_run(one)
    same = rankdeck("report", str(one), "--compare", f"{one}/.")
    assert (same.exit_code, same.stderr) == (
        2, f"rankdeck: --compare: '{one}/.' is the same run; name another\n"
    )  # fmt: skip
    for words in (("report", str(one), "--compare", "nobody"), ("report", "nobody")):
        result = rankdeck(*words)
        assert result.exit_code == 2
        assert "there is no run called 'nobody'" in result.stderr
    assert made == []


def test_what_cannot_be_written_is_told(made: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "one")

    def full(*_: Any) -> None:
        raise write.WriteError("the disk is full")

    monkeypatch.setattr(write, "put", full)
    result = rankdeck("report", str(tmp_path / "one"))
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", "rankdeck: the disk is full\n")
