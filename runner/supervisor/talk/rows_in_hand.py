"""The rows a rank has in hand: those of a continuous rank by order, and those its progress reports. Pure."""

import msgspec

from rankdeck.runner.protocol import OutputRecord, StepsInFlight


class RowsInHand:
    """A continuous rank's rows from its first order until it has run dry; views show them as one batch, `batch`."""

    def __init__(self, batch: int, rows: int) -> None:
        self.batch = batch
        self.left = {batch: rows}
        """Prompts without a record, by the number of the order they came with."""

    @property
    def rows(self) -> int:
        return sum(self.left.values())

    def add(self, order: int, rows: int) -> None:
        self.left[order] = rows

    def row_ended(self, order: int) -> bool:
        """Count off one row of `order`; returns whether it was the last of that order."""
        self.left[order] -= 1
        if self.left[order]:
            return False
        del self.left[order]
        return True


def without_row(steps: StepsInFlight, record: OutputRecord) -> StepsInFlight:
    """A rank's progress less a row that has its record: that row is not in flight, even if the progress is older."""
    return msgspec.structs.replace(
        steps,
        output_tokens=max(0, steps.output_tokens - record.output_tokens),
        rows=None if steps.rows is None else max(0, steps.rows - 1),
    )
