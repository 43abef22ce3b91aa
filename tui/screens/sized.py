"""A mixin that keeps a screen as large as the terminal.

Textual's layout sends a screen its own size again. If the terminal was resized in between, that size is old; it would
be laid out once more, and so on without end.
"""

from textual.events import Event, Resize
from textual.message_pump import MessagePump


class Sized(MessagePump):
    """Mixed into a screen: it takes the size of the terminal, whatever size it is sent."""

    async def on_event(self, event: Event) -> None:
        size = self.app.size
        if isinstance(event, Resize) and event.size != size:
            event = Resize(size, size)
        await super().on_event(event)
