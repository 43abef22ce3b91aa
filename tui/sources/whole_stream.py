"""A run's events for a reader who wants every answer: those that were dropped on the way are put in again.

The supervisor waits for no viewer. One that reads too slowly, or is stopped, loses events: it gets a snapshot in their
place, or finds nothing but the run's end. A dashboard is right again with that, lines are not. Knows which records
have come, and that outputs.jsonl has them all; does not know what is done with them.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice
from typing import BinaryIO

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.protocol import OutputRecord
from rankdeck.runner.run_directory.private_files import lines_of, open_regular
from rankdeck.runner.state import Snapshot, ToViewer
from rankdeck.tui.sources.client import Source, SourceError


class WholeStream:
    """The events of `source`, with an Output for every record that is made from now on; if `whole`, for all there are.

    Outputs that were dropped come before the snapshot or the end that stands for them. `on_gap` is told, once, that
    events were dropped.
    """

    def __init__(self, source: Source, *, whole: bool, on_gap: Callable[[str], object]) -> None:
        self._source, self._whole, self._on_gap = source, whole, on_gap
        self._outputs = source.directory / run_directory.OUTPUTS_FILE
        self._came = _Indexes()
        self._put_in: set[int] = set()
        """Records from the file whose events may still come, as it may hold what is newer than a snapshot."""
        self._earlier = _Earlier()
        self._gap_told = False

    async def events(self) -> AsyncIterator[ToViewer]:
        """As `Source.events`, until the run's end.

        Raises:
            SourceError: as there; or some of the run's records could be found nowhere, which is said after its end.
        """
        first = True
        try:
            async for message in self._source.events():
                if first and isinstance(message, Snapshot) and not self._whole:
                    self._earlier = _Earlier(self._open(), message.state.done)
                elif not first and isinstance(message, Snapshot):
                    self._tell_of_gap()
                if isinstance(message, protocol.Output):
                    index = message.record.index
                    if index in self._put_in:
                        self._put_in.discard(index)
                        continue
                    self._came.add(index)
                elif (end := _end_in(message)) is not None:
                    for record in self._dropped(_count(end.summary)):
                        yield protocol.Output(at=end.at, record=record)
                elif isinstance(message, Snapshot):
                    for record in self._dropped(message.state.done):
                        self._put_in.add(record.index)
                        yield protocol.Output(at=message.state.now, record=record)
                first = False
                yield message
                if (end := _end_in(message)) is not None:
                    self._check(end)
                    return
        finally:
            self._earlier.close()

    def _dropped(self, records: int) -> Iterator[OutputRecord]:
        """Those of the first `records` records that have not come. While a run goes on its file has them in the order
        of their events; at its end in input order, but then it is all of them.
        """
        if len(self._came) + self._earlier.left >= records:
            return
        self._tell_of_gap()
        for index in self._earlier.take():
            self._came.add(index)
        with contextlib.ExitStack() as stack:
            file = self._open()
            if file is None:
                return
            for record in _records(stack.enter_context(file)):
                if len(self._came) >= records:
                    return
                if self._came.add(record.index):
                    yield record

    def _check(self, end: protocol.RunEnded) -> None:
        missing = _count(end.summary) - len(self._came) - self._earlier.left
        if missing > 0:
            said = "1 record is" if missing == 1 else f"{missing:,} records are"
            raise SourceError(f"{said} missing from this view, and {self._outputs} does not have the rest either")

    def _tell_of_gap(self) -> None:
        if not self._gap_told:
            self._gap_told = True
            journal = self._source.directory / run_directory.EVENTS_FILE
            self._on_gap(
                f"events came faster than they were read; every answer is shown, other events are in {journal}"
            )

    def _open(self) -> BinaryIO | None:
        with contextlib.suppress(OSError):
            return open_regular(self._outputs)
        return None


class _Indexes:
    """A set of prompts, a byte for each."""

    def __init__(self) -> None:
        self._has = bytearray()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, index: int) -> bool:
        """Returns whether it is new."""
        if index >= len(self._has):
            self._has.extend(bytes(index + 1 - len(self._has)))
        new = not self._has[index]
        self._has[index] = True
        self._count += new
        return new


class _Earlier:
    """The records that a run had as its viewer came: the first `left` lines of `file`, looked at only when needed.

    The open file stays what it is, even if another one with the records in another order takes its name.
    """

    def __init__(self, file: BinaryIO | None = None, left: int = 0) -> None:
        self._file, self.left = file, left

    def take(self) -> Iterator[int]:
        """The indexes of these prompts, once."""
        left, self.left = self.left, 0
        if self._file is not None:
            for record in islice(_records(self._file), left):
                yield record.index

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _records(file: BinaryIO) -> Iterator[OutputRecord]:
    """The records in `file`; a line that is none, or is being written, is passed over."""
    for line in lines_of(file):
        if line.endswith(b"\n"):
            with contextlib.suppress(ValueError, RecursionError):
                yield protocol.whole_record(line)


def _end_in(message: ToViewer) -> protocol.RunEnded | None:
    if isinstance(message, Snapshot):
        return message.state.ended
    return message if isinstance(message, protocol.RunEnded) else None


def _count(summary: protocol.Summary) -> int:
    return summary.completed + summary.failed
