"""Between the start screen and what was opened from it: what leaving is called there, and what is told on coming back.

Pure. Knows no screen; a run is its directory.
"""

import shlex
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from tui.words.text import visible

if TYPE_CHECKING:
    from runner.machine.facts import Machine
    from tui.sources.runs import RecentRun

Words = Mapping[str, tuple[str, str]]
"""Label and tooltip of bindings, by id, in the place of those they are declared with."""

AS_DECLARED: Words = MappingProxyType({})

OF_A_RUN: Words = MappingProxyType(
    {
        "app.leave": ("Back", "Back to the start screen; asks first while the run goes on"),
        "run.detach": ("Let run", "Back to the start screen; the run goes on"),
        "leave.detach": ("Back", "Back to the start screen; the run goes on"),
    }
)
"""Of a run that was opened from the start screen."""

OF_A_SWEEP: Words = MappingProxyType({"run.sweep": ("End sweep", "End the sweep; what it has measured stays")})
"""While trials are run."""

OF_A_REPLAY: Words = MappingProxyType(
    {
        "app.leave": ("Back", "Back to the start screen"),
        "app.interrupt": ("Back", "Back to the start screen"),
    }
)

_OURS = ("runner.", "tui.")
_ROOT = Path(__file__).resolve().parents[2]


class Seen(NamedTuple):
    """The start screen as it was left: its runs, its machine, what stood in the form and which of it was typed.

    `settings_of` is the run whose settings stand in the form, `taken_from` its name, `usual` what a first run has.
    """

    runs: "Sequence[RecentRun]"
    machine: "Machine | None"
    values: Mapping[str, str]
    typed: frozenset[str]
    settings_of: Path | None
    taken_from: str
    usual: Mapping[str, str]


class Back(NamedTuple):
    """Where one comes back from: a run's directory, what went wrong there, if something did, and what to come back to.

    Without `seen` the start screen is made anew.
    """

    directory: Path
    problem: str = ""
    seen: Seen | None = None


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
    return isinstance(error, OSError) or type(error).__module__.startswith(_OURS)


def _place(error: BaseException) -> str:
    """The last line of ours that it came through."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(_ROOT)
    ]
    if not frames:
        return ""
    return f" ({Path(frames[-1].filename).relative_to(_ROOT)}:{frames[-1].lineno})"
