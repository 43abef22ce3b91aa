"""Chaos: whatever is killed, stopped, damaged, filled and turned, every prompt ends with exactly one whole record."""

from collections.abc import Callable
from typing import Any

from rankdeck.runner.start import Started
from tests.chaos import fleet
from tests.chaos.disk_acts import SizeLimit

AT_ONCE = 6


class Here:
    """Runs that the test's own fixture starts; what they leave goes with the test's folder."""

    def __init__(self, launch: Callable[..., Started]) -> None:
        self._launch = launch

    def launch(self, name: str, settings: dict[str, Any]) -> Started:
        return self._launch(fleet.PROMPTS, name=name, **settings)

    def disk(self, name: str) -> SizeLimit:
        return SizeLimit()

    def clear(self, name: str, *, failed: bool) -> None:
        pass


async def test_nothing_is_lost_doubled_or_half_written_whatever_happens(launch, monkeypatch, request):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", fleet.STEP_SECONDS)
    seeds = request.config.getoption("--chaos-seeds")
    figures = await fleet.fly(range(seeds), Here(launch), at_once=AT_ONCE)
    assert not figures.failures, "\n".join(f"seed {seed}: {said}" for seed, said in figures.failures.items())
    assert figures.seeds == seeds
    assert figures.acts.total() > 2 * seeds, f"chaos came too late: {figures.acts}"
    assert figures.resumes.total() > seeds / 4, f"hardly a run was interrupted: {figures.resumes}"
