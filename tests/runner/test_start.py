"""Starting and resuming runs, as far as the terminal's process does it."""

import pytest

from rankdeck.runner import run_directory, start
from rankdeck.runner.inputs.frozen_prompts import freeze
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory.run_file import RunFile


def test_a_run_whose_supervisor_cannot_be_started_again_is_as_it_was(tmp_path, monkeypatch):
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    run = tmp_path / "run"
    run.mkdir()
    freeze(str(tmp_path / "p.txt"), run / run_directory.PROMPTS_FILE, column=None, limit=None, chat=False)
    config = RunConfig(prompts=str(tmp_path / "p.txt"), ranks=1, device="cpu")
    stopped = RunFile(
        name="r", status="stopped", exit_status=130, started_at=1.0, ended_at=2.0, config=config, prompts=2
    )
    run_directory.write_run_file(run, stopped)

    def without_processes(_):
        assert run_directory.read_run_file(run).status == "running"
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(start, "start_supervisor", without_processes)
    with pytest.raises(start.InputError, match=r"supervisor cannot be started: .*Resource temporarily unavailable"):
        start.resume(run, {"batch_size": 7})
    assert run_directory.read_run_file(run) == stopped
