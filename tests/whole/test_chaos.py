"""Chaos: whatever is killed, stopped, resumed and turned, every prompt ends with exactly one whole record."""

import asyncio
import random

from rankdeck.runner import run_directory
from rankdeck.runner.protocol import Prompt
from tests.chaos import Flight, wrong_with
from tests.standin.rank import answer

AT_ONCE = 4
PROMPTS = [f"prompt number {number}" for number in range(300)]


def expected(index: int, text: str) -> str:
    return answer(Prompt(index=index, id=str(index), text=text))


async def test_nothing_is_lost_doubled_or_half_written_whatever_dies(launch, monkeypatch, request, state_home):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.006")
    seeds = request.config.getoption("--chaos-seeds")
    turns = asyncio.Semaphore(AT_ONCE)
    wrong: dict[int, object] = {}
    acts: dict[str, int] = {}

    async def run_through(seed: int) -> None:
        async with turns:
            luck = random.Random(seed)
            flight = Flight(
                seed,
                launch(
                    PROMPTS,
                    name=f"seed-{seed}",
                    ranks=luck.randint(1, 3),
                    batch_size=luck.randint(1, 12),
                    dispatch=luck.choice(["pull", "pull", "split"]),
                    engine=luck.choice(["static", "continuous"]),
                    max_restarts=1000,
                ),
                acts=5,
                calm=(0.0, 0.6),
            )
            try:
                await flight.run_through(120)
                problems = wrong_with(flight.directory, PROMPTS, expected)
            except Exception as error:
                log = (flight.directory / run_directory.LOG_FILE).read_text()[-2000:]
                problems = [f"{type(error).__name__}: {error}", log]
            if problems:
                wrong[seed] = (flight.did, problems)
            for action in flight.did:
                acts[action] = acts.get(action, 0) + 1

    await asyncio.gather(*(run_through(seed) for seed in range(seeds)))
    said = "\n".join(f"seed {seed}: {found}" for seed, found in wrong.items())
    assert not wrong, said
    assert len(acts) == 9 or seeds < 50, f"chaos did not act as it should: {acts}"
