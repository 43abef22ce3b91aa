"""The `rankdeck` program's first steps: its standard streams, and how it is interrupted while the rest is imported."""

import os
import signal
import sys


def open_closed_streams() -> None:
    """Lead standard streams that were closed (`<&-`, `>&-`) to nowhere, before a file takes the place of one."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        mode = "w" if descriptor else "r"
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest that is free, which is this one. It stays open: ranks inherit it.
            opened = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(opened, True)
            setattr(sys, name, open(opened, mode, closefd=False, encoding="utf-8"))  # noqa: SIM115
        else:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def main() -> None:
    """Import the command line, and run it.

    Importing takes a moment, and Ctrl-C in it ends the process as the system does: there is nothing to clean up, and
    a KeyboardInterrupt would show a traceback, or be lost in a callback of an import.
    """
    open_closed_streams()
    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if raises:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from rankdeck.tui.commands import cli

    if raises:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()
