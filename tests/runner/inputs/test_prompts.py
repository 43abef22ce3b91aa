"""Which prompt files can be used, and what is reported about the others."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.inputs.frozen_prompts import MAX_PROMPT_BYTES, PromptError, PromptIndex, freeze
from rankdeck.runner.inputs.prompts import lines
from tests import ROOT
from tests.runner.inputs.freezing import complaint, frozen, texts


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_text_file_is_a_prompt_a_line_and_the_id_is_the_index() -> None:
    prompts = frozen("p.txt", "first\n  second, spaces kept \nthird")
    assert texts(prompts) == ["first", "  second, spaces kept ", "third"]
    assert [prompt.id for prompt in prompts] == ["0", "1", "2"]


def test_windows_line_endings_and_a_byte_order_mark_are_no_part_of_a_prompt() -> None:
    assert texts(frozen("p.txt", b"\xef\xbb\xbfone\r\ntwo\r\n")) == ["one", "two"]


def test_control_characters_and_foreign_line_separators_are_data() -> None:
    lines = ["a\0b", "bell\a \x1b[31m", "line\u2028separator", "next\x85line", "car\rriage"]
    assert texts(frozen("p.txt", "\n".join(lines) + "\n")) == lines


def test_json_lines_hold_prompts_or_messages_with_ids_of_text_or_number() -> None:
    prompts = frozen(
        "p.jsonl",
        '{"prompt": "plain", "source": "other keys are left alone"}\n\n'
        '{"id": "x", "messages": [{"role": "system", "content": ""}, {"role": "user", "content": "hi"}]}\n'
        '{"id": 7, "prompt": "line\\nbreak"}\n',
    )
    assert texts(prompts) == ["plain", "", "line\nbreak"]
    assert [prompt.id for prompt in prompts] == ["0", "x", "7"]
    assert prompts[1].messages == [{"role": "system", "content": ""}, {"role": "user", "content": "hi"}]


def test_a_json_file_is_a_list_of_texts_or_objects() -> None:
    assert texts(frozen("p.json", '["one", {"prompt": "two"}]')) == ["one", "two"]


def test_csv_takes_one_column_with_quoted_commas_and_newlines() -> None:
    content = 'n,question\r\n1,"Who, exactly?\r\nAnd when?"\r\n\r\n2,"He said ""no"""\r\n'
    assert texts(frozen("p.CSV", content, column="question")) == ["Who, exactly?\r\nAnd when?", 'He said "no"']


def test_parquet_takes_one_column() -> None:
    parquet.write_table(pyarrow.table({"n": [1, 2], "text": ["one", "zwei \0 ü"]}), "p.parquet")
    assert texts(frozen("p.parquet", column="text")) == ["one", "zwei \0 ü"]


@pytest.mark.parametrize(
    ("piped", "expected"),
    [(b"one\ntwo\n", ["one", "two"]), (b' \n {"prompt": "three"}\n', ["three"]), (b"[not json]", ["[not json]"])],
)
def test_standard_input_is_json_lines_if_it_begins_with_a_brace(piped: bytes, expected: list[str]) -> None:
    assert texts(frozen("-", stdin=piped)) == expected


def test_with_chat_a_plain_prompt_becomes_a_message_of_the_user_and_messages_stay() -> None:
    content = '{"prompt": "hello"}\n{"messages": [{"role": "user", "content": "hi"}]}\n'
    said = [prompt.messages for prompt in frozen("p.jsonl", content, chat=True)]
    assert said == [[{"role": "user", "content": "hello"}], [{"role": "user", "content": "hi"}]]


def test_a_limit_takes_the_first_prompts_and_looks_no_further() -> None:
    assert texts(frozen("p.txt", b"one\ntwo\n\n\xff\n", limit=2)) == ["one", "two"]


def test_the_index_knows_lengths_in_bytes_and_reads_in_the_order_asked() -> None:
    content = '{"prompt": "äöü"}\n{"messages": [{"role": "user", "content": "ab"}, {"role": "user", "content": "ü"}]}\n'
    Path("p.jsonl").write_text(content)
    index = freeze("p.jsonl", Path("prompts.jsonl"), column=None, limit=None, chat=False)
    assert list(index.lengths) == [6, 4]
    assert [prompt.index for prompt in index.read([1, 0, 1])] == [1, 0, 1]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip), min_size=1))
def test_any_text_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, prompts: list[str]) -> None:
    source = (folder := tmp_path_factory.mktemp("any")) / "p.jsonl"
    source.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts))
    made = freeze(str(source), folder / "prompts.jsonl", column=None, limit=None, chat=False)
    opened = PromptIndex.open(folder / "prompts.jsonl")
    assert (made.offsets, made.lengths) == (opened.offsets, opened.lengths)
    assert list(opened.lengths) == [len(text.encode()) for text in prompts]
    assert texts(opened.read(range(opened.count))) == prompts


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n")).filter(str.strip), min_size=1)
)
def test_any_line_of_text_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, prompts: list[str]) -> None:
    source = (folder := tmp_path_factory.mktemp("lines")) / "p.txt"
    source.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(prompts).encode())
    index = freeze(str(source), folder / "prompts.jsonl", column=None, limit=None, chat=False)
    assert texts(index.read(range(index.count))) == prompts


def test_all_bad_lines_are_named_at_once_with_file_and_line() -> None:
    content = (
        b'{"prompt": "good"}\n{"prompt": \n{"text": "?"}\n{"prompt": "a", "messages": []}\n{"prompt": 3}\n'
        b'"bare"\n{"prompt": " \\t"}\n{"prompt": "\xff"}\n{"id": 1.5, "prompt": "a"}\n{"prompt": "\\ud800"}\n'
    )
    assert complaint("p.jsonl", content).splitlines() == [
        "p.jsonl:2: broken JSON: Expecting value at column 11",
        "p.jsonl:3: neither `prompt` nor `messages`; there is `text`",
        "p.jsonl:4: both `prompt` and `messages`; leave one out",
        "p.jsonl:5: `prompt` must be a string, not a number",
        "p.jsonl:6: a string, not an object with `prompt` or `messages`",
        "p.jsonl:7: empty prompt",
        "p.jsonl:8: not UTF-8 (byte 0xff at offset 128 of the file, 'ÿ' in Latin-1); save the file as UTF-8, "
        "or convert it with `iconv -f WINDOWS-1252 -t UTF-8`",
        "p.jsonl:9: `id` must be a string or a whole number, not a number",
        "p.jsonl:10: broken JSON: \\ud800 is half a surrogate pair, not a character (column 13)",
    ]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ("[]", "`messages` must be a list of messages, not an empty list"),
        ('"hi"', "`messages` must be a list of messages, not a string"),
        ('["hi"]', "message 1 must be an object with `role` and `content`, not a string"),
        (
            '[{"role": "wizard", "content": "hi"}]',
            "message 1: `role` must be one of system, developer, user, assistant",
        ),
        ('[{"role": "user", "content": ["hi"]}]', "message 1: `content` must be a string, not a list"),
        ('[{"role": "user", "content": "hi"}, {"role": "user", "content": " "}]', "message 2: `content` is empty"),
        ('[{"role": "system", "content": ""}]', "empty prompt"),
    ],
)
def test_messages_that_are_none_are_refused(messages: str, said: str) -> None:
    assert f"p.jsonl:1: {said}" in complaint("p.jsonl", f'{{"messages": {messages}}}\n')


def test_blank_lines_amid_text_are_empty_prompts_and_a_long_list_of_problems_is_cut_and_counted() -> None:
    assert complaint("p.txt", "one\n\ntwo\n   \nthree").splitlines() == [
        "p.txt:2: empty prompt",
        "p.txt:4: empty prompt",
    ]
    assert complaint("p.txt", "\n" * 5000 + "end").splitlines()[19:] == ["p.txt:20: empty prompt", "and 4980 more"]


@pytest.mark.parametrize(
    ("source", "content", "said"),
    [
        ("missing.txt", None, "missing.txt: there is no such file; check the path"),
        (".", None, ".: this is a folder; give the file in it"),
        ("p.txt", "", "p.txt: it is empty"),
        ("p.txt", "\n  \n\n", "p.txt: there is no prompt in it"),
        ("p.jsonl", "\n\n", "p.jsonl: there is no prompt in it"),
        ("p.json", "", "p.json: it is empty"),
        ("p.json", " \n", "p.json: there is no prompt in it"),
        ("p.json", "[]", "p.json: there is no prompt in it"),
        (
            "p.json",
            '{"prompt": "a"}',
            "p.json: an object, not a list of prompts; name a file of one object per line .jsonl",
        ),
        (
            "p.json",
            '{"prompt": "a"}\n{"prompt": "b"}',
            "p.json:2: broken JSON: Extra data at column 1; name a file of one object per line .jsonl",
        ),
        ("p.json", '["a", 3]', "p.json: item 2: a number, not an object with `prompt` or `messages`"),
        ("p.json", b'["a",\n"\xe9"]', "p.json:2: not UTF-8 (byte 0xe9 at offset 7 of the file, 'é' in Latin-1)"),
        ("p.docx", "a", "p.docx: unknown kind of file '.docx'; give one of .txt, .jsonl, .ndjson, .json, .csv, .tsv, "),
        ("p.txt", "a\n".encode("utf-16"), "p.txt:1: the file is UTF-16, not UTF-8; convert it with `iconv -f UTF-16"),
        ("p.txt", "a\n".encode("utf-32"), "the file is UTF-32"),
        ("p.txt", b"fine\ncaf\xe9\n", "p.txt:2: not UTF-8 (byte 0xe9 at offset 8 of the file, 'é' in Latin-1)"),
        ("p.txt", b"\xef\xbb\xbf\xe9\n", "p.txt:1: not UTF-8 (byte 0xe9 at offset 3 of the file, 'é' in Latin-1)"),
        pytest.param("p.jsonl", '{"a": ' * 100_000, "p.jsonl:1: broken JSON: nested too deeply", id="nested"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(source: str, content: str | None, said: str) -> None:
    assert said in complaint(source, content)


def test_a_file_that_cannot_be_read_says_why() -> None:
    os.symlink("/proc/self/mem", "p.txt")  # opens, and fails on reading, even for root
    assert complaint("p.txt") == "p.txt: cannot be read: Input/output error"


def test_a_prompt_or_line_of_unreasonable_length_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "p.txt:1: prompt of 4,194,305 bytes" in complaint("p.txt", "a" * (MAX_PROMPT_BYTES + 1))
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 100)
    assert complaint("p.txt", "a" * 1000 + "\n" + "b" * 99 + "\n\nc").splitlines() == [
        "p.txt:1: the line is longer than 100 bytes",
        "p.txt:3: empty prompt",
    ]


def test_ids_that_stand_twice_are_named_with_all_their_lines() -> None:
    ids = ['"a"', "1", None, '"1"', '"a"']
    content = "".join("\n" if id_ is None else f'{{"id": {id_}, "prompt": "x"}}\n' for id_ in ids)
    assert complaint("p.jsonl", content).splitlines() == [
        "p.jsonl:4: id '1' appears more than once, on lines 2, 4",
        "p.jsonl:5: id 'a' appears more than once, on lines 1, 5",
    ]


def test_a_column_is_asked_for_listed_if_missing_and_refused_where_there_are_none() -> None:
    assert "say with --column which column holds the prompts; the columns are: n, q" in complaint("p.csv", "n,q\n1,a\n")
    assert "there is no column 'text'; the columns are: n, q" in complaint("p.csv", "n,q\n1,a\n", column="text")
    assert complaint("p.txt", "a\n\nb", column="text").splitlines() == [
        "p.txt: --column text is for .csv, .tsv and .parquet; leave it out",
        "p.txt:2: empty prompt",
    ]


def test_bad_rows_of_csv_are_named_by_the_line_they_begin_on() -> None:
    content = b'n,q\n1,"two\nlines"\n2\n3,\xff\n4,""\n5,"never closed\n6,a\n'
    assert complaint("p.csv", content, column="q").splitlines() == [
        "p.csv:4: the row has 1 field, and the header has 2; add the missing ones",
        "p.csv:5: not UTF-8 (byte 0xff at offset 22 of the file, 'ÿ' in Latin-1); save the file as UTF-8, "
        "or convert it with `iconv -f WINDOWS-1252 -t UTF-8`",
        "p.csv:6: empty prompt",
        "p.csv:7: broken CSV: a quoted field is never closed",
    ]


def test_bad_parquet_is_named_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    parquet.write_table(pyarrow.table({"text": ["one", None, ""]}), "p.parquet")
    assert complaint("p.parquet", column="text").splitlines() == [
        "p.parquet: row 2: null, not a string",
        "p.parquet: row 3: empty prompt",
    ]
    assert "this Parquet file cannot be read" in complaint("q.parquet", "text", column="text")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'rankdeck[parquet]'" in complaint("p.parquet", column="text")


def test_an_older_copy_stays_whole_when_the_new_file_is_bad() -> None:
    frozen("p.txt", "good\n")
    with pytest.raises(PromptError):
        frozen("p.txt", "good\n\nbad")
    assert PromptIndex.open(Path("prompts.jsonl")).count == 1


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-1], "prompts.jsonl:2: the line is cut short"),
        (lambda data: data[:-9], "prompts.jsonl:2: the line is no prompt"),
        (lambda data: data.splitlines(keepends=True)[1], "prompts.jsonl:1: the line holds prompt 1, not 0"),
        (lambda data: data.replace(b"two", b"\xff\xff\xff"), "prompts.jsonl:2: the line is no prompt"),
    ],
)
def test_a_damaged_copy_is_named_with_its_line(damage: Any, said: str) -> None:
    frozen("p.txt", "one\ntwo\n")
    path = Path("prompts.jsonl")
    index = PromptIndex.open(path)
    path.write_bytes(damage(path.read_bytes()))
    for use in (lambda: index.read([0, 1]), lambda: PromptIndex.open(path)):
        with pytest.raises(PromptError, match="start a new run from the prompt file") as caught:
            use()
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "count"), [("stories.txt", 100), ("demo.txt", 4000), ("chat.jsonl", 24), ("mixed.jsonl", 60)]
)
def test_the_sample_prompts_can_be_used(name: str, count: int) -> None:
    assert len(frozen(str(ROOT / "sample_prompts" / name))) == count
