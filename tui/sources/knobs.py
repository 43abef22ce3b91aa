"""The commands that turn the knobs: the next batch size, the next number of active ranks, pause or resume.

A command takes effect only with the event that confirms it, and users press a key again before that. So the value
asked for is remembered until the state has it, and the next press starts from there. Knows commands and states; no
keys, no screens.
"""

from rankdeck.runner.protocol import Pause, Resume, SetActiveRanks, SetBatchSize
from rankdeck.runner.protocol.config import MAX_BATCH_SIZE
from rankdeck.runner.state import RunState

FORGET_SECONDS = 3.0
"""A value that is not confirmed by then never will be: another viewer has set a different one."""


def larger(batch_size: int) -> int:
    """The next power of two above `batch_size`, at most MAX_BATCH_SIZE."""
    return min(MAX_BATCH_SIZE, 1 << batch_size.bit_length())


def smaller(batch_size: int) -> int:
    """The next power of two below `batch_size`, at least 1."""
    return 1 << max(0, (batch_size - 1).bit_length() - 1)


class Knobs:
    """The values that this dashboard has asked for and the run has not confirmed yet."""

    def __init__(self) -> None:
        self._batch_size: int | None = None
        self._active_ranks: int | None = None
        self._paused: bool | None = None
        self._asked_at = 0.0

    def update(self, state: RunState) -> None:
        """Forget the values that the state has reached, those that were refused, and those that are too old."""
        late = state.now - self._asked_at > FORGET_SECONDS
        refusal = state.refusal
        refused = refusal is not None and refusal.at > self._asked_at
        if late or refused or state.batch_size == self._batch_size:
            self._batch_size = None
        if late or refused or state.active_ranks == self._active_ranks:
            self._active_ranks = None
        if late or (state.paused is not None) == self._paused:
            self._paused = None

    @property
    def waiting(self) -> bool:
        """Whether a value asked for is still to be confirmed."""
        return any(value is not None for value in (self._batch_size, self._active_ranks, self._paused))

    def turn_batch_size(self, state: RunState, *, up: bool) -> SetBatchSize | None:
        """The next size up or down from the one asked for last; None if there is none."""
        now = self._batch_size or state.batch_size
        wanted = larger(now) if up else smaller(now)
        return self.set_batch_size(state, wanted) if wanted != now else None

    def set_batch_size(self, state: RunState, batch_size: int | None) -> SetBatchSize:
        """This batch size; None searches for the best one."""
        self._batch_size, self._asked_at = batch_size, state.now
        return SetBatchSize(batch_size=batch_size)

    def turn_active_ranks(self, state: RunState, *, by: int) -> SetActiveRanks | None:
        """More or fewer active ranks; None if all are active, or if none would be."""
        now = self._active_ranks or state.active_ranks
        wanted = min(len(state.ranks), max(1, now + by))
        if wanted == now:
            return None
        self._active_ranks, self._asked_at = wanted, state.now
        return SetActiveRanks(active_ranks=wanted)

    def turn_pause(self, state: RunState) -> Pause | Resume:
        """Pause; or resume, if the run is paused or has been asked to pause."""
        now = self._paused if self._paused is not None else state.paused is not None
        self._paused, self._asked_at = not now, state.now
        return Resume() if now else Pause()
