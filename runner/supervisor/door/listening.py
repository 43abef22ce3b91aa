"""The supervisor's socket: who may connect, and for how long somebody may stay without a word.

Knows greetings and descriptors, but not what a run is: it hands ranks and commands on. However many connect, and
whatever they say or keep to themselves, there are descriptors left for the run's own files and processes.
"""

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.machine.kernel import descriptor_limit, peer_process
from rankdeck.runner.protocol import Command, Greeting, RankHello
from rankdeck.runner.supervisor.door.peers import Lines, NoMessageError, Peer, RankPeer, decode
from rankdeck.runner.supervisor.door.viewers import Viewer, Viewers
from rankdeck.runner.supervisor.talk.claims import MOST, NonsenseError, check_values

GREETING_SECONDS = 10.0
LAST_WORDS_SECONDS = 1.0
"""How long a viewer that has hung up its end may take to read what was sent to it."""

MOST_STRANGERS = 64
"""Connections that have not greeted: the oldest makes room for the next, since a rank greets at once."""

RESERVED_DESCRIPTORS = 128
"""Descriptors that no connection gets: for prompts, outputs, logs, and the pipes of a launch."""

WAITING = 256
"""Connections that the kernel keeps until they are accepted: as many as ranks may come at once."""

RETRY_SECONDS = 0.1

LOGGED_A_MINUTE = 60
"""Lines about connections: whoever connects over and over must not fill the log."""


class Server:
    """Accepts peers of this user on a unix socket.

    `on_rank` is awaited with every rank that has greeted, for as long as it is connected; `on_command` gets each
    command of a viewer; `log` gets a line on every connection that was refused or broke the rules. `is_ours` says
    whether the run is still the one at its place; it may block. Whoever comes while it is not means another run.
    """

    def __init__(
        self,
        path: Path,
        *,
        viewers: Viewers,
        on_rank: Callable[[RankPeer], Awaitable[None]],
        on_command: Callable[[Command], None],
        log: Callable[[str], None],
        is_ours: Callable[[], bool] = lambda: True,
    ) -> None:
        self._path, self._viewers, self._is_ours = path, viewers, is_ours
        self._file: tuple[int, int] | None = None
        """Device and inode of the socket's file: another supervisor may have put its own in the same place."""
        self._on_rank, self._on_command, self._log = on_rank, on_command, log
        self._listening: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._strangers: dict[asyncio.StreamWriter, None] = {}
        self._cannot_listen: str | None = None
        self._logged: deque[float] = deque(maxlen=LOGGED_A_MINUTE)

    async def start(self) -> None:
        """Listen, in place of any socket file that a killed supervisor left: the run's lock is held already."""
        self._path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.setblocking(False)
        umask = os.umask(0o177)
        try:
            listening.bind(str(self._path))
            self._file = _identity(self._path)
            listening.listen(WAITING)
        except OSError:
            listening.close()
            raise
        finally:
            os.umask(umask)
        self._listening = listening
        self._go_on_with(self._accept(listening))

    async def restore(self) -> None:
        """Listen again if something that cleans /tmp has removed the socket's file; open connections stay.

        Where that cannot be done, or somebody else's folder is there by now, it is said once, and tried again later.
        """
        try:
            run_directory.own_folder(self._path.parent)
            if self._path.exists():
                return
            self._stop_listening()
            await self.start()
        except (OSError, run_directory.RunFileError) as error:
            if self._cannot_listen != str(error):
                self._cannot_listen = str(error)
                self._log(f"nobody new can watch or stop this run: {error}")
            return
        self._cannot_listen = None
        self._log(f"the socket was gone; listening again at {self._path}")

    def close(self) -> None:
        """Listen no more. A socket's file that cannot be removed does no harm: nobody answers there."""
        self._stop_listening()
        with contextlib.suppress(OSError):
            if _identity(self._path) == self._file:
                self._path.unlink()

    def _stop_listening(self) -> None:
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    async def _accept(self, listening: socket.socket) -> None:
        """Accept one connection at a time, each once there are descriptors for it, until the socket is closed."""
        while self._listening is listening:
            try:
                connection, _ = await asyncio.get_running_loop().sock_accept(listening)
            except OSError as error:
                if self._listening is not listening:
                    return
                self._say(f"a connection could not be accepted: {error}")
                await asyncio.sleep(RETRY_SECONDS)
                continue
            # A new descriptor is the lowest free number, so it tells how many are taken.
            if len(self._strangers) >= MOST_STRANGERS or connection.fileno() >= most_for_connections():
                await self._make_room()
            reader, writer = await asyncio.open_unix_connection(sock=connection)
            self._strangers[writer] = None
            self._go_on_with(self._serve(reader, writer))

    async def _make_room(self) -> None:
        """Hang up on the oldest connection that has not greeted, if there is one."""
        if self._strangers:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.transport.abort()
            await asyncio.sleep(0)  # its descriptor is closed in the loop's next round
            self._say("too many silent connections; the oldest was closed")

    def _go_on_with(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._talk(reader, writer)
        except TimeoutError:
            self._say("a connection said nothing and was closed")
        except NoMessageError as error:
            self._say(f"closed a connection that sent something that is not a message: {error}")
        except ConnectionError:
            pass
        finally:
            self._strangers.pop(writer, None)
            # What was written has been sent as far as the peer takes it; the rest must hold no descriptor.
            writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        process = peer_process(writer.get_extra_info("socket"))
        if process is not None and process.uid not in (os.getuid(), 0):
            self._say(f"refused a connection of uid {process.uid}")
            return
        if not await asyncio.to_thread(self._is_ours):
            return
        lines = Lines(reader)
        async with asyncio.timeout(GREETING_SECONDS):
            line = await lines.next()
        if not line:
            return
        greeting: RankHello | protocol.ViewerHello = decode(line, Greeting)
        self._strangers.pop(writer, None)
        if greeting.version != protocol.PROTOCOL_VERSION:
            reason = (
                f"this run speaks protocol {protocol.PROTOCOL_VERSION}, not {greeting.version}; use the same rankdeck"
            )
            self._refuse(Peer(lines, writer), reason)
        elif isinstance(greeting, RankHello):
            await self._on_rank(RankPeer(lines, writer, greeting, process))
        elif (refusal := self._why_no_viewer(writer)) is not None:
            self._refuse(Peer(lines, writer), refusal)
        else:
            await self._watch(Viewer(lines, writer))

    def _why_no_viewer(self, writer: asyncio.StreamWriter) -> str | None:
        if writer.get_extra_info("socket").fileno() >= most_for_connections():
            return "this run has no file descriptors left for a viewer (ulimit -n)"
        return self._viewers.why_no_more()

    def _refuse(self, peer: Peer, reason: str) -> None:
        peer.refuse(reason)
        self._say(f"refused a connection: {reason}")

    async def _watch(self, viewer: Viewer) -> None:
        self._viewers.add(viewer)
        try:
            async for line in viewer.lines():
                self._on_command(command_of(line))
            await viewer.drained(LAST_WORDS_SECONDS)
        finally:
            self._viewers.remove(viewer)

    def _say(self, text: str) -> None:
        """Log a line about a connection, unless there were too many in the last minute."""
        now = asyncio.get_running_loop().time()
        if len(self._logged) == LOGGED_A_MINUTE and now - self._logged[0] < 60:
            return
        self._logged.append(now)
        last = len(self._logged) == LOGGED_A_MINUTE and now - self._logged[0] < 60
        self._log(f"{text}; more of these within a minute are not logged" if last else text)


def command_of(line: bytes) -> Command:
    """A viewer's command; a knob out of its range is brought into it later, an absurd number is no command."""
    command: Command = decode(line, Command)
    try:
        check_values(command, type(command).__name__, least=-MOST)
    except NonsenseError as error:
        raise NoMessageError(str(error)) from None
    return command


def most_for_connections() -> int:
    """The number of the first descriptor that no connection gets."""
    limit = descriptor_limit()
    return limit - min(RESERVED_DESCRIPTORS, limit // 4)


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino
