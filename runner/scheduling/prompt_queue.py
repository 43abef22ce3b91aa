"""A run of prompts in the order they are to be handed out. Pure.

Knows each prompt's length in bytes of UTF-8: as good for sorting as tokens, and known without a tokenizer.
"""

from collections import deque
from collections.abc import Iterator, Sequence

from rankdeck.runner.protocol.config import Order

WINDOW_PROMPTS = 4096
"""`length` order sorts within windows of this many prompts: similar rows together, answers not far out of order."""


class PromptQueue:
    """Prompts from `start` to `stop` (exclusive) in `order`, sorted a window at a time.

    `skip` marks prompts that already have a record now; what is marked later stays in the queue. `left` counts what is
    still in it.
    """

    def __init__(self, lengths: Sequence[int], order: Order, start: int, stop: int, skip: bytearray | None) -> None:
        self._lengths = lengths
        self._order = order
        self._next, self._stop = start, stop
        self._start, self._skip = start, bytes(skip[start:stop]) if skip is not None else None
        self._window: deque[int] = deque()
        self.left = stop - start - (sum(self._skip) if self._skip is not None else 0)

    def take(self, count: int) -> Iterator[int]:
        """Take at most `count` prompts from the front."""
        for _ in range(min(count, self.left)):
            while not self._window and self._next < self._stop:
                self._open_window()
            self.left -= 1
            yield self._window.popleft()

    def reorder(self, order: Order) -> None:
        """Use another order from now on, also in the window that is already open."""
        self._order = order
        self._window = deque(self._in_order(sorted(self._window)))

    def _in_order(self, window: list[int]) -> list[int]:
        if self._order == "length":
            # Longest first, so that out-of-memory shows early and short batches fill the end. The
            # sort is stable: equal lengths stay in the file's order.
            window.sort(key=self._lengths.__getitem__, reverse=True)
        return window

    def _open_window(self) -> None:
        end = min(self._next + WINDOW_PROMPTS, self._stop)
        skip, start = self._skip, self._start
        window = [index for index in range(self._next, end) if skip is None or not skip[index - start]]
        self._window = deque(self._in_order(window))
        self._next = end
