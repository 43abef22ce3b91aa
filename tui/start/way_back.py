"""What the start screen remembers while something opened from it is shown, and what it is told on coming back. Pure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rankdeck.runner.machine.facts import Machine
    from rankdeck.tui.sources.runs import RecentRun


class Filled(NamedTuple):
    """The form as it was left: its values, which of them were typed, the directory and name of the run that the others
    came from (None and empty: no run), and the defaults.
    """

    values: Mapping[str, str]
    typed: frozenset[str]
    settings_of: Path | None
    taken_from: str
    defaults: Mapping[str, str]


class Seen(NamedTuple):
    """The start screen as it was left."""

    runs: "Sequence[RecentRun]"
    machine: "Machine | None"
    form: Filled


class Back(NamedTuple):
    """The way back from a run: its directory, what went wrong there (empty: nothing), and the start screen as it was.

    Without `seen` the start screen looks at everything afresh.
    """

    directory: Path
    problem: str = ""
    seen: Seen | None = None
