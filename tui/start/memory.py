"""The start screen remembered while a run that was opened from it is shown, and what is told on coming back. Pure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rankdeck.runner.machine.facts import Machine
    from rankdeck.tui.sources.runs import RecentRun


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
