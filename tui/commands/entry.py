"""The `rankdeck` program's first steps. Knows only how to be interrupted while the rest is imported."""

import signal


def main() -> None:
    """Import the command line, and run it.

    Importing takes a moment, and Ctrl-C in it ends the process as the system does: there is nothing to clean up, and
    a KeyboardInterrupt would show a traceback, or be lost in a callback of an import.
    """
    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if raises:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from rankdeck.tui.commands import cli

    if raises:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()
