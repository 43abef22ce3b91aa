"""A small process that gives the terminal back when this one no longer can.

A dashboard that is killed outright (kill -9, out of memory) cannot clean up: its terminal would be left without
echo, without a cursor, on the wrong screen. So a child is forked before the terminal is taken. It waits at a
pipe, on which it hears whether the terminal is taken or given back; when the pipe closes while it is taken, it
puts everything back. Knows terminals and processes; nothing of a dashboard.
"""

import contextlib
import os
import signal
import sys
import termios
from typing import Any, Self

RESET = "".join(
    (
        "\x1b\\",  # ends whatever sequence was being written
        *(f"\x1b[?{mode}l" for mode in (1000, 1002, 1003, 1015, 1006, 1016)),  # the mouse
        "\x1b[?1004l\x1b[?2004l\x1b[?2048l\x1b[?2026l",  # focus, bracketed paste, resize reports, held-back output
        "\x1b[?7h",  # lines wrap
        "\x1b[<u",  # the kitty keyboard's mode
        "\x1b[0m\x1b[?1049l\x1b[?25h",  # no colour, the screen of before, a cursor
    )
)
POP_TITLE = "\x1b[23;0t"

_TAKEN, _GIVEN_BACK = b"+", b"-"
_RAW = termios.ECHO | termios.ICANON | termios.ISIG
"""What a dashboard switches off, all three: a shell that edits its line leaves signals on."""

_UNTOUCHED = tuple(
    getattr(signal, f"SIG{name}") for name in ("INT", "TERM", "HUP", "QUIT", "TSTP", "TTIN", "TTOU", "PIPE")
)


class Guard:
    """The watcher; hears of the terminal being `taken` and `given_back`, and ends when this process does."""

    def __init__(self, pid: int, pipe: int) -> None:
        self._pid, self._pipe = pid, pipe

    @classmethod
    def start(cls, *, title: bool) -> Self | None:
        """Fork the watcher; None where there is no terminal to watch, or no process to be had."""
        try:
            before = termios.tcgetattr(0)
            if not os.isatty(2):
                return None
            theirs = _groups()
            ear, mouth = os.pipe()
            pid = os.fork()
        except (OSError, termios.error):
            return None
        if pid == 0:
            try:
                _keep_watch(ear, before, theirs, RESET + (POP_TITLE if title else ""))
            finally:
                os._exit(0)
        os.close(ear)
        return cls(pid, mouth)

    def taken(self) -> None:
        self._say(_TAKEN)

    def given_back(self) -> None:
        self._say(_GIVEN_BACK)

    def end(self) -> None:
        """All is well; the watcher is no longer needed."""
        os.close(self._pipe)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _say(self, word: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._pipe, word)


def _groups() -> set[int]:
    """The process groups that may be in front when a dashboard has died: its own, its shell's."""
    groups = {os.getpgrp(), os.getsid(0)}
    with contextlib.suppress(OSError):
        groups.add(os.getpgid(os.getppid()))
    return groups


def _keep_watch(ear: int, before: list[Any], theirs: set[int], reset: str) -> None:
    """In the child: wait until nobody speaks any more, then look what is to be put right."""
    for number in _UNTOUCHED:
        signal.signal(number, signal.SIG_IGN)
    # A group of its own, so that killing the whole job leaves it alive.
    os.setpgid(0, 0)
    # Nothing of the parent's stays open here: whoever waits for the end of a pipe shall see it.
    os.dup2(ear, 1)
    os.closerange(3, os.sysconf("SC_OPEN_MAX") if sys.platform != "linux" else 2**31 - 1)
    taken = False
    while words := os.read(1, 64):
        taken = words.endswith(_TAKEN)
    if taken and _in_front(theirs):
        os.write(2, reset.encode())
        now = termios.tcgetattr(0)
        if not now[3] & _RAW:  # else somebody has put it right, or set it up for himself
            termios.tcsetattr(0, termios.TCSANOW, before)


def _in_front(theirs: set[int]) -> bool:
    """Whether the terminal is still with those it was with; what another program shows is not touched."""
    try:
        return os.tcgetpgrp(0) in theirs
    except OSError:
        return True  # not the terminal that steers us: nobody can say
