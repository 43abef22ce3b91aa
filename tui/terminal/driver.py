"""Textual's terminal driver with a guard, a title, a count of unsent bytes, fewer resizes, and an end after a hangup.

Knows the terminal; it is told what the title says and how a dashboard is left.
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
from rankdeck.tui.words.text import visible

PUSH_TITLE = "\x1b[22;0t"

RESIZE_SECONDS = 0.2
"""The screen is laid out again at most this often."""


class TerminalDriver(LinuxDriver):
    """The driver for a terminal. One per process, because a process has one terminal."""

    guard: ClassVar[Guard | None] = None
    titled: ClassVar[bool] = False
    """Whether to set the window's title."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._terminal_file = _TerminalFile(cast("IO[str]", self._file))
        self._file = cast("Any", self._terminal_file)
        self.written = 0
        """Bytes written since the start."""
        self._title: str | None = None
        self._taken = self._taken_before = False
        self._resizes = Resizes(self._loop)

    @property
    def backlog(self) -> int:
        """Bytes written that the terminal has not taken yet."""
        return self.written - self._terminal_file.taken

    def _get_terminal_size(self) -> tuple[int, int]:
        """The terminal's own size. COLUMNS and LINES may be left from another one, and never change."""
        with suppress(OSError, ValueError):
            size = os.get_terminal_size(self.fileno)
            if size.columns and size.lines:
                return size.columns, size.lines
        return super()._get_terminal_size()

    def write(self, data: str) -> None:
        self.written += len(data.encode())
        super().write(data)

    def start_application_mode(self) -> None:
        if self._taken:  # stopped from outside and continued: another program may have changed the terminal meanwhile
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
            signal.signal(signal.SIGWINCH, lambda number, frame: self._resizes.soon(partial(resized, number, frame)))

    def process_message(self, message: Message) -> None:
        if isinstance(message, events.Resize):  # from a terminal that reports its size in the input
            self._resizes.soon(partial(super().process_message, message))
        else:
            super().process_message(message)

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
        """Set the window's title."""
        if self.titled and title != self._title:
            self._title = title
            self.write(f"\x1b]2;{visible(title)}\x07")


class Resizes:
    """Resizes at once, but not too often: dragging a window's corner makes hundreds of sizes, and few are seen."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: asyncio.TimerHandle | None = None
        self._resized_at = 0.0

    def soon(self, resize: Callable[[], object]) -> None:
        """Have `resize` called as soon as it is due, unless another one comes before that; from any thread."""
        self._loop.call_soon_threadsafe(self._wait, resize)

    def _wait(self, resize: Callable[[], object]) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = self._loop.call_at(self._resized_at + RESIZE_SECONDS, self._resize, resize)

    def _resize(self, resize: Callable[[], object]) -> None:
        self._waiting, self._resized_at = None, self._loop.time()
        resize()


class _TerminalFile:
    """The terminal's file: counts the bytes that the terminal has taken, and survives the end of the terminal.

    Textual writes from a thread, which blocks here while the terminal takes no more. Once the terminal is gone, writes
    are dropped and this process gets a hangup signal; otherwise the error would end the thread, and Textual would wait
    for it forever.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file, self._gone = file, False
        self.taken = 0

    def write(self, text: str) -> None:
        if not self._gone:
            try:
                # All programs on this terminal share the flag, and another one may have made it non-blocking.
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


def signal_hangup() -> None:
    """From now on, send this process SIGHUP when its terminal is gone; in most cases the system does so anyway.

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
