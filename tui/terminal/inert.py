"""The edge where text leaves a command for a terminal: there nothing that came from outside can steer it.

Knows streams; what is unsafe is tui/words/text.py's to say. A dashboard has an edge of its own (tui/terminal/shown.py).
`say` and `tell` keep a line one line; `guard_streams` covers what is printed without them: usage, help, a traceback.
"""

import sys
from typing import Any, TextIO

from rankdeck.tui.words.text import json_safe, visible


def say(line: str) -> None:
    """One line of the product, to standard output."""
    sys.stdout.write(f"{visible(line)}\n")
    sys.stdout.flush()


def say_json(line: str) -> None:
    """One line of JSON, to standard output: data, so what is unsafe is escaped as JSON has it."""
    sys.stdout.write(f"{json_safe(line.rstrip())}\n")


def tell(line: str) -> None:
    """One line of talk, to standard error."""
    sys.stderr.write(f"{visible(line)}\n")


class InertStream:
    """A text stream that makes all text harmless; for the rest it is the stream that it guards.

    It has no `buffer`, through which libraries would write past it.
    """

    def __init__(self, stream: TextIO) -> None:
        self.guarded = stream

    def write(self, text: str) -> int:
        self.guarded.write(visible(text, keep_newlines=True))
        return len(text)

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
        setattr(sys, name, InertStream(stream))


def unguarded(stream: TextIO) -> TextIO:
    """The stream itself, for control codes of our own; other text on it must be harmless already."""
    return stream.guarded if isinstance(stream, InertStream) else stream
