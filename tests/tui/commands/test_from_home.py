"""Paths given to flags: after `=` the shell leaves `~` as it is."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from rankdeck.tui.commands import cli, report, sweep
from rankdeck.tui.commands.options import from_home


def test_a_home_is_expanded_and_an_unknown_users_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert from_home(Path("~/rr")) == tmp_path / "rr"
    assert from_home(Path("~nobody-of-this-name/rr")) == Path("~nobody-of-this-name/rr")
    assert from_home(Path("a/~")) == Path("a/~")
    assert from_home(None) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "p.txt", "--config=~/c.toml"], "--config: {home}/c.toml: No such file"),
        (["sweep", "p.txt", "--config=~/c.toml"], "--config: {home}/c.toml: No such file"),
    ],
)
def test_a_settings_file_is_looked_for_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 2
    assert words.format(home=tmp_path) in result.stderr


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_run_directory_and_reports_go_to_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    asked: list[Path | None] = []
    for module in (cli, sweep):
        monkeypatch.setattr(module, "launch", lambda *_, run_dir=None, **__: asked.append(run_dir))
    assert CliRunner().invoke(cli.app, [command, "p.txt", "--run-dir=~/rr"]).exit_code == 0
    assert asked == [tmp_path / "rr"]
    monkeypatch.setattr(report.run_directory, "find_run", lambda run: tmp_path)
    from rankdeck.tui.report import write

    monkeypatch.setattr(write, "make", lambda *_: {})
    monkeypatch.setattr(write, "put", lambda files, directory: [directory])
    result = CliRunner().invoke(cli.app, ["report", "r", "--output=~/rep"])
    assert result.stdout == f"{tmp_path}/rep\n"
