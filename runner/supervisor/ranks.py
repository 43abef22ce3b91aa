"""The ranks on the line: what each is doing, what it is given next, what it brings.

Knows the conversation with a rank and hands out the scheduler's batches, or, to a continuous rank, more prompts as
its rows fall free. Does not start or end processes and writes no file: finished records go to `keep`, everything that
happened to `emit`.
"""

import asyncio
from collections.abc import Callable

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.inputs.frozen_prompts import PromptIndex
from rankdeck.runner.protocol import AnyEvent, FromRank, OutputRecord, StepsInFlight
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import warm_up_tokens
from rankdeck.runner.scheduling.scheduler import Assignment, Scheduler
from rankdeck.runner.supervisor.knobs import KnobControls
from rankdeck.runner.supervisor.server import NoMessageError, RankPeer


class _Stream:
    """What a continuous rank has in hand, from its first prompts until it has run dry: a batch, to every view."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.left: dict[int, int] = {}
        """Prompts without a record, by the number of the order they came with."""

    @property
    def rows(self) -> int:
        return sum(self.left.values())


class RankPool:
    """The ranks of one launch (`attempt`), from their greeting to their leave."""

    def __init__(
        self,
        attempt: int,
        config: RunConfig,
        prompts: PromptIndex,
        scheduler: Scheduler,
        *,
        controls: KnobControls,
        emit: Callable[[AnyEvent], None],
        log: Callable[[str, str], None],
        keep: Callable[[OutputRecord], None],
        keep_error: Callable[[OutputRecord], None],
    ) -> None:
        self.attempt = attempt
        self._controls = controls
        self.ready = False
        self.told_to_leave = asyncio.Event()
        self.stopping = False
        self.pids: dict[int, int] = {}
        self.failures: dict[int, str] = {}
        self.gathered: list[tuple[int, str]] = []
        self.gather_ended = False
        self._sharing = config.ranks
        self._closed = False
        self._config, self._prompts, self._scheduler = config, prompts, scheduler
        self._emit, self._log, self._keep = emit, log, keep
        self._keep_error = keep_error
        self._peers: dict[int, RankPeer] = {}
        self._idle: set[int] = set()
        self._steps: dict[int, StepsInFlight] = {}
        self._continuous: set[int] = set()
        self._streams: dict[int, _Stream] = {}
        self._limits: dict[int, int] = {}

    @property
    def leaving(self) -> bool:
        """Whether the ranks were told to leave."""
        return self.told_to_leave.is_set()

    @property
    def steps(self) -> list[StepsInFlight]:
        """How far every rank is inside its batch."""
        return list(self._steps.values())

    async def serve(self, peer: RankPeer) -> bool:
        """Listen to a rank until it hangs up. Returns whether it did so before it was told to leave."""
        rank = peer.hello.rank
        if (
            self._closed
            or peer.hello.attempt != self.attempt
            or not 0 <= rank < self._config.ranks
            or rank in self._peers
        ):
            self._log("supervisor", f"refused rank {rank} of attempt {peer.hello.attempt}")
            return False
        self._peers[rank] = peer
        self.pids[rank] = peer.hello.pid
        try:
            async for message in peer.messages():
                self._hear(rank, message)
        except NoMessageError as error:
            self._log("supervisor", f"rank {rank} said something that is no message, and is taken for lost: {error}")
        finally:
            del self._peers[rank]
            self._idle.discard(rank)
            self._steps.pop(rank, None)
            self._streams.pop(rank, None)
        return not self.leaving

    def close(self) -> None:
        """This launch is over: what its ranks may still say is heard no more, finished outputs excepted."""
        self._closed = True
        for peer in self._peers.values():
            peer.close()

    def _hear(self, rank: int, message: FromRank) -> None:
        if self._closed and not isinstance(message, protocol.Output):
            return
        match message:
            case protocol.Steps():
                stream = self._streams.get(rank)
                steps = message.steps
                self._steps[rank] = msgspec.structs.replace(steps, batch=stream.batch) if stream else steps
            case protocol.Output():
                self._keep(message.record)
                self._row_ended(rank, message.record)
                self._count_out(rank, message.record)
            case protocol.RankAccount():
                self._stint(rank, message)
            case protocol.BatchFinished():
                self._scheduler.finish(message.batch)
                self._emit(message)
                self._controls.batch_finished(message)
                self._free(rank)
            case protocol.BatchFailed():
                stream = self._streams.get(rank)
                if stream is None:
                    self._batch_failed(message)
                elif stream.batch == message.batch:
                    self._stream_failed(rank, message)
                else:
                    return  # of a stream whose end was heard already
                self._free(rank)
            case protocol.LogLine():
                self._log(f"rank {rank}", message.text)
            case protocol.RankPhase():
                self._emit(message)
            case protocol.RankReady():
                self._emit(message)
                self._idle.add(rank)
                if message.engine == "continuous":
                    self._continuous.add(rank)
                if len(self._idle) == self._config.ranks:
                    self.ready = True
                    self._emit(protocol.RanksReady())
                    self._controls.begin()
                    self.hand_out()
            case protocol.Share():
                self._scheduler.use_share(rank, message.start, message.stop)
            case protocol.RankFailed():
                self.failures[rank] = message.error
                self._log(f"rank {rank}", message.traceback)
            case protocol.Gathered():
                self.gathered += message.records
                self.gather_ended = self.gather_ended or message.last
            case _:
                self._log("supervisor", f"rank {rank} said {type(message).__name__} out of turn")

    def _free(self, rank: int) -> None:
        self._steps.pop(rank, None)
        self._idle.add(rank)
        self.hand_out()

    def _count_out(self, rank: int, record: OutputRecord) -> None:
        """A row that has its record is in flight no more, also where the rank's newest progress is older than that."""
        steps = self._steps.get(rank)
        if steps is not None:
            self._steps[rank] = msgspec.structs.replace(
                steps,
                output_tokens=max(0, steps.output_tokens - record.output_tokens),
                rows=None if steps.rows is None else max(0, steps.rows - 1),
            )

    # --- continuous ranks ---

    def _row_ended(self, rank: int, record: OutputRecord) -> None:
        stream = self._streams.get(rank)
        if stream is None or record.batch not in stream.left:
            return
        stream.left[record.batch] -= 1
        if not stream.left[record.batch]:
            del stream.left[record.batch]
            self._scheduler.finish(record.batch)
        self._top_up(rank)

    def _stint(self, rank: int, account: protocol.RankAccount) -> None:
        stream = self._streams.get(rank)
        if stream is None:
            return
        finished: protocol.BatchFinished | protocol.AccountClosed
        if stream.rows:
            finished = protocol.AccountClosed(rank=rank, batch=stream.batch, result=account.result)
        else:
            # What was sent to it since it ran dry would count as in its hand.
            finished = protocol.BatchFinished(rank=rank, batch=stream.batch, result=account.result)
            del self._streams[rank]
        self._emit(finished)
        self._controls.batch_finished(finished)
        if rank in self._streams:
            self._top_up(rank)
        else:
            self._free(rank)

    def _top_up(self, rank: int) -> None:
        """Give a rank with rows in flight as many more prompts as it has room for."""
        self._set_limits()
        if self.stopping or self._controls.paused or self.leaving or self._closed:
            return
        stream = self._streams[rank]
        assignment = self._controls.next_rows(rank, self._in_hand())
        if assignment is not None:
            stream.left[assignment.batch] = len(assignment.indices)
            prompts = self._prompts.read(assignment.indices)
            self._peers[rank].send(protocol.Work(batch=assignment.batch, prompts=prompts, stream=stream.batch))
            self._emit(protocol.RowsAdded(rank=rank, batch=stream.batch, rows=len(prompts)))

    def _in_hand(self) -> dict[int, int]:
        return {rank: stream.rows for rank, stream in self._streams.items()}

    def _set_limits(self) -> None:
        """Tell the continuous ranks how many rows they may have in flight, where that has changed."""
        for rank in self._continuous & self._peers.keys():
            rows = 0 if self._controls.paused and not self.stopping else self._scheduler.most_rows(rank)
            if self._limits.get(rank) != rows:
                self._limits[rank] = rows
                self._peers[rank].send(protocol.Limit(rows=rows))

    def _stream_failed(self, rank: int, failed: protocol.BatchFailed) -> None:
        """All rows of a continuous rank failed together: smaller from now on, or one prompt at a time."""
        stream = self._streams.pop(rank)
        self._log(f"rank {rank}", f"its {stream.rows} rows in flight failed: {failed.error}")
        dead: tuple[int, ...] = ()
        alone = any(self._scheduler.in_flight[batch].alone for batch in stream.left)
        # Of a rank that may have one row at most, one of those in its hand does not fit even alone: which?
        smaller = failed.kind == "out_of_memory" and not alone and self._scheduler.most_rows(rank) > 1
        for batch in sorted(stream.left, reverse=True):  # the first of them comes to the front of the queue last
            if smaller:
                self._scheduler.finish(batch)
            else:
                dead += self._scheduler.fail(batch)
        for index in dead:
            self._keep_error(self.error_record(index, failed.error, rank, failed.batch))
        self._emit(msgspec.structs.replace(failed, batch=stream.batch))
        if smaller:
            rows = max(1, min(stream.rows, self._scheduler.most_rows(rank)))
            self._scheduler.cap(rank, rows)
            self._controls.out_of_memory(rank, rows)

    def _batch_failed(self, failed: protocol.BatchFailed) -> None:
        self._log(f"rank {failed.rank}", f"batch {failed.batch} failed: {failed.error}")
        assignment = self._scheduler.in_flight.get(failed.batch)
        if assignment is None:
            return
        trial = assignment.measured or assignment.warm_up
        dead: tuple[int, ...] = ()
        if failed.kind == "out_of_memory" and trial:
            self._scheduler.finish(failed.batch)  # the wall is the trial's affair: no rank is capped for it
        elif failed.kind == "out_of_memory":
            dead = self._scheduler.halve(failed.batch)
        else:
            dead = self._scheduler.fail(failed.batch)
        for index in dead:
            self._keep_error(self.error_record(index, failed.error, failed.rank, failed.batch))
        self._emit(failed)
        if trial:
            self._controls.trial_failed(failed)
        elif failed.kind == "out_of_memory":
            self._controls.out_of_memory(failed.rank, len(assignment.indices))

    def error_record(self, index: int, error: str, rank: int | None = None, batch: int | None = None) -> OutputRecord:
        """The record of a prompt that has no answer, and why."""
        (prompt,) = self._prompts.read([index])
        return OutputRecord(
            index=index,
            id=prompt.id,
            prompt=protocol.prompt_text(prompt),
            text="",
            prompt_tokens=0,
            output_tokens=0,
            finish_reason="error",
            error=error,
            rank=rank,
            batch=batch,
        )

    def hand_out(self) -> None:
        """A batch for every idle rank that can have one; the word to leave when nothing more is to come."""
        if self.leaving or self._closed or not self.ready:
            return
        self._set_limits()
        for rank in sorted(self._idle):
            hold = self.stopping or self._controls.paused
            assignment = None if hold else self._next(rank)
            if assignment is not None:
                self._idle.discard(rank)
                self._give(rank, assignment)
        for rank in sorted(self._streams):
            self._top_up(rank)
        # A turn of a knob, the end of a sweep: what it brought may have changed what the ranks are to hold.
        self._set_limits()
        self._share_cores()
        if not self._scheduler.in_flight and not self._streams and (self.stopping or not self._controls.work_left):
            self.told_to_leave.set()
            for peer in self._peers.values():
                peer.send(protocol.Leave(gather=self._config.dispatch == "split" and not self.stopping))

    def _next(self, rank: int) -> Assignment | None:
        if rank in self._continuous and not self._controls.sweeping:
            return self._controls.next_rows(rank, self._in_hand())
        return self._controls.next_batch(rank)

    def _give(self, rank: int, assignment: Assignment) -> None:
        prompts = self._prompts.read(assignment.indices)
        closed = assignment.measured or assignment.warm_up or not assignment.kept
        if rank in self._continuous and not closed:
            self._streams[rank] = _Stream(assignment.batch)
            self._streams[rank].left[assignment.batch] = len(prompts)
        self._peers[rank].send(
            protocol.Work(
                batch=assignment.batch,
                prompts=prompts,
                measure=assignment.measured,
                keep=assignment.kept,
                max_new_tokens=warm_up_tokens(self._config.new_tokens) if assignment.warm_up else None,
                stream=assignment.batch if rank in self._streams else None,
            )
        )
        self._emit(
            protocol.BatchStarted(
                rank=rank,
                batch=assignment.batch,
                rows=len(prompts),
                warm_up=assignment.warm_up,
                kept=assignment.kept,
            )
        )

    def _share_cores(self) -> None:
        """Tell the ranks how many of them are at work, those included that finish a last batch.

        On a CPU one that is left alone takes all cores, and is as fast as a run of one rank; more threads
        than cores would slow all of them down many times over.
        """
        at_work = {held.rank for held in self._scheduler.in_flight.values()}
        sharing = len(at_work | set(range(self._scheduler.active_ranks)))
        if sharing != self._sharing:
            self._sharing = sharing
            for peer in self._peers.values():
                peer.send(protocol.ShareCores(ranks=sharing))

    def abandon(self) -> None:
        """Have every rank drop its batch within a decode step, and leave."""
        self.stopping = True
        self.told_to_leave.set()
        for assignment in self._scheduler.in_flight.values():
            if peer := self._peers.get(assignment.rank):
                peer.send(protocol.Cancel(batch=assignment.batch))
        for peer in self._peers.values():
            peer.send(protocol.Leave())
