"""One rank's side of the talk: what it was given, what it has said, and which of its messages can be true. Pure.

A rank is believed in what only it can know, and only within what it was given: its own batches, their prompts, the time
they were in hand. Ids and prompts in records are taken from the run's own prompts. Emits nothing and hands nothing out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.protocol import FromRank, OutputRecord, Prompt, RankPhaseName, StepsInFlight
from rankdeck.runner.protocol.config import ENGINES, RunConfig
from rankdeck.runner.scheduling.scheduler import Assignment
from rankdeck.runner.supervisor.talk.claims import (
    LONGEST_DIGEST,
    LONGEST_ERROR,
    LONGEST_LOG,
    check_record,
    check_result,
    check_values,
    require,
    shortened,
)

PHASES: tuple[str, ...] = get_args(RankPhaseName)


@dataclass
class _Batch:
    """A batch or order in hand: `unanswered` are its prompts without a record, by index.

    A sweep of few prompts may have a prompt in several of the `rows`.
    """

    rows: int
    kept: bool
    indices: frozenset[int]
    unanswered: dict[int, Prompt]
    since: float
    stream: int | None


class RankTalk:
    """What `rank` was given and has said since its launch. `is_done(index)`: whether a prompt has its record."""

    def __init__(self, rank: int, config: RunConfig, prompts: int, is_done: Callable[[int], bool]) -> None:
        self.ready = False
        self.share: tuple[int, int] | None = None
        self.gathers = False
        """Whether it was told to gather."""

        self.waits = False
        """Whether it has come to a meeting point, and others have not."""

        self._rank, self._config, self._prompts, self._is_done = rank, config, prompts, is_done
        self._phase = -1
        self._arrived_at: set[protocol.MeetingPoint] = set()
        self._batches: dict[int, _Batch] = {}
        self._newest = 0
        self._stream: int | None = None
        self._gathered = 0
        self._stream_since = self._accounted = 0.0
        self._answered_since = 0

    def given(self, assignment: Assignment, prompts: Sequence[Prompt], now: float, stream: int | None = None) -> None:
        """Note that the rank was given a batch at `now`, or prompts for the rows of `stream`, its open batch."""
        if stream is not None and self._stream is None:
            self._stream_since, self._accounted, self._answered_since = now, 0.0, 0
        self._stream, self._newest = stream, assignment.batch
        unanswered = {prompt.index: prompt for prompt in prompts}
        self._batches[assignment.batch] = _Batch(
            len(prompts), assignment.kept, frozenset(unanswered), unanswered, since=now, stream=stream
        )

    def believed(self, message: FromRank, now: float) -> FromRank | None:
        """The message as far as it is believed, heard at `now`; None if it is to be dropped.

        Raises:
            NonsenseError: it cannot be true.
        """
        about = message.steps if isinstance(message, protocol.Steps) else message
        require(getattr(about, "rank", self._rank) == self._rank, "it speaks for another rank")
        match message:
            case protocol.LogLine():
                return shortened(message, text=LONGEST_LOG)
            case protocol.RankFailed():
                return shortened(message, error=LONGEST_ERROR, traceback=LONGEST_LOG)
            case protocol.RankPhase():
                require(message.phase in PHASES, "there is no phase of the name it gives")
                place = PHASES.index(message.phase)
                require(not self.ready and place > self._phase, f"it is {message.phase} for a second time")
                self._phase = place
            case protocol.Arrived():
                self._take_arrival(message.at)
            case protocol.Share():
                self._take_share(message)
            case protocol.RankReady():
                check_values(message, "message")
                require(not self.ready, "it is ready for a second time")
                require(message.engine in ENGINES, "there is no engine of the name it gives")
                require(self._config.dispatch != "split" or self.share is not None, "it is ready without a share")
                self.ready = True
            case protocol.Gathered():
                self._take_gathered(message)
            case protocol.Steps():
                self._check_steps(message.steps)
            case protocol.Output():
                return self._believed_record(message.record)
            case protocol.RankAccount():
                self._take_account(message, now)
            case protocol.BatchFinished():
                self._take_finished(message, now)
            case protocol.BatchFailed():
                self._take_failed(message)
                return shortened(message, error=LONGEST_ERROR)
            case _:
                require(False, f"a {type(message).__name__} is out of turn")
        return message

    def _take_arrival(self, point: protocol.MeetingPoint) -> None:
        require(not self.ready and point not in self._arrived_at, f"it has come to {point!r} already")
        self._arrived_at.add(point)
        self.waits = True

    def _take_share(self, share: protocol.Share) -> None:
        require(self._config.dispatch == "split" and self.share is None, "it has no share to announce")
        require(0 <= share.start <= share.stop <= self._prompts, "its share is not of this run's prompts")
        self.share = share.start, share.stop

    def _take_gathered(self, part: protocol.Gathered) -> None:
        require(self.gathers, "it was not told to gather")
        self._gathered += len(part.records)
        require(self._gathered <= self._prompts, "it gathered more records than there are prompts")
        for index, digest in part.records:
            require(0 <= index < self._prompts and len(digest) <= LONGEST_DIGEST, "it gathered what is no record")

    def _check_steps(self, steps: StepsInFlight) -> None:
        check_values(steps, "steps")
        if self._stream is not None:
            require(self._stream <= steps.batch <= self._newest, f"batch {steps.batch} is not in its hand")
            rows = self._rows_unanswered()
        else:
            rows = self._in_hand(steps.batch).rows
        tokens = self._config.new_tokens
        require(self._stream is not None or steps.step <= tokens, f"it is at step {steps.step:,} of {tokens:,}")
        require(steps.output_tokens <= rows * tokens, f"its {rows:,} rows have {steps.output_tokens:,} tokens")
        require(steps.rows is None or steps.rows <= rows, f"{rows:,} rows are in its hand, not {steps.rows}")
        require(steps.cache_used is None or steps.cache_used <= 1, "its cache is more than full")
        require(steps.prefix_hits is None or steps.prefix_hits <= 1, "more of its prompts was cached than they have")

    def _believed_record(self, record: OutputRecord) -> protocol.Output | None:
        require(0 <= record.index < self._prompts, "there is no prompt of this number")
        batch = self._batches.get(record.batch) if record.batch is not None else None
        if batch is None or record.index not in batch.unanswered:
            answered = batch is not None and record.index in batch.indices
            require(answered or self._is_done(record.index), f"prompt {record.index} is not in its hand")
            return None  # a second record
        require(batch.kept, f"batch {record.batch} is for its figures alone")
        check_record(record, self._config.new_tokens)
        prompt = batch.unanswered.pop(record.index)
        self._answered_since += 1
        known = msgspec.structs.replace(
            shortened(record, error=LONGEST_ERROR),
            id=prompt.id,
            prompt=protocol.prompt_text(prompt),
            rank=self._rank,
        )
        if batch.stream is not None and not batch.unanswered:
            del self._batches[record.batch or 0]
        return protocol.Output(record=known)

    def _take_account(self, account: protocol.RankAccount, now: float) -> None:
        require(self._stream is not None, "an account is of nothing in its hand")
        rows, left = self._answered_since, self._rows_unanswered()
        tokens = (rows + left) * self._config.new_tokens
        # All of them together: two that were sent far apart are heard at once by a supervisor that stood still.
        seconds = now - self._stream_since
        self._accounted += check_result(
            account.result, rows=rows, tokens=tokens, seconds=seconds, accounted=self._accounted
        )
        self._answered_since = 0
        if not left:
            self._end_stream()

    def _take_finished(self, finished: protocol.BatchFinished, now: float) -> None:
        batch = self._in_hand(finished.batch)
        require(batch.stream is None, f"batch {finished.batch} ends with an account")
        rows = batch.rows
        check_result(finished.result, rows=rows, tokens=rows * self._config.new_tokens, seconds=now - batch.since)
        left = len(batch.unanswered) if batch.kept else 0
        require(not left, f"batch {finished.batch} is finished, and {left:,} of its prompts have no record")
        del self._batches[finished.batch]

    def _take_failed(self, failed: protocol.BatchFailed) -> None:
        if self._stream is not None:
            require(failed.batch == self._stream, "the batch that failed is not in its hand")
            self._end_stream()
        else:
            self._in_hand(failed.batch)
            del self._batches[failed.batch]

    def _end_stream(self) -> None:
        self._stream = None
        self._batches.clear()

    def _in_hand(self, number: int) -> _Batch:
        require(number in self._batches, "the batch it speaks of is not in its hand")
        return self._batches[number]

    def _rows_unanswered(self) -> int:
        return sum(len(batch.unanswered) for batch in self._batches.values())
