"""What keeps a screen as large as the terminal.

Laying out posts a screen its own size again; where the terminal was resized in between, that is an old size, which
would be laid out once more, and so on without end.
"""

from textual.events import Event, Resize
from textual.message_pump import MessagePump


class Sized(MessagePump):
    """Mixed into a screen: whatever size it is told, the terminal's is what it takes."""

    async def on_event(self, event: Event) -> None:
        size = self.app.size
        if isinstance(event, Resize) and event.size != size:
            event = Resize(size, size)
        await super().on_event(event)
