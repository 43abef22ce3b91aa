"""Turns prompt files into prompts.jsonl, and reads prompts from there by index.

Reports everything that is wrong with a file at once, with file and line. Does not know the formats, nor what makes a
record a prompt (`runner.inputs.prompts` does), nor tokens, models or ranks. Takes 12 bytes of memory a prompt, and up
to 17 more while ids are compared; the texts stay on disk.
"""

import contextlib
import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from rankdeck.runner.inputs.prompts.contents import STDIN, reading
from rankdeck.runner.inputs.prompts.files import records
from rankdeck.runner.inputs.prompts.ids import Ids
from rankdeck.runner.inputs.prompts.kinds import WITHOUT_IDS, Kind
from rankdeck.runner.inputs.prompts.problems import Problems, PromptError, PromptProblem
from rankdeck.runner.inputs.prompts.record import MAX_PROMPT_BYTES, LeftOut, bytes_of, understand
from rankdeck.runner.protocol import Prompt, encode_line
from rankdeck.runner.protocol.records import content_text

__all__ = ["MAX_PROMPT_BYTES", "PromptError", "PromptIndex", "PromptProblem", "freeze"]

_decoder = msgspec.json.Decoder(Prompt)


class PromptIndex:
    """Where each prompt of a prompts.jsonl begins, and how long its text is in UTF-8 bytes.

    `remarks` says what of the prompt file was not taken as it stands; only `freeze` knows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offsets = array("Q")
        self.lengths = array("I")
        self.digest = ""
        """SHA-256 over the file, as it was written or opened."""

        self.messages = 0
        """How many prompts are chat messages."""

        self.remarks: list[str] = []
        """What of the source was not taken as it stands."""

        self._stamp: Stamp | None = None
        """The file as it was when it last had the digest."""

    @property
    def count(self) -> int:
        return len(self.offsets)

    @classmethod
    def open(cls, path: Path, digest: str | None = None) -> "PromptIndex":
        """The index of an existing prompts.jsonl, from a scan of the file. `digest` is what it had when it was written.

        Raises:
            PromptError: the file is missing, has another digest, or a line is cut short or not what `freeze` wrote.
        """
        index, offset, found = cls(path), 0, hashlib.sha256()
        with reading(path, Problems(str(path))) as file:
            index._stamp = _stamp_of(file)
            for line in file:
                index.append(_decode(line, index.count, path), offset)
                found.update(line)
                offset += len(line)
        index.digest = found.hexdigest()
        if digest and digest != index.digest:
            raise _changed(path)
        return index

    def append(self, prompt: Prompt, offset: int) -> None:
        length = bytes_of(prompt.text)
        if prompt.messages:
            self.messages += 1
            length += sum(bytes_of(content_text(message["content"])) for message in prompt.messages)
        self.offsets.append(offset)
        self.lengths.append(length)

    def read(self, indices: Sequence[int]) -> list[Prompt]:
        """The prompts of these indices, in this order.

        Raises:
            PromptError: the file was removed or changed since it was indexed.
        """
        while True:
            prompts = []
            with reading(self.path, Problems(str(self.path))) as file:
                for index in indices:
                    file.seek(self.offsets[index])
                    prompts.append(_decode(file.readline(), index, self.path))
                # After the lines were read: what somebody wrote meanwhile is noticed too.
                if self._is_as_it_was(file):
                    return prompts

    def each(self, indices: Iterable[int]) -> Iterator[Prompt]:
        """The same, one by one; the file is opened once, and an index is taken when its prompt is asked for."""
        with reading(self.path, Problems(str(self.path))) as file:
            for index in indices:
                file.seek(self.offsets[index])
                yield _decode(file.readline(), index, self.path)
            self._is_as_it_was(file)

    def check(self) -> None:
        """Find out whether the file is as it was indexed. Raises as `read` does."""
        self.read([])

    def _is_as_it_was(self, file: BinaryIO) -> bool:
        """Whether nobody has touched the file; False if somebody has, but its content is the same.

        Raises:
            PromptError: its content is another.
        """
        if (stamp := _stamp_of(file)) == self._stamp:
            return True
        file.seek(0)
        if hashlib.file_digest(cast(BufferedReader, file), "sha256").hexdigest() != self.digest:
            raise _changed(self.path)
        self._stamp = stamp
        return False


Stamp = tuple[int, ...]


def _stamp_of(file: BinaryIO) -> Stamp:
    """What changes with a file's content, and is known without reading it."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


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
    problems = Problems("standard input" if source == STDIN else source)
    partial = destination.with_name(f".{destination.name}.partial")
    index, offset, digest = PromptIndex(destination), 0, hashlib.sha256()
    ids = None if Kind.of(source).suffix in WITHOUT_IDS else Ids()
    left_out = LeftOut()
    try:
        with contextlib.closing(records(source, column, stdin, problems)) as found, _private(partial) as out:
            place = 0
            for place, value in islice(found, limit):
                try:
                    text, messages, given = understand(value, left_out)
                except ValueError as error:
                    problems.add(str(error), place)
                    continue
                if chat and messages is None:
                    text, messages = "", [{"role": "user", "content": text}]
                id_ = ids.add(given, place) if ids else str(index.count)
                prompt = Prompt(index=index.count, id=id_, text=text, messages=messages)
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
            index.remarks += ids.words()
        problems.check()
        index.remarks += [*left_out.words(), *problems.doubts()]
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
        with reading(path, Problems(str(path))) as file:
            now = hashlib.file_digest(cast(BufferedReader, file), "sha256").hexdigest()
    except PromptError as error:
        return str(error)
    return None if now == digest else str(_changed(path))


def _changed(path: Path) -> PromptError:
    message = (
        f"{path.name} has changed since the run began, so its answers would mix two sets of prompts; "
        "put the file back as it was, or start a new run"
    )
    return PromptError([PromptProblem(str(path), message)])
