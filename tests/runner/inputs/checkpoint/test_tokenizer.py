"""A tokenizer that is missing or broken, and a chat template that is not there, are told before anything is loaded."""

import json
import tracemalloc
from pathlib import Path

import pytest

from rankdeck.runner.inputs.checkpoint import tokenizer
from rankdeck.runner.inputs.checkpoint.folder import names_in
from tests import checkpoints


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoints.whole(tmp_path / "model")


@pytest.fixture
def bare(folder: Path) -> Path:
    """Without any tokenizer."""
    (folder / "tokenizer.json").unlink()
    return folder


def problems(folder: Path, installed: str | None = "1.0") -> list[str]:
    return tokenizer.problems_of(folder, names_in(folder), lambda package: installed)


def why_no_chat(folder: Path, trusted: bool = False) -> str:
    return tokenizer.why_no_chat(folder, names_in(folder), trusted) or ""


def test_no_tokenizer_names_the_files_that_are_one(bare: Path) -> None:
    (said,) = problems(bare)
    assert said.startswith(f"{bare} has no tokenizer: tokenizer.json, tokenizer.model, or vocab.json and merges.txt;")


@pytest.mark.parametrize(
    "names",
    [
        ["tokenizer.json"],
        ["tokenizer.4.0.json"],
        ["tekken.json"],
        ["tokenizer.model"],
        ["tokenizer.model.v3"],
        ["spiece.model"],
        ["sentencepiece.bpe.model"],
        ["qwen.tiktoken"],
        ["vocab.json", "merges.txt"],
        ["vocab.txt"],
        ["rwkv_vocab_v20230424.txt"],
        ["source.spm"],
        ["encoder.vocab"],
        ["vocab.bpe"],
        ["byte_maps.json"],
        ["vocab.json", "vocab.txt"],
        ["my_vocab.json"],
    ],
)
def test_whatever_transformers_makes_a_tokenizer_of_is_one(bare: Path, names: list[str]) -> None:
    for name in names:
        (bare / name).write_text('{"model": {}}')
    assert problems(bare) == []


@pytest.mark.parametrize("names", [["tokenizer_config.json"], ["mytokenizer.json"], ["vocab.py"], ["merges.txt"]])
def test_files_that_are_no_tokenizer_are_not_taken_for_one(bare: Path, names: list[str]) -> None:
    for name in names:
        (bare / name).write_text("{}")
    assert "has no tokenizer" in problems(bare)[0]


@pytest.mark.parametrize("name", ["ByT5Tokenizer", "ByT5TokenizerFast", "CanineTokenizer", "PerceiverTokenizer"])
def test_a_tokenizer_of_bytes_or_characters_needs_no_vocabulary(bare: Path, name: str) -> None:
    checkpoints.change(bare / "tokenizer_config.json", tokenizer_class=name)
    assert problems(bare) == []
    (bare / "special_tokens_map.json").write_text(json.dumps({"tokenizer_class": "other"}))
    assert problems(bare) == [], "another file does not say which class it is"


def test_a_vocabulary_without_its_merges_would_cut_words_into_letters(bare: Path) -> None:
    (bare / "vocab.json").write_text("{}")
    (said,) = problems(bare)
    assert said == f"{bare} has vocab.json without merges.txt, which belongs to it; fetch the tokenizer again"


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"])
def test_a_broken_file_of_the_tokenizer_is_named_with_its_place(folder: Path, name: str) -> None:
    (folder / name).write_text('{"a": 1,}')
    (said,) = problems(folder)
    assert said.startswith(f"{folder / name}:1:")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", " is empty"),
        ('{"model": {"vocab": {}', ":1:23 is not valid JSON: it ends too early"),
        ("{}", " is not a tokenizer: Object missing required field `model`"),
        ('{"model": 1}', " is not a tokenizer: "),
        ('{"model": {}, "added_tokens": [{"content": "x"}]}', " is not a tokenizer: "),
    ],
)
def test_a_broken_tokenizer_is_told(folder: Path, content: str, said: str) -> None:
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(tokenizer.BrokenFile) as caught:
        tokenizer.read_tokenizer(folder)
    assert str(caught.value).startswith(f"{folder / 'tokenizer.json'}{said}")


def test_the_merges_of_a_tokenizer_are_passed_over_not_kept_in_memory(folder: Path) -> None:
    path = folder / "tokenizer.json"
    values = {"model": {"vocab": {"a": 0}, "merges": [[str(number), "b"] for number in range(20_000)]}}
    path.write_text(json.dumps(values))
    tracemalloc.start()
    assert tokenizer.read_tokenizer(folder).model.vocab == {"a": 0}
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 3 * path.stat().st_size


def test_packages_that_a_file_of_pieces_needs_are_asked_for_by_its_content(bare: Path) -> None:
    path = bare / "tokenizer.model"
    path.write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15\x00")
    assert problems(bare) == []
    assert problems(bare, None) == [
        f"{path} is a SentencePiece tokenizer, which needs another package: pip install sentencepiece protobuf"
    ]
    path.write_bytes(b"IQ== 0\nIg== 1\n")
    assert problems(bare, None) == [
        f"{path} is a tiktoken tokenizer, which needs another package: pip install tiktoken"
    ]
    path.write_bytes(b"")
    assert problems(bare, None) == [f"{path} is empty; fetch it again"]


def test_only_packages_that_are_missing_are_asked_for_and_a_tiktoken_file_is_one_by_its_name_too(bare: Path) -> None:
    def said(*there: str) -> list[str]:
        versions = dict.fromkeys(there, "1.0")
        return tokenizer.problems_of(bare, names_in(bare), lambda package: versions.get(package.module))

    path = bare / "spiece.model"
    path.write_bytes(b"\x0a\x0e")
    needs = f"{path} is a SentencePiece tokenizer, which needs another package: pip install"
    assert said() == [f"{needs} sentencepiece protobuf"]
    assert said("sentencepiece") == [f"{needs} protobuf"]
    assert said("google.protobuf") == [f"{needs} sentencepiece"]
    assert said("google.protobuf", "sentencepiece") == []
    path.unlink()
    (bare / "qwen.tiktoken").write_bytes(b"\x0a not as expected")
    assert said("tiktoken") == []
    assert "qwen.tiktoken is a tiktoken tokenizer" in said("sentencepiece", "google.protobuf")[0]


# --- chat ---------------------------------------------------------------------------------------


def test_a_model_without_a_chat_template_says_what_to_do(folder: Path) -> None:
    said = why_no_chat(folder)
    assert said.startswith("the model has no chat template, which --chat and prompts with messages need: leave --chat")
    assert said.endswith(str(folder / "chat_template.jinja"))


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages }}",
        {"default": "{{ messages }}", "tool_use": "x"},
        [{"name": "default", "template": "{{ messages }}"}],
    ],
)
def test_a_template_among_the_tokenizers_settings_is_one(folder: Path, template: object) -> None:
    checkpoints.change(folder / "tokenizer_config.json", chat_template=template)
    assert why_no_chat(folder) == ""


@pytest.mark.parametrize(
    "template",
    [{"rag": "x", "tool_use": "y"}, [{"name": "rag", "template": "x"}, {"name": "tool_use", "template": "y"}]],
)
def test_templates_of_which_none_is_the_default_are_named(folder: Path, template: object) -> None:
    checkpoints.change(folder / "tokenizer_config.json", chat_template=template)
    assert "of its chat templates (rag, tool_use) none is the default one" in why_no_chat(folder)


BROKEN = "{{ bos_token }}\n{% for message in messages %}\n{{ message.content }}"


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({}, "chat_template.jinja"),
        ({"chat_template": BROKEN}, "tokenizer_config.json"),
        ({"chat_template": {"default": BROKEN}}, "tokenizer_config.json"),
        ({"chat_template": [{"name": "default", "template": BROKEN}]}, "tokenizer_config.json"),
    ],
)
def test_a_template_that_cannot_be_read_is_refused_with_its_file_and_line(
    folder: Path, settings: dict[str, object], where: str
) -> None:
    checkpoints.change(folder / "tokenizer_config.json", **settings)
    if not settings:
        (folder / "chat_template.jinja").write_text(BROKEN)
    said = why_no_chat(folder)
    assert said.startswith(f"its chat template, in {where}, has an error (line 3: Unexpected end of template.")
    assert said.endswith("fetch it again, or leave --chat out and give plain prompts")


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{% endfor %}",
        "{% generation %}{{ messages[0].content | strftime }}{% endgeneration %}",
        "{{ raise_exception('no') }}",
    ],
)
def test_whatever_else_is_in_a_template_is_for_transformers_to_say(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    assert why_no_chat(folder) == ""


def test_a_template_in_a_file_of_its_own_is_one_and_an_empty_one_is_none(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(" \n")
    assert why_no_chat(folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert why_no_chat(folder) == ""


def test_templates_in_a_folder_of_their_own_are_named_and_the_default_one_is_enough(folder: Path) -> None:
    place = folder / "additional_chat_templates"
    place.mkdir()
    (place / "rag.jinja").touch()
    (place / "README.md").touch()
    cure = f"leave --chat out and give plain prompts, or put the model's template into {folder / 'chat_template.jinja'}"
    assert why_no_chat(folder) == f"of its chat templates (rag) none is the default one: {cure}"
    (place / "default.jinja").touch()
    assert why_no_chat(folder) == ""


@pytest.mark.parametrize("template", ["", [], {}, None, 5])
def test_a_template_that_is_empty_or_none_is_none(folder: Path, template: object) -> None:
    checkpoints.change(folder / "tokenizer_config.json", chat_template=template)
    assert why_no_chat(folder) == (
        "the model has no chat template, which --chat and prompts with messages need: leave --chat out and give plain "
        f"prompts, or put the model's template into {folder / 'chat_template.jinja'}"
    )


def test_a_template_that_is_no_utf_8_is_none(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    assert why_no_chat(folder)


def test_a_processors_template_is_not_the_tokenizers(folder: Path) -> None:
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "x"}))
    assert "its chat_template.json is for a processor of images; put the template in it into" in why_no_chat(folder)


def test_what_cannot_be_told_is_not_said(folder: Path) -> None:
    checkpoints.change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_x.X", None]})
    assert why_no_chat(folder)
    assert why_no_chat(folder, trusted=True) == ""
    (folder / "tokenizer_config.json").write_text("{")
    assert why_no_chat(folder) == "", "that it is broken is said"
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer.json").rename(folder / "tekken.json")
    assert why_no_chat(folder) == "", "Mistral's own has its own"
    (folder / "tekken.json").unlink()
    assert why_no_chat(folder) == "", "that there is no tokenizer is said"


# --- tokens beyond the embedding ----------------------------------------------------------------


def beyond(folder: Path, rows: int) -> str:
    return tokenizer.beyond(tokenizer.read_tokenizer(folder), rows) or ""


def test_tokens_beyond_the_embedding_are_named(folder: Path) -> None:
    assert beyond(folder, 8) == ""
    checkpoints.tokenizer(folder, checkpoints.VOCABULARY, {"<pad>": 8, "<end>": 9, "a": 0})
    assert beyond(folder, 10) == ""
    assert "has tokens beyond the model's 8 ('<pad>', '<end>'): a prompt with one" in beyond(folder, 8)
    assert "beyond the model's 7 ('<pad>', '<end>', 'h')" in beyond(folder, 7)


def test_a_vocabulary_that_is_a_list_counts_by_its_places(folder: Path) -> None:
    values = {"model": {"type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0], ["c", -3.0]]}}
    (folder / "tokenizer.json").write_text(json.dumps(values))
    assert beyond(folder, 3) == ""
    assert "beyond the model's 1 ('b', 'c')" in beyond(folder, 1)


def test_a_token_that_is_in_the_vocabulary_and_beside_it_is_named_once_and_only_numbers_count(folder: Path) -> None:
    checkpoints.tokenizer(folder, {"<pad>": 8, "odd": "9", "z": 1234}, {"<pad>": 8})  # type: ignore[dict-item]
    assert beyond(folder, 1234).endswith("beyond the model's 1,234 ('z'): a prompt with one cannot be answered")
    assert "('<pad>', 'z')" in beyond(folder, 8)
    assert beyond(folder, 1235) == ""


def test_beside_a_list_of_tokens_added_ones_count_by_their_number(folder: Path) -> None:
    values = {"model": {"vocab": [["a", -1.0], "odd", []]}, "added_tokens": [{"id": 7, "content": "<end>"}]}
    (folder / "tokenizer.json").write_text(json.dumps(values))
    assert "beyond the model's 1 ('<end>')" in beyond(folder, 1)
    assert beyond(folder, 8) == ""
