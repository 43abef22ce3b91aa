"""The supervisor looks into a model's files before any rank starts, wherever they come from."""

import asyncio
import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from rankdeck.runner import protocol
from rankdeck.runner.inputs import models
from rankdeck.runner.inputs.demo_model import ModelError
from rankdeck.runner.inputs.frozen_prompts import PromptIndex
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.supervisor import model
from rankdeck.runner.supervisor.model import find_model
from tests import checkpoints


class Events:
    """Keeps what is emitted."""

    def __init__(self) -> None:
        self.emitted: list[Any] = []

    def emit(self, event: Any) -> None:
        self.emitted.append(event)


def prompts(chat: bool) -> PromptIndex:
    """Two prompts, one of messages where there is `chat`."""
    index = PromptIndex(Path("prompts.jsonl"))
    index.append(protocol.Prompt(index=0, id="0", text="plain"), 0)
    messages = [{"role": "user", "content": "hello"}] if chat else None
    index.append(protocol.Prompt(index=1, id="1", text="" if chat else "plain", messages=messages), 50)
    return index


def find(model: str, *, chat: bool = False, **settings: Any) -> Events:
    events = Events()
    config = RunConfig(prompts="p", model=model, **settings)
    assert asyncio.run(find_model(config, events, prompts(chat))) == model  # type: ignore[arg-type]
    return events


def refused(model: str, *, chat: bool = False, **settings: Any) -> str:
    with pytest.raises(ModelError) as caught:
        find(model, chat=chat, **settings)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoints.whole(tmp_path / "model")


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """`org/name` is on the hub, and has the files of `folder`; what is asked of it is kept."""
    asked: list[list[str]] = []

    def snapshot_download(model: str, *, allow_patterns: list[str]) -> str:
        assert model == "org/name"
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr(models, "_check_hub", lambda model: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def test_a_folder_that_changed_since_the_run_was_asked_for_is_refused_with_all_its_faults(folder: Path) -> None:
    find(str(folder))
    (folder / "model.safetensors").unlink()
    (folder / "tokenizer.json").unlink()
    said = refused(str(folder))
    assert "has no weights" in said
    assert "has no tokenizer" in said


def test_what_is_worth_a_line_is_in_the_log_before_the_model_is_found(folder: Path) -> None:
    checkpoints.tokenizer(folder, checkpoints.VOCABULARY, {"<pad>": 8})
    *_, line, last = find(str(folder)).emitted
    assert isinstance(line, protocol.LogLine)
    assert "the tokenizer has tokens beyond the model's 8 ('<pad>')" in line.text
    assert last == protocol.ModelProgress(phase="found", label="model")


def test_a_hub_model_is_looked_into_while_its_weights_are_still_on_the_hub(folder: Path, hub: list[list[str]]) -> None:
    (folder / "model.safetensors").unlink()
    find("org/name")
    assert not any("safetensors" in pattern or "bin" in pattern for pattern in hub[0])
    checkpoints.change(folder / "config.json", model_type="t5", architectures=["T5ForConditionalGeneration"])
    assert "T5ForConditionalGeneration is an encoder-decoder" in refused("org/name")


def test_a_hub_model_in_the_cache_is_looked_into_with_its_weights(folder: Path, hub: list[list[str]]) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-5])
    assert "is cut short" in refused("org/name")


def test_the_packages_that_a_quantised_hub_model_needs_are_asked_for(folder: Path, hub: list[list[str]]) -> None:
    checkpoints.change(folder / "config.json", quantization_config={"quant_method": "vptq"})
    assert "--model: the model is quantised by vptq, which needs the package vptq" in refused("org/name")


def test_custom_code_on_the_hub_is_refused_until_it_is_trusted(folder: Path, hub: list[list[str]]) -> None:
    code = {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_x.XForCausalLM"}
    checkpoints.change(folder / "config.json", model_type="unheard_of", auto_map=code)
    assert "add --trust-remote-code" in refused("org/name")
    for name in ("configuration_x.py", "modeling_x.py"):
        (folder / name).touch()
    find("org/name", trust_remote_code=True)
    assert "*.py" in hub[0]


def test_a_chat_template_is_asked_for_where_any_prompt_has_messages(folder: Path, hub: list[list[str]]) -> None:
    find("org/name")
    assert "has no chat template" in refused("org/name", chat=True)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    find("org/name", chat=True)


def test_a_hub_that_cannot_be_asked_is_left_to_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(model: str, **_: Any) -> str:
        raise TimeoutError

    monkeypatch.setattr(models, "_check_hub", lambda model: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    assert find("org/name").emitted[-1].phase == "found"


def test_the_demo_model_is_ours_and_not_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}))
    monkeypatch.setattr(models, "fetched", lambda *_: tmp_path)
    events = Events()
    config = RunConfig(prompts="p", model="demo")
    assert asyncio.run(find_model(config, events, prompts(True))) == str(tmp_path)  # type: ignore[arg-type]


def resolved(monkeypatch: pytest.MonkeyPatch, found: models.ResolvedModel, *told: tuple[Any, int | None, int | None]):
    """Have `found` be what is found, with this progress on the way; returns what is read ahead."""
    ahead: list[Path] = []

    def resolve(name: str, on_progress: Any) -> models.ResolvedModel:
        for progress in told:
            on_progress(*progress)
        return found

    monkeypatch.setattr(models, "resolve", resolve)
    monkeypatch.setattr(model, "read_ahead", ahead.append)
    monkeypatch.setattr(model, "_look_into", lambda *_: [])
    return ahead


def test_progress_is_told_once_each_and_that_it_is_found_at_the_end_with_its_label(monkeypatch) -> None:
    told = [("checking", None, None), ("fetching", 1, 9), ("fetching", 1, 9), ("fetching", 9, 9), ("found", None, None)]
    resolved(monkeypatch, models.ResolvedModel("org/name", False, "the label"), *told)
    assert [event for event in find("org/name").emitted if event.phase != "found"] == [
        protocol.ModelProgress(phase="checking"),
        protocol.ModelProgress(phase="fetching", done=1, total=9),
        protocol.ModelProgress(phase="fetching", done=9, total=9),
    ]
    (found,) = [event for event in find("org/name").emitted if event.phase == "found"]
    assert found == protocol.ModelProgress(phase="found", label="the label")


@pytest.mark.parametrize("local", [True, False])
def test_only_the_files_of_a_folder_are_read_ahead(monkeypatch, local: bool) -> None:
    ahead = resolved(monkeypatch, models.ResolvedModel("the/folder", local, "label"))
    find("the/folder")
    assert ahead == ([Path("the/folder")] if local else [])


def test_the_notes_on_a_model_are_lines_of_the_supervisor(folder: Path, monkeypatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def look(*arguments: Any) -> list[str]:
        asked.append(arguments)
        return ["one", "two"]

    monkeypatch.setattr(model, "_look_into", look)
    emitted = find(str(folder), chat=True).emitted
    assert [(event.source, event.text) for event in emitted if isinstance(event, protocol.LogLine)] == [
        ("supervisor", "one"),
        ("supervisor", "two"),
    ]
    assert [chat for _, _, chat in asked] == [True]
