"""How the host looks at rows that a GPU works on: one step behind, so that the device never waits for it.

The status of the rows is copied as a step is queued, and read when the next one is queued. Knows events and pinned
memory; knows no rows.
"""

from typing import Any

import torch


class LooksBehind:
    """Reads a tensor on a GPU as it was a step ago."""

    def __init__(self, status: torch.Tensor) -> None:
        self._status = status
        self._copies = [torch.zeros(status.shape, dtype=status.dtype, pin_memory=True) for _ in range(2)]
        self._events: list[Any] = [torch.cuda.Event() for _ in range(2)]
        self._turn = 0
        self._pending = False

    def look(self) -> list[int] | None:
        """The status after the step before the last that was queued; None where there is none yet."""
        now, before = self._turn, 1 - self._turn
        self._copies[now].copy_(self._status, non_blocking=True)
        self._events[now].record()
        self._turn = before
        if not self._pending:
            self._pending = True
            return None
        self._events[before].synchronize()
        return [int(value) for value in self._copies[before].tolist()]

    def forget(self) -> None:
        """Rows have moved: what was copied before is of no use."""
        self._pending = False
