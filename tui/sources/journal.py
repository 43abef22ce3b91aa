"""A journal on disk as numbered events: checked as a whole before anything is shown, then read where needed.

Knows the journal's format and what can be wrong with a file; keeps the position of each event in the file and its time
in the replay, never the events, so that millions fit. Does not know what the events mean to a view.
"""

import contextlib
import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.protocol import PROTOCOL_VERSION, AnyEvent
from rankdeck.runner.protocol.config import MAX_RANKS
from rankdeck.runner.run_directory.private_files import open_regular
from rankdeck.tui.words.text import cut, visible

SAMPLE = Path(__file__).resolve().parent / "recorded" / "stories.jsonl"
"""The journal of a real run, for users who have none yet."""

LONGEST = 2 * protocol.MAX_LINE_BYTES
"""A longer line is not an event; no more of it is read."""

LATEST = 1e11
"""The latest time that a run can have, in unix seconds; no calendar goes further."""

_KNOWN = {kind.__struct_config__.tag for kind in get_args(AnyEvent)}
_decoder: Any = msgspec.json.Decoder(AnyEvent)

REPLAY_THE_REST = "to replay the rest, delete that line in a copy of the file and replay the copy"


class JournalError(Exception):
    """A journal cannot be replayed; the text names the file and the line, and says what to do."""


class _Opening(msgspec.Struct):
    """What this version can read of a line that a newer one wrote."""

    type: str = ""
    version: int = PROTOCOL_VERSION


class Journal:
    """The events that are in a file now; what is written to it later is not seen.

    `notes` tell the user what was left out. `closed` says whether the run has ended by the end of the file.
    """

    def __init__(self, path: Path) -> None:
        """Read and check the whole file.

        Raises:
            JournalError: there is no file, or this version cannot replay it.
        """
        self.path = path
        self.notes: list[str] = []
        self.closed = False
        self._in_its_run = path.name == run_directory.EVENTS_FILE and (path.parent / run_directory.RUN_FILE).exists()
        self.outputs = array("q")
        """The numbers of the events that have an answer."""
        self._starts = array("q", [0])
        self._times = ReplayTimes()
        try:
            self._file = open_regular(path)
            self._index()
        except OSError as error:
            raise JournalError(f"{path}: cannot be read: {error.strerror}") from None
        if not self._times.seconds:
            raise JournalError(f"{path}: is empty: no event was written, so there is nothing to replay")
        self._times.end()

    def __len__(self) -> int:
        return len(self._times.seconds)

    @property
    def length(self) -> float:
        """How long the replay takes at speed 1, in seconds."""
        return self._times.length

    @property
    def left_out(self) -> float:
        """Seconds of waiting that were recorded but are not replayed."""
        return self._times.left_out

    def moment(self, number: int) -> float:
        """When an event happens, in seconds of the replay."""
        return self._times.seconds[number]

    def number_at(self, seconds: float) -> int:
        """How many events have happened by `seconds`."""
        return bisect_right(self._times.seconds, seconds)

    def event(self, number: int) -> AnyEvent:
        """One event.

        Raises:
            JournalError: the file has changed since it was checked.
        """
        start, stop = self._starts[number], self._starts[number + 1]
        try:
            event: AnyEvent = _decoder.decode(os.pread(self._file.fileno(), stop - start, start))
        except (OSError, ValueError) as error:
            raise JournalError(f"{self.path}:{number + 1}: was changed while it was replayed: {error}") from None
        return run_directory.moved_to(self.path.parent, event) if self._in_its_run else event

    def events(self, start: int = 0, stop: int | None = None) -> Iterator[AnyEvent]:
        """The events from number `start` up to but not including `stop`. Raises as `event` does."""
        return map(self.event, range(start, len(self) if stop is None else min(stop, len(self))))

    def _index(self) -> None:
        position, number = 0, 0
        while line := self._file.readline(LONGEST):
            number += 1
            try:
                event = _decoder.decode(line)
            except (ValueError, RecursionError) as error:
                torn = not line.endswith(b"\n") and len(line) < LONGEST
                if torn and self._times.seconds:
                    self.notes.append(f"{self.path}:{number}: the last line is only half written, and left out")
                    return
                raise JournalError(f"{self.path}:{number}: {_what_is_wrong(line, error)}") from None
            if number == 1 and not isinstance(event, protocol.RunStarted):
                kind = type(event).__struct_config__.tag
                raise JournalError(f"{self.path}:1: a journal begins with run_started, not {kind}: its start is lost")
            if problem := _problem(event):
                raise JournalError(f"{self.path}:{number}: {problem}")
            position += len(line)
            self._starts.append(position)
            self._times.add(event)
            kind = type(event)
            if kind is protocol.Output:
                self.outputs.append(number - 1)
            elif kind is protocol.RunEnded:
                self.closed = True
            elif kind is protocol.RunTakenUp:
                self.closed = False


def find(run: str) -> Journal:
    """The journal of a run, by the run's name, its directory, or the journal's own path.

    Raises:
        JournalError: there is no such run, or its journal cannot be replayed.
    """
    try:
        path = run_directory.find_run(run) / run_directory.EVENTS_FILE
    except run_directory.RunFileError as error:
        for path in (Path(run), Path(run) / run_directory.EVENTS_FILE):
            with contextlib.suppress(OSError, ValueError):
                if path.is_file():
                    return Journal(path)
        raise JournalError(visible(str(error))) from None
    if not path.exists():
        raise JournalError(f"{path.parent}: has no {run_directory.EVENTS_FILE}, so there is nothing to replay")
    return Journal(path)


def how_it_stops(journal: Journal) -> str:
    """Why a journal stops before its run's end, in a few words; empty if it has the end."""
    if journal.closed:
        return ""
    return "the run goes on" if run_directory.supervisor_alive(journal.path.parent) else "supervisor was lost"


def _problem(event: AnyEvent) -> str:
    """What is wrong with an event that can be decoded but that no supervisor writes; empty if nothing is."""
    if isinstance(event, protocol.RunStarted) and event.version > PROTOCOL_VERSION:
        return _newer(event.version)
    if not 0 <= event.at <= LATEST:
        return f"damaged: {event.at:g} is no time; {REPLAY_THE_REST}"
    if isinstance(event, protocol.RanksLaunched) and event.world_size > MAX_RANKS:
        return f"damaged: {event.world_size:,} ranks are more than there can be; {REPLAY_THE_REST}"
    return ""


def _newer(version: int) -> str:
    return (
        f"written by a newer rankdeck (protocol {version}, this one knows {PROTOCOL_VERSION}): "
        "upgrade rankdeck to replay it"
    )


def _what_is_wrong(line: bytes, error: Exception) -> str:
    said = cut(visible(str(error)), 200)
    try:
        opening = msgspec.json.decode(line, type=_Opening)
    except (ValueError, RecursionError):
        return f"damaged, not an event ({said}); {REPLAY_THE_REST}"
    if opening.type == "run_started" and opening.version > PROTOCOL_VERSION:
        return _newer(opening.version)
    if not opening.type:
        return f"damaged, not an event: it says no type; {REPLAY_THE_REST}"
    kind = cut(visible(opening.type), 60)
    if opening.type not in _KNOWN:
        return f"unknown event {kind!r}: written by a newer rankdeck; upgrade rankdeck to replay it"
    return (
        f"{kind} is not as this version knows it ({said}): written by a newer rankdeck, so upgrade it, "
        f"or damaged; then, {REPLAY_THE_REST}"
    )


GAP_SECONDS = 2.0
"""The most that passes between two events: the machine may have slept, or the run been resumed hours later."""

QUIET_SECONDS = 4.0
"""A time in which no rank had a batch (loading, a pause, ranks launched again) plays in at most this long."""


class ReplayTimes:
    """Takes a journal's events in order; `seconds` has the time of each in the replay, from 0 on."""

    def __init__(self) -> None:
        self.seconds = array("d")
        self.recorded = 0.0
        """How long the events took when recorded; a clock that was set back counts as no time."""
        self._at = 0.0
        self._in_hand: set[int] = set()
        self._quiet_from = 0

    @property
    def length(self) -> float:
        return self.seconds[-1] if self.seconds else 0.0

    @property
    def left_out(self) -> float:
        """Seconds of waiting that the replay leaves out."""
        return max(0.0, self.recorded - self.length)

    def add(self, event: AnyEvent) -> None:
        """Take the next event of the journal."""
        gap = max(0.0, event.at - self._at) if self.seconds else 0.0
        self._at = event.at
        self.recorded += gap
        self.seconds.append(self.length + min(gap, GAP_SECONDS))
        kind = type(event)
        if kind is protocol.BatchStarted:
            assert isinstance(event, protocol.BatchStarted)
            if not self._in_hand:
                self._squeeze()
            self._in_hand.add(event.rank)
        elif self._in_hand:
            if kind in _TAKEN_BACK:
                self._in_hand.discard(event.rank)  # type: ignore[union-attr]
            elif kind in _ALL_TAKEN_BACK:
                self._in_hand.clear()
            if not self._in_hand:
                self._quiet_from = len(self.seconds) - 1

    def end(self) -> None:
        """Finish: there are no more events."""
        if not self._in_hand and self.seconds:
            self._squeeze()

    def _squeeze(self) -> None:
        """Shorten the quiet time before the newest event to QUIET_SECONDS, evenly, if it took longer."""
        seconds, first = self.seconds, self._quiet_from
        start = seconds[first]
        took = seconds[-1] - start
        if took > QUIET_SECONDS:
            for number in range(first, len(seconds)):
                seconds[number] = start + (seconds[number] - start) * QUIET_SECONDS / took


_TAKEN_BACK = {protocol.BatchFinished, protocol.BatchFailed, protocol.RankLost}
_ALL_TAKEN_BACK = {protocol.RanksLaunched, protocol.RunStarted, protocol.RunTakenUp, protocol.RunEnded}
