"""What a turn of a knob asks for: the next batch size, the next number of active ranks, pause or go on.

A dashboard sees its wish come true only with the event that confirms it, and people press a key twice
before that. So the wish is remembered until the state agrees, and the next press starts from it.
Knows commands and states; keys and screens are elsewhere.
"""

from rankdeck.runner.protocol import Pause, Resume, SetActiveRanks, SetBatchSize
from rankdeck.runner.protocol.config import MAX_BATCH_SIZE
from rankdeck.runner.state import RunState

FORGET_SECONDS = 3.0
"""A wish that was not confirmed by then never will be: somebody else wished for something, too."""


def larger(batch_size: int) -> int:
    """The next power of two above `batch_size`, as far as sizes go."""
    return min(MAX_BATCH_SIZE, 1 << batch_size.bit_length())


def smaller(batch_size: int) -> int:
    """The next power of two below `batch_size`, at least 1."""
    return 1 << max(0, (batch_size - 1).bit_length() - 1)


class Knobs:
    """The wishes of this dashboard that the run has not confirmed yet."""

    def __init__(self) -> None:
        self._batch_size: int | None = None
        self._active_ranks: int | None = None
        self._paused: bool | None = None
        self._wished_at = 0.0

    def heard(self, state: RunState) -> None:
        """Forget what has come true, and what never will."""
        late = state.now - self._wished_at > FORGET_SECONDS
        if late or state.batch_size == self._batch_size:
            self._batch_size = None
        if late or state.active_ranks == self._active_ranks:
            self._active_ranks = None
        if late or (state.paused is not None) == self._paused:
            self._paused = None

    def turn_batch_size(self, state: RunState, *, up: bool) -> SetBatchSize | None:
        """The next size up or down from the one wished for last; None where there is none."""
        now = self._batch_size or state.batch_size
        wanted = larger(now) if up else smaller(now)
        return self.set_batch_size(state, wanted) if wanted != now else None

    def set_batch_size(self, state: RunState, batch_size: int | None) -> SetBatchSize:
        """This very size; None has it searched for."""
        self._batch_size, self._wished_at = batch_size, state.now
        return SetBatchSize(batch_size=batch_size)

    def turn_active_ranks(self, state: RunState, *, by: int) -> SetActiveRanks | None:
        """More or fewer active ranks; None where there are no more, or would be none."""
        now = self._active_ranks or state.active_ranks
        wanted = min(len(state.ranks), max(1, now + by))
        if wanted == now:
            return None
        self._active_ranks, self._wished_at = wanted, state.now
        return SetActiveRanks(active_ranks=wanted)

    def turn_pause(self, state: RunState) -> Pause | Resume:
        """Pause, or go on where a pause is on or wished for."""
        now = self._paused if self._paused is not None else state.paused is not None
        self._paused, self._wished_at = not now, state.now
        return Resume() if now else Pause()
