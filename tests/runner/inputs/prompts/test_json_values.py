"""JSON that is broken is said with its place and its cause; the kinds of JSON files are told apart."""

import pytest

from rankdeck.runner.inputs.prompts import json_values
from tests.runner.inputs.freezing import complaint, frozen, texts


@pytest.mark.parametrize("name", ["p.ndjson", "p.JSONL", "p.NDJSON"])
def test_lines_of_objects_have_more_than_one_name(name: str) -> None:
    assert texts(frozen(name, '{"prompt": "a"}\n{"prompt": "b"}\n')) == ["a", "b"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_no_number_is_named_with_its_column_and_not_taken_for_another_cause(value: str) -> None:
    row = f'{{"prompt": "NaN \\" and \\ud83d\\ude00 are text", "score": {value}}}'
    column = row.rindex(value) + 1
    assert complaint("p.jsonl", f'{{"prompt": "a"}}\n{row}\n') == (
        f"p.jsonl:2: broken JSON: {value} is not a JSON number; write null, or leave it out (column {column})"
    )


@pytest.mark.parametrize("half", ["\\ud800", "\\uDFFF", "\\ud83d\\ud83d\\ude00"])
@pytest.mark.parametrize("key", ["prompt", "note"])
def test_half_of_a_surrogate_pair_is_named_with_its_column(key: str, half: str) -> None:
    row = f'{{"{key}": "\\\\ud800 \\ud83d\\ude00 {half}"}}'
    said = complaint("p.jsonl", row + "\n")
    assert said == (
        f"p.jsonl:1: broken JSON: {half[:6]} is half a surrogate pair, not a character (column {row.rindex(half) + 1})"
    )


def test_in_a_document_of_several_lines_the_line_is_named() -> None:
    assert complaint("p.json", '[\n "a",\n {"prompt": "b",\n  "x": NaN}\n]') == (
        "p.json:4: broken JSON: NaN is not a JSON number; write null, or leave it out (column 8)"
    )
    assert complaint("p.json", '["a",\n "b"\n "c"]').startswith(
        "p.json:3: broken JSON: Expecting ',' delimiter at column 2"
    )


@pytest.mark.parametrize("content", ['[{"prompt": "a"}]', '\n[\n  {"prompt": "a"},\n  {"prompt": "b"}\n]\n'])
def test_an_array_in_lines_is_said_once_with_the_name_it_should_have(content: str) -> None:
    assert complaint("p.jsonl", content).endswith(": this is a JSON array, not one object per line; name it .json")


def test_an_array_on_standard_input_is_read_as_one() -> None:
    assert texts(frozen("-", stdin=b'\n [\n  {"prompt": "a"},\n  "b"\n]\n')) == ["a", "b"]
    assert texts(frozen("-", stdin=b"[INST] hello\n[1] is a footnote\n")) == ["[INST] hello", "[1] is a footnote"]
    assert complaint("-", stdin=b'["a",\n"\xff"]').startswith("standard input:2: not UTF-8")


def test_a_document_that_is_too_long_to_be_read_whole_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_values, "MAX_DOCUMENT_BYTES", 10)
    assert texts(frozen("p.json", '["a", "b"]')) == ["a", "b"]
    assert "longer than 10 bytes; `jq -c '.[]'` makes a .jsonl of it" in complaint("p.json", '["a", "b"] ')


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ('{"prompt": "a", "prompt": "b"}', "prompt"),
        ('{"prompt": "a", "id": 1, "id": 2}', "id"),
        ('{"messages": [], "messages": [{"role": "user", "content": "a"}]}', "messages"),
        ('{"custom_id": "a", "custom_id": "b", "prompt": "c"}', "custom_id"),
    ],
)
def test_a_key_that_stands_twice_is_refused_by_name(row: str, key: str) -> None:
    said = f"`{key}` appears more than once in one object; keep one"
    assert complaint("p.jsonl", f'{{"prompt": "fine"}}\n{row}\n') == f"p.jsonl:2: {said}"
    assert complaint("p.json", f'["fine", {row}]') == f"p.json: item 2: {said}"


def test_a_key_that_stands_twice_in_a_message_is_refused_with_the_message() -> None:
    row = '{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "a", "content": "b"}]}'
    assert complaint("p.jsonl", row) == (
        "p.jsonl:1: message 2: `content` appears more than once in one object; keep one"
    )


def test_a_key_that_is_not_used_may_stand_twice_and_the_word_may_stand_in_a_text() -> None:
    content = '{"prompt": "say \\"prompt\\" and \\"id\\"", "x": {"prompt": 1, "id": 2}, "y": 1, "y": 2, "id": "i"}\n'
    prompts = frozen("p.jsonl", content)
    assert (texts(prompts), prompts[0].id) == (['say "prompt" and "id"'], "i")


def test_numbers_of_any_size_in_keys_that_are_not_used_are_no_matter() -> None:
    row = '{"messages": [{"role": "user", "content": "b"}], "n": '
    content = f'{{"prompt": "a", "n": {10**30}, "m": 1e300}}\n{row}{10**30}}}\n'
    assert len(frozen("p.jsonl", content)) == 2
