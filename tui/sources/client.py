"""A run as a stream of events, the source of every view.

`SocketSource` talks to a live supervisor. Knows the protocol and where a run's socket is; does not know what is done
with the events, and keeps no state of the run.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.machine import kernel
from rankdeck.runner.protocol import Command
from rankdeck.runner.run_directory.private_files import open_regular
from rankdeck.runner.state import RunState, Snapshot, ToViewer, apply


class SourceError(Exception):
    """The run cannot be watched; the text says why, and what to do."""


class Source(Protocol):
    """Where a view's events come from, and where its commands go."""

    directory: Path

    def events(self) -> AsyncIterator[ToViewer]:
        """A Snapshot first (or the journal's first event), then events until the run's end.

        Raises:
            SourceError: the run cannot be reached, or was lost before it ended.
        """
        ...

    async def send(self, command: Command) -> None:
        """Send the supervisor a command; does nothing if there is no supervisor."""
        ...


ANSWER_SECONDS = 2.0
"""A supervisor that answers no sooner is looked at: it may be stopped."""

SILENT_SECONDS = 30.0
"""How long one that is not stopped may take to answer, on a machine that has no time for it."""

QUIET_SECONDS = 5.0
"""A supervisor says something four times a second; one that has said nothing for so long is looked at."""

GONE_SECONDS = 5.0
LAST_BYTES = 64 * 1024
"""Of the log of a supervisor that did not start, no more is read."""

CONNECT_SECONDS = 15.0
"""How long to try: a supervisor that has just been started needs a moment before it listens."""

REMARK_SECONDS = 5.0
"""Who waits longer than this is told for what."""

HANG_UP_SECONDS = 5.0
"""How long a supervisor that hangs up without a word is tried again."""

REACH_SECONDS = 20.0
"""How long a supervisor that others have started, and that holds its run, is tried to be reached."""


class SocketSource:
    """A live run, over its supervisor's unix socket."""

    def __init__(self, directory: Path, died: Callable[[], bool] | None = None) -> None:
        """`died` says whether the supervisor has ended, for one that this process has started."""
        self.directory = directory
        self.on_silence: Callable[[str | None], object] = lambda _: None
        """Called with what is waited for, once that takes long; with None when it has come."""
        self.reached = False
        """Whether the supervisor has ever been connected to."""
        self._died = died
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: list[bytes] = []

    async def events(self) -> AsyncIterator[ToViewer]:
        try:
            reader, writer, line = await self._greeted()
        except SourceError:
            if not run_directory.has_ended(self.directory):
                raise
            # The run was over before this viewer could connect: its journal has every event.
            last: ToViewer | None = None
            try:
                for last in _since_it_began(self.directory):
                    yield last
            except run_directory.RunFileError as error:
                raise SourceError(f"the run has ended, but the rest of its journal cannot be read: {error}") from None
            if not isinstance(last, protocol.RunEnded) and (ended := await self._ended()) is not None:
                yield ended
            return
        self._writer, self.reached = writer, True
        decoder = msgspec.json.Decoder(ToViewer)
        try:
            while line.endswith(b"\n"):  # the last line of a supervisor that hangs up may be half a line
                try:
                    message = decoder.decode(line)
                except msgspec.MsgspecError as error:
                    raise SourceError(
                        f"the supervisor sent something unknown ({error}); are both of one version?"
                    ) from None
                if isinstance(message, protocol.Refused):
                    raise SourceError(message.reason)
                yield message
                if isinstance(message, protocol.RunEnded):
                    return
                line = await self._next_line(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except ValueError as error:
            raise SourceError(f"lost the supervisor ({error})") from None
        finally:
            self._writer = None
            writer.close()
        if (ended := await self._ended()) is not None:
            state = await asyncio.to_thread(_last_state, self.directory)
            yield Snapshot(state=state) if state is not None else ended
            return
        raise SourceError(
            f"the supervisor is gone; finished outputs are in {self.directory / 'outputs.jsonl'}, "
            f"its log is {self.directory / 'runner.log'}"
        )

    async def _greeted(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        """A connection, and the supervisor's answer to the greeting, empty if it hung up.

        One that hangs up without a word may be that of a run that was here before: then the right one comes soon.
        """
        now = asyncio.get_running_loop().time
        began = now()
        while True:
            reader, writer = await self._connect()
            line = b""
            try:
                writer.writelines([protocol.encode_line(protocol.ViewerHello()), *self._waiting])
                await writer.drain()
                line = await self._first_line(reader, writer)
            except ConnectionError:
                pass
            except ValueError as error:  # a line that is too long
                raise SourceError(f"lost the supervisor ({error})") from None
            over = self._died() if self._died is not None else not run_directory.supervisor_alive(self.directory)
            if line or over or now() - began > HANG_UP_SECONDS or run_directory.has_ended(self.directory):
                return reader, writer, line
            writer.close()
            await asyncio.sleep(0.05)

    async def _first_line(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """The supervisor's answer to the greeting. The kernel connects us to a stopped process, too.

        Raises:
            SourceError: it is stopped, or does not answer.
        """
        answer = asyncio.create_task(reader.readline())
        try:
            for waited in (ANSWER_SECONDS, SILENT_SECONDS):
                await asyncio.wait({answer}, timeout=waited)
                if answer.done():
                    return answer.result()
                who, doing, stopped = _look_at_supervisor(writer)
                if stopped is not None:
                    raise SourceError(stopped)
            log = self.directory / run_directory.LOG_FILE
            raise SourceError(f"{who} does not answer{doing}; its log is {log}")
        finally:
            answer.cancel()

    async def _next_line(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """The next line, however long it takes to come; `on_silence` hears of a supervisor that says nothing."""
        line = asyncio.create_task(reader.readline())
        try:
            # Twice: if this process itself was stopped, the first wait is over before what has come meanwhile is read.
            for waited in (QUIET_SECONDS, QUIET_SECONDS / 10):
                await asyncio.wait({line}, timeout=waited)
                if line.done():
                    return line.result()
            who, doing, stopped = _look_at_supervisor(writer)
            self.on_silence(stopped or f"{who} has said nothing for {QUIET_SECONDS:.0f} s{doing}")
            if came := await line:
                self.on_silence(None)
            return came
        finally:
            line.cancel()

    async def send(self, command: Command) -> None:
        line = protocol.encode_line(command)
        if self._writer is None:
            self._waiting.append(line)
        else:
            self._writer.write(line)

    async def _ended(self) -> protocol.RunEnded | None:
        """The run's end, from run.json, for a viewer that was too slow to receive it; None if the run has not ended."""
        deadline = asyncio.get_running_loop().time() + GONE_SECONDS
        while True:
            with contextlib.suppress(run_directory.RunFileError):
                run = run_directory.read_run_file(self.directory)
                if run.status != "running" and run.summary is not None and run.exit_status is not None:
                    return protocol.RunEnded(
                        at=run.ended_at or 0.0,
                        status=run.status,
                        exit_status=run.exit_status,
                        summary=run.summary,
                        cause=run.cause,
                    )
            if not run_directory.supervisor_alive(self.directory) or asyncio.get_running_loop().time() > deadline:
                return None
            await asyncio.sleep(0.05)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        path = run_directory.socket_path(self.directory)
        now = asyncio.get_running_loop().time
        began, told = now(), False
        while True:
            try:
                connection = await asyncio.open_unix_connection(str(path), limit=protocol.MAX_LINE_BYTES)
            except OSError:
                waited = now() - began
                if self._died is not None and self._died():
                    raise SourceError(self._why_no_supervisor()) from None
                # A live supervisor may be busy: it reads the prompts, maybe millions, before it listens.
                if waited > CONNECT_SECONDS and not run_directory.supervisor_alive(self.directory):
                    raise SourceError(self._why_no_supervisor()) from None
                if waited > REACH_SECONDS and self._died is None:
                    raise SourceError(
                        f"its supervisor holds the run, but its socket {path} cannot be reached: "
                        "is it another user's, in another container, or on another machine?"
                    ) from None
                if waited > REMARK_SECONDS and not told:
                    told = True
                    self.on_silence("waiting for its supervisor, which does not listen yet")
                await asyncio.sleep(0.02)
            else:
                if told:
                    self.on_silence(None)
                return connection

    def _why_no_supervisor(self) -> str:
        log = self.directory / run_directory.LOG_FILE
        with contextlib.suppress(OSError), open_regular(log) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_BYTES))
            if lines := file.read(LAST_BYTES).decode(errors="replace").strip().splitlines():
                return f"the supervisor did not start: {lines[-1]} (its log: {log})"
        return f"run {self.directory.name} has no live supervisor"


def _since_it_began(directory: Path) -> Iterator[ToViewer]:
    """The journal; of a run that was taken up again, its state before, and all events since then.

    Raises:
        RunFileError: the journal cannot be read, or no further.
    """
    taken_up = 0
    with contextlib.suppress(run_directory.RunFileError):  # said once all before it has been shown
        for number, event in enumerate(run_directory.read_events(directory)):
            if isinstance(event, protocol.RunTakenUp):
                taken_up = number
    state = RunState()
    for number, event in enumerate(run_directory.read_events(directory)):
        if number >= taken_up:
            if number == taken_up and taken_up:
                yield Snapshot(state=msgspec.structs.replace(state, ended=None))
            yield event
        else:
            state = apply(state, event)


def _last_state(directory: Path) -> RunState | None:
    """How a run that has ended left off, by its journal; None if that does not tell."""
    state = RunState()
    try:
        for event in run_directory.read_events(directory):
            state = apply(state, event)
    except run_directory.RunFileError:
        return None
    whole = state.ended is not None and state.done == state.ended.summary.completed + state.ended.summary.failed
    return state if whole else None


class _Look(NamedTuple):
    """A supervisor that does not answer: who it is, what it does, and, if it is stopped, what to say of that."""

    who: str
    doing: str
    stopped: str | None


def _look_at_supervisor(writer: asyncio.StreamWriter) -> _Look:
    supervisor = kernel.peer_process(writer.get_extra_info("socket"))
    pid = supervisor.pid if supervisor is not None else None
    if pid is None:
        return _Look("its supervisor", "", None)
    who, look = f"its supervisor (process {pid})", kernel.look_at(pid)
    if look is None:
        return _Look(who, "", None)
    stopped = f"{who} is stopped; `kill -CONT {pid}` resumes it" if look.doing == "stopped" else None
    return _Look(who, f" (it is {look.doing})", stopped)
