"""Scripted runs for the timeline: a slow rank, the article's second round, a lost rank, a continuous one. No clock."""

import heapq
from collections.abc import Iterable

from msgspec.structs import replace

from rankdeck.runner import protocol
from rankdeck.runner.protocol import BatchResult, StepsInFlight
from tests.scripted import Script, record
from tests.scripted_steering import SEGFAULT


class PacedScript(Script):
    """Every rank at its own pace, batch by batch, with four ticks a second as in a real run."""

    def __init__(
        self,
        ranks: int,
        *,
        gpus: int = 0,
        prompts: int = 100,
        batch_size: int = 16,
        slow: dict[int, float] | None = None,
        prefill: float = 0.3,
        step: float = 0.05,
        steps: int = 50,
    ) -> None:
        super().__init__(ranks, gpus=gpus, prompts=prompts, batch_size=batch_size)
        self.slow, self.prefill, self.step, self.steps = slow or {}, prefill, step, steps
        self._hands: dict[int, tuple[int, range, float]] = {}

    def begun(self) -> "PacedScript":
        self.started().launched().loading()
        self.wait(0.8).ready()
        return self

    def pull(self, *, until: float | None = None) -> "PacedScript":
        """Every rank takes the next batch as soon as it is free, as long as there are prompts, or up to `until`."""
        free = [(self.at, rank) for rank in range(self.ranks) if rank not in self._hands]
        heapq.heapify(free)
        while True:
            while free and free[0][0] <= self.at and self.next_index < self.prompts:
                _, rank = heapq.heappop(free)
                rows = min(self.batch_size, self.prompts - self.next_index)
                self._take(rank, range(self.next_index, self.next_index + rows))
                self.next_index += rows
            if not self._hands or (until is not None and self.at >= until):
                return self
            for rank in self._beat():
                heapq.heappush(free, (self.at, rank))

    def split(self) -> "PacedScript":
        """Each rank has its share of the prompts, in slices of the batch size."""
        share = self.prompts // self.ranks
        shares = {rank: list(range(rank * share, (rank + 1) * share)) for rank in range(self.ranks)}
        for rank in range(self.ranks):
            self._take_of(shares, rank)
        while self._hands:
            for rank in self._beat():
                self._take_of(shares, rank)
        self.next_index = self.prompts
        return self

    def _take_of(self, shares: dict[int, list[int]], rank: int) -> None:
        mine, shares[rank] = shares[rank][: self.batch_size], shares[rank][self.batch_size :]
        if mine:
            self._take(rank, range(mine[0], mine[-1] + 1))

    def seconds(self, rank: int, rows: int) -> tuple[float, float]:
        """Prefill and decode of so many rows."""
        slow = self.slow.get(rank, 1.0)
        return self.prefill * rows / 16 * slow, self.step * (1 + rows / 200) * self.steps * slow

    def _take(self, rank: int, indexes: range) -> None:
        self.batches += 1
        self.add(protocol.BatchStarted(rank=rank, batch=self.batches, rows=len(indexes)))
        self._hands[rank] = self.batches, indexes, self.at

    def _beat(self) -> list[int]:
        """A quarter of a second on; the ranks that were done in it."""
        beat = self.at + 0.25
        ends = {
            rank: began + sum(self.seconds(rank, len(indexes))) + 0.05
            for rank, (_, indexes, began) in self._hands.items()
        }
        done = sorted((end, rank) for rank, end in ends.items() if end <= beat)
        for end, rank in done:
            number, indexes, _ = self._hands.pop(rank)
            self.at = max(self.at, end)
            self.finish(rank, number, indexes)
        if done:
            return [rank for _, rank in done]
        self.at = beat
        steps = []
        for rank, (number, indexes, began) in self._hands.items():
            prefill, decode = self.seconds(rank, len(indexes))
            step = int(max(0.0, self.at - began - prefill) / decode * self.steps)
            steps.append(StepsInFlight(rank=rank, batch=number, step=step, output_tokens=step * len(indexes)))
        self.telemetry_tick(steps)
        return []

    def telemetry_tick(self, steps: list[StepsInFlight]) -> None:
        self.tick()
        tick = self.events.pop()
        assert isinstance(tick, protocol.Tick)
        whole = round(self.at * 4) % 4 == 0
        self.add(
            protocol.Tick(
                steps=steps,
                devices=tick.devices if whole else None,
                processes=tick.processes if whole else None,
            )
        )

    def finish(self, rank: int, number: int, indexes: Iterable[int]) -> None:
        records = [record(index, rank, number) for index in indexes]
        self.add(*(protocol.Output(record=each) for each in records))
        self.add(protocol.BatchFinished(rank=rank, batch=number, result=self.result(rank, records)))

    def result(self, rank: int, records: list[protocol.OutputRecord]) -> BatchResult:
        prefill, decode = self.seconds(rank, len(records))
        tokens = sum(each.output_tokens for each in records)
        slots = len(records) * (16 + self.steps)
        return BatchResult(
            rows=len(records),
            prompt_tokens=sum(each.prompt_tokens for each in records),
            output_tokens=tokens,
            slots=slots,
            padded_slots=int(slots * 0.12),
            steps=self.steps,
            prefill_seconds=prefill,
            decode_seconds=decode,
            seconds=prefill + decode,
        )


def straggler(*, ended: bool = True) -> PacedScript:
    """Four ranks pull 256 prompts in batches of 16; rank 2 needs 1.8 times as long for a step."""
    script = PacedScript(4, gpus=4, prompts=256, slow={2: 1.8}, step=0.08).begun()
    return script.pull().ended() if ended else script.pull(until=script.at + 12)  # type: ignore[return-value]


def second_round(gpus: int = 5) -> PacedScript:
    """The article's: five ranks, 20 prompts each, batches of 16: a second round of four prompts on each rank."""
    return PacedScript(5, gpus=gpus).begun().split().ended()  # type: ignore[return-value]


def even_rounds() -> PacedScript:
    """The same prompts pulled in even rounds: 10 on each rank, twice."""
    script = PacedScript(5, gpus=5).begun()
    script.batch_size = 10
    return script.pull().ended()  # type: ignore[return-value]


def idle_end() -> PacedScript:
    """Three ranks, batches of 16 of 64 prompts: the fourth batch is one rank's alone."""
    return PacedScript(3, prompts=64).begun().pull().ended()  # type: ignore[return-value]


def lost_and_again(*, ended: bool = False) -> PacedScript:
    """Rank 1 dies in its second batch; both are launched again and go on."""
    script = PacedScript(2, prompts=320, step=0.08).begun()
    script.pull(until=script.at + 7)
    script.add(protocol.RankLost(rank=1, cause=SEGFAULT)).wait(0.4)
    script._hands.clear()
    script.add(protocol.RanksLaunched(attempt=2, world_size=2, restarts_left=2)).loading().ready()
    script.pull(until=None if ended else script.at + 9)
    return script.ended() if ended else script  # type: ignore[return-value]


def many(ranks: int = 64) -> PacedScript:
    """As many ranks as there may be, under way, rank 5 slow."""
    script = PacedScript(ranks, gpus=8, prompts=ranks * 48, slow={5: 1.5}, step=0.09).begun()
    return script.pull(until=script.at + 18)


def continuous(seconds: int = 40) -> Script:
    """Two continuous ranks: one batch each, an account every other second, fewer rows towards the end."""
    script = PacedScript(2, prompts=200).begun()
    for position, event in enumerate(script.events):
        if isinstance(event, protocol.RankReady):
            script.events[position] = replace(event, engine="continuous")
    for rank in range(2):
        script.add(protocol.BatchStarted(rank=rank, batch=rank + 1, rows=18))
    index = 0
    for second in range(2, seconds + 1, 2):
        script.wait(2)
        rows = 16 if second < seconds - 10 else max(2, (seconds - second) // 2 * 3)
        flying = [
            StepsInFlight(
                rank=rank, batch=rank + 1, step=second * 20, output_tokens=rows * 20, rows=rows, cache_used=0.5
            )
            for rank in range(2)
        ]
        script.telemetry_tick(flying)
        for rank in range(2):
            records = [record(index + each, rank, rank + 1) for each in range(4)]
            index += 4
            script.add(*(protocol.Output(record=each) for each in records))
            result = script.result(rank, records)
            result = replace(result, steps=40, row_steps=40 * rows)
            script.add(protocol.AccountClosed(rank=rank, batch=rank + 1, result=result))
            script.add(protocol.RowsAdded(rank=rank, batch=rank + 1, rows=4))
    return script
