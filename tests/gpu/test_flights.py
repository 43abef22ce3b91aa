"""What the tests marked gpu do where a figure is missing or a run hangs, with runs that a test lets end."""

import subprocess
from pathlib import Path

import pytest

from rankdeck.runner.engine import static
from rankdeck.runner.protocol import DeviceSample
from rankdeck.runner.protocol.config import RunConfig
from tests.gpu import plan
from tests.gpu.marked import flights
from tests.gpu.marked.flights import Flight, Flights, figures


class Process:
    """A run's process: it ends by itself after `seconds`, or when it is told to."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.waited, self.returncode = seconds, 0.0, None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None and timeout is not None and timeout < self.seconds:
            self.waited = timeout
            raise subprocess.TimeoutExpired("rankdeck", timeout)
        self.returncode = 0 if self.returncode is None else self.returncode
        return self.returncode

    def terminate(self) -> None:
        self.returncode = -15


class Started:
    def __init__(self, seconds: float) -> None:
        self.process = Process(seconds)

    def died(self) -> bool:
        return self.process.returncode is not None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, which does not go by itself."""
    now = [5000.0]
    monkeypatch.setattr(flights.time, "monotonic", lambda: now[0])
    return now


def test_a_run_that_hangs_is_ended_and_fails_nothing_but_the_tests_that_ask_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    monkeypatch.setattr(
        flights.start, "launch", lambda config, run_dir: Started(9999 if config.engine == "static" else 10)
    )
    monkeypatch.setattr(Flight, "said", "loading")
    settings = RunConfig(prompts="p.txt", model="m")
    begun = Flights(tmp_path, {"continuous": settings}, began=5000.0)
    begun.launch("hanging", RunConfig(prompts="p.txt", model="m", engine="static"))
    clock[0] += 20
    assert begun["continuous"].wait() == 0
    assert begun["hanging"].started.process.waited == flights.BY - 20
    assert begun["hanging"].wait() == -15


def test_a_test_is_told_that_its_run_was_not_over_in_time(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    monkeypatch.setattr(Flight, "said", "loading")
    flight = Flight(Started(9999), clock[0])  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="it was not over in time, and was ended\nloading"):
        flight.wait()
    assert flight.started.died()


def test_every_run_is_given_up_before_the_tests_as_a_whole_are() -> None:
    of_all = plan.allowed(plan.STEPS[0], plan.BUDGET, [])
    assert 100 < flights.BY < flights.ALL_BY < of_all


def test_the_runs_that_are_waited_for_longest_are_in_the_last_file() -> None:
    files = sorted(path.name for path in Path(flights.__file__).parent.glob("test_*.py"))
    assert files[-1] == "test_slow_starts.py"


def test_what_is_looked_for_in_the_log_is_what_the_engine_says() -> None:
    assert flights.SLOWER_STEPS == (static.BY_GENERATE, static.NOT_CAPTURED)


def test_a_figure_that_a_gpu_does_not_give_skips_its_test_with_the_gpu_s_own_reason() -> None:
    mig = DeviceSample(index=0, uuid="MIG-a", name="MIG", unavailable={"busy_percent": "not of a MIG device"})
    with pytest.raises(pytest.skip.Exception, match="busy_percent: not of a MIG device"):
        figures([mig], "busy_percent")


def test_a_figure_that_is_missing_without_a_reason_or_without_any_sample_is_a_failure() -> None:
    with pytest.raises(AssertionError, match="power_watts is missing without a reason"):
        figures([DeviceSample(index=0, uuid="a", name="H100")], "power_watts")
    with pytest.raises(AssertionError, match="sampled no GPU"):
        figures([], "power_watts")


def test_the_figures_that_there_are_come_without_the_gaps_between_them() -> None:
    samples = [DeviceSample(index=0, uuid="a", name="H100", busy_percent=busy) for busy in (3, None, 0)]
    assert figures(samples, "busy_percent") == [3, 0]
