"""Where the figures of a model and the size of a prompt file come from, before anything of them is loaded."""

import json
from pathlib import Path

import huggingface_hub
import pytest

from rankdeck.runner.inputs import model_shape
from rankdeck.runner.inputs.memory_estimate import PromptSizes
from rankdeck.runner.inputs.model_config import DEMO
from tests import checkpoints


def sizes(path: Path, content: bytes, limit: int | None = None) -> PromptSizes:
    path.write_bytes(content)
    return model_shape.sizes_of(str(path), limit)


@pytest.mark.parametrize(
    ("content", "limit", "prompts", "tokens"),
    [
        (b"", None, 1, 0),
        (b"x", None, 1, 1),
        (b"xxx\nxxxxxxx\n", None, 2, 2),
        (b"x" * 8, None, 1, 3),
        ("ü".encode() * 7, None, 1, 2),
        (b"\xff" * 7, None, 1, 2),
        (b"a\nb\nc", 2, 2, 1),
        (b"a\nb\nc", 3, 3, 1),
        (b"a\nb\nc", 9, 3, 1),
    ],
)
def test_a_line_is_a_prompt_and_three_and_a_half_characters_are_a_token(
    tmp_path: Path, content: bytes, limit: int | None, prompts: int, tokens: int
) -> None:
    assert sizes(tmp_path / "p.txt", content, limit) == PromptSizes(prompts, tokens, whole=True)


def test_of_a_long_file_the_beginning_is_read_and_the_rest_reckoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_shape, "SAMPLE_BYTES", 20)
    assert sizes(tmp_path / "p.txt", b"1234\n" * 4) == PromptSizes(4, 2, whole=True)
    assert sizes(tmp_path / "p.txt", b"1234\n" * 4 + b"x") == PromptSizes(4, 2, whole=False)
    assert sizes(tmp_path / "p.txt", b"1234\n" * 400) == PromptSizes(400, 2, whole=False)
    assert sizes(tmp_path / "p.txt", b"1234\n" * 400, 7) == PromptSizes(7, 2, whole=False)
    assert model_shape.count_of(str(tmp_path / "p.txt")) is None


@pytest.mark.parametrize("name", ["p.parquet", "p.PARQUET", "p.jsonl.gz", "nowhere/p.txt", "x" * 300, "nul\0"])
def test_of_what_cannot_be_read_as_lines_a_thousand_usual_prompts_are_taken(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("p."):
        path.write_bytes(b"a\nb\n")
    assert model_shape.sizes_of(str(path)) == PromptSizes(1000, 256, whole=False)
    assert model_shape.sizes_of(str(path), 7) == PromptSizes(7, 256, whole=False)
    assert model_shape.sizes_of("~nobody-of-this-name/p.txt").prompts == 1000
    assert model_shape.sizes_of("-").prompts == 1000


def test_the_lines_of_one_document_say_nothing_of_its_prompts_but_how_many_they_may_be(tmp_path: Path) -> None:
    assert sizes(tmp_path / "p.JSON", b"[\n1,\n2\n]") == PromptSizes(4, 256, whole=False)
    assert sizes(tmp_path / "p.json", b"[1, 2, 3]", 3) == PromptSizes(3, 256, whole=False)


def test_paths_may_begin_with_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    checkpoints.whole(tmp_path / "model", num_hidden_layers=5)
    assert model_shape.sizes_of("~/p.txt") == PromptSizes(2, 1, whole=True)
    assert model_shape.count_of("~/p.txt") == 2
    assert model_shape.shape_of("~/model").layers == 5


# --- the model ------------------------------------------------------------------------------------


def test_the_demo_model_is_measured_once_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = model_shape.demo_folder()
    assert folder == tmp_path / "rankdeck" / "models" / "SmolLM2-135M-Instruct-bcc81830d10c"
    assert model_shape.shape_of("demo") == DEMO
    folder.parent.mkdir(parents=True)
    checkpoints.whole(folder, num_hidden_layers=5)
    assert model_shape.shape_of("demo").layers == 5


def test_a_model_in_the_hubs_cache_is_measured_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoints.whole(tmp_path / "cached", num_hidden_layers=5)
    asked: list[tuple[str, str]] = []

    def look(*of: str) -> object:
        asked.append(of)  # type: ignore[arg-type]
        return cached[0]

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", look)
    cached: list[object] = [str(folder / "config.json")]
    assert model_shape.shape_of("org/name").layers == 5
    assert asked == [("org/name", "config.json")]
    for nothing in (None, object()):
        cached[0] = nothing
        with pytest.raises(model_shape.Unknown, match=r"^unknown until the model is fetched$"):
            model_shape.shape_of("org/name")


def test_a_folder_that_does_not_tell_says_what_it_lacks(tmp_path: Path) -> None:
    folder = checkpoints.whole(tmp_path / "model")
    (folder / "config.json").write_text("{")
    with pytest.raises(model_shape.Unknown, match=r"^unknown: the model's config\.json cannot be read$"):
        model_shape.shape_of(str(folder))
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": 2}))
    with pytest.raises(model_shape.Unknown, match=r"^unknown: its config\.json has no hidden_size$"):
        model_shape.shape_of(str(folder))


def test_parameters_and_bytes_are_those_of_all_files_of_the_weights(tmp_path: Path) -> None:
    folder = checkpoints.whole(tmp_path / "model", quantization_config={"quant_method": "awq"})
    one = (folder / "model.safetensors").stat().st_size
    whole = model_shape.shape_of(str(folder))
    assert (whole.parameters, whole.stored_bytes) == (2 * (16 + 32 + 4) + 2 * 32 + 4, one)
    files = checkpoints.sharded(folder)
    parts = model_shape.shape_of(str(folder))
    assert (parts.parameters, parts.stored_bytes) == (whole.parameters, sum(file.stat().st_size for file in files))


def test_a_header_longer_than_any_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoints.whole(tmp_path / "model")
    length = int.from_bytes((folder / "model.safetensors").read_bytes()[:8], "little")
    for most, counted in ((length, True), (length - 1, False)):
        monkeypatch.setattr(model_shape, "HEADER_BYTES", most)
        assert model_shape.shape_of(str(folder)).counted == counted
