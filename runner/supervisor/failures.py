"""Where prompts go whose batch failed or whose rank was lost: back to the queue, or to the outputs with an error.

Out of memory makes batches smaller; any other error has each prompt tried once more alone, so that only the one at
fault is given up. Does not talk to ranks and restarts nothing.
"""

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.protocol import BatchFailed
from rankdeck.runner.scheduling.scheduler import Scheduler
from rankdeck.runner.supervisor.event_stream import EventStream
from rankdeck.runner.supervisor.knobs import KnobControls
from rankdeck.runner.supervisor.outputs import Outputs
from rankdeck.runner.supervisor.talk.rows_in_hand import RowsInHand


class Failures:
    """Takes back what failed, for one run."""

    def __init__(self, scheduler: Scheduler, controls: KnobControls, outputs: Outputs, events: EventStream) -> None:
        self._scheduler, self._controls, self._outputs, self._events = scheduler, controls, outputs, events

    def batch_failed(self, failed: BatchFailed) -> None:
        """A closed batch failed; its rank goes on."""
        self._events.log(f"rank {failed.rank}", f"batch {failed.batch} failed: {failed.error}")
        assignment = self._scheduler.in_flight.get(failed.batch)
        if assignment is None:
            return
        trial = assignment.measured or assignment.warm_up
        given_up: tuple[int, ...] = ()
        if failed.kind == "out_of_memory" and trial:
            self._scheduler.finish(failed.batch)  # the trial records the limit: no rank is capped for it
        elif failed.kind == "out_of_memory":
            given_up = self._scheduler.halve(failed.batch)
        else:
            given_up = self._scheduler.fail(failed.batch)
        for index in given_up:
            self._outputs.give_up(index, failed.error, failed.rank, failed.batch)
        self._events.emit(failed)
        if trial:
            self._controls.trial_failed(failed)
        elif failed.kind == "out_of_memory":
            self._controls.out_of_memory(failed.rank, len(assignment.indices))

    def rows_failed(self, in_hand: RowsInHand, failed: BatchFailed) -> None:
        """All rows of a continuous rank failed together: fewer of them from now on, or one prompt at a time."""
        rank = failed.rank
        self._events.log(f"rank {rank}", f"its {in_hand.rows} rows in flight failed: {failed.error}")
        given_up: tuple[int, ...] = ()
        alone = any(self._scheduler.in_flight[batch].alone for batch in in_hand.left)
        # Where one row is the limit already, one of these prompts does not fit even alone: which one has to be found.
        fewer = failed.kind == "out_of_memory" and not alone and self._scheduler.most_rows(rank) > 1
        for batch in sorted(in_hand.left, reverse=True):  # in reverse, so that the first is back in front
            if fewer:
                self._scheduler.finish(batch)
            else:
                given_up += self._scheduler.fail(batch)
        for index in given_up:
            self._outputs.give_up(index, failed.error, rank, failed.batch)
        self._events.emit(msgspec.structs.replace(failed, batch=in_hand.batch))
        if fewer:
            rows = max(1, min(in_hand.rows, self._scheduler.most_rows(rank)))
            self._scheduler.cap(rank, rows)
            self._controls.out_of_memory(rank, rows)

    def ranks_lost(self, ranks: int, culprit: int | None, cause: str) -> bool:
        """All `ranks` are gone, `culprit` first if that is known. Returns whether it cost a sweep one of its trials."""
        if culprit is not None:
            self._events.emit(protocol.RankLost(rank=culprit, cause=cause))
        for rank in range(ranks):
            for index in self._scheduler.lose(rank, culprit=rank == culprit):
                self._outputs.give_up(index, f"its rank died of it twice: {cause}", rank)
        return self._controls.ranks_lost(cause)
