"""`--batch-size auto`: find the batch size that is fastest on the real work, and say why in one sentence.

Pure: figures in, a batch size and a reason out. Every batch it learns from is part of the job. It starts from what is
known before anything ran (memory, prompts per rank, kind of device), then doubles while tokens/s grows by 5 % or more,
steps back when it does not, and stops when memory runs out.
"""

from dataclasses import dataclass, field

from rankdeck.runner.protocol.config import MAX_BATCH_SIZE
from rankdeck.runner.protocol.first_batch import first_batch

LEAST_GAIN = 1.05
MEMORY_SHARE = 0.9
BYTES_PER_TOKEN = 3
"""Estimate: a token per three bytes of UTF-8. On the safe side for English, about right for other languages."""

KV_HEADROOM = 1.3
"""Factor on the KV cache for activations and fragmentation."""


@dataclass(frozen=True)
class Known:
    """What is known before the first batch. Bytes are of one rank's device; None if unknown."""

    prompts: int
    ranks: int
    tokens_per_row: int
    on_gpu: bool = False
    memory_free_bytes: int | None = None
    kv_bytes_per_token: int | None = None
    most_rows: int | None = None
    """The most rows at once that the engine was loaded for; None if it has no such bound."""

    @property
    def per_rank(self) -> int:
        return -(-self.prompts // self.ranks)


@dataclass(frozen=True)
class Choice:
    """A batch size to use from now on, and why. `settled` ends the search."""

    batch_size: int
    reason: str
    settled: bool


def memory_limit(known: Known) -> int | None:
    """Rows whose KV cache fits in 90 % of the free memory; None if memory or cache size is unknown."""
    if not known.memory_free_bytes or not known.kv_bytes_per_token or not known.tokens_per_row:
        return None
    row = known.kv_bytes_per_token * known.tokens_per_row * KV_HEADROOM
    return max(1, int(known.memory_free_bytes * MEMORY_SHARE / row))


@dataclass
class Search:
    """The search of one run: `start` first, `learn` after each measured size, `wall` when memory runs out."""

    known: Known
    measured: dict[int, float] = field(default_factory=dict)
    peaks: dict[int, int] = field(default_factory=dict)
    limit: int | None = None
    limit_reason: str = ""

    def start(self) -> Choice:
        """The size to begin with."""
        self.limit = memory_limit(self.known)
        self.limit_reason = f"memory allows about {self.limit} rows" if self.limit is not None else ""
        bounds = [bound for bound in (self.limit, self.known.most_rows) if bound is not None]
        rows, rounds = first_batch(self.known.per_rank, on_gpu=self.known.on_gpu, most=min(bounds, default=None))
        if rounds is None:
            return Choice(rows, f"starting at {rows} and growing while tokens/s gains 5 %", False)
        some = "one even round" if rounds == 1 else f"{rounds} even rounds"
        return Choice(rows, f"{self.known.prompts} prompts are {some} of {rows} per rank", True)

    def learn(self, batch_size: int, tokens_per_second: float, peak_bytes: int | None, prompts_left: int) -> Choice:
        """The next size after `batch_size` was measured over whole batches of every rank."""
        self.measured[batch_size] = tokens_per_second
        if peak_bytes is not None:
            self.peaks[batch_size] = peak_bytes
        smaller = [size for size in self.measured if size < batch_size]
        if smaller:
            before = max(smaller)
            gain = tokens_per_second / self.measured[before] if self.measured[before] > 0 else float("inf")
            if gain < LEAST_GAIN:
                words = f"{before} -> {batch_size} changed tokens/s by {gain - 1:+.0%}"
                return Choice(before, f"settled at {before}: {words}, and a larger batch must gain 5 %", True)
        return self._grow(batch_size, prompts_left)

    def _grow(self, batch_size: int, prompts_left: int) -> Choice:
        wanted, most = batch_size * 2, self.known.most_rows
        if most is not None and batch_size < most < wanted:
            wanted = most
        # A round that the remaining prompts cannot fill measures nothing: sharing them out evenly is best.
        left = -(-prompts_left // self.known.ranks)
        if left <= wanted:
            last = max(1, left)
            if self._fits(last) is None:
                return Choice(
                    max(last, batch_size),
                    f"the {prompts_left} prompts left are one even round of {last} per rank",
                    True,
                )
            return Choice(batch_size, f"settled at {batch_size}: too few prompts are left to try more", True)
        if wanted > MAX_BATCH_SIZE:
            return Choice(batch_size, f"settled at {batch_size}: a batch has at most {MAX_BATCH_SIZE} rows", True)
        if why := self._fits(wanted):
            return Choice(batch_size, f"settled at {batch_size}: {wanted} would not fit, {why}", True)
        return Choice(wanted, f"trying {wanted}: tokens/s still grows", False)

    def _fits(self, batch_size: int) -> str | None:
        """Why `batch_size` would not fit, or None: by the peaks of two measured sizes, else by the estimate."""
        most = self.known.most_rows
        if most is not None and batch_size > most:
            return f"the engine was started for at most {most:,} rows at once"
        free = self.known.memory_free_bytes
        sizes = sorted(self.peaks)
        if len(sizes) >= 2 and free:
            one, two = sizes[-2:]
            slope = (self.peaks[two] - self.peaks[one]) / (two - one)
            # Free memory was read after loading, so it has to hold what grows with the batch.
            growth = slope * batch_size
            if growth > MEMORY_SHARE * free:
                return f"it would take {growth / free:.0%} of the free memory"
            return None
        if self.limit is not None and batch_size > self.limit:
            return self.limit_reason
        return None

    def wall(self, batch_size: int, fits: int) -> Choice:
        """End the search, out of memory at `batch_size`: at the fastest smaller size measured, or at what `fits`."""
        good = [size for size in self.measured if size < batch_size]
        best = max(good, key=lambda size: self.measured[size]) if good else max(1, fits)
        return Choice(best, f"settled at {best}: a batch of {batch_size} ran out of memory", True)
