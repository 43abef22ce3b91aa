"""A small process that restores the terminal if this one no longer can.

A dashboard that is killed outright (kill -9, out of memory) cannot clean up: it would leave its terminal without echo,
without a cursor, on the wrong screen. So a child is forked before the terminal is taken. It reads from a pipe whether
the terminal is taken or given back; if the pipe closes while it is taken, the child restores everything. Knows
terminals and processes; nothing of a dashboard.
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
"""A dashboard switches off all three; a shell editing its line leaves signals on, and so is told apart."""

_UNTOUCHED = tuple(
    getattr(signal, f"SIG{name}") for name in ("INT", "TERM", "HUP", "QUIT", "TSTP", "TTIN", "TTOU", "PIPE")
)


class Guard:
    """The watching child; it is told when the terminal is `taken` and `given_back`, and ends with this process."""

    def __init__(self, pid: int, pipe: int) -> None:
        self._pid, self._pipe = pid, pipe

    @classmethod
    def start(cls, *, title: bool) -> Self | None:
        """Fork the watcher; None if there is no terminal to watch, or the fork fails."""
        try:
            before = termios.tcgetattr(0)
            if not os.isatty(2):
                return None
            theirs = _groups()
            read_end, write_end = os.pipe()
            pid = os.fork()
        except (OSError, termios.error):
            return None
        if pid == 0:
            try:
                _watch(read_end, before, theirs, RESET + (POP_TITLE if title else ""))
            finally:
                os._exit(0)
        os.close(read_end)
        return cls(pid, write_end)

    def taken(self) -> None:
        self._send(_TAKEN)

    def given_back(self) -> None:
        self._send(_GIVEN_BACK)

    def end(self) -> None:
        """End the watcher; the terminal needs no guard any more."""
        os.close(self._pipe)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _send(self, word: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._pipe, word)


def _groups() -> set[int]:
    """The process groups that may be in the foreground after a dashboard died: its own, and its shell's."""
    groups = {os.getpgrp(), os.getsid(0)}
    with contextlib.suppress(OSError):
        groups.add(os.getpgid(os.getppid()))
    return groups


def _watch(read_end: int, before: list[Any], theirs: set[int], reset: str) -> None:
    """In the child: read until the pipe closes, then restore the terminal if needed."""
    for number in _UNTOUCHED:
        signal.signal(number, signal.SIG_IGN)
    # A group of its own, so that killing the whole job leaves it alive.
    os.setpgid(0, 0)
    # Close everything inherited, so that readers of the parent's pipes see them end with the parent.
    os.dup2(read_end, 1)
    os.closerange(3, os.sysconf("SC_OPEN_MAX") if sys.platform != "linux" else 2**31 - 1)
    taken = False
    while words := os.read(1, 64):
        taken = words.endswith(_TAKEN)
    if taken and _in_foreground(theirs):
        os.write(2, reset.encode())
        now = termios.tcgetattr(0)
        if not now[3] & _RAW:  # else another program has restored it, or set it up for itself
            termios.tcsetattr(0, termios.TCSANOW, before)


def _in_foreground(theirs: set[int]) -> bool:
    """Whether the foreground group is one of `theirs`; another program's terminal is left alone."""
    try:
        return os.tcgetpgrp(0) in theirs
    except OSError:
        return True  # not our controlling terminal: there is no way to tell
