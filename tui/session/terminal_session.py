"""Fly a dashboard in this process's terminal, and give the terminal back however that ends.

Knows signals and endings; what is flown, and what is said after, is the caller's business.
"""

import gc
import os
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING

from textual.drivers.linux_driver import LinuxDriver

from rankdeck.tui.terminal.driver import TerminalDriver, say_hangup
from rankdeck.tui.terminal.guard import Guard

if TYPE_CHECKING:
    from rankdeck.tui.app.app import RankdeckApp

LEAVE_SECONDS = 3.0
"""A dashboard that was told to go has so long; a terminal that takes no more text would hold it for ever."""

NO_TITLE = ("linux", "dumb")
"""Terminals (by TERM) that have no title."""


def run_app(app: "RankdeckApp") -> bool:
    """Run the dashboard until it is left; SIGTERM and SIGHUP leave it as the key for detaching does.

    Returns whether one of them came: then nothing more is to be shown, and little time is left.
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
            _nobody_listens()
        if not app.leave_soon():
            os._exit(128 + number)

    before = {number: signal.signal(number, told_to_leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    say_hangup()
    _spare_the_collector()
    try:
        app.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if guard is not None:
            guard.end()
    return told


def _spare_the_collector() -> None:
    """What was imported lives as long as the process: looking through it, too, took a key tens of milliseconds."""
    if not gc.get_freeze_count():
        gc.freeze()


def _nobody_listens() -> None:
    """What is said after the flight would fail, and a failing farewell reads like a crash."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
