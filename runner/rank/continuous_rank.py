"""A continuous rank at work: prompts go in as rows fall free, answers go out as they end, with regular accounts.

Knows the conversation with the supervisor while rows are in flight or waiting, and engines whose rows come and go. The
supervisor decides which prompts come and how many rows there may be; both may change at every step.
"""

import time
import typing
from collections import deque
from collections.abc import Callable, Sequence

from rankdeck.runner import protocol
from rankdeck.runner.engine.rows import PROGRESS_SECONDS, Answer, Cancelled, Ended, Row
from rankdeck.runner.protocol import BatchResult, Leave, OutputRecord, Prompt, StepsInFlight, Work
from rankdeck.runner.protocol.orders import ACCOUNT_SECONDS
from rankdeck.runner.rank.link import Link

LOOK_SECONDS = 0.01
"""The longest that a new order, or a free row, has to wait; less than a step takes."""

Key = tuple[int, Prompt, int]
"""A row in flight: the number of the order it came with, its prompt, and how many tokens the prompt has."""


class ContinuousRows(typing.Protocol):
    """What a continuous rank needs of its engine: a `runner.engine.rows_engine.RowsEngine`, or a stand-in without
    torch."""

    padding_known: bool
    stepwise: bool
    shared_tokens: int

    @property
    def in_flight(self) -> int: ...
    @property
    def held(self) -> int: ...
    @property
    def stands_still(self) -> bool: ...
    @property
    def most_rows(self) -> int | None: ...
    @property
    def steps(self) -> int: ...
    def submit(self, rows: Sequence[Row]) -> None: ...
    def keep_to(self, rows: int | None) -> None: ...
    def ended(self, seconds: float) -> list[Ended]: ...
    def tokens_in_flight(self) -> int: ...
    def cache_used(self) -> float | None: ...
    def prefix_hits(self) -> float | None: ...
    def take_notes(self) -> list[str]: ...
    def peak_memory(self) -> int | None: ...
    def reserved_memory(self) -> int | None: ...
    def tokenise(self, prompts: Sequence[Prompt]) -> tuple[dict[int, list[int]], dict[int, str]]: ...
    def answered(self, prompt: Prompt, prompt_tokens: int, answer: Answer) -> OutputRecord: ...
    def refused(self, prompt: Prompt, error: str) -> OutputRecord: ...
    def close(self) -> None: ...


class ContinuousRank:
    """A rank's work from an order that finds it idle until nothing is in hand any more.

    `send_records` gets the number of an order, and records of its rows. `may_go_on` is called at every step with the
    number of the newest order; it is False once that order is cancelled. `longest` is an answer's most tokens.
    """

    def __init__(
        self,
        rank: int,
        engine: ContinuousRows,
        link: Link,
        *,
        send_records: Callable[[int, list[OutputRecord]], None],
        may_go_on: Callable[[int], bool],
        longest: int,
    ) -> None:
        self._rank, self._engine, self._link = rank, engine, link
        self._send_records, self._may_go_on, self._longest = send_records, may_go_on, longest
        self._waiting: deque[tuple[int, Prompt, list[int]]] = deque()
        self._newest = 0
        self._reported_at = 0.0
        self._first_step = engine.steps
        self._ended_tokens = 0
        self._stands = False
        self._begin_account()

    def run(self, work: Work) -> Leave | None:
        """Work until nothing is in flight or waiting, or until told to leave; returns the order to leave.

        Raises:
            Cancelled: the orders in hand were cancelled.
            Exception: whatever ended the generation; nothing is in hand any more.
        """
        self._take(work)
        try:
            dry = False
            while not dry:
                while (order := self._link.next_order_now()) is not None:
                    if isinstance(order, Leave):
                        # It comes while rows are in hand: they are dropped.
                        self._engine.close()
                        return order
                    self._take(order)
                if not self._may_go_on(self._newest):
                    raise Cancelled
                self._send_ended()
                self._fill()
                dry = not self._waiting and not self._engine.in_flight and not self._engine.held
                self._account(dry=dry)
                self._report()  # last: anything sent afterwards would replace it
        except BaseException:
            self._engine.close()
            raise
        return None

    def _take(self, work: Work) -> None:
        self._newest = work.batch
        tokens, errors = self._engine.tokenise(work.prompts)
        if errors:
            self._send_records(
                work.batch, [self._engine.refused(work.prompts[at], error) for at, error in errors.items()]
            )
        self._waiting.extend((work.batch, work.prompts[at], ids) for at, ids in tokens.items())

    def _fill(self) -> None:
        limit = self._link.limit
        self._engine.keep_to(limit)
        most = min((bound for bound in (limit, self._engine.most_rows) if bound is not None), default=None)
        waiting = len(self._waiting)
        free = waiting if most is None else max(0, min(waiting, most - self._engine.in_flight))
        rows = [self._waiting.popleft() for _ in range(free)]
        self._prompt_tokens += sum(len(ids) for _, _, ids in rows)
        if rows:
            self._engine.submit([Row((batch, prompt, len(ids)), ids, prompt.index) for batch, prompt, ids in rows])

    def _send_ended(self) -> None:
        if not self._engine.in_flight:
            if self._link.limit == 0:
                time.sleep(LOOK_SECONDS)  # paused: only an order can change that
            return
        records: dict[int, list[OutputRecord]] = {}
        for (batch, prompt, prompt_tokens), answer, _ in self._engine.ended(LOOK_SECONDS):
            records.setdefault(batch, []).append(self._record(prompt, prompt_tokens, answer))
            self._rows += 1
        for batch, ended in records.items():
            self._send_records(batch, ended)

    def _report(self) -> None:
        now = time.perf_counter()
        if now - self._reported_at >= PROGRESS_SECONDS and self._engine.in_flight:
            self._reported_at = now
            for text in self._engine.take_notes():
                self._link.send(protocol.LogLine(source=f"rank {self._rank}", text=text))
            self._link.progress(
                StepsInFlight(
                    rank=self._rank,
                    batch=self._newest,
                    step=self._engine.steps - self._first_step,
                    output_tokens=self._engine.tokens_in_flight(),
                    rows=self._engine.in_flight,
                    cache_used=self._engine.cache_used(),
                    prefix_hits=self._engine.prefix_hits(),
                )
            )

    def _record(self, prompt: Prompt, prompt_tokens: int, answer: Answer | str) -> OutputRecord:
        if isinstance(answer, str):
            return self._engine.refused(prompt, answer)
        self._ended_tokens += len(answer.tokens)
        return self._engine.answered(prompt, prompt_tokens, answer)

    # --- accounts ---

    def _begin_account(self) -> None:
        self._began, self._limit = time.perf_counter(), self._link.limit
        self._account_step, self._account_shared = self._engine.steps, self._engine.shared_tokens
        self._rows = self._prompt_tokens = 0
        self._tokens_before = self._ended_tokens + self._engine.tokens_in_flight()

    def _account(self, *, dry: bool) -> None:
        nothing_goes_on = self._link.limit == 0 and not self._engine.in_flight
        stood, self._stands = self._stands, self._engine.stands_still or nothing_goes_on
        steps = self._engine.steps - self._account_step
        if stood:
            # The time in which rows stood still is nobody's: the next account begins when they go on.
            self._began = time.perf_counter()
        seconds = time.perf_counter() - self._began
        # A turn begins another account, if it has taken effect already: its figures are of one batch size.
        turned = self._engine.stepwise and self._link.limit != self._limit
        if turned and not steps:
            self._limit = self._link.limit
        if not (dry or steps >= self._longest or seconds >= ACCOUNT_SECONDS or ((self._stands or turned) and steps)):
            return
        tokens = self._ended_tokens + (0 if dry else self._engine.tokens_in_flight()) - self._tokens_before
        tokens = max(0, tokens)  # a row that was put back starts again, with its tokens as part of its prompt
        shared = max(0, min(self._prompt_tokens, self._engine.shared_tokens - self._account_shared))
        result = BatchResult(
            rows=self._rows,
            prompt_tokens=self._prompt_tokens,
            output_tokens=tokens,
            slots=self._prompt_tokens - shared + tokens,
            padded_slots=0 if self._engine.padding_known else None,
            shared_tokens=shared,
            steps=steps,
            row_steps=tokens,
            prefill_seconds=0.0,
            decode_seconds=seconds,
            seconds=seconds,
            peak_memory_bytes=self._engine.peak_memory(),
            reserved_memory_bytes=self._engine.reserved_memory(),
        )
        self._link.send(protocol.RankAccount(rank=self._rank, result=result))
        self._begin_account()
