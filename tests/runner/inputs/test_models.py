"""What `--model` may be besides the demo model: a local folder, or a model on the hub."""

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import huggingface_hub
import msgspec
import pytest
from huggingface_hub import errors

from rankdeck.runner.inputs import models
from rankdeck.runner.inputs.demo_model import ModelError
from rankdeck.runner.inputs.models import check_form, resolve
from rankdeck.runner.protocol.config import RunConfig
from tests import ROOT, checkpoints


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
    assert resolve("gpt2", lambda *_: None) == models.ResolvedModel("gpt2", False, "gpt2")


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


# --- what is asked of whom ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "cure"),
    [
        (401, "your token is not accepted; log in with `hf auth login`, or set HF_TOKEN"),
        (403, "your token is not accepted; log in with `hf auth login`, or set HF_TOKEN"),
        (404, "try again later"),
        (500, "try again later"),
    ],
)
def test_what_the_hub_answers_is_said_with_the_cure(monkeypatch: pytest.MonkeyPatch, status: int, cure: str) -> None:
    FakeHub(monkeypatch).error = http(errors.HfHubHTTPError, status)
    with pytest.raises(ModelError) as caught:
        resolve("org/name", lambda *_: None)
    assert str(caught.value) == (
        f"'org/name': no local folder of that name in {Path.cwd()}, not in the hub cache, and on the hub: "
        f"it answered HTTP {status}; {cure}"
    )


@pytest.mark.parametrize(
    ("files", "has"),
    [
        (["model.gguf", "README.md"], "; it has GGUF files, which are llama.cpp's (model.gguf)"),
        (["adapter_config.json", "x.gguf"], "; it has an adapter, which needs its base model"),
        (["README.md"], ""),
        ([], ""),
    ],
)
def test_a_repository_that_is_no_model_says_what_it_has(
    monkeypatch: pytest.MonkeyPatch, files: list[str], has: str
) -> None:
    FakeHub(monkeypatch).files = files
    with pytest.raises(ModelError) as caught:
        resolve("org/name", lambda *_: None)
    assert str(caught.value).endswith(
        f"and on the hub: the repository has no config.json, so transformers cannot load it{has}"
    )


def test_the_hub_is_asked_for_the_model_and_its_config_with_patience_and_of_its_terms_only_where_it_has_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    hub = FakeHub(monkeypatch)
    info = hub.model_info
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *of: asked.append(of))
    monkeypatch.setattr(
        hub, "model_info", lambda name, *, timeout: asked.append((name, timeout)) or info(name, timeout=timeout)
    )
    monkeypatch.setattr(hub, "auth_check", lambda name: asked.append(name))
    resolve("org/name", lambda *_: None)
    assert asked == [("org/name", "config.json"), ("org/name", 10.0)]
    hub.gated = "auto"
    resolve("org/name", lambda *_: None)
    assert asked[2:] == [("org/name", "config.json"), ("org/name", 10.0), "org/name"]


def test_a_config_that_is_known_not_to_be_on_the_hub_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub(monkeypatch)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: object())
    resolve("org/name", lambda *_: None)
    assert hub.asked == 1


def test_what_is_done_is_told_at_the_beginning_and_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeHub(monkeypatch)
    checkpoints.whole(tmp_path)
    for model in (str(tmp_path), "org/name"):
        told: list[Any] = []
        resolve(model, lambda *of, told=told: told.append(of))
        assert told == [("checking", None, None), ("found", None, None)]


def test_of_a_hub_model_the_small_files_are_fetched_and_what_cannot_be_had_is_left_to_the_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *of, **how: asked.append((of, how)) or str(tmp_path)
    )
    assert models.fetch_small_files("org/name") == tmp_path
    assert asked == [(("org/name",), {"allow_patterns": list(models.folder.SMALL_FILES)})]

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    assert models.fetch_small_files("org/name") is None


def test_only_a_folder_is_looked_into_with_the_runs_own_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoints.whole(tmp_path / "model")
    asked: list[Any] = []
    monkeypatch.setattr(
        models, "examine", lambda *of, **how: asked.append((of, how)) or types.SimpleNamespace(problems=("a", "b"))
    )
    config = RunConfig(prompts="p", model=str(folder))
    for settings in ({"chat": False, "trust_remote_code": True}, {"chat": True, "trust_remote_code": False}):
        assert models.why_unusable(msgspec.structs.replace(config, **settings)) == ["a", "b"]
        assert asked.pop() == ((folder,), settings)
    for model in ("demo", "org/name"):
        assert models.why_unusable(msgspec.structs.replace(config, model=model)) == []
    (said,) = models.why_unusable(msgspec.structs.replace(config, model="./nowhere"))
    assert said.startswith("'./nowhere': there is no such folder")
    assert asked == []


def test_a_folder_without_a_chat_template_is_named_with_the_reason_and_other_models_are_not(tmp_path: Path) -> None:
    folder = checkpoints.whole(tmp_path / "model")
    config = RunConfig(prompts="p", model=str(folder))
    assert (models.why_no_chat(config) or "").startswith(f"{folder}: the model has no chat template")
    settings = {"auto_map": {"AutoTokenizer": ["t.X", None]}}
    checkpoints.change(folder / "tokenizer_config.json", **settings)
    assert models.why_no_chat(config)
    assert models.why_no_chat(msgspec.structs.replace(config, trust_remote_code=True)) is None
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    for model in (str(folder), "demo", "org/name", "./nowhere"):
        assert models.why_no_chat(msgspec.structs.replace(config, model=model)) is None


def test_a_folder_goes_before_the_hub_and_demo_before_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoints.whole(tmp_path / "gpt2")
    (tmp_path / "demo").mkdir()
    assert resolve("gpt2", lambda *_: None) == models.ResolvedModel(str(tmp_path / "gpt2"), True, "gpt2")
    (tmp_path / "link").symlink_to("gpt2")
    assert resolve("link", lambda *_: None).path_or_id == str(tmp_path / "gpt2")
    assert check_form("demo") is None
    assert "has no config.json" in (check_form("./demo") or "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/gpt2", lambda *_: None).label == "gpt2"


@pytest.mark.parametrize("model", ["a" * 96, "a" * 96 + "/" + "b" * 96, "a_", "0/0", "a.b"])
def test_each_part_of_a_hub_id_may_be_96_letters_long(model: str) -> None:
    assert check_form(model) is None
    assert check_form("x" + "a" * 96)


@pytest.mark.parametrize("model", ["a.", "a-", ".a/b", "a/", "a//b", "a..b/c", "a/b.git", "a b", "ä", "a/b/c", "_a"])
def test_what_is_no_hub_id_is_refused(model: str) -> None:
    assert check_form(model)


def test_blanks_are_no_name_and_a_stranger_has_no_folder_here() -> None:
    assert check_form("  ") == "no model is named; give demo, a local folder, or a hub id such as org/name"
    assert (check_form("~nobody-of-this-name/m") or "").startswith("'~nobody-of-this-name/m' cannot be looked at: ")
