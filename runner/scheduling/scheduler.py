"""Which prompts go to which rank next.

Pure: no clock, no I/O, no text. Knows each prompt's length (bytes of UTF-8, as good an order as
tokens and known without a tokeniser), hands out batches of indices, and takes back what was lost.
Every prompt is in exactly one place: pending, in flight, or settled.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rankdeck.runner.protocol.config import Order
from rankdeck.runner.scheduling.rounds import EvenRounds

WINDOW_PROMPTS = 4096
"""`length` order sorts within windows of this many prompts: rows alike, answers not too far out of order."""

AHEAD = 8
"""A continuous rank has this part of its batch size more prompts in hand than rows."""


@dataclass(frozen=True)
class Assignment:
    """A batch in a rank's hand. `batch` counts from 1 through the whole run.

    One that is not `kept` (a trial's) leaves its prompts as they were; `warm_up` and `measured` say what a
    trial wants of it. `alone`: nothing else is in its rank's hand, so that what goes wrong is its prompt's doing.
    """

    batch: int
    rank: int
    indices: tuple[int, ...]
    kept: bool = True
    warm_up: bool = False
    measured: bool = False
    alone: bool = False


class _Line:
    """Prompts from `start` to `stop` (exclusive) in the order they are to be done, sorted a window at a time.

    `skip` marks prompts that already have a record.
    """

    def __init__(self, lengths: Sequence[int], order: Order, start: int, stop: int, skip: bytearray | None) -> None:
        self._lengths = lengths
        self._order = order
        self._next, self._stop = start, stop
        self._skip = skip
        self._window: deque[int] = deque()
        self.left = stop - start - (sum(skip[start:stop]) if skip is not None else 0)

    def take(self, count: int) -> Iterator[int]:
        for _ in range(min(count, self.left)):
            while not self._window:
                self._open_window()
            self.left -= 1
            yield self._window.popleft()

    def reorder(self, order: Order) -> None:
        """Use another order from here on, for the window at hand as well."""
        self._order = order
        self._window = deque(self._in_order(sorted(self._window)))

    def _in_order(self, window: list[int]) -> list[int]:
        if self._order == "length":
            # Longest first, so that out-of-memory shows early and short batches fill the tail. The
            # sort is stable: equal lengths stay in the file's order.
            window.sort(key=self._lengths.__getitem__, reverse=True)
        return window

    def _open_window(self) -> None:
        end = min(self._next + WINDOW_PROMPTS, self._stop)
        skip = self._skip
        window = [index for index in range(self._next, end) if skip is None or not skip[index]]
        self._window = deque(self._in_order(window))
        self._next = end


class Scheduler:
    """Hands out batches. One per run; not thread-safe.

    With `shares` (split dispatch) each rank draws from its own contiguous share in plain slices of
    the batch size; without, all ranks draw from one line in even rounds.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        order: Order,
        batch_size: int,
        active_ranks: int,
        done: Iterable[int] = (),
        first_batch: int = 1,
    ) -> None:
        self.batch_size = batch_size
        self.active_ranks = active_ranks
        self._rounds = EvenRounds()
        self._lengths = lengths
        self._order = order
        settled = bytearray(len(lengths))
        for index in done:
            settled[index] = 1
        self._settled = settled
        self._line: _Line | None = _Line(lengths, order, 0, len(lengths), settled)
        self._shares: dict[int, _Line] = {}
        self._returned: deque[int] = deque()
        self._singly: deque[int] = deque()
        self._culprits: dict[int, int] = {}
        self.caps: dict[int, int] = {}
        self.in_flight: dict[int, Assignment] = {}
        self.unsettled = len(lengths) - sum(settled)
        self._batch = first_batch - 1

    @property
    def pending(self) -> int:
        """Prompts that are in nobody's hand and have no record."""
        lines = [*self._shares.values(), *([self._line] if self._line else [])]
        return sum(line.left for line in lines) + len(self._returned) + len(self._singly)

    @property
    def drawable(self) -> int:
        """Pending prompts that may stand in a batch with others."""
        return self.pending - len(self._singly)

    @property
    def longest(self) -> int:
        """Length in bytes of the longest prompt."""
        return max(self._lengths, default=0)

    def use_share(self, rank: int, start: int, stop: int) -> None:
        """Split dispatch: `rank` is to do the prompts from `start` to `stop` (exclusive) and no others.

        Ranks that were launched afresh announce the same share again, of which part is done: nothing changes.
        """
        if rank in self._shares:
            return
        self._line = None
        self._shares[rank] = _Line(self._lengths, self._order, start, stop, self._settled)

    def next_batch(self, rank: int) -> Assignment | None:
        """The next batch for a rank that has none, or None while there is nothing for it."""
        if rank >= self.active_ranks:
            return None
        indices = self._draw(rank, even=True)
        if not indices:
            return None
        return self.assign(rank, indices)

    def next_rows(self, rank: int, in_hand: dict[int, int]) -> Assignment | None:
        """More prompts for a continuous rank, or None while it has enough; `in_hand` is how many each rank has.

        A rank is kept ahead of its rows by an eighth of the batch size, so that none of them waits for the queue,
        and gets its share of what is left, so that all ranks end together.
        """
        held = in_hand.get(rank, 0)
        if rank >= self.active_ranks:
            return None
        ahead = max(1, self.most_rows(rank) // AHEAD)
        room = self.most_rows(rank) + ahead - held
        # A prompt that is tried alone is in a rank's hand alone.
        busy = held and any(held_one.alone for held_one in self.in_flight.values() if held_one.rank == rank)
        if room < ahead or busy:
            return None
        if self._singly and not self._drawable_by(rank):
            return self.assign(rank, [self._singly.popleft()], alone=True) if not held else None
        fair = -(-(self.drawable + sum(in_hand.values())) // self.active_ranks) - held
        indices = self._draw(rank, most=min(room, max(1, fair)))
        return self.assign(rank, indices, alone=False) if indices else None

    def most_rows(self, rank: int) -> int:
        """The batch size for this rank: what it can hold, where it ran out of memory."""
        return min(self.batch_size, self.caps.get(rank, self.batch_size))

    def assign(
        self,
        rank: int,
        indices: Iterable[int],
        *,
        kept: bool = True,
        warm_up: bool = False,
        measured: bool = False,
        alone: bool | None = None,
    ) -> Assignment:
        """Give a rank these prompts, which the caller has drawn, or (not `kept`) only borrows."""
        self._batch += 1
        drawn = tuple(indices)
        assignment = Assignment(
            batch=self._batch,
            rank=rank,
            indices=drawn,
            kept=kept,
            warm_up=warm_up,
            measured=measured,
            alone=len(drawn) == 1 if alone is None else alone,
        )
        self.in_flight[self._batch] = assignment
        return assignment

    def draw(self, count: int) -> list[int]:
        """Take at most `count` prompts out of the queue, to be assigned or put back."""
        drawn = [self._returned.popleft() for _ in range(min(count, len(self._returned)))]
        for line in [*self._shares.values(), *([self._line] if self._line else [])]:
            drawn += line.take(count - len(drawn))
        return drawn

    def put_back(self, indices: Sequence[int]) -> None:
        """Prompts that were drawn go back to the front of the queue."""
        self._returned.extendleft(index for index in reversed(indices) if not self._settled[index])

    def reorder(self, order: Order) -> None:
        """Hand prompts out in another order from now on."""
        if self._line is not None:
            self._line.reorder(order)

    def _drawable_by(self, rank: int) -> bool:
        """Whether there is a prompt for this rank that may stand beside others."""
        line = self._line is not None and self._line.left > 0
        return bool(self._returned) or line or self._share_for(rank) is not None

    def _draw(self, rank: int, *, even: bool = False, most: int | None = None) -> list[int]:
        """Prompts for a rank; `even` cuts what is left into even rounds."""
        most = self.most_rows(rank) if most is None else most
        if self._returned:
            return [self._returned.popleft() for _ in range(min(most, len(self._returned)))]
        share = self._share_for(rank)
        if share is not None:
            return list(share.take(most))
        if self._line is not None and self._line.left:
            return list(self._line.take(min(most, self._even_size(self._line.left)) if even else most))
        if self._singly:
            return [self._singly.popleft()]
        return []

    def _share_for(self, rank: int) -> _Line | None:
        """Split dispatch: the rank's own share; once that is empty, that of a rank which gets no batches."""
        own = self._shares.get(rank)
        if own is not None and own.left:
            return own
        orphans = (self._shares[number] for number in sorted(self._shares) if number >= self.active_ranks)
        return next((share for share in orphans if share.left), None)

    def _even_size(self, left: int) -> int:
        """Prompts for the next batch of even rounds."""
        plan, knobs = self._rounds, (self.batch_size, self.active_ranks)
        self._rounds = plan.cut(left, *knobs)
        return -(-left // plan.planned(left, *knobs))

    def settle(self, index: int) -> bool:
        """A prompt has its record. False if it had one before: then the new one must not be kept."""
        if self.is_settled(index):
            return False
        self._settled[index] = 1
        self.unsettled -= 1
        return True

    def is_settled(self, index: int) -> bool:
        """Whether a prompt has its record, or is none of ours."""
        return not 0 <= index < len(self._settled) or bool(self._settled[index])

    def finish(self, batch: int) -> None:
        """A batch is over. Prompts of it that were not settled go back to the front of the queue."""
        self._give_back(self.in_flight.pop(batch, None), self._returned)

    def lose(self, rank: int, *, culprit: bool = False) -> tuple[int, ...]:
        """A rank is gone: what it had in hand goes back to the front of the queue.

        A batch whose rank died of itself (`culprit`) twice is tried prompt by prompt, for it may be what
        kills. Returns the prompts that did so alone: the caller gives them an error record.
        """
        dead: list[int] = []
        for batch in [batch for batch, held in self.in_flight.items() if held.rank == rank]:
            held = self.in_flight[batch]
            if not held.kept:
                del self.in_flight[batch]
                continue
            again = False
            for index in held.indices if culprit else ():
                self._culprits[index] = self._culprits.get(index, 0) + 1
                again = again or self._culprits[index] > 1
            if again and held.alone:
                dead += [index for index in held.indices if not self._settled[index]]
                del self.in_flight[batch]
            elif again:
                self._give_back(self.in_flight.pop(batch), self._singly)
            else:
                self.finish(batch)
        return tuple(dead)

    def halve(self, batch: int) -> tuple[int, ...]:
        """A batch ran out of memory: its prompts go back to the front, and its rank gets half as many from now on.

        Returns the prompts that did not fit alone: the caller gives them an error record.
        """
        assignment = self.in_flight[batch]
        rows = len(assignment.indices)
        if assignment.alone:
            del self.in_flight[batch]
            return tuple(index for index in assignment.indices if not self._settled[index])
        self.cap(assignment.rank, rows)
        self.finish(batch)
        return ()

    def cap(self, rank: int, rows: int) -> None:
        """So many rows were too many for this rank: it gets half as many from now on."""
        self.caps[rank] = max(1, rows // 2)

    def fail(self, batch: int) -> tuple[int, ...]:
        """A batch raised: its prompts are tried once more, one by one.

        Returns the prompts that have now failed alone: the caller gives them an error record.
        """
        assignment = self.in_flight.pop(batch, None)
        if assignment is None:
            return ()
        if assignment.alone and assignment.kept:
            return tuple(index for index in assignment.indices if not self._settled[index])
        self._give_back(assignment, self._singly)
        return ()

    def _give_back(self, assignment: Assignment | None, to: deque[int]) -> None:
        if assignment is not None and assignment.kept:
            to.extendleft(index for index in reversed(assignment.indices) if not self._settled[index])
