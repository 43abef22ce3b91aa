"""Fields whose keys act in the order in which they were pressed. Knows how Textual handles keys; knows no form.

In Textual a field takes a character at once, but its other keys (backspace, ctrl+u, an arrow) act only after they have
been passed up to the application. When keys arrive together, as over a slow line, all characters would come first:
ctrl+u and `8` in one chunk would leave nothing. Here a field handles its own keys as they reach it.
"""

from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.events import Click, Key
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input

from rankdeck.tui.widgets.deck import Deck
from rankdeck.tui.widgets.lines import Painter
from rankdeck.tui.words.text import Line, line_width


class InOrder(Widget):
    """Mixed in behind a widget's base: its own bindings act as soon as their key reaches it."""

    app: Deck

    async def on_key(self, event: Key) -> None:
        own = self._bindings.copy()
        own.apply_keymap(self.app.keys)  # as Textual does when it looks at them: they are kept as declared
        for binding in own.key_to_bindings.get(event.key, ()):
            if not binding.priority and await self.app.run_action(binding.action, self):
                event.stop()
                event.prevent_default()
                return


class TextField(Input, InOrder):
    """A field for a line of text."""


def choice_line(options: Sequence[str], chosen: str, width: int) -> Line:
    """The options with the chosen one marked; only the chosen one, between arrows, if they do not fit side by side."""
    for gap in ("  ", " "):
        line: Line = ()
        for option in options:
            here = option == chosen
            line = (*line, (gap if line else "", ""), (f"{'●' if here else '○'} {option}", "strong" if here else "dim"))
        if line_width(line) <= width:
            return line
    return (("◂ ", "dim"), (chosen, ""), (" ▸", "dim"))


class Choice(Painter, InOrder, can_focus=True):
    """A field that takes one of a few words."""

    DEFAULT_CSS = """
    Choice { height: 1; width: 1fr; padding: 0 1; background: $panel; }
    Choice:focus { background: $block-cursor-background; color: $block-cursor-foreground; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,l,space", "turn(1)", "Next", id="choice.next", tooltip="The next of the choices", show=False),
        Binding("left,h", "turn(-1)", "Previous", id="choice.previous", tooltip="The one before", show=False),
        Binding("enter", "submit", "Launch", id="choice.submit", tooltip="Start the run", show=False),
    ]

    class Submitted(Message):
        """Enter was pressed: the form is ready."""

    class Changed(Message):
        """The user chose another word."""

        def __init__(self, choice: "Choice") -> None:
            super().__init__()
            self.choice = choice

    def __init__(self, options: Sequence[str], value: str, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._options = tuple(options)
        self._value = value

    @property
    def value(self) -> str:
        return self._value

    @value.setter
    def value(self, value: str) -> None:
        if value != self._value and value in self._options:
            self._value = value
            self.refresh()
            self.post_message(self.Changed(self))

    def action_turn(self, by: int) -> None:
        self.value = self._options[(self._options.index(self._value) + by) % len(self._options)]

    def action_submit(self) -> None:
        self.post_message(self.Submitted())

    def on_click(self, event: Click) -> None:
        self.action_turn(1)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return 1

    def render_line(self, y: int) -> Strip:
        width = self.content_size.width
        line = choice_line(self._options, self._value, width)
        return self.paint(line, width, self.style_of("") if self.has_focus else None)
