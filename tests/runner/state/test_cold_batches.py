"""A rank's first batch pays for what is done once: it counts for totals, for a setting only if there is no other."""

import pytest

from rankdeck.runner import protocol
from rankdeck.runner.advice.advice import early_turn, last_turn
from rankdeck.runner.forecast.cost_model import fit
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.state import RunState, apply
from rankdeck.runner.state.costs import CostPoint, with_batch
from rankdeck.runner.state.periods import KnobPeriod, share_of_batch
from rankdeck.runner.state.settings import settings
from tests.runner.state.test_state import finished, output, ready

TOKENS = 20


class Run:
    """A run of ranks on a clock that the test turns. A cold batch takes ten seconds, any other one."""

    def __init__(self, ranks: int = 1, *, device: str = "cuda:0", engine: str = "static") -> None:
        config = RunConfig(prompts="p.txt", ranks=ranks, batch_size=2, max_new_tokens=10)
        self.at, self.batch, self.ranks, self.facts = 0.0, 0, ranks, {"device": device, "engine": engine}
        self.state = RunState()
        self.add(protocol.RunStarted(name="n", directory="/d", config=config, prompts=1000))
        self.launched()
        self.size(2)

    def add(self, event: protocol.AnyEvent) -> None:
        self.state = apply(self.state, type(event)(**{**_fields(event), "at": self.at}))

    def launched(self) -> None:
        self.add(protocol.RanksLaunched(attempt=1, world_size=self.ranks))
        for rank in range(self.ranks):
            self.add(ready(rank, **self.facts))
        self.add(protocol.RanksReady())

    def size(self, batch_size: int) -> None:
        self.add(protocol.BatchSizeChanged(batch_size=batch_size, auto=False, reason="as asked for"))

    def round(self, seconds: float, rows: int = 2, *, ranks: int | None = None, warm_up: bool = False) -> None:
        """A batch of every rank, handed out and finished together."""
        numbers = {rank: self.batch + rank + 1 for rank in range(self.ranks if ranks is None else ranks)}
        self.batch += len(numbers)
        for rank, number in numbers.items():
            self.add(protocol.BatchStarted(rank=rank, batch=number, rows=rows, warm_up=warm_up, kept=not warm_up))
        self.at += seconds
        for rank, number in numbers.items():
            self.add(finished(rank, number, self.at, rows=rows, tokens=TOKENS))

    @property
    def rate(self) -> float | None:
        return self.state.periods[-1].warm_rate


def _fields(event: protocol.AnyEvent) -> dict[str, object]:
    return {name: getattr(event, name) for name in event.__struct_fields__}


def test_the_first_batch_of_a_rank_gives_way_to_the_second() -> None:
    run = Run()
    run.round(10)
    assert run.state.periods[-1].tokens_per_second == TOKENS / 10, "there is no other figure yet"
    assert run.rate is None, "and it is compared with no other"
    run.round(1)
    run.round(1)
    assert run.rate == run.state.periods[-1].tokens_per_second == TOKENS
    assert run.state.periods[-1].batches == 2


def test_totals_and_the_highest_memory_keep_the_first_batch() -> None:
    run = Run()
    run.round(10)
    run.round(1)
    run.add(output(0, TOKENS))
    assert run.state.ranks[0].batches == 2
    assert run.state.ranks[0].busy_seconds == 11
    assert run.state.seconds == 11
    assert run.state.slots == 100
    assert run.state.periods[-1].peak_memory_bytes == 1002


def test_a_rank_is_cold_again_after_every_launch() -> None:
    run = Run()
    for _ in range(2):
        run.round(10)
        run.round(1)
        assert run.rate == TOKENS
        run.launched()


def test_a_rank_that_was_inactive_so_far_is_cold_beside_warm_ones() -> None:
    run = Run(2)
    run.add(protocol.ActiveRanksChanged(active_ranks=1))
    run.round(10, ranks=1)
    run.round(1, ranks=1)
    run.add(protocol.ActiveRanksChanged(active_ranks=2))
    run.round(10)
    assert run.rate is None
    run.round(1)
    assert run.rate == pytest.approx(TOKENS / 5.5 + TOKENS), "rank 0 waited for rank 1 as it was cold"


def test_on_a_gpu_the_first_batch_with_more_rows_is_cold_as_well() -> None:
    gpu, cpu = Run(), Run(device="cpu")
    for run in (gpu, cpu):
        run.round(10)
        run.round(1)
        run.size(4)
        run.round(10, rows=4)
    assert cpu.rate == TOKENS / 10
    assert gpu.rate is None
    gpu.round(1, rows=4)
    assert gpu.rate == TOKENS
    gpu.size(2)
    gpu.round(1, rows=2)
    assert gpu.rate == TOKENS, "memory that has grown stays"


def test_one_row_more_in_an_even_round_is_not_another_size() -> None:
    run = Run(device="cuda:0")
    run.round(10, rows=20)
    run.round(1, rows=21)
    assert run.rate == TOKENS


def test_the_warm_up_of_a_trial_warms_a_rank() -> None:
    run = Run(device="cuda:0")
    run.round(10, warm_up=True)
    run.round(1)
    assert run.rate == TOKENS


def test_of_a_continuous_rank_the_first_account_is_cold_and_none_for_its_rows() -> None:
    run = Run(device="cuda:0", engine="continuous")
    run.add(protocol.BatchStarted(rank=0, batch=1, rows=50))
    for number, (seconds, rows) in enumerate([(10, 2), (1, 7), (1, 20)]):
        run.at += seconds
        result = finished(0, 1, run.at, rows=rows, tokens=TOKENS).result
        run.add(protocol.AccountClosed(rank=0, batch=1, result=result))
        assert run.rate == (TOKENS if number else None)


def test_what_batches_cost_is_fitted_to_warm_ones() -> None:
    run = Run()
    run.round(10, rows=8)
    model = fit(run.state.costs)
    assert model is not None
    assert model.cold
    assert model.seconds(8, 10, 1) == pytest.approx(10), "until there is another, the first one is all that is known"
    run.round(1, rows=2)
    model = fit(run.state.costs)
    assert model is not None
    assert not model.cold
    assert model.measured_rows == (2, 2)
    assert model.seconds(2, 10, 1) == pytest.approx(1)
    run.round(1, rows=8)
    assert [(point.rows, point.batches, point.cold) for point in run.state.costs] == [(8, 1, False), (2, 1, False)]


def test_a_cold_cost_never_joins_warm_ones_in_either_order() -> None:
    cold, warm = (CostPoint(active_ranks=1, rows=4, batches=1, seconds=s, cold=s > 1) for s in (10.0, 1.0))
    assert with_batch((cold,), warm) == (warm,)
    assert with_batch((warm,), cold) == (warm,)
    assert with_batch((cold,), cold)[0].batches == 2


def test_a_turn_after_first_batches_only_has_nothing_to_compare_with() -> None:
    run = Run()
    run.round(10)
    run.size(4)
    run.round(1, rows=4)
    assert last_turn(run.state) is None
    early = early_turn(run.state)
    assert early is not None
    assert early.before.cold


def test_a_row_shows_a_first_batch_and_no_speedup_from_it() -> None:
    alone = KnobPeriod(batch_size=4, active_ranks=1).with_batch(0, share_of_batch(100, 10.0, cold=True))
    both = (
        KnobPeriod(batch_size=4, active_ranks=2)
        .with_batch(0, share_of_batch(100, 1.0))
        .with_batch(1, share_of_batch(100, 1.0))
    )
    first, second = settings([alone, both])
    assert (first.tokens_per_second, second.tokens_per_second) == (10, 200)
    assert (first.speedup, second.speedup) == (None, None)
    warm = KnobPeriod(batch_size=4, active_ranks=1).with_batch(0, share_of_batch(100, 1.0))
    for periods in ([alone, warm, both], [warm, alone, both]):
        assert [row.speedup for row in settings(periods)] == [1.0, 2.0]
