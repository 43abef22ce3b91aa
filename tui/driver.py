"""Textual's driver for terminals, which also counts what was written and is not yet taken.

Textual hands what it writes to a thread, which blocks while the terminal takes no more. The thread is given a file
that counts what went through.
"""

from typing import IO, TYPE_CHECKING, cast

from textual.drivers.linux_driver import LinuxDriver

if TYPE_CHECKING:
    from textual.app import App


class Counted:
    """A terminal's file: counts the bytes that it has taken."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.taken = 0

    def write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()
        self.taken += len(text.encode())

    def flush(self) -> None:
        self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()


class CountingDriver(LinuxDriver):
    """The driver of a terminal, whose `backlog` tells how far behind the terminal is."""

    def __init__(
        self, app: "App[object]", *, debug: bool = False, mouse: bool = True, size: tuple[int, int] | None = None
    ) -> None:
        super().__init__(app, debug=debug, mouse=mouse, size=size)
        self._counted = Counted(cast("IO[str]", self._file))
        self._file = self._counted  # type: ignore[assignment]
        self.written = 0
        """Bytes, since the start."""

    @property
    def backlog(self) -> int:
        """Bytes written that the terminal has not taken."""
        return self.written - self._counted.taken

    def write(self, data: str) -> None:
        self.written += len(data.encode())
        super().write(data)
