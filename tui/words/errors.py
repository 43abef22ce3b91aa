"""Errors as a line for the screen: what failed, why and where.

Rankdeck's own errors and OSError have a message meant for the user. Any other is a bug in rankdeck: the line also has
its type and the last line of rankdeck's code in the traceback.
"""

import shlex
import traceback
from pathlib import Path

from rankdeck.tui.words.text import visible

_ROOT = Path(__file__).resolve().parents[2]
_CODE = (_ROOT / "runner", _ROOT / "tui")  # in a checkout the root may hold an environment, too


def problem(what: str, error: BaseException, run: str, command: str | None) -> str:
    """What failed, why, where and what to do, as a line for the screen; `run` is a name or a directory.

    An error meant for the user says what to do. For any other, the line names `command`, if there is one, which prints
    the whole traceback.
    """
    line = f"{visible(run)}: {what}: {reason(error)}"
    if _for_the_user(error):
        return line
    line += ". The run is untouched"
    if command is None:
        return line
    return f"{line}; `{visible(f'rankdeck {command} {shlex.quote(run)}')}` shows the whole error"


def reason(error: BaseException) -> str:
    """Why something failed, in one line; for a bug also its type and place."""
    said = visible(" ".join(str(error).split()))
    if _for_the_user(error):
        return said or type(error).__name__
    return f"{type(error).__name__}: {said}".removesuffix(": ") + _place(error)


def _for_the_user(error: BaseException) -> bool:
    return isinstance(error, OSError) or type(error).__module__.startswith("rankdeck.")


def _place(error: BaseException) -> str:
    """The last line of rankdeck's code in the traceback, as ` (file:line)`."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename).resolve()
        if any(path.is_relative_to(code) for code in _CODE):
            return f" ({path.relative_to(_ROOT)}:{frame.lineno})"
    return ""
