"""prompts.jsonl, the run's own copy of its prompts: its digest, its ids, and lengths in bytes."""

import hashlib
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
    assert "cannot be read: No such file" in (why_changed(index.path, index.digest) or "")


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


@pytest.mark.parametrize("edit", [edited, edited_in_place])
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
