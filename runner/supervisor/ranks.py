"""The connected ranks: who is let in, what each reports, and what follows from it.

Knows the conversation with a rank; what it is given next is handed out by `HandingOut`. What a rank says counts as far
as its `RankTalk` believes it. Starts and ends no process, writes no file, and leaves to `Failures` what a failed batch
leads to.
"""

import asyncio
import time

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.inputs.frozen_prompts import PromptIndex
from rankdeck.runner.protocol import BatchFailed, FromRank, OutputRecord, RankHello, StepsInFlight
from rankdeck.runner.protocol.config import CONTINUOUS_ENGINES, RunConfig
from rankdeck.runner.scheduling.scheduler import Scheduler
from rankdeck.runner.supervisor.door.peers import NoMessageError, RankPeer
from rankdeck.runner.supervisor.event_stream import EventStream
from rankdeck.runner.supervisor.failures import Failures
from rankdeck.runner.supervisor.handing_out import ConnectedRank, HandingOut
from rankdeck.runner.supervisor.knobs import KnobControls
from rankdeck.runner.supervisor.outputs import Outputs
from rankdeck.runner.supervisor.talk.claims import NonsenseError, check_shares
from rankdeck.runner.supervisor.talk.gather import Gather
from rankdeck.runner.supervisor.talk.rank_talk import RankTalk
from rankdeck.runner.supervisor.talk.rows_in_hand import without_row


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
        self.told_to_leave = asyncio.Event()
        self.pids: dict[int, int] = {}
        """By rank, where the kernel tells them."""

        self.errors: dict[int, str] = {}
        """What ranks said as they gave up, by rank."""

        self.given_up: dict[int, str] = {}
        """Why ranks are not listened to any more, by rank: they hang, or have said what cannot be."""

        self.gather = Gather()
        self.work = HandingOut(config, prompts, scheduler, controls=controls, events=events)
        self._config, self._prompts, self._scheduler = config, prompts, scheduler
        self._controls, self._outputs, self._failures, self._events = controls, outputs, failures, events
        self._closed = False
        self._greeted: set[int] = set()
        self._arrived: dict[protocol.MeetingPoint, set[int]] = {}

    @property
    def connected(self) -> set[int]:
        """The ranks that have greeted and not hung up."""
        return set(self.work.ranks)

    @property
    def leaving(self) -> bool:
        """Whether the ranks were told to leave."""
        return self.told_to_leave.is_set()

    @property
    def stopping(self) -> bool:
        """Whether nothing more is to be handed out."""
        return self.work.stopping

    @property
    def steps(self) -> list[StepsInFlight]:
        """How far each rank is in its batch."""
        return [rank.steps for rank in self.work.ranks.values() if rank.steps is not None]

    @property
    def to_come(self) -> list[int]:
        """The ranks that have not greeted yet."""
        return sorted(set(range(self._config.ranks)) - self._greeted)

    def why_refused(self, hello: RankHello) -> str | None:
        """Why a rank that greets is not let in; None if it is."""
        if self._closed or hello.attempt != self.attempt:
            return f"launch {hello.attempt} of the ranks is not under way"
        if hello.world_size != self._config.ranks or not 0 <= hello.rank < self._config.ranks:
            return f"it is rank {hello.rank} of {hello.world_size}, and this run has {self._config.ranks} ranks"
        if hello.rank in self._greeted:
            return f"rank {hello.rank} of this launch has greeted already"
        return None

    def let_in(self, peer: RankPeer) -> ConnectedRank:
        """Take a rank in that is not refused."""
        number = peer.hello.rank
        talk = RankTalk(number, self._config, self._prompts.count, self._scheduler.is_settled)
        rank = self.work.ranks[number] = ConnectedRank(number, peer, talk)
        self._greeted.add(number)
        if peer.pid is not None:
            self.pids[number] = peer.pid
        return rank

    async def serve(self, peer: RankPeer) -> bool:
        """Let a rank in and listen until it hangs up. Returns whether it did before it was told to leave."""
        rank = self.let_in(peer)
        number = rank.number
        try:
            async for message in peer.messages():
                self.listen(rank, message)
        except (NoMessageError, NonsenseError) as error:
            self.given_up[number] = f"it sent an impossible message: {error}"
            self._events.log("supervisor", f"rank {number} counts as lost: {self.given_up[number]}")
        finally:
            del self.work.ranks[number]
        return not self.leaving

    def give_up(self, number: int, why: str) -> None:
        """Listen to a rank no longer."""
        self.given_up[number] = why
        if (rank := self.work.ranks.get(number)) is not None:
            rank.peer.abort()

    def close(self) -> None:
        """Hang up: this launch is over. Of what its ranks still send, only finished outputs count."""
        self._closed = self.work.over = True
        for rank in self.work.ranks.values():
            rank.peer.close()

    def listen(self, rank: ConnectedRank, message: FromRank) -> None:
        """Take a message of a rank, as far as it is believed.

        Raises:
            NonsenseError: it cannot be true; nothing has come of it.
        """
        if rank.number in self.given_up or (self._closed and not isinstance(message, protocol.Output)):
            return
        stage = self.work.stage(rank)
        believed = rank.talk.believed(message, time.monotonic())
        rank.pulse.heard(stage)  # first: what it is handed now begins a silence of its own
        if believed is not None:
            self._hear(rank, believed)

    def _hear(self, rank: ConnectedRank, message: FromRank) -> None:
        match message:
            case protocol.Steps():
                steps = message.steps
                rank.steps = msgspec.structs.replace(steps, batch=rank.in_hand.batch) if rank.in_hand else steps
            case protocol.Output():
                if self._config.dispatch == "split" and not self._outputs.is_done(message.record.index):
                    self.gather.sent(message.record)
                self._outputs.keep(message.record)
                self._row_ended(rank, message.record)
                if rank.steps is not None:
                    rank.steps = without_row(rank.steps, message.record)
            case protocol.RankAccount():
                self._account(rank, message)
            case protocol.BatchFinished():
                self._scheduler.finish(message.batch)
                self._events.emit(message)
                self._controls.batch_finished(message)
                rank.pulse.pace_known = True
                self._free(rank)
            case protocol.BatchFailed():
                self._batch_failed(rank, message)
            case protocol.LogLine():
                self._events.log(f"rank {rank.number}", message.text)
            case protocol.RankPhase():
                self._events.emit(message)
            case protocol.RankReady():
                self._events.emit(message)
                rank.idle, rank.continuous = True, message.engine in CONTINUOUS_ENGINES
                rank.on_cpu = message.device == "cpu"
                if len(self.work.idle) == self._config.ranks:
                    self._all_ready()
            case protocol.Share():
                self._check_shares()
            case protocol.Arrived():
                self._meet(rank.number, message.at)
            case protocol.RankFailed():
                self.errors[rank.number] = message.error
                self._events.log(f"rank {rank.number}", message.traceback)
            case protocol.Gathered():
                self.gather.add(message)

    def _meet(self, number: int, point: protocol.MeetingPoint) -> None:
        """Let all ranks go on from where they wait for each other, once the last of them has come there."""
        arrived = self._arrived.setdefault(point, set())
        arrived.add(number)
        if len(arrived) == self._config.ranks:
            del self._arrived[point]
            for rank in self.work.ranks.values():
                rank.talk.waits = False
                rank.peer.send(protocol.GoOn(at=point))

    def _check_shares(self) -> None:
        """Require the shares announced so far to fit together, and to be those of the launch before."""
        shares = {number: share for number, rank in self.work.ranks.items() if (share := rank.talk.share) is not None}
        check_shares(list(shares.values()), self._prompts.count, all_ranks=len(shares) == self._config.ranks)
        for number, share in shares.items():
            if self._scheduler.shares.get(number, share) != share:
                raise NonsenseError(f"the share of rank {number} was another in the launch before")

    def _all_ready(self) -> None:
        # Shares count only now that they are known to be whole: one that was used could not be taken back.
        for number, rank in self.work.ranks.items():
            if rank.talk.share is not None:
                self._scheduler.use_share(number, *rank.talk.share)
        self.ready = True
        self._events.emit(protocol.RanksReady())
        self._controls.begin()
        self.hand_out()

    def _free(self, rank: ConnectedRank) -> None:
        rank.steps, rank.idle = None, True
        self.hand_out()

    def _row_ended(self, rank: ConnectedRank, record: OutputRecord) -> None:
        if rank.in_hand is None or record.batch not in rank.in_hand.left:
            return
        if rank.in_hand.row_ended(record.batch):
            self._scheduler.finish(record.batch)
        self.work.top_up(rank)

    def _account(self, rank: ConnectedRank, account: protocol.RankAccount) -> None:
        in_hand = rank.in_hand
        if in_hand is None:
            return
        finished: protocol.BatchFinished | protocol.AccountClosed
        if in_hand.rows:
            finished = protocol.AccountClosed(rank=rank.number, batch=in_hand.batch, result=account.result)
        else:
            # Nothing was sent since it ran dry: that would count as in hand.
            finished = protocol.BatchFinished(rank=rank.number, batch=in_hand.batch, result=account.result)
            rank.in_hand = None
        self._events.emit(finished)
        self._controls.batch_finished(finished)
        rank.pulse.pace_known = True
        if rank.in_hand is not None:
            self.work.top_up(rank)
        else:
            self._free(rank)

    def _batch_failed(self, rank: ConnectedRank, failed: BatchFailed) -> None:
        in_hand, rank.in_hand = rank.in_hand, None
        if in_hand is None:
            self._failures.batch_failed(failed)
        else:
            self._failures.rows_failed(in_hand, failed)
        if not failed.leaving:
            self._free(rank)

    def stop(self) -> None:
        """Hand out nothing more; the ranks leave after the batches in flight."""
        self.work.stopping = True
        self.hand_out()

    def hand_out(self) -> None:
        """Give the ranks what there is for them; tell all of them to leave when no work is left."""
        if self.leaving or self._closed or not self.ready:
            return
        self.work.to_all()
        at_work = self._scheduler.in_flight or self.work.rows_in_hand
        if not at_work and (self.stopping or not self._controls.work_left):
            self._tell_to_leave(gather=self._config.dispatch == "split" and not self.stopping)

    def abandon(self) -> None:
        """Have every rank drop its batch within a decode step and leave."""
        self.work.stopping = True
        for assignment in self._scheduler.in_flight.values():
            if rank := self.work.ranks.get(assignment.rank):
                rank.peer.send(protocol.Cancel(batch=assignment.batch))
        self._tell_to_leave(gather=False)

    def _tell_to_leave(self, *, gather: bool) -> None:
        self.told_to_leave.set()
        self.work.over = True
        for rank in self.work.ranks.values():
            rank.talk.gathers = gather
            rank.peer.send(protocol.Leave(gather=gather))
