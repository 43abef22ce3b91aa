"""prompts.jsonl, the run's own copy of its prompts: its digest, its ids, and lengths in bytes."""

import hashlib
import io
import json
import os
from pathlib import Path

import pytest

from rankdeck.runner.inputs.frozen_prompts import MAX_PROMPT_BYTES, PromptError, PromptIndex, freeze, why_changed


def frozen(tmp_path: Path, *rows: object) -> PromptIndex:
    source = tmp_path / "p.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return freeze(str(source), tmp_path / "prompts.jsonl", column=None, limit=None, chat=False)


def test_the_digest_is_that_of_the_file_as_it_was_written(tmp_path):
    index = frozen(tmp_path, {"prompt": "ä"}, {"prompt": "two"})
    content = index.path.read_bytes()
    assert index.digest == hashlib.sha256(content).hexdigest()
    assert why_changed(index.path, index.digest) is None
    index.path.write_bytes(content.replace(b"two", b"tow"))
    assert "prompts.jsonl has changed since the run began" in (why_changed(index.path, index.digest) or "")
    index.path.unlink()
    assert "there is no such file" in (why_changed(index.path, index.digest) or "")


def test_an_id_of_zero_is_an_id_wherever_it_stands(tmp_path):
    index = frozen(tmp_path, {"prompt": "a", "id": "x"}, {"prompt": "b", "id": 0}, {"prompt": "c", "id": 7})
    assert [prompt.id for prompt in index.read([0, 1, 2])] == ["x", "0", "7"]


def test_lengths_are_in_bytes(tmp_path):
    messages = [{"role": "user", "content": "öö"}, {"role": "assistant", "content": "a"}]
    index = frozen(tmp_path, {"prompt": "äöü"}, {"prompt": "abc"}, {"messages": messages})
    assert list(index.lengths) == [6, 3, 5]
    assert list(PromptIndex.open(index.path).lengths) == [6, 3, 5]


@pytest.mark.parametrize("character", ["a", "ä", "漢", "😀"])
def test_the_longest_prompt_is_measured_in_bytes(tmp_path, character):
    fits = MAX_PROMPT_BYTES // len(character.encode())
    assert frozen(tmp_path, {"prompt": character * fits}).count == 1
    for row in (
        {"prompt": character * (fits + 1)},
        {"messages": [{"role": "user", "content": character * (fits + 1)}]},
    ):
        with pytest.raises(PromptError, match=r"the limit is 4,194,304"):
            frozen(tmp_path, row)


def test_a_copy_that_changed_while_it_is_in_use_is_noticed(tmp_path):
    index = frozen(tmp_path, {"prompt": "one"}, {"prompt": "two"})
    lines = index.path.read_bytes().splitlines(keepends=True)
    index.path.write_bytes(lines[1] + lines[0])
    with pytest.raises(PromptError, match="holds prompt 1, not 0"):
        index.read([0])
    index.path.write_bytes(lines[0][:-2])
    with pytest.raises(PromptError, match="damaged; start a new run"):
        index.read([0])


def edited(path: Path) -> None:
    """The same lengths and ids, another prompt, in a file of its own: as `sed -i` leaves it."""
    other = path.with_name("other")
    other.write_bytes(path.read_bytes().replace(b"two", b"TWO"))
    other.replace(path)


def edited_in_place(path: Path) -> None:
    content = path.read_bytes().replace(b"two", b"TWO")
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(0, 0))


def edited_in_secret(path: Path) -> None:
    """In place, and its time put back: only the system's own note of the change tells."""
    before = path.stat().st_mtime_ns
    edited_in_place(path)
    os.utime(path, ns=(before, before))


@pytest.mark.parametrize("edit", [edited, edited_in_place, edited_in_secret])
def test_a_prompt_edited_without_a_change_of_its_length_is_never_read(tmp_path, edit):
    written = frozen(tmp_path, {"prompt": "one"}, {"prompt": "two"})
    opened = PromptIndex.open(written.path, written.digest)
    assert [prompt.text for prompt in opened.read([1])] == ["two"]
    edit(written.path)
    for use in (lambda: opened.read([0]), opened.check, lambda: PromptIndex.open(written.path, written.digest)):
        with pytest.raises(PromptError, match=r"prompts\.jsonl has changed since the run began"):
            use()


def test_a_copy_that_is_replaced_by_its_equal_is_read_on_and_compared_once(tmp_path, monkeypatch):
    index = PromptIndex.open(frozen(tmp_path, {"prompt": "one"}, {"prompt": "two"}).path)
    other = tmp_path / "other"
    other.write_bytes(index.path.read_bytes())
    other.replace(index.path)
    compared = []
    file_digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *of: (compared.append(of), file_digest(*of))[1])
    for _ in range(3):
        assert [prompt.text for prompt in index.read([1, 0])] == ["two", "one"]
    assert len(compared) == 1


def test_lines_that_freeze_did_not_write_are_refused_with_their_number(tmp_path):
    index = frozen(tmp_path, {"prompt": "one"}, {"prompt": "two"}, {"prompt": "three"})
    lines = index.path.read_bytes().splitlines(keepends=True)
    for content, said in (
        ([*lines[:2], lines[2][:-1]], ":3: the line is cut short"),
        ([lines[0], lines[2]], ":2: the line holds prompt 2, not 1"),
        ([lines[0], b"{}\n"], ":2: the line is no prompt"),
        ([b"\xff\n"], ":1: the line is no prompt"),
    ):
        index.path.write_bytes(b"".join(content))
        with pytest.raises(PromptError, match=rf"prompts\.jsonl{said}.*: the run's copy of the prompts is damaged"):
            PromptIndex.open(index.path)


def test_an_opened_copy_is_as_the_frozen_one(tmp_path):
    messages = [{"role": "user", "content": "ö"}]
    index = frozen(tmp_path, {"prompt": "one"}, {"messages": messages}, {"messages": messages})
    opened = PromptIndex.open(index.path)
    for one in (index, opened):
        assert (one.count, one.messages, one.digest) == (3, 2, hashlib.sha256(index.path.read_bytes()).hexdigest())
        assert [prompt.index for prompt in one.read([2, 0, 2])] == [2, 0, 2]
        assert [prompt.index for prompt in one.each(iter([1, 0]))] == [1, 0]
    assert list(opened.offsets) == list(index.offsets)
    with pytest.raises(PromptError, match="has changed since the run began"):
        PromptIndex.open(index.path, "0" * 64)
    with pytest.raises(PromptError, match=r"there is no such file|No such file"):
        PromptIndex.open(tmp_path / "nowhere")


def test_prompts_that_are_read_one_by_one_are_compared_at_the_end(tmp_path):
    index = frozen(tmp_path, {"prompt": "one"}, {"prompt": "two"})
    assert [prompt.text for prompt in index.each([1])] == ["two"]
    edited(index.path)
    with pytest.raises(PromptError, match="has changed since the run began"):
        list(index.each([0]))


def test_a_frozen_copy_is_on_disk_private_and_alone_before_it_has_its_name(tmp_path, monkeypatch):
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    before = os.umask(0)
    try:
        index = frozen(tmp_path, {"prompt": "one"})
    finally:
        os.umask(before)
    assert synced == [index.path.stat().st_size]
    assert index.path.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "state") == ["p.jsonl", "prompts.jsonl"]


def test_only_as_many_prompts_as_are_wanted_are_read_and_only_they_must_be_right(tmp_path):
    source = tmp_path / "p.jsonl"
    source.write_text('{"prompt": "a"}\n{"prompt": "b"}\n{"prompt": 3}\n')
    for limit in (1, 2):
        index = freeze(str(source), tmp_path / "q", column=None, limit=limit, chat=False)
        assert (index.count, len((tmp_path / "q").read_bytes().splitlines())) == (limit, limit)
    for limit in (3, None):
        (tmp_path / "q").unlink(missing_ok=True)
        with pytest.raises(PromptError, match=r"p\.jsonl:3: "):
            freeze(str(source), tmp_path / "q", column=None, limit=limit, chat=False)
        assert not (tmp_path / "q").exists()


def test_a_plain_prompt_becomes_a_message_only_where_a_chat_is_wanted(tmp_path):
    source = tmp_path / "p.jsonl"
    given = [{"role": "system", "content": "s"}]
    source.write_text('{"prompt": "a", "id": "x"}\n' + json.dumps({"messages": given}) + "\n")
    plain = freeze(str(source), tmp_path / "q", column=None, limit=None, chat=False)
    assert [(one.id, one.text, one.messages) for one in plain.read([0, 1])] == [("x", "a", None), ("1", "", given)]
    chat = freeze(str(source), tmp_path / "q", column=None, limit=None, chat=True)
    assert [(one.id, one.text, one.messages) for one in chat.read([0, 1])] == [
        ("x", "", [{"role": "user", "content": "a"}]),
        ("1", "", given),
    ]
    assert (plain.messages, chat.messages) == (1, 2)


def test_what_an_earlier_try_left_is_written_over(tmp_path):
    (tmp_path / ".prompts.jsonl.partial").write_text("x" * 9999)
    index = frozen(tmp_path, {"prompt": "one"})
    assert [prompt.text for prompt in PromptIndex.open(index.path, index.digest).read([0])] == ["one"]
    assert not (tmp_path / ".prompts.jsonl.partial").exists()


def test_what_is_said_of_a_copy_names_its_file_and_what_to_do(tmp_path):
    index = frozen(tmp_path, {"prompt": "one"})
    changed = (
        f"{index.path}: prompts.jsonl has changed since the run began, so its answers would mix two sets of prompts; "
        "put the file back as it was, or start a new run"
    )
    assert why_changed(index.path, "0" * 64) == changed
    with pytest.raises(PromptError) as caught:
        PromptIndex.open(index.path, "0" * 64)
    assert str(caught.value) == changed
    nowhere = tmp_path / "nowhere"
    assert why_changed(nowhere, "0" * 64) == f"{nowhere}: there is no such file; check the path"
    index.path.write_bytes(index.path.read_bytes()[:-1])
    with pytest.raises(PromptError) as caught:
        index.read([0])
    assert str(caught.value) == (
        f"{index.path}:1: the line is cut short: the run's copy of the prompts is damaged; "
        "start a new run from the prompt file"
    )


def test_prompts_on_standard_input_are_named_so(tmp_path):
    with pytest.raises(PromptError, match=r"^standard input:1: "):
        freeze("-", tmp_path / "q", column=None, limit=None, chat=False, stdin=io.BytesIO(b"{"))
    index = freeze(
        "-", tmp_path / "q", column=None, limit=None, chat=False, stdin=io.BytesIO(b'{"prompt": "a", "id": 5}')
    )
    assert index.read([0])[0].id == "5", "they may have ids"
