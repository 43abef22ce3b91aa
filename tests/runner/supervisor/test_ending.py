"""How a run ends when its very ending fails: run.json says so, whatever went wrong."""

import pytest

from rankdeck.runner import __main__ as process
from rankdeck.runner import run_directory, start
from rankdeck.runner.inputs.demo_model import ModelError
from rankdeck.runner.launching.accelerate import accelerate_command
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.supervisor import run
from rankdeck.runner.supervisor.outputs import Outputs
from rankdeck.runner.supervisor.run import Supervisor


@pytest.fixture
def directory(tmp_path, standin_model, monkeypatch):
    """A run whose model is found not to be there."""
    monkeypatch.setattr(start, "start_supervisor", lambda _: None)
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    config = RunConfig(prompts=str(tmp_path / "p.txt"), model=str(standin_model), device="cpu", ranks=1)

    async def none(*_):
        raise ModelError("no such model")

    monkeypatch.setattr(run, "find_model", none)
    return start.launch(config, run_dir=tmp_path / "run").directory


def bug(*_, **__):
    raise ValueError("a bug")


async def test_a_bug_in_the_ending_is_its_cause_beside_the_first(directory, monkeypatch):
    monkeypatch.setattr(Outputs, "finish", bug)
    hold = run_directory.Hold(directory)
    assert await Supervisor(directory, run_directory.read_run_file(directory), hold).run() == 3
    left = run_directory.read_run_file(directory)
    assert (left.status, left.exit_status) == ("failed", 3)
    assert left.cause == "no such model; supervisor: ValueError: a bug"
    assert left.summary is not None


class Left(BaseException):
    """The process has ended."""


async def test_a_run_that_cannot_even_be_summed_up_is_not_left_running(directory, monkeypatch, capsys):
    def leave(status):
        raise Left(status)

    monkeypatch.setattr(run, "summarise", bug)
    monkeypatch.setattr(process.os, "_exit", leave)
    with pytest.raises(Left, match="3"):
        await process._supervise(directory, run_directory.Hold(directory), accelerate_command)
    left = run_directory.read_run_file(directory)
    assert (left.status, left.exit_status, left.cause) == ("failed", 3, "supervisor: ValueError: a bug")
    assert "Traceback" in capsys.readouterr().err
