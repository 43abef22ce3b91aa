"""A real terminal for tests and benchmarks: a pty, with pyte as the screen on its other side.

A terminal that does not emulate a screen needs no pyte: what is written to it is read and dropped.
"""

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType


class Terminal:
    """A command running in a terminal of its own; without `emulate` what it writes is only counted and kept."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        columns: int = 120,
        rows: int = 40,
        environ: Mapping[str, str] | None = None,
        term: str = "xterm-256color",
        emulate: bool = True,
    ) -> None:
        self._emulate = emulate
        if emulate:
            import pyte

            self.screen: pyte.Screen = pyte.Screen(columns, rows)
            self._stream = pyte.ByteStream(self.screen)
        self.bytes_out = 0
        self.first_byte_at: float | None = None
        self.raw = bytearray()
        self.status: int | None = None
        # These would be taken for the terminal's size, and where several tests run at once they are set.
        given = {name: value for name, value in (environ or os.environ).items() if name not in ("COLUMNS", "LINES")}
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            signal.signal(
                signal.SIGHUP, signal.SIG_DFL
            )  # whoever runs the tests under nohup ignores it, and so would we
            os.execvpe(command[0], list(command), {**given, "TERM": term})
        self.resize(columns, rows)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if self._emulate:
            self.screen.resize(rows, columns)

    def sip(self, count: int) -> bool:
        """Take in `count` bytes at most, as a slow line does; False once it has hung up."""
        if not select.select([self._master], [], [], 0)[0]:
            return True
        try:
            return self._take(os.read(self._master, count))
        except OSError:
            return False

    def burst(self, seconds: float, quiet: float = 0.03) -> list[tuple[float, bytes]]:
        """What comes next and right after it, each piece with its time; not yet on the screen: `show` puts it there."""
        pieces: list[tuple[float, bytes]] = []
        while select.select([self._master], [], [], quiet if pieces else seconds)[0] and len(pieces) < 1000:
            data = os.read(self._master, 65536)
            pieces.append((time.monotonic(), data))
        return pieces

    def show(self, data: bytes) -> bool:
        """Put on the screen what a burst brought; False where that was nothing."""
        return self._take(data)

    def _take(self, data: bytes) -> bool:
        self.first_byte_at = self.first_byte_at or time.monotonic()
        self.bytes_out += len(data)
        self.raw += data
        if self._emulate:
            self._stream.feed(data)
        return bool(data)

    def read(self, seconds: float) -> bool:
        """Take in what the command writes for so long; False once it has hung up."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self._master], [], [], left)[0]:
                break
            try:
                data = os.read(self._master, 65536)
            except OSError:
                return False
            if not self._take(data):
                return False
        return True

    @property
    def text(self) -> str:
        """What is on the screen; without one, the end of what was written."""
        if not self._emulate:
            return self.raw[-2000:].decode("utf-8", "replace")
        return "\n".join(line.rstrip() for line in self.screen.display)

    def wait_until(self, true: Callable[[], bool], seconds: float) -> None:
        """Read until it is `true`."""
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, f"it never came true:\n{self.text}"
            self.read(0.1)

    def wait_for(self, *texts: str, seconds: float = 120) -> str:
        """Read until one of `texts` is on the screen; returns it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            alive = self.read(0.1)
            for text in texts:
                if text in self.text:
                    return text
            if not alive:
                break
        raise AssertionError(f"none of {texts} came to the screen:\n{self.text}")

    def send(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def wait(self, seconds: float = 60) -> int:
        """Read until the command has ended; returns its exit status."""
        deadline = time.monotonic() + seconds
        while self.status is None and time.monotonic() < deadline:
            self.read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        if self.status is None:
            raise AssertionError(f"still running after {seconds} s:\n{self.text}")
        self.read(0.1)
        return self.status

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._master)
