"""The parent of the ranks, seen from the supervisor: launched by accelerate, told to fork ranks, asked how each ended.

Knows the pair of sockets over which they talk, and the processes. Does not know what ranks do. There is one parent for
all launches of a run, as long as it lives: what ranks need is imported once.
"""

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.launching import last_words
from rankdeck.runner.launching.process_tree import ProcessTree
from rankdeck.runner.machine.processes import die_with_parent
from rankdeck.runner.protocol import FromParent, StartRank

KEPT_LINES = 400
MAX_LINE_BYTES = 1024 * 1024


class RankParent:
    """The parent, and all processes that came of it.

    `hear` gets each report, `log` each line that the launcher or the parent prints. With `adopts_orphans` this process
    has become the parent of what others left behind.
    """

    def __init__(self, log: Callable[[str], None], *, adopts_orphans: bool = True) -> None:
        self.hear: Callable[[FromParent], None] = lambda report: None
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._log, self._adopts_orphans = log, adopts_orphans
        self._process: asyncio.subprocess.Process | None = None
        self._tree: ProcessTree | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._talk: asyncio.Task[None] | None = None
        self._printed: asyncio.Task[None] | None = None
        self.pid: int | None = None
        """The parent's own process, which the launcher has started; None until it has said so."""

    @property
    def lives(self) -> bool:
        """Whether it has been started, and is there to fork ranks."""
        return self._talk is not None and not self._talk.done()

    async def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Launch it, in a new session; it ends with this process.

        Raises:
            OSError: the command cannot be started.
        """
        await self.end()
        self.lines.clear()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                # Of all descriptors, `accelerate launch` hands on the first three.
                self._process = await asyncio.create_subprocess_exec(
                    *command,
                    env=dict(environment),
                    stdin=theirs.fileno(),
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=die_with_parent(),
                    limit=MAX_LINE_BYTES,
                )
            reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            ours.close()
            raise
        self._tree = ProcessTree(self._process.pid, adopted=self._adopts_orphans)
        self._talk = asyncio.create_task(self._listen(reader))
        self._printed = asyncio.create_task(self._read(self._process))

    def order(self, *orders: StartRank) -> None:
        """Have it fork ranks, once it has imported what they need."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(b"".join(protocol.encode_line(order) for order in orders))

    async def gone(self) -> None:
        """Wait until it is gone, for whatever reason. Its ranks may live on."""
        if self._talk is not None:
            await asyncio.wait({self._talk})

    async def why_gone(self) -> str:
        """Once it is gone: how `accelerate launch` ended, and what of."""
        assert self._process is not None
        status = await self._process.wait()
        if self._printed is not None:  # its last words; a rank that lives on may hold its output open
            await asyncio.wait({self._printed}, timeout=1.0)
        return last_words.end_of_launcher(status, self.lines)

    async def end_ranks(self) -> None:
        """End every process but the parent and its launcher, which stay for the next launch."""
        if self._tree is not None and self._process is not None:
            spare = {self._process.pid, self.pid} if self.lives and self.pid is not None else set()
            await self._tree.end(spare={pid for pid in spare if pid is not None})

    async def end(self) -> None:
        """End every process of the tree."""
        if self._tree is not None and self._process is not None:
            await self._tree.end()
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._writer is not None:
            self._writer.close()
        for task in filter(None, (self._talk, self._printed)):
            await asyncio.wait({task}, timeout=1.0)
            task.cancel()
        self.pid = self._process = self._tree = self._writer = self._talk = self._printed = None

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        decoder = msgspec.json.Decoder(FromParent)
        # A parent that talks nonsense counts as gone.
        with contextlib.suppress(ConnectionError, ValueError, msgspec.MsgspecError):
            while line := await reader.readline():
                report: FromParent = decoder.decode(line)
                match report:
                    case protocol.ParentImporting() | protocol.ParentReady():
                        self.pid = report.pid
                    case protocol.RankForked() if self._tree is not None:
                        self._tree.remember(report.pid)
                self.hear(report)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # longer than the limit: nobody would read it
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            self.lines.append(text)
            if text.strip():
                self._log(text)
