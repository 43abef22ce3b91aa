"""A sweep on the ranks of a run: one trial after another, each a warm-up and whole rounds, on models loaded once.

While it is active it decides, in place of the scheduler, which rank gets which prompts; it measures, and emits what
happened. Knows no socket and no process. Its clock is the run's, taken from the state.
"""

import heapq
import random
from collections import deque
from collections.abc import Mapping, Sequence

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.protocol import BatchFinished, DeviceSample
from rankdeck.runner.protocol.sweep_plan import SweepPlan, Trial, TrialOutcome, TrialRecord
from rankdeck.runner.scheduling.scheduler import Assignment, Scheduler
from rankdeck.runner.supervisor.event_stream import EventStream
from rankdeck.runner.supervisor.trial_meter import TrialMeter
from rankdeck.runner.sweep.mbu import why_no_mbu
from rankdeck.runner.sweep.peak_bandwidth import bandwidths, peak_bandwidth

SAMPLE_PROMPTS = 50_000
"""Of a larger file a sweep uses this many prompts, chosen at random."""

OUT_OF_MEMORY = "memory ran out"


def order_of(plan: SweepPlan) -> list[Trial]:
    """All trials of `plan`, in the order they are run: each repeat is shuffled separately, against drift.

    The same plan gives the same order, so that a sweep that was interrupted can go on.
    """
    shuffle = random.Random(plan.seed)
    trials: list[Trial] = []
    for repeat in range(1, plan.repeats + 1):
        settings = [(ranks, size) for ranks in sorted(set(plan.ranks)) for size in sorted(set(plan.batch_sizes))]
        shuffle.shuffle(settings)
        trials += [
            Trial(number=len(trials) + place, repeat=repeat, active_ranks=ranks, batch_size=size)
            for place, (ranks, size) in enumerate(settings, 1)
        ]
    return trials


class _Prompts:
    """Where trials get their prompts: from the file, over and over, or from those left if answers are kept."""

    def __init__(self, scheduler: Scheduler, lengths: Sequence[int], plan: SweepPlan, *, by_length: bool) -> None:
        self._scheduler, self._lengths, self._kept, self._by_length = scheduler, lengths, plan.outputs, by_length
        self._cycle = random.Random(plan.seed).sample(range(len(lengths)), min(len(lengths), SAMPLE_PROMPTS))
        self._next = 0
        self._stock: deque[int] = deque()

    def stock_up(self, count: int) -> bool:
        """Stock `count` prompts in the order they are handed out. False if fewer are left."""
        if self._kept:
            if self._scheduler.drawable < count:
                return False
            fresh = self._scheduler.draw(count)
        else:
            fresh = [self._cycle[(self._next + place) % len(self._cycle)] for place in range(count)]
            self._next = (self._next + count) % len(self._cycle)
        if self._by_length:
            # As in a run, so that a trial pads as much as a run at its setting would.
            fresh.sort(key=self._lengths.__getitem__, reverse=True)
        self._stock.extend(fresh)
        return True

    def take(self, count: int) -> list[int]:
        return [self._stock.popleft() for _ in range(min(count, len(self._stock)))]

    def for_warm_up(self, count: int) -> list[int]:
        """Prompts for a warm-up, whose answers are thrown away: the longest in stock, so that no batch is wider."""
        return heapq.nlargest(count, self._stock, key=self._lengths.__getitem__)

    def give_back(self) -> None:
        """Return the stock that was not handed out."""
        if self._kept:
            self._scheduler.put_back(self._stock)
        self._stock.clear()


class _CurrentTrial:
    """How far the current trial is: rounds `started` and `finished` by rank, of `target`; `again`: to be redone."""

    def __init__(self, trial: Trial, least_rounds: int) -> None:
        self.trial = trial
        self.to_warm = set(range(trial.active_ranks))
        self.started = dict.fromkeys(range(trial.active_ranks), 0)
        self.finished = dict.fromkeys(range(trial.active_ranks), 0)
        self.target = least_rounds
        self.meter: TrialMeter | None = None
        self.measured_from = 0.0
        self.outcome: TrialOutcome | None = None
        self.reason: str | None = None
        self.again = False


class Sweeper:
    """Runs the trials of `plan`; `active` until all are over and the scheduler hands out batches again."""

    def __init__(
        self,
        plan: SweepPlan,
        scheduler: Scheduler,
        lengths: Sequence[int],
        *,
        by_length: bool,
        events: EventStream,
    ) -> None:
        self.plan = plan
        self.active = True
        self._scheduler, self._events = scheduler, events
        self._prompts = _Prompts(scheduler, lengths, plan, by_length=by_length)
        self._trials = order_of(plan)
        self._walls: dict[int, tuple[int, str]] = {}
        self._losses: dict[int, list[int]] = {}
        self._current: _CurrentTrial | None = None

    def begin(self) -> None:
        """Report what will be measured, once all ranks are ready."""
        self._scheduler.reorder("input")
        ready = [rank.ready for rank in self._events.state.ranks if rank.ready is not None]
        figure, source = peak_bandwidth(ready)
        self._events.emit(
            protocol.SweepStarted(
                plan=self.plan,
                trials=self._trials,
                bandwidth_bytes_per_second=figure,
                bandwidth_source=source,
                no_mbu=why_no_mbu(ready, bandwidths(ready)),
            )
        )
        for record in self._records():
            if record.outcome == "out_of_memory":
                self._hit_wall(record.trial, OUT_OF_MEMORY)

    def ranks_lost(self, cause: str) -> bool:
        """Fail the current trial, if there is one: the ranks are gone. Returns whether there was one.

        After two losses with the same number of ranks, that size and larger ones are not tried again: on a CPU this
        is what running out of memory looks like.
        """
        now = self._current
        if now is None:
            return False
        lost = self._losses.setdefault(now.trial.active_ranks, [])
        lost.append(now.trial.batch_size)
        if len(lost) > 1:
            # The second smallest size that was lost: one loss at a small size must not rule out all larger ones.
            size = sorted(lost)[1]
            self._hit_wall(msgspec.structs.replace(now.trial, batch_size=size), f"ranks were lost twice: {cause}")
        self._fail("failed", f"ranks were lost in it: {cause}")
        self._close(now)
        return True

    def interrupt(self) -> None:
        """Have the current trial redone: a pause spoils its figures."""
        if self._current is not None:
            self._current.again = True

    def settle(self, reason: str) -> None:
        """End the sweep here."""
        self.active = False
        self._prompts.give_back()
        self._current = None
        self._events.emit(protocol.SweepSettled(reason=reason))

    def next_batch(self, rank: int) -> Assignment | None:
        """The next batch for an idle rank; None while there is none for it."""
        self._close_if_over()
        self._open_next()
        now = self._current
        if now is None or now.outcome is not None or now.again or rank not in now.started:
            return None
        size = now.trial.batch_size
        if rank in now.to_warm:
            now.to_warm.discard(rank)
            return self._scheduler.assign(rank, self._prompts.for_warm_up(size), kept=False, warm_up=True)
        if now.meter is None:
            if self._scheduler.in_flight or now.to_warm:
                return None  # others are still warming up: all ranks begin together
            self._start_measuring(now)
        if now.started[rank] >= now.target and not self._another_round(now):
            return None
        now.started[rank] += 1
        return self._scheduler.assign(rank, self._prompts.take(size), kept=self.plan.outputs, measured=True)

    def batch_finished(self, event: BatchFinished) -> None:
        """Count a finished batch; it may end the trial."""
        now = self._current
        if now is None:
            return
        if now.outcome is None and not now.again and now.meter is not None and event.rank in now.finished:
            state = self._events.state
            began = state.ranks[event.rank].batch_started_at
            now.meter.add_batch(event.rank, began, state.now, event.result)
            now.finished[event.rank] += 1
            done = all(rounds >= now.target for rounds in now.finished.values())
            if done and not self._another_round(now):
                now.outcome = "measured"
        self._close_if_over()

    def batch_failed(self, kind: str, error: str) -> None:
        """Fail the current trial, of which a batch failed."""
        self._fail("out_of_memory" if kind == "out_of_memory" else "failed", error)
        self._close_if_over()

    def sample(self, samples: Sequence[DeviceSample]) -> None:
        """Add GPU samples to the current trial."""
        if self._current is not None and self._current.meter is not None:
            self._current.meter.add_samples(self._events.state.now, samples)

    def _records(self) -> Sequence[TrialRecord]:
        sweep = self._events.state.sweep
        return sweep.records if sweep is not None else ()

    def _close_if_over(self) -> None:
        """Close the current trial once none of its batches is in flight; the last trial settles the sweep."""
        now = self._current
        if now is None or self._scheduler.in_flight:
            return
        if now.again:
            self._prompts.give_back()
            self._current = None
        elif now.outcome is not None:
            self._close(now)
            if len(self._records()) == len(self._trials):
                self.settle("all trials are over")

    def _open_next(self) -> None:
        """Open the next trial, once no earlier batch is in flight."""
        if self._current is not None or self._scheduler.in_flight:
            return
        over = {record.trial.number for record in self._records()}
        for trial in (trial for trial in self._trials if trial.number not in over):
            size, why = self._walls.get(trial.active_ranks, (trial.batch_size + 1, ""))
            if trial.batch_size < size:
                self._open(trial)
                return
            record = TrialRecord(trial=trial, outcome="skipped", reason=f"at a batch of {size} {why}")
            self._events.emit(protocol.TrialFinished(record=record))
        self.settle("all trials are over")

    def _open(self, trial: Trial) -> None:
        if not self._prompts.stock_up(self.plan.least_rounds * trial.active_ranks * trial.batch_size):
            self.settle(f"the {self._scheduler.drawable} prompts left are too few for trial {trial.number}")
            return
        self._current = _CurrentTrial(trial, self.plan.least_rounds)
        self._scheduler.active_ranks, self._scheduler.batch_size = trial.active_ranks, trial.batch_size
        self._events.emit(protocol.TrialStarted(trial=trial))

    def _start_measuring(self, now: _CurrentTrial) -> None:
        self._events.emit(protocol.TrialWarm(trial=now.trial))
        state = self._events.state
        ready = [rank.ready for rank in state.ranks[: now.trial.active_ranks] if rank.ready is not None]
        now.measured_from = state.now
        now.meter = TrialMeter(ready, state.now)

    def _long_enough(self, now: _CurrentTrial) -> bool:
        return self._events.state.now - now.measured_from >= self.plan.least_seconds

    def _another_round(self, now: _CurrentTrial) -> bool:
        """Whether every rank does one more round; the first rank to get there decides for all.

        None does once the time is over, or when too few prompts are left for a whole round.
        """
        if self._long_enough(now) or not self._prompts.stock_up(now.trial.active_ranks * now.trial.batch_size):
            return False
        now.target += 1
        return True

    def _fail(self, outcome: TrialOutcome, reason: str) -> None:
        now = self._current
        if now is not None and now.outcome is None:
            now.outcome, now.reason = outcome, reason
            if outcome == "out_of_memory":
                self._hit_wall(now.trial, OUT_OF_MEMORY)

    def _hit_wall(self, trial: Trial, why: str) -> None:
        known = self._walls.get(trial.active_ranks)
        if known is None or trial.batch_size < known[0]:
            self._walls[trial.active_ranks] = trial.batch_size, why

    def _close(self, now: _CurrentTrial) -> None:
        self._current = None
        self._prompts.give_back()
        measured = now.outcome == "measured" and now.meter is not None
        result = now.meter.result(self._bandwidth()) if measured and now.meter is not None else None
        assert now.outcome is not None
        record = TrialRecord(trial=now.trial, outcome=now.outcome, result=result, reason=now.reason)
        self._events.emit(protocol.TrialFinished(record=record))

    def _bandwidth(self) -> Mapping[int, float]:
        return bandwidths([rank.ready for rank in self._events.state.ranks if rank.ready is not None])
