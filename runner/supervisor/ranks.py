"""The connected ranks: what each is doing, what it is given next, what it reports.

Knows the conversation with a rank and hands out the scheduler's batches, or, to a continuous rank, more prompts as
its rows fall free. Starts and ends no process, writes no file, and leaves to `Failures` what follows a failed batch.
"""

import asyncio

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.inputs.frozen_prompts import PromptIndex
from rankdeck.runner.protocol import BatchFailed, FromRank, OutputRecord, StepsInFlight
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import warm_up_tokens
from rankdeck.runner.scheduling.scheduler import Assignment, Scheduler
from rankdeck.runner.state.batches import memory_grows
from rankdeck.runner.supervisor.event_stream import EventStream
from rankdeck.runner.supervisor.failures import Failures
from rankdeck.runner.supervisor.gather import Gather
from rankdeck.runner.supervisor.knobs import KnobControls
from rankdeck.runner.supervisor.outputs import Outputs
from rankdeck.runner.supervisor.rows_in_hand import RowsInHand, without_row
from rankdeck.runner.supervisor.server import NoMessageError, RankPeer


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
        self.errors: dict[int, str] = {}
        """What ranks said as they gave up, by rank."""

        self.gather = Gather()
        self._config, self._prompts, self._scheduler = config, prompts, scheduler
        self._controls, self._outputs, self._failures, self._events = controls, outputs, failures, events
        self._sharing = config.ranks
        self._closed = False
        self._peers: dict[int, RankPeer] = {}
        self._idle: set[int] = set()
        self._steps: dict[int, StepsInFlight] = {}
        self._continuous: set[int] = set()
        self._in_hand: dict[int, RowsInHand] = {}
        self._row_limits: dict[int, int] = {}
        self._arrived: dict[protocol.MeetingPoint, set[int]] = {}

    @property
    def connected(self) -> set[int]:
        """The ranks that have greeted and not hung up."""
        return set(self._peers)

    @property
    def leaving(self) -> bool:
        """Whether the ranks were told to leave."""
        return self.told_to_leave.is_set()

    @property
    def steps(self) -> list[StepsInFlight]:
        """How far each rank is in its batch."""
        return list(self._steps.values())

    async def serve(self, peer: RankPeer) -> bool:
        """Listen to a rank until it hangs up. Returns whether it hung up before it was told to leave."""
        rank = peer.hello.rank
        if (
            self._closed
            or peer.hello.attempt != self.attempt
            or not 0 <= rank < self._config.ranks
            or rank in self._peers
        ):
            self._events.log("supervisor", f"refused rank {rank} of attempt {peer.hello.attempt}")
            return False
        self._peers[rank] = peer
        self.pids[rank] = peer.hello.pid
        try:
            async for message in peer.messages():
                self._hear(rank, message)
        except NoMessageError as error:
            self._events.log(
                "supervisor", f"rank {rank} sent something that is not a message, and counts as lost: {error}"
            )
        finally:
            del self._peers[rank]
            self._idle.discard(rank)
            self._steps.pop(rank, None)
            self._in_hand.pop(rank, None)
        return not self.leaving

    def close(self) -> None:
        """Hang up: this launch is over. Of what its ranks still send, only finished outputs count."""
        self._closed = True
        for peer in self._peers.values():
            peer.close()

    def _hear(self, rank: int, message: FromRank) -> None:
        if self._closed and not isinstance(message, protocol.Output):
            return
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
                    self.ready = True
                    self._events.emit(protocol.RanksReady())
                    self._controls.begin()
                    self.hand_out()
            case protocol.Share():
                self._scheduler.use_share(rank, message.start, message.stop)
            case protocol.Arrived():
                self._meet(rank, message.at)
            case protocol.RankFailed():
                self.errors[rank] = message.error
                self._events.log(f"rank {rank}", message.traceback)
            case protocol.Gathered():
                self.gather.add(message)
            case _:
                self._events.log("supervisor", f"rank {rank} said {type(message).__name__} out of turn")

    def _meet(self, rank: int, point: protocol.MeetingPoint) -> None:
        """Let all ranks go on from where they wait for each other, once the last of them has come there."""
        arrived = self._arrived.setdefault(point, set())
        arrived.add(rank)
        if len(arrived) == self._config.ranks:
            del self._arrived[point]
            for peer in self._peers.values():
                peer.send(protocol.GoOn(at=point))

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
            prompts = self._prompts.read(assignment.indices)
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
            for peer in self._peers.values():
                peer.send(protocol.Leave(gather=self._config.dispatch == "split" and not self.stopping))

    def _next(self, rank: int) -> Assignment | None:
        if rank in self._continuous and not self._controls.sweeping:
            return self._controls.next_rows(rank, self._rows_in_hand())
        return self._controls.next_batch(rank)

    def _give(self, rank: int, assignment: Assignment) -> None:
        prompts = self._prompts.read(assignment.indices)
        closed = assignment.measured or assignment.warm_up or not assignment.kept
        if rank in self._continuous and not closed:
            self._in_hand[rank] = RowsInHand(assignment.batch, len(prompts))
        self._peers[rank].send(
            protocol.Work(
                batch=assignment.batch,
                prompts=prompts,
                measure=assignment.measured,
                keep=assignment.kept,
                max_new_tokens=self._warm_up_tokens(rank, len(prompts)) if assignment.warm_up else None,
                stream=assignment.batch if rank in self._in_hand else None,
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
