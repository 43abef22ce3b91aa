"""What the search and the trials of a sweep learn from: batches of a shape that a rank has done before."""

import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.scheduling.scheduler import Scheduler
from rankdeck.runner.state import RunState, apply
from rankdeck.runner.supervisor.knobs import KnobControls
from rankdeck.runner.supervisor.sweeper import _Prompts
from tests.runner.state.test_state import finished, ready
from tests.runner.supervisor.test_supervisor import watch

TOKENS = 100


class Searched:
    """A run with one rank whose batch size is searched for. The clock is the test's; nothing is started."""

    def __init__(self, device: str = "cuda:0") -> None:
        config = RunConfig(prompts="p", ranks=1, batch_size=None, max_new_tokens=10)
        self.state, self.at, self.batch = RunState(), 0.0, 0
        self.scheduler = Scheduler(bytes(100_000), order="input", batch_size=1, active_ranks=1)
        self.emit(protocol.RunStarted(name="n", directory="/d", config=config, prompts=100_000))
        self.emit(protocol.RanksLaunched(attempt=1, world_size=1))
        self.emit(ready(0, device=device))
        self.emit(protocol.RanksReady())
        self.controls = KnobControls(config, self.scheduler, bytes(100_000), self)  # type: ignore[arg-type]
        self.controls.begin()

    def emit(self, event: protocol.AnyEvent) -> None:
        fields = {name: getattr(event, name) for name in event.__struct_fields__}
        self.state = apply(self.state, type(event)(**{**fields, "at": self.at}))

    def batch_of(self, tokens_per_second: float) -> int:
        """One more batch of the present size; returns the size from now on."""
        self.batch += 1
        rows = self.scheduler.batch_size
        self.emit(protocol.BatchStarted(rank=0, batch=self.batch, rows=rows))
        self.at += TOKENS * rows / tokens_per_second
        done = finished(0, self.batch, self.at, rows=rows, tokens=TOKENS * rows)
        self.emit(done)
        self.controls.batch_finished(done)
        return self.scheduler.batch_size


def test_the_search_does_not_learn_from_a_batch_that_is_slow_because_it_is_the_first():
    run = Searched()
    assert run.batch_of(10) == 256, "the first of the run: it takes ten times as long"
    assert run.batch_of(100) == 512
    assert run.batch_of(10) == 512, "the first of this size, which grows the allocator"
    assert run.batch_of(180) == 1024
    run.batch_of(10)
    assert run.batch_of(182) == 512
    assert not run.state.auto
    assert run.state.periods[-1].reason.startswith("settled at 512: 512 -> 1024 changed tokens/s by +1%")


def test_on_a_cpu_every_batch_counts():
    run = Searched("cpu")
    assert run.batch_of(100) == 128
    assert run.batch_of(180) == 256
    assert run.batch_of(181) == 128


def sweep(**changes) -> SweepPlan:
    return SweepPlan(
        **{"batch_sizes": [2, 4], "ranks": [1], "repeats": 2, "least_rounds": 1, "least_seconds": 0.0, **changes}
    )


def warm_ups(seen) -> list[tuple[int, int]]:
    """Rows and output tokens a row of each warm-up."""
    started = {one.batch: one for one in seen if isinstance(one, protocol.BatchStarted)}
    return [
        (started[one.batch].rows, one.result.output_tokens // one.result.rows)
        for one in seen
        if isinstance(one, protocol.BatchFinished) and started[one.batch].warm_up
    ]


@pytest.mark.parametrize(("device", "whole"), [("cpu", False), ("cuda:0", True)])
async def test_a_warm_up_is_a_whole_batch_where_a_gpu_has_not_done_so_many_rows(launch, monkeypatch, device, whole):
    monkeypatch.setenv("STANDIN_DEVICE", device)
    started = launch([f"prompt {number}" for number in range(40)], sweep=sweep(), ranks=1, max_new_tokens=4)
    _, seen = await watch(started)
    most = 0
    found = warm_ups(seen)
    assert len(found) == 4
    for rows, tokens in found:
        assert tokens == (4 if whole and rows > most else 1)
        most = max(most, rows)


@pytest.mark.parametrize("order", ["length", "input"])
def test_no_batch_of_a_trial_is_wider_than_its_warm_up(order):
    lengths = [10 * number for number in range(1, 41)]
    scheduler = Scheduler(lengths, order="input", batch_size=4, active_ranks=1)
    prompts = _Prompts(scheduler, lengths, sweep(), by_length=order == "length")
    prompts.stock_up(12)
    warm_up = widths(prompts.for_warm_up(4), lengths)
    for _ in range(3):
        measured = widths(prompts.take(4), lengths)
        assert all(wide >= other for wide, other in zip(warm_up, measured, strict=True))


def widths(indices: list[int], lengths: list[int]) -> list[int]:
    return sorted((lengths[index] for index in indices), reverse=True)


async def test_a_sweep_of_continuous_ranks_says_why_it_has_no_mbu(launch):
    started = launch(
        [f"prompt {number}" for number in range(20)], sweep=sweep(batch_sizes=[2], repeats=1), engine="continuous"
    )
    state, _ = await watch(started)
    assert state.sweep.no_mbu == "decode steps of the continuous engine hold prefills of other rows"
    assert {record.result.mbu for record in state.sweep.records} == {None}
