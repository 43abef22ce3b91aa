"""`split` dispatch: what gather_object brought to the main process, against what the ranks sent over the socket.

Knows records by index and digest only; their text is not kept.
"""

from rankdeck.runner.protocol import Gathered, OutputRecord, record_digest


class Gather:
    """The gather of one launch, which should bring exactly the records that were sent."""

    def __init__(self) -> None:
        self._sent: dict[int, str] = {}
        self._gathered: list[tuple[int, str]] = []
        self.ended = False

    @property
    def records(self) -> int:
        """How many records were gathered."""
        return len(self._gathered)

    def sent(self, record: OutputRecord) -> None:
        """A rank sent this record: the gather should bring it again."""
        self._sent[record.index] = record_digest(record)

    def add(self, part: Gathered) -> None:
        """A part of what was gathered."""
        self._gathered += part.records
        self.ended = self.ended or part.last

    def differing(self) -> list[int]:
        """The prompts whose record is missing on one side, or differs between the two."""
        gathered = dict(self._gathered)
        return sorted(
            index for index in self._sent.keys() | gathered.keys() if gathered.get(index) != self._sent.get(index)
        )
