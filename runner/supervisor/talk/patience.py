"""When a rank that says nothing hangs: what is said of it, and when it is given up. Pure: seconds come in.

Silence is counted while the supervisor runs, so that one that was stopped itself blames nobody. The pace of a rank's
own batches sets the patience: a silence like one that has ended by itself before is no hang. Loading, and the first
batch, which may compile, say little and take long. Does not know how a rank is ended.
"""

from dataclasses import dataclass, field
from typing import Literal

Stage = Literal["loading", "waiting", "at work"]
"""`waiting`: nothing in hand, or told to hold it."""

TOLD_SECONDS = 10.0
TOLD_LOADING_SECONDS = 60.0
LEAST_PATIENCE_SECONDS = 60.0

USUAL_TIMES = 10.0
"""A hang is this many times as long as the longest silence of the batches so far, whatever it was in."""

COLD_TIMES = 3.0
"""The same over the longest silence of a first batch, which may have compiled."""

UNKNOWN_TIMES = 20.0
"""Before the first batch is over, nothing is known of the pace: so many times the patience."""


@dataclass
class Pulse:
    """A rank's silences: the present one, and the longest at work that ended by itself, in seconds.

    `work` stands for how much a forward pass has to do: rows times the longest of their prompts.
    """

    silent: float = 0.0
    ended_a_batch: bool = False
    stopped: bool = False
    """Whether its process was seen stopped in the present silence: that is not its pace."""

    _work: float = 1.0
    _longest: dict[bool, tuple[float, float]] = field(default_factory=dict)
    """Longest silence and its work, of warm batches (True) and of first ones."""

    def given(self, work: float) -> None:
        """It was handed work, so that its silence begins here."""
        self._work = max(1.0, work)
        self.silent, self.stopped = 0.0, False

    def heard(self, stage: Stage) -> None:
        """It has said something."""
        if stage == "at work" and not self.stopped and self.silent > self._longest.get(self.ended_a_batch, (0.0, 0))[0]:
            self._longest[self.ended_a_batch] = self.silent, self._work
        self.silent, self.stopped = 0.0, False

    def usual(self) -> float:
        """The longest silence to be expected of the work in hand, with its margin."""
        return max((self._expected(warm, times) for warm, times in ((True, USUAL_TIMES), (False, COLD_TIMES))))

    def _expected(self, warm: bool, times: float) -> float:
        longest, work = self._longest.get(warm, (0.0, 1.0))
        return longest * times * max(1.0, self._work / work)


def patience_for(pulse: Pulse, stage: Stage, asked: float | None) -> float | None:
    """Seconds of silence after which a rank is given up; None for never. `asked`: by the user, 0 for never."""
    if stage == "waiting" or asked == 0:
        return None
    seconds = max(LEAST_PATIENCE_SECONDS, pulse.usual()) if asked is None else asked
    known = stage == "at work" and pulse.ended_a_batch
    return seconds if known else max(seconds, UNKNOWN_TIMES * (LEAST_PATIENCE_SECONDS if asked is None else asked))


def to_be_told(pulse: Pulse, stage: Stage) -> bool:
    """Whether the present silence is worth a word: at once if its process is stopped, else if it is unusual."""
    if pulse.silent < TOLD_SECONDS:
        return False
    if pulse.stopped or stage == "waiting":
        return pulse.stopped
    if stage == "loading":
        return pulse.silent >= TOLD_LOADING_SECONDS
    return pulse.silent >= pulse.usual() / 2


def to_be_given_up(pulse: Pulse, stage: Stage, asked: float | None) -> bool:
    patience = patience_for(pulse, stage, asked)
    return patience is not None and pulse.silent >= patience
