"""Which prompts go to which rank next.

Pure: no clock, no I/O, no text. Hands out batches of prompt indices and takes back what was lost. Every prompt is in
exactly one place: pending, in flight, or settled.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rankdeck.runner.protocol.config import Order
from rankdeck.runner.scheduling.prompt_queue import PromptQueue
from rankdeck.runner.scheduling.rounds import EvenRounds, batches_needed

AHEAD = 8
"""A continuous rank holds more prompts than it has rows, by one part in this many of its batch size."""


@dataclass(frozen=True)
class Assignment:
    """A batch in a rank's hand. `batch` counts from 1 through the whole run.

    A batch that is not `kept` (a trial's) leaves its prompts as they were; `warm_up` and `measured` say what the trial
    uses it for. `alone`: its rank has just this prompt in hand, so any failure is due to it.
    """

    batch: int
    rank: int
    indices: tuple[int, ...]
    kept: bool = True
    warm_up: bool = False
    measured: bool = False
    alone: bool = False


class Scheduler:
    """Hands out batches. One per run; not thread-safe.

    With shares (split dispatch) each rank draws from its own contiguous share in plain slices of
    the batch size; without, all ranks draw from one queue in even rounds.
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
        self._queue: PromptQueue | None = PromptQueue(lengths, order, 0, len(lengths), settled)
        self._shares: dict[int, PromptQueue] = {}
        self.shares: dict[int, tuple[int, int]] = {}
        """Split dispatch: the first prompt of each rank's share, and the one after its last."""

        self._returned: deque[int] = deque()
        self._singly: deque[int] = deque()
        self._culprits: dict[int, int] = {}
        self.caps: dict[int, int] = {}
        self.in_flight: dict[int, Assignment] = {}
        self.unsettled = len(lengths) - sum(settled)
        self._batch = first_batch - 1

    @property
    def pending(self) -> int:
        """Prompts that no rank has in hand and that have no record."""
        return sum(queue.left for queue in self._queues) + len(self._returned) + len(self._singly)

    @property
    def _queues(self) -> list[PromptQueue]:
        return [*self._shares.values(), *([self._queue] if self._queue is not None else [])]

    @property
    def drawable(self) -> int:
        """Pending prompts that may share a batch with others."""
        return self.pending - len(self._singly)

    @property
    def longest(self) -> int:
        """Length in bytes of the longest prompt."""
        return max(self._lengths, default=0)

    def use_share(self, rank: int, start: int, stop: int) -> None:
        """Split dispatch: `rank` does the prompts from `start` to `stop` (exclusive) and no others.

        After a relaunch a rank announces the same share again, part of it done: nothing changes.
        """
        if rank in self._shares:
            return
        self._queue = None
        self.shares[rank] = start, stop
        self._shares[rank] = PromptQueue(self._lengths, self._order, start, stop, self._settled)

    def next_batch(self, rank: int) -> Assignment | None:
        """The next batch for a rank that has none, or None if there is nothing for it."""
        if rank >= self.active_ranks:
            return None
        indices = self._draw(rank, even=True)
        if not indices:
            return None
        return self.assign(rank, indices)

    def next_rows(self, rank: int, in_hand: dict[int, int]) -> Assignment | None:
        """More prompts for a continuous rank, or None while it has enough; `in_hand` is how many each rank has.

        A rank is kept ahead of its rows by an eighth of the batch size, so that no row waits for the queue. It gets no
        more than its share of what is left, so that all ranks end together.
        """
        held = in_hand.get(rank, 0)
        if rank >= self.active_ranks:
            return None
        ahead = max(1, self.most_rows(rank) // AHEAD)
        room = self.most_rows(rank) + ahead - held
        # A prompt that is tried alone shares its rank with no other.
        busy = held and any(one.alone for one in self.in_flight.values() if one.rank == rank)
        if room < ahead or busy:
            return None
        if self._singly and not self._drawable_by(rank):
            return self.assign(rank, [self._singly.popleft()], alone=True) if not held else None
        fair = -(-(self.drawable + sum(in_hand.values())) // self.active_ranks) - held
        indices = self._draw(rank, most=min(room, max(1, fair)))
        return self.assign(rank, indices, alone=False) if indices else None

    def most_rows(self, rank: int) -> int:
        """The batch size for this rank: its cap if it ran out of memory."""
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
        """Give a rank these prompts, which the caller has drawn, or only borrows (not `kept`)."""
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
        for queue in self._queues:
            drawn += queue.take(count - len(drawn))
        return drawn

    def put_back(self, indices: Sequence[int]) -> None:
        """Return drawn prompts to the front of the queue."""
        self._returned.extendleft(index for index in reversed(indices) if not self._settled[index])

    def reorder(self, order: Order) -> None:
        """Hand prompts out in another order from now on."""
        if self._queue is not None:
            self._queue.reorder(order)

    def _drawable_by(self, rank: int) -> bool:
        """Whether there is a prompt for this rank that may share a batch."""
        queued = self._queue is not None and self._queue.left > 0
        return bool(self._returned) or queued or self._share_for(rank) is not None

    def _draw(self, rank: int, *, even: bool = False, most: int | None = None) -> list[int]:
        """Prompts for a rank; `even` cuts what is left into even rounds."""
        most = self.most_rows(rank) if most is None else most
        if self._returned:
            return [self._returned.popleft() for _ in range(min(most, len(self._returned)))]
        share = self._share_for(rank)
        if share is not None:
            return list(share.take(most))
        if self._queue is not None and self._queue.left:
            return list(self._queue.take(min(most, self._even_size(self._queue.left)) if even else most))
        if self._singly:
            return [self._singly.popleft()]
        return []

    def _share_for(self, rank: int) -> PromptQueue | None:
        """Split dispatch: the rank's own share; once that is empty, the share of an inactive rank."""
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

    def cut_alike(self, batch_size: int) -> bool:
        """Whether all that is left fits into one round, and would be cut into the same batches at `batch_size`."""
        if self.caps or self._returned or self._singly:
            return False
        if self._shares:
            return all(share.left <= min(batch_size, self.batch_size) for share in self._shares.values())
        left, ranks = self.pending, self.active_ranks
        now = self._rounds.planned(left, self.batch_size, ranks)
        return left > 0 and now == ranks == batches_needed(left, ranks, batch_size)

    def settle(self, index: int) -> bool:
        """Note that a prompt has its record. False if it already had one: then the new one must not be kept."""
        if self.is_settled(index):
            return False
        self._settled[index] = 1
        self.unsettled -= 1
        return True

    def is_settled(self, index: int) -> bool:
        """Whether a prompt has its record, or is not part of this run."""
        return not 0 <= index < len(self._settled) or bool(self._settled[index])

    def reopen(self, indices: Iterable[int]) -> None:
        """Note that prompts have lost their record: they are done again, first of all."""
        in_hand = {index for held in self.in_flight.values() if held.kept for index in held.indices}
        for index in indices:
            if self._settled[index]:
                self._settled[index] = 0
                self.unsettled += 1
                if index not in in_hand:  # what is in hand goes back by itself when its batch ends
                    self._returned.append(index)

    def finish(self, batch: int) -> None:
        """End a batch. Those of its prompts that are not settled go back to the front of the queue."""
        self._give_back(self.in_flight.pop(batch, None), self._returned)

    def lose(self, rank: int, *, culprit: bool = False) -> tuple[int, ...]:
        """Return what a lost rank had in hand to the front of the queue.

        `culprit`: the rank died by itself, perhaps because of its batch. A prompt for which that happens twice is
        tried alone. Returns the prompts whose rank died while they were alone: the caller gives them an error record.
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
        """Return a batch that ran out of memory to the front; its rank gets half as many prompts from now on.

        Returns the prompts that did not even fit alone: the caller gives them an error record.
        """
        assignment = self.in_flight[batch]
        rows = len(assignment.indices)
        if not assignment.kept:
            del self.in_flight[batch]
            return ()
        if assignment.alone:
            del self.in_flight[batch]
            return tuple(index for index in assignment.indices if not self._settled[index])
        self.cap(assignment.rank, rows)
        self.finish(batch)
        return ()

    def cap(self, rank: int, rows: int) -> None:
        """Cap a rank for which `rows` were too many at half of them."""
        self.caps[rank] = max(1, rows // 2)

    def fail(self, batch: int) -> tuple[int, ...]:
        """Queue the prompts of a batch that raised to be tried once more, one by one.

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
