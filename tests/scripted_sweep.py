"""Scripted sweeps, by real events: planned, running, at the wall of memory, settled. No clock, no I/O.

The figures come from a simple machine: a batch costs a fixed time and ever more per row, so that growth ends;
ranks share the host a little, and memory grows with the rows.
"""

import random
from collections.abc import Sequence

from msgspec.structs import replace

from rankdeck.runner import protocol
from rankdeck.runner.protocol.sweep_plan import SweepPlan, Trial, TrialOutcome, TrialRecord, TrialResult
from rankdeck.runner.supervisor.sweeper import order_of
from tests.scripted import GIB, Script, config

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 1 has a total capacity of 79.15 GiB"
EVIL = "[bold]\x1b[2J\u202e[/] 日本語"
"""Words of others that would steer a terminal, or pass for markup."""

SOURCE = "data sheet of NVIDIA H100 80GB HBM3"


class SweepScript(Script):
    """A run in which a sweep is measured; `fits` is the largest batch size that memory allows."""

    def __init__(
        self,
        plan: SweepPlan,
        ranks: int = 2,
        *,
        gpus: int = 0,
        prompts: int = 4000,
        fits: int = 1 << 20,
        rank_costs: float = 0.06,
    ) -> None:
        super().__init__(ranks, gpus=gpus, prompts=prompts)
        self.plan, self.fits, self.rank_costs = plan, fits, rank_costs
        self.trials = order_of(plan)
        self._noise = random.Random(7)
        self._walls: dict[int, int] = {}

    def begun(self, *, typed: bool = False) -> "SweepScript":
        """Ranks are ready and the sweep is under way; `typed` where a person started it in a run."""
        self.started().launched().loading().ready()
        started = self.events[0]
        assert isinstance(started, protocol.RunStarted)
        settings = replace(config(self.ranks), sweep=None if typed else self.plan, ignore_eos=True)
        self.events[0] = replace(started, config=settings)
        figure, source = (3.35e12, SOURCE) if self.gpus else (None, None)
        self.wait(0.1).add(
            protocol.SweepStarted(
                plan=self.plan, trials=self.trials, bandwidth_bytes_per_second=figure, bandwidth_source=source
            )
        )
        return self

    def over(self, number: int) -> "SweepScript":
        """The next so many trials are over."""
        done = sum(isinstance(event, protocol.TrialFinished) for event in self.events)
        for trial in self.trials[done : done + number]:
            wall = self._walls.get(trial.active_ranks, 1 << 30)
            if trial.batch_size >= wall:
                self._finish(trial, "skipped", f"a batch of {wall} ran out of memory")
            elif trial.batch_size > self.fits:
                self.add(protocol.TrialStarted(trial=trial)).wait(2)
                self._walls[trial.active_ranks] = trial.batch_size
                self._finish(trial, "out_of_memory", OUT_OF_MEMORY)
            else:
                self._measure(trial)
        return self

    def at_hand(self, *, measuring: bool = True, seconds: float = 3.0) -> "SweepScript":
        """The next trial is under way."""
        done = sum(isinstance(event, protocol.TrialFinished) for event in self.events)
        trial = self.trials[done]
        self.add(protocol.TrialStarted(trial=trial))
        self.batch_size = trial.batch_size
        for rank in range(trial.active_ranks):
            self.begin_batch(rank)
        numbers = range(self.batches - trial.active_ranks + 1, self.batches + 1)
        if measuring:
            self.wait(1).add(protocol.TrialWarm(trial=trial))
        for beat in range(int(seconds * 4)):
            self.wait(0.25).tick(step=2 + beat, batches=numbers)
        return self

    def settled(self, reason: str = "all trials are over") -> "SweepScript":
        self.add(protocol.SweepSettled(reason=reason))
        return self

    def _measure(self, trial: Trial) -> None:
        self.add(protocol.TrialStarted(trial=trial)).begin_batch(0)
        self.wait(0.5).tick(5, [self.batches]).wait(0.5).add(protocol.TrialWarm(trial=trial))
        result = self._result(trial)
        self.wait(result.seconds).tick(40, [self.batches])
        record = TrialRecord(trial=trial, outcome="measured", result=result)
        self.add(protocol.TrialFinished(record=record))

    def _finish(self, trial: Trial, outcome: TrialOutcome, reason: str) -> None:
        self.add(protocol.TrialFinished(record=TrialRecord(trial=trial, outcome=outcome, reason=reason)))

    def _result(self, trial: Trial) -> TrialResult:
        rows, ranks = trial.batch_size, trial.active_ranks
        speed = 12.0 if self.gpus else 1.0
        alone = (1.9 + 0.05 * rows + 0.004 * rows**1.95) / speed
        batch = alone * (1 + self.rank_costs * (ranks - 1)) * self._noise.uniform(0.985, 1.015)
        rounds = max(2, int(5 / batch) + 1)
        seconds = batch * rounds
        tokens = 50 * rows * ranks * rounds
        peak = int((0.9 + 0.31 * rows) * GIB) if self.gpus else None
        return TrialResult(
            rounds=rounds,
            batches=rounds * ranks,
            seconds=seconds,
            prompt_tokens=9 * rows * ranks * rounds,
            output_tokens=tokens,
            tokens_per_second=tokens / seconds,
            total_tokens_per_second=tokens * 59 / 50 / seconds,
            rank_tokens_per_second=[tokens / seconds / ranks] * ranks,
            prefill_seconds=batch * 0.06,
            batch_seconds=batch,
            step_ms=(batch * 18.5, batch * 19.4, batch * 23.0),
            padding_waste=min(0.4, 0.015 * rows**0.5),
            idle=0.01 + 0.012 * ranks,
            peak_memory_bytes=peak,
            rank_peak_memory_bytes=[peak] * ranks,
            reserved_memory_bytes=None if peak is None else peak * 5 // 4,
            busy_percent=min(99.0, 61.0 + 6 * rows**0.5) if self.gpus else None,
            dram_percent=min(90.0, 22.0 + 5 * rows**0.5) if self.gpus else None,
            power_watts=ranks * min(690.0, 240.0 + 40 * rows**0.5) if self.gpus else None,
            tokens_per_joule=tokens / seconds / (ranks * (240.0 + 40 * rows**0.5)) if self.gpus else None,
            mbu=0.62 / (1 + rows / 60) if self.gpus else None,
        )


def plan(batch_sizes: Sequence[int], ranks: Sequence[int], repeats: int = 3, *, outputs: bool = False) -> SweepPlan:
    return SweepPlan(batch_sizes=list(batch_sizes), ranks=list(ranks), repeats=repeats, outputs=outputs)


USUAL = plan((1, 4, 8, 16, 32), (1, 2))
SIXTY_FOUR = plan((1, 4, 16, 32, 64, 128), (1, 2))
LARGE = plan((1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96), range(1, 9), 1)


def before_the_ranks() -> Script:
    """`rankdeck sweep` was asked for; the ranks are loading."""
    script = SweepScript(USUAL)
    script.started().launched().loading()
    started = script.events[0]
    assert isinstance(started, protocol.RunStarted)
    script.events[0] = replace(started, config=replace(config(), sweep=USUAL))
    return script


def begun() -> SweepScript:
    """The first trial warms up."""
    return SweepScript(USUAL).begun().at_hand(measuring=False, seconds=1)


def running() -> SweepScript:
    """In the second repeat."""
    return SweepScript(USUAL).begun().over(14).at_hand()


def running_on_gpus() -> SweepScript:
    return SweepScript(USUAL, gpus=2).begun().over(14).at_hand()


def typed() -> SweepScript:
    """Started by a person in a run that goes on afterwards."""
    return SweepScript(plan((4, 8, 16), (1, 2), 2, outputs=True)).begun(typed=True).over(5).at_hand(measuring=False)


def wall() -> SweepScript:
    """A batch of 64 does not fit."""
    return SweepScript(SIXTY_FOUR, gpus=2, fits=32).begun().over(25).at_hand()


def settled() -> SweepScript:
    return SweepScript(USUAL, gpus=2).begun().over(30).settled()


def one_rank() -> SweepScript:
    return SweepScript(plan((1, 2, 4, 8, 16, 32), (1,)), 1).begun().over(18).settled()


def eight_ranks() -> SweepScript:
    return SweepScript(LARGE, 8, gpus=8, fits=64).begun().over(70).at_hand()


def tied() -> SweepScript:
    """Ended after two repeats, which cannot tell batch sizes 16 and 32 apart."""
    return SweepScript(plan((1, 4, 8, 16, 32), (1, 2), 2)).begun().over(20).settled()


STATES = {
    "planned": before_the_ranks,
    "begun": begun,
    "running": running,
    "running_on_gpus": running_on_gpus,
    "typed": typed,
    "wall": wall,
    "settled": settled,
    "tied": tied,
    "one_rank": one_rank,
    "eight_ranks": eight_ranks,
}
