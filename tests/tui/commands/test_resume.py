"""`rankdeck resume`: a run goes on with its own settings, but for those that are given."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from rankdeck.runner import run_directory, start
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory.run_file import RunFile
from rankdeck.tui.commands import cli


@pytest.mark.parametrize(
    ("flags", "ranks"),
    [
        ((), 5),
        (("--batch-size", "2"), 5),
        (("--ranks", "3"), 3),
        (("--ranks", "3", "--gpus-per-rank", "2"), 3),
        (("--ranks-per-gpu", "2"), 7),
        (("--gpus-per-rank", "2"), 7),
    ],
)
def test_a_resumed_run_keeps_its_ranks_unless_they_share_or_span_gpus_in_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], ranks: int
) -> None:
    config = RunConfig(prompts="p.txt", ranks=5, batch_size=4)
    run_directory.write_run_file(tmp_path, RunFile(name="r", started_at=1, config=config, prompts=1, status="stopped"))
    monkeypatch.setattr(cli, "default_ranks", lambda config: 7)
    asked: list[object] = []

    def resume(directory: Path, settings: dict[str, object], *, ignore_memory: bool) -> None:
        asked.append(settings["ranks"])
        raise run_directory.RunFileError("the test needs no more")

    monkeypatch.setattr(start, "resume", resume)
    assert CliRunner().invoke(cli.app, ["resume", str(tmp_path), *flags]).exit_code == 2
    assert asked == [ranks]
