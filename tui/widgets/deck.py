"""What widgets and screens may ask of the application that they are in: the user's preferences, and a word said.

Nothing of a run: a screen is handed the run that it shows.
"""

from typing import Literal

from textual.content import Content

from rankdeck.tui.settings.hint_keys import Keys, named
from rankdeck.tui.settings.labels import AS_DECLARED, Labels
from rankdeck.tui.settings.preferences import Preferences
from rankdeck.tui.terminal.paced import PacedApp

Leave = Literal["ended", "detached", "stopped"]
"""How the dashboard was left: after the run's end, while it went on, or having stopped it."""


class Deck(PacedApp[Leave]):
    """An application whose widgets know its user.

    `at_home` is False where whoever looks sits elsewhere, at a browser: then nothing is offered that reaches into this
    machine beyond the run: no files are written, no programs started, nothing is remembered.
    """

    def __init__(self, preferences: Preferences | None = None, *, at_home: bool = True) -> None:
        super().__init__()
        self.at_home = at_home
        self.preferences = preferences if preferences is not None else Preferences()
        self.reworded: Labels = AS_DECLARED
        """What keys are called here, where that is not what they are declared as."""

    @property
    def keys(self) -> Keys:
        """The keys that the user has changed, by binding id."""
        return self.preferences.keys

    def hint(self, text: str) -> Content:
        """A hint with its keys named as the user has them, for a border or a label: a key is no markup."""
        return Content(named(text, self.keys))

    def label(self, name: str, declared: str) -> str:
        """What a binding is called here, by its id."""
        return self.reworded.get(name, (declared, ""))[0]

    def say(self, text: str, title: str = "") -> None:
        """A word beside the work, gone after a while."""
        self.notify(text, title=title, markup=False)
