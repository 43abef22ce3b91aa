"""The knobs of a running job: batch size, active ranks, pause, and sweeps, which set the first two by themselves.

Knows what turning a knob means for the scheduler and which event reports it. Does not know who turned it: a person, the
search for the best batch size, or a full disk.
"""

from collections.abc import Sequence

from rankdeck.runner import protocol
from rankdeck.runner.protocol import AccountClosed, BatchFailed, BatchFinished, DeviceSample, RankReady
from rankdeck.runner.protocol.config import MAX_BATCH_SIZE, RunConfig, check_sweep
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.scheduling import batch_size_search, turn_refusals
from rankdeck.runner.scheduling.batch_size_search import Choice, Known, Search
from rankdeck.runner.scheduling.scheduler import Assignment, Scheduler
from rankdeck.runner.state import RunState
from rankdeck.runner.supervisor.event_stream import EventStream
from rankdeck.runner.supervisor.sweeper import Sweeper
from rankdeck.runner.sweep.cells import cells, rate
from rankdeck.runner.sweep.verdict import verdict

LEAST_SECONDS = 1.0
"""A batch size is measured for at least this long on each rank, however short its batches are."""


class KnobControls:
    """Turns the knobs of one run."""

    def __init__(
        self,
        config: RunConfig,
        scheduler: Scheduler,
        lengths: Sequence[int],
        events: EventStream,
    ) -> None:
        self._config, self._scheduler, self._events = config, scheduler, events
        self._search: Search | None = None
        """What chose the present batch size, settled or not; None if a person or a sweep did."""
        self._asked_to_pause = False
        self._trouble: str | None = None
        self._begun = False
        self._first_size = config.batch_size
        self._lengths = lengths
        plan = config.sweep
        self._sweeper = self._new_sweeper(plan) if plan is not None and not self._settled_before(plan) else None
        self._before: tuple[int | None, int] = (config.batch_size, config.ranks)
        """Batch size (None: search for it) and active ranks from before a sweep."""

    @property
    def sweeping(self) -> bool:
        """Whether trials are under way or still to come."""
        return self._sweeper is not None and self._sweeper.active

    @property
    def work_left(self) -> bool:
        """Whether there is anything left to hand out or to wait for."""
        if self.sweeping:
            return True
        only_measured = self._config.sweep is not None and not self._config.sweep.outputs
        return self._scheduler.unsettled > 0 and not only_measured

    @property
    def paused(self) -> bool:
        return self._asked_to_pause or self._trouble is not None

    def begin(self) -> None:
        """Set the first batch size, asked for or chosen, once all ranks are ready. After a relaunch it does nothing."""
        if self._begun:
            return
        self._begun = True
        if self._sweeper is not None:
            self._sweeper.begin()
        elif self._first_size is None and self._config.sweep is not None:
            self._swept()
        elif self._first_size is None:
            self._start_search()
        else:
            most = _most_rows(self._events.state)
            if most is not None and self._first_size > most:
                self._use(Choice(most, f"the ranks were started for at most {most:,} rows at once", settled=True))
            else:
                self._use(Choice(self._first_size, "as asked for", settled=True))

    def ranks_lost(self, cause: str) -> bool:
        """Note that the ranks are gone. Returns whether that cost a trial."""
        return self._sweeper is not None and self._sweeper.active and self._sweeper.ranks_lost(cause)

    def next_batch(self, rank: int) -> Assignment | None:
        """The next batch for an idle rank, from the trial or the scheduler; None while there is none."""
        if self._sweeper is not None and self._sweeper.active:
            assignment = self._sweeper.next_batch(rank)
            if self._sweeper.active:
                return assignment
            self._swept()
        return self._scheduler.next_batch(rank) if self.work_left else None

    def next_rows(self, rank: int, in_hand: dict[int, int]) -> Assignment | None:
        """More prompts for a continuous rank; None while it has enough, or trials are measured."""
        return self._scheduler.next_rows(rank, in_hand) if self.work_left and not self.sweeping else None

    def sample(self, devices: Sequence[DeviceSample]) -> None:
        """Pass telemetry on to the current trial."""
        if self._sweeper is not None and self._sweeper.active:
            self._sweeper.sample(devices)

    def _settled_before(self, plan: SweepPlan) -> bool:
        """Whether a run that is taken up again had measured all that it was to: then what it found is used."""
        sweep = self._events.state.sweep
        # No other can have begun before the first was over.
        return sweep is not None and (sweep.plan != plan or sweep.settled is not None)

    def _new_sweeper(self, plan: SweepPlan) -> Sweeper:
        return Sweeper(
            plan,
            self._scheduler,
            self._lengths,
            by_length=self._config.order == "length",
            events=self._events,
        )

    def _start_sweep(self, plan: SweepPlan | None) -> None:
        if plan is None:
            if self._sweeper is not None and self._sweeper.active:
                self._sweeper.settle("by hand")
                self._swept()
        elif problem := self._why_no_sweep(plan):
            self._events.emit(protocol.LogLine(source="supervisor", text=f"no sweep is started: {problem}"))
        else:
            state = self._events.state
            self._before = None if state.auto else state.batch_size, state.active_ranks
            self._search = None
            self._sweeper = self._new_sweeper(plan)
            self._sweeper.begin()

    def _why_no_sweep(self, plan: SweepPlan) -> str:
        if not self._begun:
            return "not all ranks are ready"
        if self.sweeping:
            return "another is at work"
        most = _most_rows(self._events.state)
        if most is not None and max(plan.batch_sizes, default=0) > most:
            bound = f"the ranks were started for at most {most:,} rows at once"
            return f"{bound}; for more, start the run with that --batch-size"
        return "; ".join(str(problem) for problem in check_sweep(self._config, plan))

    def _swept(self) -> None:
        """After a sweep: do the prompts that are left at the setting chosen, or as before if there is none."""
        self._scheduler.reorder(self._config.order)
        sweep = self._events.state.sweep
        found = verdict(cells(sweep)) if sweep is not None else None
        if not self.work_left or not self._scheduler.unsettled:
            return
        if found is None:
            size, ranks = self._before
            self._activate(ranks, anew=True)
            if size is None:
                self._start_search()
            else:
                self._use(Choice(size, "as before the sweep", settled=True))
            return
        chosen, tied = found.chosen, " within its noise" if found.tied else ""
        self._activate(chosen.active_ranks, anew=True)
        self._use(Choice(chosen.batch_size, f"best of the sweep{tied}, {rate(chosen):.0f} tok/s", settled=True))

    def obey(self, command: protocol.Command) -> None:
        """Do what a viewer asks for, as far as it makes sense."""
        match command:
            case protocol.StartSweep():
                self._start_sweep(command.plan)
            case protocol.SetBatchSize() | protocol.SetActiveRanks() if why := self._why_refused(command):
                self._events.emit(protocol.TurnRefused(reason=why))
            case protocol.SetBatchSize() if not self._begun:
                # Memory and speed are not known yet: `begin` uses it once all ranks are ready.
                asked = command.batch_size
                self._first_size = None if asked is None else min(MAX_BATCH_SIZE, max(1, asked))
            case protocol.SetBatchSize(batch_size=None):
                self._start_search()
            case protocol.SetBatchSize():
                assert command.batch_size is not None
                self._search = None
                size = min(MAX_BATCH_SIZE, max(1, command.batch_size))
                if size != self._scheduler.batch_size or self._events.state.auto:
                    self._use(Choice(size, "as asked for", settled=True))
            case protocol.SetActiveRanks():
                self._activate(min(self._config.ranks, max(1, command.active_ranks)))
            case protocol.Pause() if not self._asked_to_pause:
                self._asked_to_pause = True
                self._interrupt()
                if self._trouble is None:
                    self._events.emit(protocol.Paused(reason="asked for", asked=True))
            case protocol.Resume() if self._asked_to_pause:
                self._asked_to_pause = False
                if self._trouble is None:
                    self._events.emit(protocol.Resumed())
            case _:
                pass

    def _why_refused(self, turn: protocol.SetBatchSize | protocol.SetActiveRanks) -> str | None:
        """Why this turn would do nothing, or is not allowed; None if it may be done."""
        now, scheduler = self._events.state, self._scheduler
        if self.sweeping:
            return turn_refusals.SWEEPING
        if now.phase == "stopping":
            return turn_refusals.STOPPING
        if isinstance(turn, protocol.SetActiveRanks):
            asked, ranks = turn.active_ranks, self._config.ranks
            if why := turn_refusals.active_ranks_refused(scheduler.active_ranks, asked, ranks):
                return why
            same = min(ranks, max(1, asked)) == scheduler.active_ranks
        elif not self._begun:
            return None
        elif turn.batch_size is None:
            same = False
        else:
            most = _most_rows(now)
            if why := turn_refusals.batch_size_refused(
                scheduler, turn.batch_size, continuous=now.continuous, most_rows=most
            ):
                return why
            same = turn.batch_size == scheduler.batch_size  # a search that is ended changes no batch either
        return None if same else turn_refusals.no_prompt_left(scheduler, turn)

    def set_trouble(self, reason: str | None) -> None:
        """Pause for `reason`, which is outside the run (a full disk); None: the reason is gone."""
        before, self._trouble = self._trouble, reason
        if reason is not None and reason != before:
            self._interrupt()
            self._events.emit(protocol.Paused(reason=reason, asked=False))
        elif reason is None and before is not None:
            self._events.emit(
                protocol.Paused(reason="asked for", asked=True) if self._asked_to_pause else protocol.Resumed()
            )

    def _interrupt(self) -> None:
        if self._sweeper is not None and self._sweeper.active:
            self._sweeper.interrupt()

    def batch_finished(self, event: BatchFinished | AccountClosed) -> None:
        """Pass the figures on to the current trial, or to the search, once every active rank has been measured."""
        if self._sweeper is not None and self._sweeper.active:
            if isinstance(event, BatchFinished):
                self._sweeper.batch_finished(event)
            if not self._sweeper.active:
                self._swept()
            return
        if self._search is None or not self._searching or not self._events.state.periods:
            return
        period = self._events.state.periods[-1]
        rate = period.warm_rate
        if rate is None or any(share.seconds < LEAST_SECONDS for share in period.shares.values()):
            return
        self._use(self._search.learn(period.batch_size, rate, period.peak_memory_bytes, self._scheduler.pending))

    def trial_failed(self, failed: BatchFailed) -> None:
        """Note that a batch of the current trial failed."""
        if self._sweeper is not None and self._sweeper.active:
            self._sweeper.batch_failed(failed.kind, failed.error)
            if not self._sweeper.active:
                self._swept()

    def out_of_memory(self, rank: int, rows: int) -> None:
        """A batch of `rows` did not fit, and `rank` was capped: report it, and end the search.

        A size that was chosen without trying it, and that no rank has done a batch of, is lowered for all ranks: the
        others would run out of memory as well.
        """
        cap = self._scheduler.caps.get(rank)
        if cap is not None:
            self._events.emit(protocol.RankCapped(rank=rank, batch_size=cap))
        if self._search is None:
            return
        choice, size = self._search.wall(rows, max(1, rows // 2)), self._scheduler.batch_size
        tried = any(period.batches for period in self._events.state.periods if period.batch_size == size)
        if self._searching or (choice.batch_size < size and not tried):
            self._use(choice)

    @property
    def _searching(self) -> bool:
        return self._search is not None and self._events.state.auto

    def _activate(self, active_ranks: int, *, anew: bool = False) -> None:
        if active_ranks == self._scheduler.active_ranks and not anew:
            return
        self._scheduler.active_ranks = active_ranks
        self._events.emit(protocol.ActiveRanksChanged(active_ranks=active_ranks))
        if self._search is not None and self._searching:
            # Figures from another number of ranks do not compare with this one.
            self._search = Search(self._known(), limit=self._search.limit, limit_reason=self._search.limit_reason)

    def _start_search(self) -> None:
        self._search = Search(self._known())
        self._use(self._search.start())

    def _use(self, choice: Choice) -> None:
        self._scheduler.batch_size = choice.batch_size
        self._events.emit(
            protocol.BatchSizeChanged(batch_size=choice.batch_size, auto=not choice.settled, reason=choice.reason)
        )

    def _known(self) -> Known:
        ready = [rank.ready for rank in self._events.state.ranks if rank.ready is not None]
        frees = [free for rank in ready if (free := _free_bytes(rank, ready)) is not None]
        return Known(
            prompts=self._scheduler.pending,
            ranks=self._scheduler.active_ranks,
            tokens_per_row=self._config.new_tokens + self._scheduler.longest // batch_size_search.BYTES_PER_TOKEN,
            on_gpu=any(rank.device != "cpu" for rank in ready),
            memory_free_bytes=min(frees) if frees else None,
            kv_bytes_per_token=ready[0].kv_bytes_per_token if ready else None,
            most_rows=_most_rows(self._events.state),
        )


def _most_rows(state: RunState) -> int | None:
    """The most rows at once that all ranks were loaded for; None if there is no such bound."""
    known = [rank.ready.most_rows for rank in state.ranks if rank.ready is not None]
    return min((most for most in known if most is not None), default=None)


def _free_bytes(rank: RankReady, ready: list[RankReady]) -> int | None:
    """A rank's share of its device's free memory. Ranks share a device of one UUID; names may repeat."""
    if rank.memory_left_bytes is not None:
        return rank.memory_left_bytes
    if rank.memory_free_bytes is None:
        return None
    sharing = sum((other.device_uuid or other.device) == (rank.device_uuid or rank.device) for other in ready)
    return rank.memory_free_bytes // sharing
