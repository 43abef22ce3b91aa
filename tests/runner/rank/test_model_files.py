"""A hub model is fetched once for all ranks of a run; a folder is taken as it is."""

import os
import threading

import huggingface_hub
import pytest
from huggingface_hub.utils import filter_repo_objects

from rankdeck.runner.inputs import models
from rankdeck.runner.inputs.checkpoint import folder
from rankdeck.runner.rank import model_files


@pytest.fixture
def hub(tmp_path):
    """A fetch that takes note of who asks, and lets nobody through before it is told to."""
    fetched, may_end = [], threading.Event()

    def fetch(model, revision):
        fetched.append(model)
        assert may_end.wait(30)
        folder = tmp_path / f"folder of {model}"
        folder.mkdir(exist_ok=True)
        return str(folder)

    return fetched, may_end, fetch


def test_several_ranks_that_ask_at_once_have_what_one_of_them_fetched(tmp_path, hub):
    fetched, may_end, fetch = hub
    found = []
    ranks = [
        threading.Thread(target=lambda: found.append(model_files.fetched_once(tmp_path, "m", fetch))) for _ in range(4)
    ]
    for rank in ranks:
        rank.start()
    may_end.set()
    for rank in ranks:
        rank.join(30)
    assert found == [str(tmp_path / "folder of m")] * 4
    assert fetched == ["m"]


def test_another_model_a_folder_that_is_gone_or_a_torn_note_is_fetched_again(tmp_path, hub):
    fetched, may_end, fetch = hub
    may_end.set()
    folder = model_files.fetched_once(tmp_path, "one", fetch)
    assert model_files.fetched_once(tmp_path, "other", fetch) != folder
    (tmp_path / "folder of other").rmdir()
    model_files.fetched_once(tmp_path, "other", fetch)
    (tmp_path / "model-folder.json").write_text('["oth')
    model_files.fetched_once(tmp_path, "other", fetch)
    assert fetched == ["one", "other", "other", "other"]


def test_a_fetch_that_fails_is_the_next_rank_s_to_try(tmp_path):
    def fail(model, revision):
        raise OSError("the hub is not there")

    for _ in range(2):
        with pytest.raises(OSError, match="the hub is not there"):
            model_files.fetched_once(tmp_path, "m", fail)
    assert model_files.fetched_once(tmp_path, "m", lambda model, revision: str(tmp_path)) == str(tmp_path)


def test_ranks_that_are_launched_later_have_the_revision_that_the_run_began_with(tmp_path, monkeypatch):
    """On the hub it may have moved on; the folder may be gone from the cache; the cache may be another one."""
    asked = []

    def fetch(model, revision):
        asked.append(revision)
        folder = tmp_path / cache / "models--org--model" / "snapshots" / (revision or "abc")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").touch()
        return str(folder)

    for cache in ("cache", "another"):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / cache))
        for _ in range(2):
            folder = model_files.fetched_once(tmp_path, "org/model", fetch, model_files._in_cache)
            assert folder == str(tmp_path / cache / "models--org--model" / "snapshots" / "abc")
    assert asked == [None, "abc"]

    def gone(model, revision):
        raise OSError("404")

    weights = tmp_path / cache / "models--org--model" / "snapshots" / "abc" / "model.safetensors"
    weights.unlink()
    weights.symlink_to("purged")
    with pytest.raises(OSError, match="the run began with revision abc of org/model, which cannot be had: 404"):
        model_files.fetched_once(tmp_path, "org/model", gone, model_files._in_cache)


def test_a_note_that_is_no_file_keeps_nobody_waiting_and_nobody_else_may_read_what_is_written(tmp_path):
    os.mkfifo(tmp_path / "model-folder.json")
    assert model_files.fetched_once(tmp_path, "m", lambda model, revision: str(tmp_path)) == str(tmp_path)
    for name in ("model-folder.json", "model-folder.lock"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_a_note_in_a_run_directory_leads_to_no_folder_outside_the_hubs_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(model_files, "_hub_folder", lambda model, revision: f"{model} at {revision}")
    for place in ("elsewhere", "cache/models--org--other/snapshots/abc", "cache/models--org--model/abc"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / "model-folder.json").write_text(f'["org/model", "{tmp_path / place}"]')
        found = model_files.model_folder("org/model", tmp_path)
        assert found == f"org/model at {'abc' if 'snapshots' in place else None}"


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The patterns of files that the hub is asked for; it has all of them."""
    patterns = []

    def snapshot_download(model, *, allow_patterns, revision=None):
        patterns.append(allow_patterns)
        (tmp_path / "model.safetensors").touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return patterns


TOKENIZERS = [
    "tokenizer.model",
    "tokenizer.model.v3",
    "target.spm",
    "vocab.bpe",
    "bpe.codes",
    "emoji.vocab",
    "q.tiktoken",
]


@pytest.mark.parametrize("name", [*TOKENIZERS, "config.json", "merges.txt", "chat_template.jinja", "modeling.py"])
def test_whatever_file_a_tokenizer_is_in_comes_from_the_hub_to_be_examined_and_to_be_loaded(asked, tmp_path, name):
    models.fetch_small_files("org/model")
    assert model_files.model_folder("org/model", tmp_path) == str(tmp_path)
    assert [list(filter_repo_objects([name], allow_patterns=patterns)) for patterns in asked] == [[name]] * 2
    assert folder.is_small(name)
    assert not folder.is_small("model.safetensors")


def test_a_model_in_a_folder_is_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(model_files, "_hub_folder", lambda *_: pytest.fail("it is there"))
    assert model_files.model_folder(str(tmp_path), tmp_path) == str(tmp_path)
    monkeypatch.setattr(model_files, "_hub_folder", lambda model, revision: str(tmp_path / model))
    assert model_files.model_folder("some/model", tmp_path) == str(tmp_path / "some/model")


@pytest.mark.parametrize(("there", "asked_for"), [("model.safetensors", [False]), ("pytorch_model.bin", [False, True])])
def test_weights_in_the_older_format_are_fetched_only_where_there_are_no_others(
    tmp_path, monkeypatch, there, asked_for
):
    asked = []

    def snapshot_download(model, *, allow_patterns, revision=None):
        asked.append(
            list(filter_repo_objects(["model.safetensors", "pytorch_model.bin"], allow_patterns=allow_patterns))
        )
        if there in asked[-1]:
            (tmp_path / there).touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert model_files._hub_folder("org/model") == str(tmp_path)
    assert ["pytorch_model.bin" in files for files in asked] == asked_for
    assert all("model.safetensors" in files for files in asked)
