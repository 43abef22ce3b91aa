"""Errors as a line for the screen: what failed, why and where; in full where it was raised for people to read.

An error of another kind is a bug: its type and the last line of ours that it came through are named, too.
"""

import shlex
import traceback
from pathlib import Path

from rankdeck.tui.words.text import visible

_ROOT = Path(__file__).resolve().parents[2]


def problem(what: str, error: BaseException, run: str, command: str | None) -> str:
    """What failed, why, where and what to do, as a line for the screen; `run` is a name or a directory: data.

    An error that was raised for people says itself what to do. Of any other the command is told that brings the whole
    of it to the terminal, where there is one.
    """
    line = f"{visible(run)}: {what}: {reason(error)}"
    if _for_people(error):
        return line
    line += ". The run is untouched"
    if command is None:
        return line
    return f"{line}; `{visible(f'rankdeck {command} {shlex.quote(run)}')}` shows the whole error"


def reason(error: BaseException) -> str:
    """Why something failed, in one line; of a bug, too, what it is, and where."""
    said = visible(" ".join(str(error).split()))
    if _for_people(error):
        return said or type(error).__name__
    return f"{type(error).__name__}: {said}".removesuffix(": ") + _place(error)


def _for_people(error: BaseException) -> bool:
    return isinstance(error, OSError) or type(error).__module__.startswith("rankdeck.")


def _place(error: BaseException) -> str:
    """The last line of ours that it came through."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve().is_relative_to(_ROOT)
    ]
    if not frames:
        return ""
    return f" ({Path(frames[-1].filename).resolve().relative_to(_ROOT)}:{frames[-1].lineno})"
