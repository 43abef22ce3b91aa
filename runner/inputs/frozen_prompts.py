"""Turns prompt files into prompts.jsonl, and reads prompts from there by index.

Reports everything that is wrong with a file at once, with file and line. Does not know the formats, nor what makes a
record a prompt (`runner.inputs.prompts` does), nor tokens, models or ranks. Takes 12 bytes of memory a prompt, and up
to 17 more while ids are compared; the texts stay on disk.
"""

import contextlib
import os
from array import array
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import msgspec

from rankdeck.runner.inputs.prompts.contents import STDIN, reading
from rankdeck.runner.inputs.prompts.files import records
from rankdeck.runner.inputs.prompts.ids import Ids
from rankdeck.runner.inputs.prompts.kinds import WITHOUT_IDS, Kind
from rankdeck.runner.inputs.prompts.problems import Problems, PromptError, PromptProblem
from rankdeck.runner.inputs.prompts.record import MAX_PROMPT_BYTES, LeftOut, bytes_of, understand
from rankdeck.runner.protocol import Prompt, encode_line

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
        self.remarks: list[str] = []

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
        length = bytes_of(prompt.text)
        if prompt.messages:
            length += sum(bytes_of(message["content"]) for message in prompt.messages)
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
    index, offset = PromptIndex(destination), 0
    ids = None if Kind.of(source).suffix in WITHOUT_IDS else Ids()
    left_out = LeftOut()
    try:
        with contextlib.closing(records(source, column, stdin, problems)) as found, partial.open("wb") as out:
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
                offset += out.write(encode_line(prompt))
            if not place and not problems.count:
                problems.add("there is no prompt in it")
            out.flush()
            os.fsync(out.fileno())
        if ids:
            ids.check(partial, problems)
            index.remarks += ids.words()
        problems.check()
        index.remarks += left_out.words()
        partial.replace(destination)
    finally:
        partial.unlink(missing_ok=True)
    return index
