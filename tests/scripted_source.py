"""A source that says what a test gives it: no socket, no clock."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from rankdeck.runner import protocol
from rankdeck.runner.protocol import Command
from rankdeck.runner.state import ToViewer
from tests.scripted import DIRECTORY


class ScriptedSource:
    """A source that says what it was given, then waits; it keeps the commands it is sent."""

    directory = Path(DIRECTORY)

    def __init__(self, messages: Iterable[ToViewer], *, error: Exception | None = None) -> None:
        self.sent: list[Command] = []
        self._queue: asyncio.Queue[ToViewer | Exception] = asyncio.Queue()
        for message in messages:
            self._queue.put_nowait(message)
        if error is not None:
            self._queue.put_nowait(error)

    @property
    def said_all(self) -> bool:
        return self._queue.empty()

    def say(self, *messages: ToViewer) -> None:
        """More messages, while it is being watched."""
        for message in messages:
            self._queue.put_nowait(message)

    async def events(self) -> AsyncIterator[ToViewer]:
        while True:
            message = await self._queue.get()
            if isinstance(message, Exception):
                raise message
            yield message
            if isinstance(message, protocol.RunEnded):
                return

    async def send(self, command: Command) -> None:
        self.sent.append(command)
