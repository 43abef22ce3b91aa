"""A continuous rank at work: prompts in as rows fall free, each answer out as it ends, an account now and then.

Knows the conversation with the supervisor while there are rows in flight or waiting, and the continuous engine. Which
prompts come, and how many rows there may be, is the supervisor's affair: both may change at every step.
"""

import time
import typing
from collections import deque
from collections.abc import Callable, Sequence

from rankdeck.runner import protocol
from rankdeck.runner.engine.rows import PROGRESS_SECONDS, Answer, Cancelled, Ended
from rankdeck.runner.protocol import BatchResult, Leave, OutputRecord, Prompt, StepsInFlight, Work
from rankdeck.runner.rank.link import Link

LOOK_SECONDS = 0.01
"""New orders, and new rows for those that ended, wait no longer than this; less than a step takes."""

STINT_SECONDS = 10.0
"""An account is given after as many steps as the longest answer has, but no later than this."""

Key = tuple[int, Prompt, int]
"""Of a row in flight: the number of the order it came with, its prompt, and the prompt's tokens."""


class ContinuousRows(typing.Protocol):
    """What a flow wants of an engine: `runner.engine.continuous`, without torch."""

    @property
    def in_flight(self) -> int: ...
    @property
    def steps(self) -> int: ...
    def submit(self, key: Key, ids: list[int]) -> None: ...
    def ended(self, seconds: float) -> list[Ended]: ...
    def tokens_in_flight(self) -> int: ...
    def cache_used(self) -> float | None: ...
    def peak_memory(self) -> int | None: ...
    def tokenise(self, prompts: Sequence[Prompt]) -> tuple[dict[int, list[int]], dict[int, str]]: ...
    def answered(self, prompt: Prompt, prompt_tokens: int, answer: Answer) -> OutputRecord: ...
    def refused(self, prompt: Prompt, error: str) -> OutputRecord: ...
    def close(self) -> None: ...


class ContinuousRank:
    """From the first order of a rank with nothing in hand until it has run dry."""

    def __init__(
        self,
        rank: int,
        engine: ContinuousRows,
        link: Link,
        *,
        send: Callable[[int, list[OutputRecord]], None],
        go_on: Callable[[int], bool],
        longest: int,
    ) -> None:
        self._rank, self._engine, self._link = rank, engine, link
        self._send, self._go_on, self._longest = send, go_on, longest
        self._waiting: deque[tuple[int, Prompt, list[int]]] = deque()
        self._newest = 0
        self._reported_at = 0.0
        self._first_step = engine.steps
        self._ended_tokens = 0
        self._begin_stint()

    def run(self, work: Work) -> Leave | None:
        """Work until nothing is in flight and nothing waits; or until the word to leave, which is returned.

        Raises:
            Cancelled: everything in hand was to be abandoned.
            Exception: whatever ended the generation; nothing is in hand any more.
        """
        self._take(work)
        try:
            dry = False
            while not dry:
                while (order := self._link.next_order_now()) is not None:
                    if isinstance(order, Leave):
                        # Said to a rank with rows in hand it means: drop them.
                        self._engine.close()
                        return order
                    self._take(order)
                if not self._go_on(self._newest):
                    raise Cancelled
                self._bring()
                self._fill()
                dry = not self._waiting and not self._engine.in_flight
                self._account(dry=dry)
                self._report()  # last: what is sent after it would take its place
        except BaseException:
            self._engine.close()
            raise
        return None

    def _take(self, work: Work) -> None:
        self._newest = work.batch
        tokens, errors = self._engine.tokenise(work.prompts)
        if errors:
            self._send(work.batch, [self._engine.refused(work.prompts[at], error) for at, error in errors.items()])
        self._waiting.extend((work.batch, work.prompts[at], ids) for at, ids in tokens.items())

    def _fill(self) -> None:
        limit = self._link.limit
        while self._waiting and (limit is None or self._engine.in_flight < limit):
            batch, prompt, ids = self._waiting.popleft()
            self._prompt_tokens += len(ids)
            self._engine.submit((batch, prompt, len(ids)), ids)

    def _bring(self) -> None:
        if not self._engine.in_flight:
            if self._link.limit == 0:
                time.sleep(LOOK_SECONDS)  # paused: orders are all there is to wait for
            return
        records: dict[int, list[OutputRecord]] = {}
        for (batch, prompt, prompt_tokens), answer, _ in self._engine.ended(LOOK_SECONDS):
            records.setdefault(batch, []).append(self._record(prompt, prompt_tokens, answer))
            self._rows += 1
        for batch, some in records.items():
            self._send(batch, some)

    def _report(self) -> None:
        now = time.perf_counter()
        if now - self._reported_at >= PROGRESS_SECONDS and self._engine.in_flight:
            self._reported_at = now
            self._link.progress(
                StepsInFlight(
                    rank=self._rank,
                    batch=self._newest,
                    step=self._engine.steps - self._first_step,
                    output_tokens=self._engine.tokens_in_flight(),
                    rows=self._engine.in_flight,
                    cache_used=self._engine.cache_used(),
                )
            )

    def _record(self, prompt: Prompt, prompt_tokens: int, answer: Answer | str) -> OutputRecord:
        if isinstance(answer, str):
            return self._engine.refused(prompt, answer)
        self._ended_tokens += len(answer.tokens)
        return self._engine.answered(prompt, prompt_tokens, answer)

    # --- accounts ---

    def _begin_stint(self) -> None:
        self._began = time.perf_counter()
        self._stint_step = self._engine.steps
        self._rows = self._prompt_tokens = 0
        self._tokens_before = self._ended_tokens + self._engine.tokens_in_flight()

    def _account(self, *, dry: bool) -> None:
        seconds, steps = time.perf_counter() - self._began, self._engine.steps - self._stint_step
        if not (dry or steps >= self._longest or seconds >= STINT_SECONDS):
            return
        tokens = self._ended_tokens + (0 if dry else self._engine.tokens_in_flight()) - self._tokens_before
        tokens = max(0, tokens)  # a row that made way for others begins anew, with its tokens in its prompt
        result = BatchResult(
            rows=self._rows,
            prompt_tokens=self._prompt_tokens,
            output_tokens=tokens,
            slots=self._prompt_tokens + tokens,
            padded_slots=0,
            steps=steps,
            row_steps=tokens,
            prefill_seconds=0.0,
            decode_seconds=seconds,
            seconds=seconds,
            peak_memory_bytes=self._engine.peak_memory(),
        )
        self._link.send(protocol.RankAccount(rank=self._rank, result=result))
        self._begin_stint()
