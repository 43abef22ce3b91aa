"""Shows a text in the user's pager: $PAGER, else less or more. The dashboard is suspended meanwhile.

The pager reads the text on standard input from an unnamed file, so that nothing is left behind however this ends, and
no shell is involved. The caller has made the text harmless.
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
    """No pager can be run; the text says why and what to do."""


def pager_command(environ: Mapping[str, str]) -> list[str]:
    """The command to run.

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
    """The pager's environment: less must not quit at once if a text fits the screen, which would show nothing."""
    options = environ.get("LESS", "")
    return {**environ, **({"LESS": f"{options} -+F"} if "F" in options else {})}


def page(app: App[Any], text: str, environ: Mapping[str, str]) -> None:
    """Show `text` in the pager, and come back.

    The event loop stands still meanwhile; the supervisor keeps events for a slow viewer, or sends a new snapshot.

    Raises:
        PagerError: there is no pager, or it could not be started.
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
                    failure = error  # raised here, it would leave the dashboard suspended
        except SuspendNotSupported:
            raise PagerError("there is no terminal here for a pager; y copies") from None
    if failure is not None:
        raise PagerError(f"{command[0]} could not be started: {failure.strerror}")


@contextmanager
def _terminal_kept() -> Iterator[None]:
    """Restore the terminal's settings afterwards, even if the pager was killed before it could."""
    assert sys.__stdin__ is not None  # the driver reads from it
    descriptor = sys.__stdin__.fileno()
    kept: list[Any] | None = None
    with suppress(termios.error):  # it may be a pipe
        kept = termios.tcgetattr(descriptor)
    # Ctrl-C in the pager also reaches this process, which must not end.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if kept is not None:
            with suppress(termios.error):
                termios.tcsetattr(descriptor, termios.TCSADRAIN, kept)
