"""Many runs with stand-in ranks under chaos, several at once, and the figures of all."""

import asyncio
import dataclasses
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from rankdeck.runner import run_directory
from rankdeck.runner.protocol import Prompt
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.start import Started
from tests.chaos.disk_acts import Disk
from tests.chaos.flight import ACTS, Flight
from tests.chaos.verdict import Verdict, judge
from tests.standin.rank import answer

PROMPTS = [f"prompt number {number}" for number in range(300)]
STEP_SECONDS = "0.006"
"""For STANDIN_STEP_SECONDS: an undisturbed run lasts a second or two."""

ACTS_A_RUN = 6
CALM = (0.0, 0.4)
MOST_SECONDS = 300.0
"""How long a run may take to its end: most of it is the wait for a rank that hangs before it ever worked."""

PATIENCE = 2.0


class Place(Protocol):
    """Where runs start and end."""

    def launch(self, name: str, settings: dict[str, Any]) -> Started: ...
    def disk(self, name: str) -> Disk | None: ...
    def clear(self, name: str, *, failed: bool) -> None: ...


@dataclass
class Figures:
    """What all flights came to."""

    seeds: int = 0
    seconds: float = 0.0
    acts: Counter[str] = field(default_factory=Counter)
    resumes: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)

    def add(self, flight: Flight, seed: int, verdict: Verdict) -> None:
        self.seeds += 1
        self.acts.update(flight.did)
        self.resumes.update(flight.resumes)
        self.found.update(verdict.counts())
        if not verdict:
            self.failures[seed] = f"{verdict}; after {', '.join(flight.did)}"


def expected(index: int, text: str) -> str:
    return answer(Prompt(index=index, id=str(index), text=text))


def settings_of(seed: int) -> dict[str, Any]:
    """How the run of a seed is set up."""
    luck = random.Random(seed)
    settings = {
        "ranks": luck.randint(1, 3),
        "batch_size": luck.randint(1, 12),
        "dispatch": luck.choice(["pull", "pull", "split"]),
        "engine": luck.choice(["static", "continuous"]),
        "max_restarts": 1000,
    }
    if "patience" in (one.name for one in msgspec.structs.fields(RunConfig)):
        settings["patience"] = PATIENCE
    return settings


async def fly(
    seeds: Iterable[int],
    place: Place,
    *,
    at_once: int,
    actions: Sequence[str] = ACTS,
    tell: Callable[[Figures, int], None] = lambda figures, seed: None,
) -> Figures:
    """Take the run of each seed through its chaos, `at_once` at a time; `tell` hears of each seed that is over."""
    figures, turns, began = Figures(), asyncio.Semaphore(at_once), time.monotonic()

    async def run_through(seed: int) -> None:
        async with turns:
            name = f"seed-{seed}"
            flight = Flight(
                seed,
                f"{os.getpid()}-{seed}",
                lambda: place.launch(name, settings_of(seed)),
                acts=ACTS_A_RUN,
                calm=CALM,
                actions=actions,
                disk=place.disk(name),
            )
            no_end = []
            try:
                await flight.run_through(MOST_SECONDS)
            except Exception as error:
                log = (flight.directory / run_directory.LOG_FILE).read_text(errors="replace").splitlines()
                no_end = [f"{type(error).__name__}: {error}", *log[-2:]]
            left = [str(process) for process in await flight.clear_up()]
            verdict = judge(flight.directory, PROMPTS, expected)
            verdict = dataclasses.replace(verdict, left_behind=left, no_end=no_end)
            figures.add(flight, seed, verdict)
            figures.seconds = time.monotonic() - began
            tell(figures, seed)
            place.clear(name, failed=not verdict)

    await asyncio.gather(*(run_through(seed) for seed in seeds))
    return figures
