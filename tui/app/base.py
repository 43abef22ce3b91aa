"""What the application gives every screen: looks, keys, help, the palette, and the terminal's title and signals.

Knows the user's preferences and what is remembered; nothing of a run.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from rich.console import Console
from textual import on
from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.driver import Driver
from textual.screen import Screen
from textual.worker import WorkerFailed

from rankdeck.tui.settings import keys, remembered, theme
from rankdeck.tui.settings.preferences import Preferences
from rankdeck.tui.terminal.shown import HarmlessFilter
from rankdeck.tui.widgets.deck import HELP_KEYS, Deck
from rankdeck.tui.words import alerts

if TYPE_CHECKING:
    from textual.filter import LineFilter


@runtime_checkable
class TitledDriver(Protocol):
    """A driver that can set the title of its terminal's window."""

    def set_title(self, title: str) -> None: ...


class BaseApp(Deck):
    """An application set up as `preferences` say; without them with the defaults, and then it remembers nothing."""

    CSS_PATH = Path(__file__).with_name("app.tcss")
    TITLE = "rankdeck"
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012  (Textual declares it as it does)
        (0, "-too-narrow"),
        (60, "-narrow"),
        (80, "-standard"),
        (120, "-wide"),
        (160, "-vast"),
    ]
    VERTICAL_BREAKPOINTS = [(0, "-too-short"), (18, "-short"), (24, "-tall"), (32, "-roomy")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        *HELP_KEYS,
        Binding("t", "toggle_theme", "Theme", id="app.theme", tooltip="Dark or light", show=False),
        Binding(
            "ctrl+z",
            "suspend_process",
            "To the shell",
            id="app.suspend",
            tooltip="Back to the shell; fg comes back here, the run goes on",
            show=False,
        ),
    ]

    def __init__(self, preferences: Preferences | None = None, *, at_home: bool = True) -> None:
        super().__init__(preferences, at_home=at_home)
        self._remembers = preferences is not None and at_home
        self._terminal_has_focus = False
        self._own_filters: list[LineFilter] = [HarmlessFilter()]
        # For the traceback of a bug: without colours, as it goes out where control codes are made visible.
        self.error_console = Console(markup=False, highlight=False, stderr=True, force_terminal=False)
        for each in theme.THEMES:
            self.register_theme(each)
        self.theme = self._first_theme()
        if self.preferences.ascii:
            from rankdeck.tui.terminal.ascii import AsciiFilter

            self._own_filters.append(AsciiFilter())
        self.set_keymap(self.preferences.keys)
        self.animation_level = "none"  # each step of an animation costs bytes and tells nothing

    @property
    def broke(self) -> BaseException | None:
        """The error that ended the application, if one did."""
        error = self._exception
        return error.error if isinstance(error, WorkerFailed) else error

    # --- looks ---------------------------------------------------------------------------------

    def _first_theme(self) -> str:
        """The user's theme, else the one chosen last, else one that the terminal has the colours for."""
        if self.preferences.theme is not None:
            return self.preferences.theme
        few = self._remembers and self.console.color_system in (None, "standard")
        last = self.get_theme(remembered.recall().theme or "") if self._remembers else None
        if last is not None and (last.ansi or not few):
            return last.name
        return (theme.SIXTEEN if few else theme.DARK).name

    def get_line_filters(self) -> Sequence["LineFilter"]:
        return [*super().get_line_filters(), *self._own_filters]

    def get_key_display(self, binding: Binding) -> str:
        if self.preferences.ascii and not binding.key_display:
            from rankdeck.tui.terminal.ascii import KEYS

            return KEYS.get(binding.key) or super().get_key_display(binding)
        return super().get_key_display(binding)

    def get_theme_variable_defaults(self) -> dict[str, str]:
        current = self.current_theme
        return theme.variable_defaults(dark=current.dark, ansi=current.ansi)

    def action_toggle_theme(self) -> None:
        self.theme = theme.toggled(self.current_theme)

    def watch_theme(self, before: str, now: str) -> None:
        if self._remembers and self.is_running:
            remembered.remember(remembered.Remembered(theme=now))

    # --- keys ----------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only at this machine is there a shell to go back to."""
        return self.at_home if action == "suspend_process" else True

    def action_help(self) -> None:
        """Every key of the screen; screens that have words to explain override this."""
        from rankdeck.tui.screens.help import HelpScreen

        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(keys.described(self.screen, self.reworded)))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The command palette: every action that has a key, and Textual's themes."""
        yield from keys.commands(screen, self.reworded)
        yield SystemCommand("Choose a theme", "All themes there are", self.action_change_theme)

    # --- around the screen ---------------------------------------------------------------------

    @on(Driver.SignalResume)
    def repaint_all(self) -> None:
        """Paint everything again: another program has used the terminal meanwhile."""
        self.refresh(layout=True)

    def set_window_title(self, title: str) -> None:
        """Set the title of the terminal's window, if the driver can."""
        if self.preferences.ascii:
            from rankdeck.tui.terminal.ascii import to_ascii

            title = to_ascii(title)
        if isinstance(self._driver, TitledDriver):
            self._driver.set_title(title)

    def alert(self, text: str) -> None:
        """Notify the user unless the terminal is known to have the focus; most report it only when it changes."""
        if self._driver is not None and not self._terminal_has_focus:
            self._driver.write(alerts.signal_of(self.preferences.notify, text))

    def on_app_focus(self) -> None:
        self._terminal_has_focus = True

    def on_app_blur(self) -> None:
        self._terminal_has_focus = False
