"""Handing out: the scheduler's batches to idle ranks, more prompts to continuous ones, and how many rows and cores.

Knows the connected ranks of one launch and the orders they are sent. Does not hear what they answer (`ranks` does), nor
decide which prompts are next (the scheduler and the knobs do).
"""

import time
from dataclasses import dataclass, field

from rankdeck.runner import protocol
from rankdeck.runner.inputs.frozen_prompts import PromptIndex
from rankdeck.runner.protocol import Prompt, StepsInFlight
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import warm_up_tokens
from rankdeck.runner.scheduling.scheduler import Assignment, Scheduler
from rankdeck.runner.state.batches import memory_grows
from rankdeck.runner.supervisor.door.peers import RankPeer
from rankdeck.runner.supervisor.event_stream import EventStream
from rankdeck.runner.supervisor.knobs import KnobControls
from rankdeck.runner.supervisor.talk.patience import Pulse, Stage
from rankdeck.runner.supervisor.talk.rank_talk import RankTalk
from rankdeck.runner.supervisor.talk.rows_in_hand import RowsInHand


@dataclass
class ConnectedRank:
    """A rank of the present launch: its connection, what it was given and has said, what it is doing.

    `in_hand` are a continuous rank's rows, None while it has none; `row_limit` is the one it was last told.
    """

    number: int
    peer: RankPeer
    talk: RankTalk
    pulse: Pulse = field(default_factory=Pulse)
    idle: bool = False
    continuous: bool = False
    on_cpu: bool = False
    steps: StepsInFlight | None = None
    in_hand: RowsInHand | None = None
    row_limit: int | None = None


class HandingOut:
    """Gives the ranks of one launch their work. `ranks` has those that are connected, by number."""

    def __init__(
        self,
        config: RunConfig,
        prompts: PromptIndex,
        scheduler: Scheduler,
        *,
        controls: KnobControls,
        events: EventStream,
    ) -> None:
        self.ranks: dict[int, ConnectedRank] = {}
        self.stopping = False
        """Whether nothing more is to be handed out; the ranks leave after the batches in flight."""

        self.over = False
        """Whether the ranks were told to leave, or are gone."""

        self._config, self._prompts, self._scheduler = config, prompts, scheduler
        self._controls, self._events = controls, events
        self._sharing = config.ranks

    @property
    def idle(self) -> list[ConnectedRank]:
        return [rank for _, rank in sorted(self.ranks.items()) if rank.idle]

    @property
    def rows_in_hand(self) -> dict[int, int]:
        """How many rows each continuous rank at work has in hand."""
        return {number: rank.in_hand.rows for number, rank in self.ranks.items() if rank.in_hand is not None}

    def stage(self, rank: ConnectedRank) -> Stage:
        """What may be expected of a rank that says nothing."""
        if not rank.talk.ready:
            return "waiting" if rank.talk.waits else "loading"
        held = rank.in_hand is not None and rank.row_limit == 0
        return "waiting" if rank.idle or held else "at work"

    def to_all(self) -> None:
        """Give every idle rank a batch, if there is one for it, and continuous ones what they have room for."""
        self._send_row_limits()
        for rank in self.idle:
            hold = self.stopping or self._controls.paused
            assignment = None if hold else self._next(rank)
            if assignment is not None:
                rank.idle = False
                self._give(rank, assignment)
        for number in sorted(self.rows_in_hand):
            self.top_up(self.ranks[number])
        # Again: handing out may have ended a sweep, which changes the batch size.
        self._send_row_limits()
        self._share_cores()

    def top_up(self, rank: ConnectedRank) -> None:
        """Give a rank with rows in flight as many more prompts as it has room for."""
        self._send_row_limits()
        if self.stopping or self.over or self._controls.paused or rank.in_hand is None:
            return
        assignment = self._controls.next_rows(rank.number, self.rows_in_hand)
        if assignment is not None:
            stream = rank.in_hand.batch
            rank.in_hand.add(assignment.batch, len(assignment.indices))
            prompts = self._noted(rank, assignment, stream)
            rank.peer.send(protocol.Work(batch=assignment.batch, prompts=prompts, stream=stream))
            self._events.emit(protocol.RowsAdded(rank=rank.number, batch=stream, rows=len(prompts)))

    def _next(self, rank: ConnectedRank) -> Assignment | None:
        if rank.continuous and not self._controls.sweeping:
            return self._controls.next_rows(rank.number, self.rows_in_hand)
        return self._controls.next_batch(rank.number)

    def _give(self, rank: ConnectedRank, assignment: Assignment) -> None:
        closed = assignment.measured or assignment.warm_up or not assignment.kept
        stream = assignment.batch if rank.continuous and not closed else None
        prompts = self._noted(rank, assignment, stream)
        if stream is not None:
            rank.in_hand = RowsInHand(stream, len(prompts))
        rank.peer.send(
            protocol.Work(
                batch=assignment.batch,
                prompts=prompts,
                measure=assignment.measured,
                keep=assignment.kept,
                max_new_tokens=self._warm_up_tokens(rank, len(prompts)) if assignment.warm_up else None,
                stream=stream,
            )
        )
        self._events.emit(
            protocol.BatchStarted(
                rank=rank.number,
                batch=assignment.batch,
                rows=len(prompts),
                warm_up=assignment.warm_up,
                kept=assignment.kept,
            )
        )

    def _noted(self, rank: ConnectedRank, assignment: Assignment, stream: int | None) -> list[Prompt]:
        """The prompts of a batch that `rank` gets now, as its talk and its pulse are told."""
        prompts = self._prompts.read(assignment.indices)
        rank.talk.given(assignment, prompts, time.monotonic(), stream)
        rank.pulse.given(len(prompts) * max(self._prompts.lengths[index] for index in assignment.indices))
        return prompts

    def _warm_up_tokens(self, rank: ConnectedRank, rows: int) -> int | None:
        """Output tokens of each row of a warm-up; None for all, where memory has to grow to what the trial takes."""
        grows = memory_grows(self._events.state.ranks[rank.number], rows)
        return None if grows else warm_up_tokens(self._config.new_tokens)

    def _send_row_limits(self) -> None:
        """Tell each continuous rank how many rows it may have in flight, if that has changed."""
        for rank in self.ranks.values():
            hold = self._controls.paused and not self.stopping
            rows = 0 if hold else self._scheduler.most_rows(rank.number)
            if rank.continuous and rank.row_limit != rows:
                if 0 in (rank.row_limit, rows):
                    rank.pulse.begin()  # what it says or not while it is held says nothing of its pace
                rank.row_limit = rows
                rank.peer.send(protocol.Limit(rows=rows))

    def _share_cores(self) -> None:
        """Tell the ranks how many of them are at work, including those that finish their last batch.

        On a CPU, a rank left alone takes all cores and is as fast as a run of one rank; more threads than cores
        would slow all ranks down many times over.
        """
        at_work = {held.rank for held in self._scheduler.in_flight.values()}
        sharing = len(at_work | set(range(self._scheduler.active_ranks)))
        if sharing != self._sharing:
            self._sharing = sharing
            for rank in self.ranks.values():
                rank.peer.send(protocol.ShareCores(ranks=sharing))
