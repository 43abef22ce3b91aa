"""The edge where text leaves a command for a terminal: there nothing that came from outside can steer it.

Knows streams; what is unsafe is tui/words/text.py's to say. A dashboard has an edge of its own (tui/terminal/shown.py).
`say` and `tell` keep a line one line; `guard_streams` covers what is printed without them: usage, help, a traceback.
"""

import contextlib
import json
import os
import re
import sys
from typing import Any, TextIO

from rankdeck.tui.words.text import json_safe, visible

_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


def say(line: str) -> None:
    """One line of the product, to standard output."""
    sys.stdout.write(f"{visible(line)}\n")
    sys.stdout.flush()


def say_json(line: str) -> None:
    """One line of JSON, to standard output: data, so what is unsafe is escaped as JSON has it.

    So is all that is not ASCII where the output is not UTF-8: it would be no JSON in another encoding.
    """
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("_", "-")
    safe = json_safe(line.rstrip())
    if encoding not in ("utf-8", "utf8"):
        safe = _NOT_ASCII.sub(lambda match: json.dumps(match[0])[1:-1], safe)
    sys.stdout.write(f"{safe}\n")


def tell(line: str) -> None:
    """One line of talk, to standard error."""
    sys.stderr.write(f"{visible(line)}\n")


class OutputError(Exception):
    """Standard output takes no more, as on a full disk; the text says why."""


class InertStream:
    """A text stream that makes all text harmless; for the rest it is the stream that it guards.

    It has no `buffer`, through which libraries would write past it. Once it cannot be written (other than a pipe whose
    reader has left), it says so once, as an OutputError if it is `needed`, and from then on leads nowhere.
    """

    def __init__(self, stream: TextIO, *, needed: bool = True) -> None:
        self.guarded, self._needed = stream, needed

    def write(self, text: str) -> int:
        if text == "":
            return 0  # a library tries out what the stream takes, and would swallow the error
        try:
            self.guarded.write(visible(text, keep_newlines=True))
        except OSError as error:
            self._fail(error)
        return len(text)

    def flush(self) -> None:
        try:
            self.guarded.flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError):
            raise error
        # What the stream still holds would fail again as the process ends.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.guarded.fileno())
            os.close(nowhere)
        if self._needed:
            raise OutputError(f"standard output cannot be written: {error.strerror}") from None

    def __getattr__(self, name: str) -> Any:
        if name in ("buffer", "writelines", "reconfigure", "detach"):
            raise AttributeError(name)
        return getattr(self.guarded, name)


def guard_streams() -> None:
    """Let nothing unsafe through standard output and standard error from now on.

    A character that the stream's encoding lacks is written as its code instead of ending the command.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, InertStream):
            continue
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, InertStream(stream, needed=name == "stdout"))


def unguarded(stream: TextIO) -> TextIO:
    """The stream itself, for control codes of our own; other text on it must be harmless already."""
    return stream.guarded if isinstance(stream, InertStream) else stream
