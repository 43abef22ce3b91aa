"""The answers a dashboard can list: the newest of a run, in the order they came and in input order.

Knows records only; not where earlier ones are read from, nor which are listed and how.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import Literal

from rankdeck.runner.protocol import OutputRecord

ListOrder = Literal["arrival", "input"]

KEPT = 20_000
"""How many of the newest answers are kept: ten million would fill memory, and outputs.jsonl has them all."""


class OutputBook:
    """Answers by prompt index. A prompt has one answer, the newest: adding it twice changes nothing.

    Each answer has a serial number, one more than that of the answer before it: a reader that has seen all below `end`
    needs to look only at those from there on.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._records: dict[int, OutputRecord] = {}
        self._serials: dict[int, int] = {}
        self._arrived: list[int] = []
        self._ordered: list[int] = []
        self.first = 0
        """The serial number of the oldest answer kept."""
        self.loads = 0
        """How often the serial numbers were assigned again."""
        self.version = 0
        """Grows with every change, so that a view can tell whether there is something new."""

    def __len__(self) -> int:
        return len(self._arrived)

    @property
    def end(self) -> int:
        """The serial number that the next answer will have."""
        return self.first + len(self._arrived)

    def add(self, record: OutputRecord) -> None:
        """Add the newest answer."""
        if record.index in self._records:
            if record != self._records[record.index]:  # its first record was lost, and the prompt done again
                self._records[record.index] = record
                self.version += 1
            return
        self._records[record.index] = record
        self._serials[record.index] = self.end
        self._arrived.append(record.index)
        insort(self._ordered, record.index)
        if len(self._arrived) > self._kept + self._kept // 10:
            self._forget()
        self.version += 1

    def load(self, earlier: Iterable[OutputRecord]) -> None:
        """Add answers from before this viewer came; those that came meanwhile stay the newest."""
        loaded = {record.index: record for record in earlier}
        meanwhile = [index for index in self._arrived if index not in loaded]
        self._arrived = [*loaded, *meanwhile]
        self._records = {**loaded, **{index: self._records[index] for index in meanwhile}}
        self._serials = {index: serial for serial, index in enumerate(self._arrived)}
        self.first = 0
        self.loads += 1
        self._forget()
        self.version += 1

    def key(self, position: int, order: ListOrder) -> int:
        """The prompt index at a position of the list."""
        return (self._arrived if order == "arrival" else self._ordered)[position]

    def position(self, index: int, order: ListOrder) -> int | None:
        """The position of a prompt's answer in the list; None if it is not kept."""
        if index not in self._records:
            return None
        return self._serials[index] - self.first if order == "arrival" else bisect_left(self._ordered, index)

    def serial(self, index: int) -> int:
        """The serial number of a prompt's answer, which must be kept."""
        return self._serials[index]

    def by_serial(self, serial: int) -> OutputRecord:
        """The answer with a serial number from `first` to below `end`."""
        return self._records[self._arrived[serial - self.first]]

    def get(self, index: int) -> OutputRecord | None:
        return self._records.get(index)

    def newest(self, number: int) -> list[OutputRecord]:
        """The newest answers, the newest last."""
        return [self._records[index] for index in self._arrived[-number:]] if number > 0 else []

    def _forget(self) -> None:
        for index in self._arrived[: -self._kept]:
            del self._records[index], self._serials[index]
        self.first += max(0, len(self._arrived) - self._kept)
        self._arrived = self._arrived[-self._kept :]
        self._ordered = sorted(self._arrived)
