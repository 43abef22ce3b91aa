"""A text in the pager of the person: $PAGER, else less or more. The dashboard steps aside for so long.

The text goes to the pager's standard input from a file without a name, so that nothing is left behind however
this ends, and no shell is asked for anything. Who calls has made the text harmless.
"""

import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from textual.app import App, SuspendNotSupported

USUAL = ("less", "more")


class PagerError(Exception):
    """There is no pager to be had; the text says why and what to do."""


def pager_command(environ: Mapping[str, str]) -> list[str]:
    """What to run.

    Raises:
        PagerError: $PAGER cannot be run, or there is none.
    """
    wanted = environ.get("PAGER", "").strip()
    if not wanted:
        for name in USUAL:
            if shutil.which(name) is not None:
                return [name]
        raise PagerError(f"there is no pager here ({' or '.join(USUAL)}); set PAGER to one")
    try:
        command = shlex.split(wanted)
    except ValueError as error:
        raise PagerError(f"PAGER is {wanted!r}: {error}") from None
    if shutil.which(command[0]) is None:
        raise PagerError(f"PAGER is {wanted!r}, and there is no program {command[0]!r}")
    return command


def pager_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of the pager: told to leave at once if a text fits the screen, less would show nothing."""
    options = environ.get("LESS", "")
    return {**environ, **({"LESS": f"{options} -+F"} if "F" in options else {})}


def page(app: App[Any], text: str, environ: Mapping[str, str]) -> None:
    """Show `text` in the pager, and come back.

    The loop stands still meanwhile: what the run says is kept for a viewer that is slow, or made up for later.

    Raises:
        PagerError: there is none, or it could not be started.
    """
    command = pager_command(environ)
    with tempfile.TemporaryFile() as file:
        file.write(text.encode("utf-8", errors="replace"))
        file.seek(0)
        failure: OSError | None = None
        try:
            with app.suspend():
                try:
                    with _terminal_kept():
                        subprocess.run(command, stdin=file, env=pager_environ(environ), check=False)
                except OSError as error:
                    failure = error  # Raised in here it would leave the dashboard suspended.
        except SuspendNotSupported:
            raise PagerError("there is no terminal here that a pager could have; y copies") from None
    if failure is not None:
        raise PagerError(f"{command[0]} could not be started: {failure.strerror}")


@contextmanager
def _terminal_kept() -> Iterator[None]:
    """The terminal is afterwards as it is now, even if a pager was killed that had changed it."""
    assert sys.__stdin__ is not None  # the driver reads from it
    descriptor = sys.__stdin__.fileno()
    kept: list[Any] | None = None
    with suppress(termios.error):  # it may be a pipe
        kept = termios.tcgetattr(descriptor)
    # Ctrl-C in the pager is the pager's; this process hears it too, and must not end by it.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if kept is not None:
            with suppress(termios.error):
                termios.tcsetattr(descriptor, termios.TCSADRAIN, kept)
