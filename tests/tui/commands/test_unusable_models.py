"""A model that cannot be used is refused at the command, with all that is wrong, and no run is left behind."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rankdeck.runner import checks, start
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.tui.commands import cli
from tests import checkpoints


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return checkpoints.whole(tmp_path / "model")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "hello"}) + "\n")
    return path


@pytest.fixture(autouse=True)
def _no_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(directory: Path) -> None:
        raise AssertionError("a run was started")

    monkeypatch.setattr(start, "start_supervisor", never)


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_the_command_names_every_fault_of_the_model_and_starts_nothing(
    command: str, model: Path, prompts: Path, state_home: Path
) -> None:
    (model / "model.safetensors").write_bytes(checkpoints.POINTER)
    (model / "generation_config.json").write_text("{")
    done = CliRunner().invoke(cli.app, [command, str(prompts), "--model", str(model), "--dtype", "float32"])
    assert done.exit_code == 2
    assert f"--model: model.safetensors is a Git LFS pointer, not the file itself: run `git lfs pull` in {model}" in (
        done.stderr
    )
    assert f"--model: {model / 'generation_config.json'}:1:2 is not valid JSON" in done.stderr
    assert not list(state_home.glob("**/run.json"))


def test_chat_without_a_template_is_refused_before_anything_starts(
    model: Path, prompts: Path, state_home: Path
) -> None:
    done = CliRunner().invoke(cli.app, ["run", str(prompts), "--model", str(model), "--chat"])
    assert done.exit_code == 2
    assert (
        f"--model: {model}: the model has no chat template, which --chat and prompts with messages need" in done.stderr
    )
    assert not list(state_home.glob("**/run.json"))


def test_messages_without_a_template_are_refused_and_name_their_file(
    model: Path, prompts: Path, state_home: Path
) -> None:
    prompts.write_text(json.dumps({"messages": [{"role": "user", "content": "hello"}]}) + "\n")
    done = CliRunner().invoke(cli.app, ["run", str(prompts), "--model", str(model)])
    assert done.exit_code == 2
    assert f"{prompts}: holds prompts with messages: {model}: the model has no chat template" in done.stderr
    assert not list(state_home.glob("**/run.json"))


def test_the_start_screens_check_says_the_same(model: Path, prompts: Path) -> None:
    config = RunConfig(prompts=str(prompts), model=str(model), device="cpu")
    assert checks.check(config) == []
    checkpoints.change(model / "config.json", model_type="bert", architectures=["BertModel"])
    (problem,) = checks.check(config)
    assert problem.setting == "model"
    assert "BertModel is an encoder" in problem.message


def test_the_flag_for_code_of_the_models_reaches_the_check_and_the_settings(
    model: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_x.XForCausalLM"}
    checkpoints.change(model / "config.json", model_type="unheard_of", auto_map=code)
    for name in ("configuration_x.py", "modeling_x.py"):
        (model / name).touch()
    asked = ["run", str(prompts), "--model", str(model), "--device", "cpu"]
    done = CliRunner().invoke(cli.app, asked)
    assert done.exit_code == 2
    assert "add --trust-remote-code" in done.stderr
    started: list[RunConfig] = []

    def keep(directory: Path) -> None:
        started.append(start.run_directory.read_run_file(directory).config)
        raise start.InputError(["far enough"])

    monkeypatch.setattr(start, "start_supervisor", keep)
    CliRunner().invoke(cli.app, [*asked, "--trust-remote-code", "--ignore-memory"])
    assert [config.trust_remote_code for config in started] == [True]
    assert RunConfig(prompts="p").trust_remote_code is False
