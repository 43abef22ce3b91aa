"""What a continuous rank has in hand, counted by the orders that brought it. Pure bookkeeping."""


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
