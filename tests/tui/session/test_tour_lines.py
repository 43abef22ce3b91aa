"""`--tour --plain`: real processes, no torch; the captions are lines of the log, and every prompt is answered."""

import asyncio
import os
import re
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.advice import tour_limits
from rankdeck.runner.start import Started
from rankdeck.tui.plain.view import PlainView
from rankdeck.tui.session import watch as watching
from rankdeck.tui.sources.client import SocketSource
from tests.scripted_source import ScriptedSource
from tests.scripted_steering import SteeredScript

PROMPTS = [f"prompt {number}" for number in range(300)]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tour_limits, "LEAST_SECONDS", 0.05)
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.02")


def told(directory: Path) -> tuple[int, list[str]]:
    lines: list[str] = []
    status = asyncio.run(watching._follow(SocketSource(directory), PlainView(lines.append), True, True, True))
    return status, [line.split(" ", 1)[1].rstrip() for line in lines]


@pytest.mark.usefixtures("quick")
def test_a_tour_in_lines_walks_ranks_then_batch_sizes_and_keeps_every_answer(launch: Callable[..., Started]) -> None:
    started = launch(PROMPTS, batch_size=2)
    status, lines = told(started.directory)
    assert status == 0
    said = [line.removeprefix("tour: ") for line in lines if line.startswith("tour: ")]
    assert said[0] == "1 of 2 ranks at batch size 2: the baseline for all the others"
    assert re.match(r"batch size 2 x 1 rank: [\d,]+ tok/s$", said[1])
    assert said[2].startswith("2 of 2 ranks at batch size 2: tok/s should nearly double")
    sizes = [int(found[1]) for line in said if (found := re.match(r"2 of 2 ranks at batch size (\d+): ", line))]
    assert sizes[:3] == [2, 4, 8], "stand-in ranks take as long for any batch: each doubling pays"
    assert re.match(
        r"over; best so far: batch size \d+ x 2 ranks, [\d,]+ tok/s, [\d.]+x its first setting; all", said[-1]
    )
    assert said[-1].startswith(f"over; best so far: batch size {sizes[-1]} "), said
    assert "300 of 300 prompts completed, 0 failed" in "\n".join(lines)
    assert len(list(run_directory.read_outputs(started.directory))) == 300


@pytest.mark.usefixtures("quick")
def test_the_lines_of_a_tour_end_with_the_table_of_settings(launch: Callable[..., Started]) -> None:
    started = launch(PROMPTS, batch_size=2)
    lines: list[str] = []
    asyncio.run(watching._follow(SocketSource(started.directory), PlainView(lines.append), True, True, True))
    text = "".join(lines)
    table = text[text.rindex("\nbatch") :].split("\n")[2:-1]
    assert [tuple(map(int, row.split()[:2])) for row in table[:3]] == [(2, 1), (2, 2), (4, 2)]
    assert sum("★" in row for row in table) == 1


def test_a_tour_that_cannot_begin_says_why_and_asks_for_nothing() -> None:
    lines: list[str] = []
    source = ScriptedSource(SteeredScript(1, batch_size=8, prompts=8).begun().rounds(1).ended().events)
    asyncio.run(watching._follow(source, PlainView(lines.append), True, True, True))
    (said,) = [line.split(" ", 1)[1] for line in lines if "tour" in line]
    assert said == "tour: No tour now: too few prompts are left to measure 1 rank at batch size 8.\n"
    assert source.sent == []


def test_ctrl_c_takes_over() -> None:
    lines: list[str] = []
    script = SteeredScript(batch_size=2, prompts=400).begun().rounds(1)
    source = ScriptedSource(script.events)

    async def run() -> int:
        following = asyncio.ensure_future(watching._follow(source, PlainView(lines.append), True, True, True))
        async with asyncio.timeout(10):
            while not source.sent:
                await asyncio.sleep(0)
            os.kill(os.getpid(), signal.SIGINT)
            while protocol.Stop() not in source.sent:
                await asyncio.sleep(0)
            source.say(*script.ended(status="stopped").events[-1:])
            return await following

    assert asyncio.run(run()) == 130
    assert source.sent == [protocol.SetActiveRanks(active_ranks=1), protocol.Stop()]
    assert any(line.endswith("tour: the tour ends here: you have the knobs\n") for line in lines)


def followed(source: ScriptedSource, lines: list[str]) -> Coroutine[Any, Any, int]:
    return watching._follow(source, PlainView(lines.append), True, True, True)


BEGUN = [protocol.SetActiveRanks(active_ranks=1)]
BACK = protocol.SetActiveRanks(active_ranks=2)


@pytest.mark.parametrize("rounds", [2, 1])
def test_a_tour_that_is_over_with_its_run_speaks_before_the_closing_lines_and_leaves_them_the_table(
    rounds: int,
) -> None:
    script = SteeredScript(1, batch_size=2, prompts=12).begun().rounds(2).size(4)
    if rounds == 2:
        script.rounds(2)
    lines: list[str] = []
    source = ScriptedSource(script.rounds(1, finish=False).ended(status="stopped").events)
    asyncio.run(followed(source, lines))
    best = next(number for number, line in enumerate(lines) if "tour: over; best" in line)
    end = next(number for number, line in enumerate(lines) if "stopped" in line and "tour" not in line)
    assert best < end < next(number for number, line in enumerate(lines) if "outputs:" in line)
    assert sum(line.startswith("batch ") for line in lines) == (1 if rounds == 2 else 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_leave_gives_the_run_its_ranks_back(number: signal.Signals) -> None:
    lines: list[str] = []
    source = ScriptedSource(SteeredScript(batch_size=2, prompts=400).begun().rounds(1).events)

    async def run() -> int:
        following = asyncio.ensure_future(followed(source, lines))
        async with asyncio.timeout(10):
            while not source.sent:
                await asyncio.sleep(0)
            os.kill(os.getpid(), number)
            return await following

    assert asyncio.run(run()) == 128 + number
    assert source.sent == [*BEGUN, BACK]
    assert "the tour ends here, at batch size 2 x 2 ranks: where it began" in "".join(lines)


def test_a_reader_that_goes_away_leaves_the_run_with_all_its_ranks() -> None:
    script = SteeredScript(batch_size=2, prompts=400).begun().rounds(1)
    source = ScriptedSource(script.activate(1).rounds(1).events)

    def write(line: str) -> None:
        if "active ranks: 1" in line or ("1 of 2" in line and "tour" not in line):
            raise BrokenPipeError

    assert asyncio.run(watching._follow(source, PlainView(write), True, True, True)) == watching.EXIT_NOBODY_READS
    assert source.sent == [*BEGUN, BACK]
