"""The connected ranks: what each is doing, what it is given next, what it reports.

Knows the conversation with a rank and hands out the scheduler's batches, or, to a continuous rank, more prompts as
its rows fall free. What a rank says counts as far as its `RankTalk` believes it. Starts and ends no process, writes no
file, and leaves to `Failures` what follows a failed batch.
"""

import asyncio
import time

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.inputs.frozen_prompts import PromptIndex
from rankdeck.runner.protocol import BatchFailed, FromRank, OutputRecord, RankHello, StepsInFlight
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import warm_up_tokens
from rankdeck.runner.scheduling.scheduler import Assignment, Scheduler
from rankdeck.runner.state.batches import memory_grows
from rankdeck.runner.supervisor.door.peers import NoMessageError, RankPeer
from rankdeck.runner.supervisor.event_stream import EventStream
from rankdeck.runner.supervisor.failures import Failures
from rankdeck.runner.supervisor.knobs import KnobControls
from rankdeck.runner.supervisor.outputs import Outputs
from rankdeck.runner.supervisor.talk.claims import NonsenseError, check_shares
from rankdeck.runner.supervisor.talk.gather import Gather
from rankdeck.runner.supervisor.talk.patience import Pulse, Stage
from rankdeck.runner.supervisor.talk.rank_talk import RankTalk
from rankdeck.runner.supervisor.talk.rows_in_hand import RowsInHand, without_row


class RankPool:
    """The ranks of one launch, the `attempt`-th of the run, from their greeting until they hang up."""

    def __init__(
        self,
        attempt: int,
        config: RunConfig,
        prompts: PromptIndex,
        scheduler: Scheduler,
        *,
        controls: KnobControls,
        outputs: Outputs,
        failures: Failures,
        events: EventStream,
    ) -> None:
        self.attempt = attempt
        self.ready = False
        self.stopping = False
        self.told_to_leave = asyncio.Event()
        self.pids: dict[int, int] = {}
        """Where the kernel tells them."""

        self.errors: dict[int, str] = {}
        """What ranks said as they gave up, by rank."""

        self.given_up: dict[int, str] = {}
        """Why ranks are not listened to any more, by rank: they hang, or have said what cannot be."""

        self.pulses: dict[int, Pulse] = {}
        self.gather = Gather()
        self._config, self._prompts, self._scheduler = config, prompts, scheduler
        self._controls, self._outputs, self._failures, self._events = controls, outputs, failures, events
        self._sharing = config.ranks
        self._closed = False
        self._peers: dict[int, RankPeer] = {}
        self._talks: dict[int, RankTalk] = {}
        self._idle: set[int] = set()
        self._steps: dict[int, StepsInFlight] = {}
        self._continuous: set[int] = set()
        self._in_hand: dict[int, RowsInHand] = {}
        self._row_limits: dict[int, int] = {}

    @property
    def leaving(self) -> bool:
        """Whether the ranks were told to leave."""
        return self.told_to_leave.is_set()

    @property
    def steps(self) -> list[StepsInFlight]:
        """How far each rank is in its batch."""
        return list(self._steps.values())

    def why_refused(self, hello: RankHello) -> str | None:
        """Why a rank that greets is not let in; None if it is."""
        if self._closed or hello.attempt != self.attempt:
            return f"launch {hello.attempt} of the ranks is not under way"
        if hello.world_size != self._config.ranks or not 0 <= hello.rank < self._config.ranks:
            return f"this run has {self._config.ranks} ranks, and rank {hello.rank} of {hello.world_size} is none of them"
        if hello.rank in self._talks:
            return f"rank {hello.rank} of this launch has greeted already"
        return None

    async def serve(self, peer: RankPeer) -> bool:
        """Listen to a rank that was let in until it hangs up. Returns whether it did before it was told to leave."""
        rank = peer.hello.rank
        talk = RankTalk(rank, self._config, self._prompts.count, self._scheduler.is_settled)
        self._peers[rank], self._talks[rank], self.pulses[rank] = peer, talk, Pulse()
        if peer.pid is not None:
            self.pids[rank] = peer.pid
        try:
            async for message in peer.messages():
                self._listen(rank, message)
        except (NoMessageError, NonsenseError) as error:
            self.given_up[rank] = f"it said what cannot be: {error}"
            self._events.log("supervisor", f"rank {rank} counts as lost: {self.given_up[rank]}")
        finally:
            del self._peers[rank], self.pulses[rank]
            self._idle.discard(rank)
            self._steps.pop(rank, None)
            self._in_hand.pop(rank, None)
        return not self.leaving

    def give_up(self, rank: int, why: str) -> None:
        """Hang up on a rank, which then counts as lost."""
        self.given_up[rank] = why
        self._peers[rank].abort()

    def stage(self, rank: int) -> Stage:
        """What may be expected of a rank that says nothing."""
        if not self._talks[rank].ready:
            return "loading"
        held = rank in self._idle or (rank in self._in_hand and self._controls.paused)
        return "waiting" if held else "at work"

    def close(self) -> None:
        """Hang up: this launch is over. Of what its ranks still send, only finished outputs count."""
        self._closed = True
        for peer in self._peers.values():
            peer.close()

    def _listen(self, rank: int, message: FromRank) -> None:
        if rank in self.given_up or (self._closed and not isinstance(message, protocol.Output)):
            return
        talk, stage = self._talks[rank], self.stage(rank)
        believed = talk.believed(message, time.monotonic())
        self.pulses[rank].heard(stage)
        if believed is not None:
            self._hear(rank, believed)

    def _hear(self, rank: int, message: FromRank) -> None:
        match message:
            case protocol.Steps():
                in_hand = self._in_hand.get(rank)
                steps = message.steps
                self._steps[rank] = msgspec.structs.replace(steps, batch=in_hand.batch) if in_hand else steps
            case protocol.Output():
                if self._config.dispatch == "split" and not self._outputs.is_done(message.record.index):
                    self.gather.sent(message.record)
                self._outputs.keep(message.record)
                self._row_ended(rank, message.record)
                if rank in self._steps:
                    self._steps[rank] = without_row(self._steps[rank], message.record)
            case protocol.RankAccount():
                self._account(rank, message)
            case protocol.BatchFinished():
                self.pulses[rank].ended_a_batch = True
                self._scheduler.finish(message.batch)
                self._events.emit(message)
                self._controls.batch_finished(message)
                self._free(rank)
            case protocol.BatchFailed():
                self._batch_failed(rank, message)
            case protocol.LogLine():
                self._events.log(f"rank {rank}", message.text)
            case protocol.RankPhase():
                self._events.emit(message)
            case protocol.RankReady():
                self._events.emit(message)
                self._idle.add(rank)
                if message.engine == "continuous":
                    self._continuous.add(rank)
                if len(self._idle) == self._config.ranks:
                    self._all_ready()
            case protocol.Share():
                self._check_shares()
            case protocol.RankFailed():
                self.errors[rank] = message.error
                self._events.log(f"rank {rank}", message.traceback)
            case protocol.Gathered():
                self.gather.add(message)

    def _check_shares(self) -> None:
        """Require the shares announced so far to fit together, and to be those of the launch before."""
        shares = {rank: talk.share for rank, talk in self._talks.items() if talk.share is not None}
        check_shares(list(shares.values()), self._prompts.count, all_ranks=len(shares) == self._config.ranks)
        for rank, share in shares.items():
            if self._scheduler.shares.get(rank, share) != share:
                raise NonsenseError(f"the share of rank {rank} was another in the launch before")

    def _all_ready(self) -> None:
        # Only now, when they are known to be whole: a share that was believed could not be taken back.
        for rank, talk in self._talks.items():
            if talk.share is not None:
                self._scheduler.use_share(rank, *talk.share)
        self.ready = True
        self._events.emit(protocol.RanksReady())
        self._controls.begin()
        self.hand_out()

    def _free(self, rank: int) -> None:
        self._steps.pop(rank, None)
        self._idle.add(rank)
        self.hand_out()

    def _row_ended(self, rank: int, record: OutputRecord) -> None:
        in_hand = self._in_hand.get(rank)
        if in_hand is None or record.batch not in in_hand.left:
            return
        if in_hand.row_ended(record.batch):
            self._scheduler.finish(record.batch)
        self._top_up(rank)

    def _account(self, rank: int, account: protocol.RankAccount) -> None:
        in_hand = self._in_hand.get(rank)
        if in_hand is None:
            return
        finished: protocol.BatchFinished | protocol.AccountClosed
        if in_hand.rows:
            finished = protocol.AccountClosed(rank=rank, batch=in_hand.batch, result=account.result)
        else:
            # Nothing was sent since it ran dry: that would count as in hand.
            finished = protocol.BatchFinished(rank=rank, batch=in_hand.batch, result=account.result)
            del self._in_hand[rank]
        self._events.emit(finished)
        self._controls.batch_finished(finished)
        self.pulses[rank].ended_a_batch = True
        if rank in self._in_hand:
            self._top_up(rank)
        else:
            self._free(rank)

    def _top_up(self, rank: int) -> None:
        """Give a rank with rows in flight as many more prompts as it has room for."""
        self._send_row_limits()
        if self.stopping or self._controls.paused or self.leaving or self._closed:
            return
        in_hand = self._in_hand[rank]
        assignment = self._controls.next_rows(rank, self._rows_in_hand())
        if assignment is not None:
            in_hand.add(assignment.batch, len(assignment.indices))
            prompts = self._note(rank, assignment, stream=in_hand.batch)
            self._peers[rank].send(protocol.Work(batch=assignment.batch, prompts=prompts, stream=in_hand.batch))
            self._events.emit(protocol.RowsAdded(rank=rank, batch=in_hand.batch, rows=len(prompts)))

    def _rows_in_hand(self) -> dict[int, int]:
        return {rank: in_hand.rows for rank, in_hand in self._in_hand.items()}

    def _send_row_limits(self) -> None:
        """Tell each continuous rank how many rows it may have in flight, if that has changed."""
        for rank in self._continuous & self._peers.keys():
            rows = 0 if self._controls.paused and not self.stopping else self._scheduler.most_rows(rank)
            if self._row_limits.get(rank) != rows:
                self._row_limits[rank] = rows
                self._peers[rank].send(protocol.Limit(rows=rows))

    def _batch_failed(self, rank: int, failed: BatchFailed) -> None:
        in_hand = self._in_hand.get(rank)
        if in_hand is None:
            self._failures.batch_failed(failed)
        elif in_hand.batch == failed.batch:
            del self._in_hand[rank]
            self._failures.rows_failed(in_hand, failed)
        else:
            return  # of rows whose failure is known already
        self._free(rank)

    def stop(self) -> None:
        """Hand out nothing more; the ranks leave after the batches in flight."""
        self.stopping = True
        self.hand_out()

    def hand_out(self) -> None:
        """Give every idle rank a batch, if there is one for it; tell all ranks to leave when no work is left."""
        if self.leaving or self._closed or not self.ready:
            return
        self._send_row_limits()
        for rank in sorted(self._idle):
            hold = self.stopping or self._controls.paused
            assignment = None if hold else self._next(rank)
            if assignment is not None:
                self._idle.discard(rank)
                self._give(rank, assignment)
        for rank in sorted(self._in_hand):
            self._top_up(rank)
        # Again: handing out may have ended a sweep, which changes the batch size.
        self._send_row_limits()
        self._share_cores()
        if not self._scheduler.in_flight and not self._in_hand and (self.stopping or not self._controls.work_left):
            self.told_to_leave.set()
            gather = self._config.dispatch == "split" and not self.stopping
            for rank, peer in self._peers.items():
                self._talks[rank].gathers = gather
                peer.send(protocol.Leave(gather=gather))

    def _next(self, rank: int) -> Assignment | None:
        if rank in self._continuous and not self._controls.sweeping:
            return self._controls.next_rows(rank, self._rows_in_hand())
        return self._controls.next_batch(rank)

    def _note(self, rank: int, assignment: Assignment, stream: int | None) -> list[protocol.Prompt]:
        """The prompts of a batch that `rank` gets now; its talk and its pulse know of it."""
        prompts = self._prompts.read(assignment.indices)
        self._talks[rank].given(assignment, prompts, time.monotonic(), stream)
        longest = max(self._prompts.lengths[index] for index in assignment.indices)
        self.pulses[rank].given(len(prompts) * longest)
        return prompts

    def _give(self, rank: int, assignment: Assignment) -> None:
        closed = assignment.measured or assignment.warm_up or not assignment.kept
        stream = assignment.batch if rank in self._continuous and not closed else None
        prompts = self._note(rank, assignment, stream)
        if stream is not None:
            self._in_hand[rank] = RowsInHand(assignment.batch, len(prompts))
        self._peers[rank].send(
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
                rank=rank,
                batch=assignment.batch,
                rows=len(prompts),
                warm_up=assignment.warm_up,
                kept=assignment.kept,
            )
        )

    def _warm_up_tokens(self, rank: int, rows: int) -> int | None:
        """Output tokens of each row of a warm-up; None for all, where memory has to grow to what the trial takes."""
        grows = memory_grows(self._events.state.ranks[rank], rows)
        return None if grows else warm_up_tokens(self._config.new_tokens)

    def _share_cores(self) -> None:
        """Tell the ranks how many of them are at work, including those that finish their last batch.

        On a CPU, a rank left alone takes all cores and is as fast as a run of one rank; more threads than cores
        would slow all ranks down many times over.
        """
        at_work = {held.rank for held in self._scheduler.in_flight.values()}
        sharing = len(at_work | set(range(self._scheduler.active_ranks)))
        if sharing != self._sharing:
            self._sharing = sharing
            for peer in self._peers.values():
                peer.send(protocol.ShareCores(ranks=sharing))

    def abandon(self) -> None:
        """Have every rank drop its batch within a decode step and leave."""
        self.stopping = True
        self.told_to_leave.set()
        for assignment in self._scheduler.in_flight.values():
            if peer := self._peers.get(assignment.rank):
                peer.send(protocol.Cancel(batch=assignment.batch))
        for peer in self._peers.values():
            peer.send(protocol.Leave())
