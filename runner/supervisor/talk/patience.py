"""When a rank that says nothing hangs: what is said of it, and when it is given up. Pure: seconds come in.

Silence is counted while the supervisor runs, so that one that was stopped itself blames nobody. The pace of a rank's
own batches sets the patience: a silence like one that has ended by itself before is no hang. Loading and the first
batch say little and take long. Does not know how a rank is ended.
"""

from dataclasses import dataclass, field
from typing import Literal

Stage = Literal["loading", "waiting", "at work"]
"""`waiting`: at a meeting point, with nothing in hand, or told to hold it."""

TOLD_SECONDS = 10.0
TOLD_LOADING_SECONDS = 60.0
LEAST_PATIENCE_SECONDS = 60.0

USUAL_TIMES = 10.0
"""A hang is this many times as long as the longest silence of the batches so far, whatever it was in."""

COLD_TIMES = 3.0
"""The same over the longest silence of a first batch, whose kernels are new."""

UNKNOWN_TIMES = 20.0
"""While nothing is known of the pace, as before the first batch is over: so many times the patience."""


@dataclass
class Pulse:
    """A rank's silences: the present one, and the longest at work that ended by itself, in seconds.

    `work` stands for how much a forward pass has to do: rows times the longest of their prompts.
    """

    silent: float = 0.0
    pace_known: bool = False
    """Whether it has ended a batch."""

    stopped_for: float = 0.0
    """For how many of the last seconds its process was stopped."""

    computes: bool = False
    """Whether its process was at work in the last seconds, so that its silence is no hang."""

    computed: float = 0.0
    """Seconds of the present silence in which it did so."""

    _was_stopped: bool = False
    """Whether its process was stopped at some time in the present silence: that is not its pace."""

    _work: float = 1.0
    _longest: dict[bool, tuple[float, float]] = field(default_factory=dict)
    """Longest silence and its work, of warm batches (True) and of first ones."""

    def given(self, work: float) -> None:
        """It was handed work, so that its silence begins here."""
        self._work = max(1.0, work)
        self.begin()

    def heard(self, stage: Stage) -> None:
        """It has said something."""
        longest = self._longest.get(self.pace_known, (0.0, 0))[0]
        if stage == "at work" and not self._was_stopped and self.silent > longest:
            self._longest[self.pace_known] = self.silent, self._work
        self.begin()

    def begin(self) -> None:
        """Its silence begins here."""
        self.silent = self.stopped_for = self.computed = 0.0
        self.computes = self._was_stopped = False

    def passed(self, seconds: float, *, stopped: bool = False, computes: bool = False) -> None:
        """It has said nothing for another so many seconds, in which its process was seen stopped, or computing."""
        self.silent += seconds
        self.stopped_for = self.stopped_for + seconds if stopped else 0.0
        self._was_stopped = self._was_stopped or stopped
        self.computes = computes
        self.computed += seconds if computes else 0.0

    @property
    def stopped(self) -> bool:
        """Whether its process is stopped."""
        return self.stopped_for > 0

    def usual(self) -> float:
        """The longest silence to be expected of the work in hand, with its margin."""
        return max((self._expected(warm, times) for warm, times in ((True, USUAL_TIMES), (False, COLD_TIMES))))

    def _expected(self, warm: bool, times: float) -> float:
        longest, work = self._longest.get(warm, (0.0, 1.0))
        return longest * times * max(1.0, self._work / work)


def patience_for(pulse: Pulse, stage: Stage, asked: float | None) -> float | None:
    """Seconds of silence after which a rank is given up; None for never. `asked`: by the user, 0 for never."""
    if stage == "waiting" or asked == 0 or pulse.computes:
        return None
    usual = max(LEAST_PATIENCE_SECONDS, pulse.usual()) if asked is None else asked
    if stage == "at work" and pulse.pace_known:
        return usual
    cold = max(usual, UNKNOWN_TIMES * (LEAST_PATIENCE_SECONDS if asked is None else asked))
    most = cold + pulse.computed
    # A stopped process does not load.
    return min(most, pulse.silent - pulse.stopped_for + usual) if pulse.stopped else most


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
