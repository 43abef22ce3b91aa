"""Textual's way to a terminal, with a guard, a title, a count of what is on its way, calm while it is resized, and an
end when it is gone.

Knows the terminal; what the title says, and how a dashboard is left, is told to it.
"""

import asyncio
import os
import select
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import IO, Any, ClassVar, cast

from textual import events
from textual.drivers.linux_driver import LinuxDriver
from textual.message import Message

from rankdeck.tui.terminal.guard import POP_TITLE, Guard

PUSH_TITLE = "\x1b[22;0t"

RESIZE_SECONDS = 0.2
"""The picture is laid out anew no more often than this."""


class TerminalDriver(LinuxDriver):
    """One per process: a process has one terminal."""

    guard: ClassVar[Guard | None] = None
    titled: ClassVar[bool] = False
    """Whether the window's title is ours to set."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._line = _Line(cast("IO[str]", self._file))
        self._file = cast("Any", self._line)
        self.written = 0
        """Bytes, since the start."""
        self._title: str | None = None
        self._taken = self._taken_before = False
        self._resizing: asyncio.TimerHandle | None = None
        self._resized_at = 0.0

    @property
    def backlog(self) -> int:
        """Bytes written that the terminal has not taken yet."""
        return self.written - self._line.taken

    def write(self, data: str) -> None:
        self.written += len(data.encode())
        super().write(data)

    def start_application_mode(self) -> None:
        if self._taken:  # stopped from outside and continued: whoever had the terminal meanwhile may have changed it
            self.suspend_application_mode()
        self._must_signal_resume, self._taken = self._taken_before, True
        self._taken_before = True
        if self.guard is not None:
            self.guard.taken()
        super().start_application_mode()  # type: ignore[no-untyped-call]
        if self.titled:
            self.write(PUSH_TITLE)
        resized = signal.getsignal(signal.SIGWINCH)
        if callable(resized):
            signal.signal(signal.SIGWINCH, lambda number, frame: self._soon(partial(resized, number, frame)))

    def process_message(self, message: Message) -> None:
        if isinstance(message, events.Resize):  # of a terminal that says so among the keys
            self._soon(partial(super().process_message, message))
        else:
            super().process_message(message)

    def _soon(self, resize: Callable[[], object]) -> None:
        """Resize at once, but only so often: whoever drags a window's corner makes hundreds of sizes, and sees few."""
        self._loop.call_soon_threadsafe(self._settle, resize)

    def _settle(self, resize: Callable[[], object]) -> None:
        if self._resizing is not None:
            self._resizing.cancel()
        self._resizing = self._loop.call_at(self._resized_at + RESIZE_SECONDS, self._resize, resize)

    def _resize(self, resize: Callable[[], object]) -> None:
        self._resizing, self._resized_at = None, self._loop.time()
        resize()

    def stop_application_mode(self) -> None:
        if self.titled:
            self.write(POP_TITLE)
            self._title = None
        super().stop_application_mode()

    def close(self) -> None:
        super().close()
        self._taken = False
        if self.guard is not None:
            self.guard.given_back()

    def set_title(self, title: str) -> None:
        """Name the terminal's window; `title` has been made harmless."""
        if self.titled and title != self._title:
            self._title = title
            self.write(f"\x1b]2;{title}\x07")


class _Line:
    """The line to a terminal: counts the bytes that it has taken, and lives on when the terminal is gone.

    Textual hands what it writes to a thread, which blocks here while the terminal takes no more. Where the terminal
    is gone, what is written is dropped and a hangup is said: the thread would die of the error, and whoever writes
    would wait for it for ever.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file, self._gone = file, False
        self.taken = 0

    def write(self, text: str) -> None:
        if not self._gone:
            try:
                # Other programs on this terminal share the flag, and one may have left it unset.
                os.set_blocking(self._file.fileno(), True)
                self._file.write(text)
                self._file.flush()
            except OSError:
                self._hang_up()
        self.taken += len(text.encode())

    def flush(self) -> None:
        if not self._gone:
            try:
                self._file.flush()
            except OSError:
                self._hang_up()

    def fileno(self) -> int:
        return self._file.fileno()

    def _hang_up(self) -> None:
        self._gone = True
        os.kill(os.getpid(), signal.SIGHUP)


def say_hangup() -> None:
    """Tell this process when its terminal is gone, by the signal that it gets in most cases anyway.

    Costs nothing: a thread sleeps in poll(), which always reports a hangup.
    """

    if not os.isatty(0):
        return

    def wait() -> None:
        poll = select.poll()
        poll.register(0, 0)
        with suppress(OSError, ValueError):
            poll.poll()
            os.kill(os.getpid(), signal.SIGHUP)

    threading.Thread(target=wait, name="hangup", daemon=True).start()
