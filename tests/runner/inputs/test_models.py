"""What `--model` may be besides the demo model: a local folder, or a model on the hub."""

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from rankdeck.runner.inputs import models
from rankdeck.runner.inputs.demo_model import ModelError
from rankdeck.runner.inputs.models import check_form, resolve
from tests import ROOT


def test_a_folder_with_a_config_is_a_model_named_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for name in (str(folder), "./my model", "my model", "my model/"):
        assert check_form(name) is None
        assert resolve(name, lambda *_: None) == models.ResolvedModel(str(folder), True, "my model")
    monkeypatch.chdir(folder)
    assert resolve(".", lambda *_: None).label == "my model"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("", "no model is named"),
        (".", "has no config.json: a model folder holds config.json, the weights"),
        ("file", "is a file; give the folder it is in"),
        ("./missing", "'./missing': there is no such folder"),
        ("/no/such/model", "there is no such folder"),
        ("~/no-such-model", "there is no such folder"),
        ("a/b/c", "there is no such folder"),
        ("missing/", "there is no such folder"),
        ("my model", "not a hub id either; a hub id is `org/name` or `name`"),
        ("org/-name", "not a hub id either"),
        ("org/na--me", "not a hub id either"),
        ("org/name.git", "not a hub id either"),
        ("x" * 97, "not a hub id either"),
        ("x" * 5000, "cannot be looked at"),
        ("nul\0", "not a hub id either"),
    ],
)
def test_what_can_be_no_model_is_refused_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert said in (check_form(model) or "")
    with pytest.raises(ModelError) as caught:
        resolve(model, lambda *_: None)
    assert said in str(caught.value)


@pytest.mark.parametrize("model", ["demo", "gpt2", "org/name", "HuggingFaceTB/SmolLM2-135M-Instruct", "01-ai/Yi-1.5_x"])
def test_hub_ids_and_demo_have_the_right_form(model: str) -> None:
    assert check_form(model) is None


# --- the hub ------------------------------------------------------------------------------------


class FakeHub:
    """Stands for `huggingface_hub.HfApi`: raises what it is given, or knows one repository."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cached: str | None = None) -> None:
        self.error: Exception | None = None
        self.auth_error: Exception | None = None
        self.gated: str | bool = False
        self.files = ["config.json", "model.safetensors"]
        self.asked = 0
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo_id, filename: cached)

    def model_info(self, repo_id: str, *, timeout: float) -> types.SimpleNamespace:
        self.asked += 1
        if self.error:
            raise self.error
        siblings = [types.SimpleNamespace(rfilename=name) for name in self.files]
        return types.SimpleNamespace(gated=self.gated, siblings=siblings)

    def auth_check(self, repo_id: str) -> None:
        if self.auth_error:
            raise self.auth_error


def http(kind: type[errors.HfHubHTTPError], status: int) -> Exception:
    response: Any = types.SimpleNamespace(status_code=status, headers={}, request=None)
    return kind("text of the hub", response=response)


def test_a_hub_model_that_may_be_read_is_named_by_its_last_part(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeHub(monkeypatch)
    assert resolve("org/name-7b", lambda *_: None) == models.ResolvedModel("org/name-7b", False, "name-7b")


def test_a_hub_model_in_the_hub_cache_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub(monkeypatch, cached="/cache/config.json")
    assert resolve("org/name", lambda *_: None).path_or_id == "org/name"
    assert hub.asked == 0


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            http(errors.RepositoryNotFoundError, 404),
            "there is no such model, or it is private; check the spelling, or log in",
        ),
        (
            http(errors.HfHubHTTPError, 401),
            "it answered HTTP 401; your token is not accepted; log in with `hf auth login`",
        ),
        (http(errors.HfHubHTTPError, 503), "it answered HTTP 503; try again later"),
        (errors.OfflineModeIsEnabled("offline"), "not asked, as HF_HUB_OFFLINE is set; unset it"),
        (TimeoutError("timed out"), "it cannot be reached (TimeoutError: timed out); check the network or proxy"),
    ],
    ids=["unknown", "bad token", "server error", "offline", "timeout"],
)
def test_a_hub_model_that_cannot_be_had_says_what_was_tried_and_why(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    FakeHub(monkeypatch).error = error
    with pytest.raises(ModelError) as caught:
        resolve("org/name", lambda *_: None)
    assert f"'org/name': no local folder of that name in {Path.cwd()}" in str(caught.value)
    assert said in str(caught.value)


def test_a_gated_model_says_where_to_accept_its_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub(monkeypatch)
    hub.gated = "manual"
    assert resolve("org/name", lambda *_: None).label == "name"
    hub.auth_error = http(errors.GatedRepoError, 403)
    with pytest.raises(ModelError, match=r"gated; accept its terms at https://huggingface\.co/org/name, then log in"):
        resolve("org/name", lambda *_: None)


def test_a_repository_without_a_config_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeHub(monkeypatch).files = ["model.gguf"]
    with pytest.raises(ModelError, match=r"has no config\.json"):
        resolve("org/name", lambda *_: None)


def test_neither_torch_nor_transformers_is_imported() -> None:
    code = (
        "import json, sys, huggingface_hub; from rankdeck.runner.inputs import frozen_prompts, models;"
        "print(json.dumps([name for name in ('torch', 'transformers', 'numpy', 'tokenizers') if name in sys.modules]))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(said.stdout) == []
