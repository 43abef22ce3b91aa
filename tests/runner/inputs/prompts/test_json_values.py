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


def test_a_number_of_more_digits_than_can_be_read_is_refused_with_its_line() -> None:
    said = complaint("p.jsonl", f'{{"prompt": "a"}}\n{{"prompt": "a", "n": 1{"0" * 5000}}}\n')
    assert said.startswith("p.jsonl:2: broken JSON: Exceeds the limit")


def test_only_the_first_line_makes_an_array_of_a_file_and_other_values_are_refused_by_their_kind() -> None:
    assert complaint("p.jsonl", '\n{"prompt": "a"}\n ["b"]\n3\nnull\n"c"\n').splitlines() == [
        f"p.jsonl:{line}: {what}, not an object with `prompt` or `messages`"
        for line, what in ((3, "a list"), (4, "a number"), (5, "null"), (6, "a string"))
    ]
    assert complaint("p.jsonl", "\n\n [1]\n") == (
        "p.jsonl:3: this is a JSON array, not one object per line; name it .json"
    )


def test_a_key_that_stands_twice_in_the_body_of_a_request_is_refused() -> None:
    row = '{"custom_id": "a", "body": {"prompt": "one", "prompt": "two"}}'
    assert complaint("p.jsonl", row) == "p.jsonl:1: `prompt` appears more than once in one object; keep one"


def test_a_mark_before_a_document_is_no_part_of_it_and_counts_in_its_places() -> None:
    mark = b"\xef\xbb\xbf"
    assert texts(frozen("p.json", mark + b'["a"]')) == ["a"]
    assert complaint("p.json", mark + b" \n") == "p.json: there is no prompt in it"
    assert complaint("p.json", mark + b'["a",\n\n"\xe9"]').startswith(
        "p.json:3: not UTF-8 (byte 0xe9 at offset 11 of the file, 'é' in Latin-1)"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", ": an object, not a list of prompts; name a file of one object per line .jsonl"),
        ('"a"', ": a string, not a list of prompts; name a file of one object per line .jsonl"),
        ('{"id": 1, "id": 2}', ": `id` appears more than once in one object; keep one"),
        ("[" * 100_000, ":1: broken JSON: nested too deeply"),
        ('["a"]\n["b"]', ":2: broken JSON: Extra data at column 1; name a file of one object per line .jsonl"),
        ('["a",]', ":1: broken JSON: "),
    ],
    ids=lambda value: value[:12],
)
def test_a_document_that_is_no_list_is_told_once(content: str, said: str) -> None:
    found = complaint("p.json", content)
    assert found.startswith(f"p.json{said}")
    assert ("name a file" in found) == ("name a file" in said)


@pytest.mark.parametrize(
    ("piped", "expected"),
    [
        (b"\n[\n'a' is text\n", None),
        (b'["a"]', ["a"]),
        (b'[["a"]]', None),
        (b'[{"prompt": "a"}]', ["a"]),
        (b"[INST] a", ["[INST] a"]),
        (b"[1, 2]", ["[1, 2]"]),
        (b" {not json}", None),
        (b"a\n{b}\n", ["a", "{b}"]),
        (b'\xef\xbb\xbf{"prompt": "a"}', ["a"]),
    ],
)
def test_standard_input_is_taken_for_what_its_first_line_begins_like(piped: bytes, expected: list[str] | None) -> None:
    if expected is None:
        assert complaint("-", stdin=piped).startswith("standard input:")
    else:
        assert texts(frozen("-", stdin=piped)) == expected


def test_a_first_line_of_standard_input_that_is_no_utf_8_is_told_and_the_rest_is_text() -> None:
    said = complaint("-", stdin=b'\xff\n{"prompt": \n')
    assert said.splitlines() == [said]
    assert said.startswith("standard input:1: not UTF-8 (byte 0xff at offset 0 of the file")
