"""Fields whose own keys act in the order in which they were pressed. Knows Textual's ways with keys, no form.

Textual has a field take a character at once, but looks at a field's other keys (backspace, ctrl+u, an arrow) only after
they have gone up to the application. Of keys that come together, as over a slow line, all characters came first: ctrl+u
and `8` in one piece left nothing. Here a field looks at its own keys as they reach it.
"""

from textual.events import Key
from textual.widget import Widget
from textual.widgets import Input


class InOrder(Widget):
    """Mixed in behind a widget's base: its own bindings act when their key comes to it, not later."""

    async def on_key(self, event: Key) -> None:
        own = self._bindings.copy()
        own.apply_keymap(self.app._keymap)  # As Textual does where it looks at them: the user's keys are not in them.
        for binding in own.key_to_bindings.get(event.key, ()):
            if not binding.priority and await self.app.run_action(binding.action, self):
                event.stop()
                event.prevent_default()
                return


class TextField(Input, InOrder):
    """A field for a line of text."""
