"""What widgets and screens may ask of their application: the user's preferences, and to show a message.

Knows nothing of a run: a screen is handed the run that it shows.
"""

from typing import Literal

from textual.binding import Binding, BindingType
from textual.content import Content

from rankdeck.tui.settings.hint_keys import Keys, named
from rankdeck.tui.settings.labels import AS_DECLARED, Labels
from rankdeck.tui.settings.preferences import Preferences
from rankdeck.tui.terminal.paced import PacedApp

Leave = Literal["ended", "detached", "stopped"]
"""How the user left the dashboard: after the run had ended, while it went on, or by stopping it."""

HELP_KEYS: list[BindingType] = [
    Binding("question_mark", "help", "Help", key_display="?", id="app.help", tooltip="Every key, and the words"),
    Binding("f1", "help", "Help", id="app.help_anywhere", tooltip="The same, also from within a field", show=False),
]
"""The application's. A screen that has them, too, gets them first: its own `action_help` is called."""


class Deck(PacedApp[Leave]):
    """An application that tells its widgets what the user has set.

    `at_home` is False for a viewer in a browser: then nothing is offered that reaches beyond the run into this
    machine. No files are written, no programs started, nothing is remembered.
    """

    def __init__(self, preferences: Preferences | None = None, *, at_home: bool = True) -> None:
        super().__init__()
        self.at_home = at_home
        self.preferences = preferences if preferences is not None else Preferences()
        self.reworded: Labels = AS_DECLARED
        """Labels of keys that differ here from those they are declared with."""

    @property
    def keys(self) -> Keys:
        """The keys that the user has changed, by binding id."""
        return self.preferences.keys

    def hint(self, text: str) -> Content:
        """A hint for a border or a label, with the user's keys in it; as Content, because a key is not markup."""
        return Content(named(text, self.keys))

    def label(self, name: str, declared: str) -> str:
        """The label of a binding here, by its id."""
        return self.reworded.get(name, (declared, ""))[0]

    def say(self, text: str, title: str = "") -> None:
        """Show a message that goes away by itself."""
        self.notify(text, title=title, markup=False)
