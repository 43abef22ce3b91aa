"""Run a dashboard in this process's terminal, and give the terminal back however that ends.

Knows signals and the ways to end; which dashboard it is, and what is printed afterwards, is up to the caller.
"""

import gc
import os
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING

from textual.drivers.linux_driver import LinuxDriver

from rankdeck.tui.terminal.driver import TerminalDriver, signal_hangup
from rankdeck.tui.terminal.guard import Guard

if TYPE_CHECKING:
    from rankdeck.tui.app.app import RankdeckApp

LEAVE_SECONDS = 3.0
"""How long a dashboard may take to leave: one that takes no more text would hold it forever."""

NO_TITLE = ("linux", "dumb")
"""Terminals, by TERM, that have no title."""


def run_app(app: "RankdeckApp") -> bool:
    """Run the dashboard until it is left; SIGTERM and SIGHUP leave it as the key for detaching does.

    Returns whether one of them came: then there is little time left, and nothing more should be shown.
    """
    told = False
    title = app.preferences.title and os.environ.get("TERM", "dumb") not in NO_TITLE
    guard = Guard.start(title=title)
    TerminalDriver.guard, TerminalDriver.titled = guard, title
    if app.driver_class is LinuxDriver:
        app.driver_class = TerminalDriver

    def told_to_leave(number: int, frame: FrameType | None) -> None:
        nonlocal told
        told = True
        last = threading.Timer(LEAVE_SECONDS, os._exit, (128 + number,))
        last.daemon = True
        last.start()
        if number == signal.SIGHUP:
            _silence_stdout()
        if not app.leave_soon():
            os._exit(128 + number)

    before = {number: signal.signal(number, told_to_leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    signal_hangup()
    _freeze_imports()
    try:
        app.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if guard is not None:
            guard.end()
    return told


def _freeze_imports() -> None:
    """Keep the garbage collector off imported modules, which stay anyway: scanning them delays keys by tens of ms."""
    if not gc.get_freeze_count():
        gc.freeze()


def _silence_stdout() -> None:
    """Send standard output nowhere: after a hangup, printing would fail, and that would look like a crash."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
