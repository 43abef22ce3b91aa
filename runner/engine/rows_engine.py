"""An engine whose rows come and go one by one, and how it generates a closed batch.

Knows which figures an account has. How rows are started, generated and ended is the engine's own business; which
prompts come next is `runner.rank.continuous_rank`'s.
"""

import abc
import itertools
import math
import time
from collections.abc import Sequence

from rankdeck.runner.engine.base import BatchOptions, BatchOutput, Engine
from rankdeck.runner.engine.rows import PROGRESS_SECONDS, Cancelled, Ended, Progress, Row
from rankdeck.runner.protocol import BatchResult, OutputRecord, Prompt

TAKE_SECONDS = 0.05


class RowsEngine(Engine):
    """Generates all submitted rows at once; each is reported as it ends."""

    padding_known = True
    """Whether it computes no padding, for certain; else how much it computes is not known."""

    stepwise = False
    """Whether `keep_to` takes effect with the next step, rather than as rows end."""

    shared_tokens = 0
    """Prompt tokens so far whose keys and values another prompt had left."""

    @property
    @abc.abstractmethod
    def in_flight(self) -> int:
        """Rows that were submitted and have not ended, but for those that are held."""

    @property
    def held(self) -> int:
        """Rows that have begun and are kept back; see `keep_to`."""
        return 0

    @property
    def stands_still(self) -> bool:
        """Whether no row goes on until `keep_to` is told so."""
        return False

    @property
    def most_rows(self) -> int | None:
        """The most rows that it generates at once, however many there may be; None for as many as memory allows."""
        return None

    @property
    @abc.abstractmethod
    def steps(self) -> int:
        """Steps so far; it never gets less while rows are in flight."""

    @abc.abstractmethod
    def submit(self, rows: Sequence[Row], *, max_new_tokens: int | None = None) -> None:
        """Start rows; `ended` will return each under its key."""

    @abc.abstractmethod
    def ended(self, seconds: float) -> list[Ended]:
        """The rows that ended since the last call; waits up to `seconds` for one, or takes a step.

        Raises:
            Exception: whatever ended the generation of all rows; none is in flight any more.
        """

    def keep_to(self, rows: int | None) -> None:
        """Generate at most so many rows at once from the next step on, where that can be done; 0: none goes on.

        An engine that cannot lets the rows in flight go on to their end.
        """

    @abc.abstractmethod
    def tokens_in_flight(self) -> int:
        """Output tokens so far of the rows that have not ended."""

    @abc.abstractmethod
    def longest_in_flight(self) -> int:
        """Output tokens so far of the row in flight that has most."""

    @abc.abstractmethod
    def cache_used(self) -> float | None:
        """Share of the key and value cache in use, 0 to 1; None where it is not known."""

    def prefix_hits(self) -> float | None:
        """Share of the prompt tokens so far that another prompt had left the keys and values of; None if unknown."""
        return None

    def forget_shared(self) -> None:
        """Forget what rows that have ended left to share: the prefill of prompts that come again is to be measured."""

    def _closes_after(self, error: BaseException) -> bool:
        return True  # no row of this batch may turn up in the next

    def _generate(self, prompts: Sequence[Prompt], options: BatchOptions) -> BatchOutput:
        if options.measure:
            self.forget_shared()
        started = time.perf_counter()
        self._reset_peak_memory()
        tokens, unfit = self.tokenise(prompts)
        records: dict[int, OutputRecord] = {at: self.refused(prompts[at], problem) for at, problem in unfit.items()}
        if unfit:
            options.on_records(list(records.values()))
        submitted, shared_before = time.perf_counter(), self.shared_tokens
        if tokens:
            self.keep_to(None)
            rows = [Row(at, ids, prompts[at].index) for at, ids in tokens.items()]
            self.submit(rows, max_new_tokens=options.max_new_tokens)
        longest: list[float] = []
        first, last, reported_at = math.inf, 0.0, 0.0
        while self.in_flight:
            if options.cancelled():
                raise Cancelled
            new = {}
            for at, answer, times in self.ended(TAKE_SECONDS):
                if isinstance(answer, str):
                    new[at] = self.refused(prompts[at], answer)
                else:
                    new[at] = self.answered(prompts[at], len(tokens[at]), answer)
                    longest = max(longest, times, key=len)
                    first, last = min(first, times[0]), max(last, times[-1])
            if new:
                records.update(new)
                options.on_records(list(new.values()))
            now = time.perf_counter()
            if now - reported_at >= PROGRESS_SECONDS and self.in_flight:
                reported_at = now
                options.on_step(Progress(self.longest_in_flight(), self.tokens_in_flight()))
        self._synchronise()
        seconds = time.perf_counter() - started
        output_tokens = sum(record.output_tokens for record in records.values())
        prompt_tokens = sum(len(ids) for ids in tokens.values())
        shared = min(self.shared_tokens - shared_before, prompt_tokens)
        result = BatchResult(
            rows=len(tokens),
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            slots=prompt_tokens - shared + output_tokens,
            padded_slots=0 if self.padding_known else None,
            shared_tokens=shared,
            steps=len(longest),
            row_steps=output_tokens,
            prefill_seconds=first - submitted if longest else 0.0,
            # Up to the last token: what the host does with it afterwards is not device time.
            decode_seconds=last - first if longest else 0.0,
            seconds=seconds,
            peak_memory_bytes=self.peak_memory(),
            reserved_memory_bytes=self.reserved_memory(),
            step_seconds=_differences(longest) if options.measure else None,
        )
        return BatchOutput([records[at] for at in range(len(prompts))], result)


def _differences(times: list[float]) -> list[float]:
    return [round(after - before, 6) for before, after in itertools.pairwise(times)]
