"""When each event of a journal is shown in a replay: as it was recorded, without the waiting.

Pure: times in, times out. Two rules, so that nobody sits through what was nobody's work. Between two events
pass GAP_SECONDS at most: a machine slept, or the run was taken up hours later. And a time in which no
rank had a batch in hand (fetching, loading, a pause, ranks launched afresh) is squeezed into QUIET_SECONDS.
"""

from array import array

from runner import protocol
from runner.protocol import AnyEvent

GAP_SECONDS = 2.0
QUIET_SECONDS = 4.0


class ReplayTimes:
    """Takes a journal's events in order; `seconds` then has the moment of each in the replay, from 0 on."""

    def __init__(self) -> None:
        self.seconds = array("d")
        self.recorded = 0.0
        """How long the events really took; where the clock was set back in between, no time passed."""
        self._at = 0.0
        self._in_hand: set[int] = set()
        self._quiet_from = 0

    @property
    def length(self) -> float:
        return self.seconds[-1] if self.seconds else 0.0

    @property
    def left_out(self) -> float:
        """Seconds of waiting that the replay spares its viewers."""
        return max(0.0, self.recorded - self.length)

    def add(self, event: AnyEvent) -> None:
        """The next event of the journal."""
        gap = max(0.0, event.at - self._at) if self.seconds else 0.0
        self._at = event.at
        self.recorded += gap
        self.seconds.append(self.length + min(gap, GAP_SECONDS))
        kind = type(event)
        if kind is protocol.BatchStarted:
            assert isinstance(event, protocol.BatchStarted)
            if not self._in_hand:
                self._squeeze()
            self._in_hand.add(event.rank)
        elif self._in_hand:
            if kind in _TAKEN_BACK:
                self._in_hand.discard(event.rank)  # type: ignore[union-attr]
            elif kind in _ALL_TAKEN_BACK:
                self._in_hand.clear()
            if not self._in_hand:
                self._quiet_from = len(self.seconds) - 1

    def end(self) -> None:
        """There are no more events."""
        if not self._in_hand and self.seconds:
            self._squeeze()

    def _squeeze(self) -> None:
        """Play the quiet time up to the newest event in QUIET_SECONDS, evenly faster, where it took longer."""
        seconds, first = self.seconds, self._quiet_from
        start = seconds[first]
        took = seconds[-1] - start
        if took > QUIET_SECONDS:
            for number in range(first, len(seconds)):
                seconds[number] = start + (seconds[number] - start) * QUIET_SECONDS / took


_TAKEN_BACK = {protocol.BatchFinished, protocol.BatchFailed, protocol.RankLost}
_ALL_TAKEN_BACK = {protocol.RanksLaunched, protocol.RunStarted, protocol.RunTakenUp, protocol.RunEnded}
