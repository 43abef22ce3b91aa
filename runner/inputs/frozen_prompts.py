"""Turns prompt files into prompts.jsonl, and reads prompts from there by index.

Knows what makes a record a prompt, and reports everything that is wrong with a file at once, with file and line. Does
not know the formats (`runner.inputs.prompt_files` does), nor tokens, models or ranks: a prompt is text, or chat
messages. Takes 12 bytes of memory a prompt, and 12 more while ids are compared; the texts stay on disk.
"""

import contextlib
import hashlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import msgspec

from rankdeck.runner.inputs.prompt_files import Problems, PromptError, PromptProblem, kind, reading, records
from rankdeck.runner.protocol import Prompt, encode_line

__all__ = ["PromptError", "PromptIndex", "PromptProblem", "freeze"]

MAX_PROMPT_BYTES = 4 * 1024 * 1024
"""A longer prompt, once escaped, would not fit a line of the protocol, nor a model's context."""

ROLES = ("system", "developer", "user", "assistant")
SUFFIXES_WITHOUT_IDS = (".txt", ".csv", ".parquet")
DIGEST_MASK = 2**64 - 1
ID_BUCKETS = 256

_decoder = msgspec.json.Decoder(Prompt)


class PromptIndex:
    """Where each prompt of a prompts.jsonl begins, and how long its text is in UTF-8 bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offsets = array("Q")
        self.lengths = array("I")
        self.digest = ""
        """SHA-256 over the file, as `freeze` wrote it."""
        self.messages = 0
        """How many prompts are chat messages."""

    @property
    def count(self) -> int:
        return len(self.offsets)

    @classmethod
    def open(cls, path: Path) -> "PromptIndex":
        """The index of an existing prompts.jsonl, from a scan of the file.

        Raises:
            PromptError: the file is missing, or a line is cut short or not what `freeze` wrote.
        """
        index, offset = cls(path), 0
        with reading(path, Problems(str(path))) as file:
            for line in file:
                index.append(_decode(line, index.count, path), offset)
                offset += len(line)
        return index

    def append(self, prompt: Prompt, offset: int) -> None:
        length = _bytes_of(prompt.text)
        if prompt.messages:
            self.messages += 1
            length += sum(_bytes_of(message["content"]) for message in prompt.messages)
        self.offsets.append(offset)
        self.lengths.append(length)

    def read(self, indices: Sequence[int]) -> list[Prompt]:
        """The prompts of these indices, in this order.

        Raises:
            PromptError: the file was removed or changed since it was indexed.
        """
        prompts = []
        with reading(self.path, Problems(str(self.path))) as file:
            for index in indices:
                file.seek(self.offsets[index])
                prompts.append(_decode(file.readline(), index, self.path))
        return prompts


def _decode(line: bytes, index: int, path: Path) -> Prompt:
    try:
        prompt = _decoder.decode(line)
        if line.endswith(b"\n") and prompt.index == index:
            return prompt
        wrong = "is cut short" if prompt.index == index else f"holds prompt {prompt.index}, not {index}"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        wrong = f"is no prompt ({error})"
    message = f"the line {wrong}: the run's copy of the prompts is damaged; start a new run from the prompt file"
    raise PromptError([PromptProblem(str(path), message, index + 1)])


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


class _Ids:
    """Finds duplicate ids: keeps 64 bits of hash a prompt, and reads the file again only if two hashes agree."""

    def __init__(self) -> None:
        self.places = array("I")
        self.buckets = [array("Q") for _ in range(ID_BUCKETS)]

    def add(self, id_: str, place: int) -> None:
        digest = hash(id_) & DIGEST_MASK
        self.buckets[digest % ID_BUCKETS].append(digest)
        self.places.append(place)

    def check(self, path: Path, problems: Problems) -> None:
        doubtful = {
            digest
            for bucket in self.buckets
            if len(set(bucket)) < len(bucket)
            for digest, count in Counter(bucket).items()
            if count > 1
        }
        if not doubtful:
            return
        places: dict[str, list[int]] = {}
        with path.open("rb") as file:
            for line, place in zip(file, self.places, strict=True):
                id_ = _decoder.decode(line).id
                if hash(id_) & DIGEST_MASK in doubtful:
                    places.setdefault(id_, []).append(place)
        for id_, found in places.items():
            if len(found) > 1:
                listed = ", ".join(map(str, found[:5])) + (" …" if len(found) > 5 else "")
                problems.add(f"id {id_!r} stands more than once, on {problems.unit}s {listed}", found[1])


def freeze(
    source: str,
    destination: Path,
    *,
    column: str | None,
    limit: int | None,
    chat: bool,
    stdin: BinaryIO | None = None,
) -> PromptIndex:
    """Write the prompts of `source` (a file, or `-`) to `destination`, all of them or none.

    With `chat` a plain prompt becomes a message of the user. `limit` is how many prompts are taken, from the first.

    Raises:
        PromptError: something is wrong with the file; it has all the problems.
        OSError: `destination` cannot be written.
    """
    problems = Problems("standard input" if source == "-" else source)
    partial = destination.with_name(f".{destination.name}.partial")
    index, offset, digest = PromptIndex(destination), 0, hashlib.sha256()
    ids = None if Path(source).suffix.lower() in SUFFIXES_WITHOUT_IDS else _Ids()
    try:
        with contextlib.closing(records(source, column, stdin, problems)) as found, _private(partial) as out:
            place = 0
            for place, value in islice(found, limit):
                try:
                    text, messages, id_ = _understand(value)
                except ValueError as error:
                    problems.add(str(error), place)
                    continue
                if chat and messages is None:
                    text, messages = "", [{"role": "user", "content": text}]
                prompt = Prompt(
                    index=index.count, id=str(index.count) if id_ is None else id_, text=text, messages=messages
                )
                if ids:
                    ids.add(prompt.id, place)
                index.append(prompt, offset)
                line = encode_line(prompt)
                digest.update(line)
                offset += out.write(line)
            if not place and not problems.count:
                problems.add("there is no prompt in it")
            out.flush()
            os.fsync(out.fileno())
        if ids:
            ids.check(partial, problems)
        problems.check()
        partial.replace(destination)
        index.digest = digest.hexdigest()
    finally:
        partial.unlink(missing_ok=True)
    return index


def _private(path: Path) -> BinaryIO:
    """A new file that only its owner may read, whatever the umask."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb")


def why_changed(path: Path, digest: str) -> str | None:
    """What is wrong with a prompts.jsonl that had this digest when it was written; None if it is as it was."""
    try:
        with path.open("rb") as file:
            now = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}"
    if now == digest:
        return None
    return (
        f"{path}: {path.name} has changed since the run began: its answers would not be of one set of prompts; "
        "put the file back as it was, or start a new run"
    )


def _understand(value: object) -> tuple[str, list[dict[str, str]] | None, str | None]:
    """Text, messages and id of one record; ValueError says what is wrong with it."""
    if isinstance(value, ValueError):
        raise value
    if isinstance(value, str):
        return _check_text(value), None, None
    if not isinstance(value, dict):
        raise ValueError(f"{kind(value)}, where an object with `prompt` or `messages` belongs")
    id_ = value.get("id")
    if isinstance(id_, bool) or not isinstance(id_, (str, int, type(None))) or id_ == "":
        raise ValueError(f"`id` must be a text or a whole number, not {kind(id_)}")
    id_ = None if id_ is None else str(id_)
    if "prompt" in value and "messages" in value:
        raise ValueError("both `prompt` and `messages`; leave one out")
    if "messages" in value:
        return "", _check_messages(value["messages"]), id_
    if "prompt" not in value:
        keys = ", ".join(f"`{key}`" for key in islice(value, 5)) or "nothing"
        raise ValueError(f"neither `prompt` nor `messages`; there is {keys}")
    if not isinstance(value["prompt"], str):
        raise ValueError(f"`prompt` must be a text, not {kind(value['prompt'])}")
    return _check_text(value["prompt"]), None, id_


def _check_text(text: str) -> str:
    if not text or text.isspace():
        raise ValueError("empty prompt")
    if len(text) > MAX_PROMPT_BYTES // 4 and _bytes_of(text) > MAX_PROMPT_BYTES:
        raise ValueError(f"prompt of {_bytes_of(text):,} bytes; the limit is {MAX_PROMPT_BYTES:,}")
    return text


def _check_messages(messages: object) -> list[dict[str, str]]:
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"`messages` must be a list of messages, not {kind(messages)}")
    checked = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict):
            raise ValueError(f"message {number} must be an object with `role` and `content`, not {kind(message)}")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise ValueError(f"message {number}: `role` must be one of {', '.join(ROLES)}, not {json.dumps(role)}")
        if not isinstance(content, str):
            raise ValueError(f"message {number}: `content` must be a text, not {kind(content)}")
        if role != "system" and (not content or content.isspace()):  # an empty system prompt is common
            raise ValueError(f"message {number}: `content` is empty")
        checked.append({"role": role, "content": content})
    _check_text("".join(message["content"] for message in checked))
    return checked
