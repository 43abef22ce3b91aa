"""`rankdeck hello` with a parent that is made up: what it is told, and what becomes of its answers."""

import asyncio
import os
from pathlib import Path

import pytest

from rankdeck.runner import protocol
from rankdeck.runner.launching import greetings
from rankdeck.runner.launching.greetings import HelloError, greetings_of
from rankdeck.runner.protocol import RankExited, RankForked, StartRank
from rankdeck.runner.protocol.framing import GREETINGS


class Parent:
    """Reports what the test has prepared, as soon as ranks are ordered."""

    reports: tuple[protocol.FromParent, ...] | list[protocol.FromParent] = ()
    prints: tuple[str, ...] | list[str] = ()
    dies = False

    def __init__(self, log, *, adopts_orphans: bool) -> None:
        assert not adopts_orphans, "its caller's other children are its own affair"
        self.hear = lambda report: None
        self.lines = self.prints[:0]
        self.did: list[object] = []
        self._gone = asyncio.Event()
        type(self).made = self

    async def start(self, command, environment) -> None:
        self.did.append(("start", command, environment))

    def order(self, *orders: StartRank) -> None:
        self.did.append(orders)
        for report in self.reports:
            self.hear(report)
        if self.dies:
            self._gone.set()

    async def gone(self) -> None:
        await self._gone.wait()

    async def why_gone(self) -> str:
        return "it said why"

    async def end(self) -> None:
        self.did.append("end")
        self.lines = self.prints


@pytest.fixture
def parent(monkeypatch):
    class Made(Parent):
        pass

    monkeypatch.setattr(greetings, "RankParent", Made)
    monkeypatch.setattr(greetings.telemetry, "rank_variables", lambda environ: {"RANKDECK_GPUS": "GPU-7"})
    monkeypatch.setattr(greetings, "usable_cores", lambda: 8)
    asked = []

    def environment(*given, **how):
        asked.append((*given, how))
        return {"THE": "environment"}

    monkeypatch.setattr(greetings, "rank_environment", environment)
    Made.asked = asked
    return Made


def left(*statuses: int) -> list[protocol.FromParent]:
    return [RankExited(rank=rank, attempt=1, status=status) for rank, status in enumerate(statuses)]


def command(config_file: Path, module: str, arguments: list[str]) -> list[str]:
    assert config_file.name == "accelerate.yaml"
    assert not arguments
    return [module, f"use_cpu {'use_cpu: true' in config_file.read_text()}"]


@pytest.mark.parametrize("on_cpu", [True, False])
async def test_every_rank_is_ordered_at_once_with_the_place_where_they_meet(parent, on_cpu):
    parent.reports, parent.prints = left(0, 0, 0), ["a warning", f'{GREETINGS}["one","two","three"]', "x"]
    async with asyncio.timeout(30):
        assert await greetings_of(3, on_cpu, command) == ["one", "two", "three"]
    started, orders, *ends = parent.made.did
    assert started == ("start", ["rankdeck.runner.rank.hello", f"use_cpu {on_cpu}"], {"THE": "environment"})
    assert parent.asked == [(os.environ, 3, on_cpu, 8, {"expandable_segments": False})]
    environment = {} if on_cpu else {"RANKDECK_GPUS": "GPU-7"}
    (place,) = {order.store for order in orders}
    assert place.endswith("/store")
    assert not Path(place).parent.exists(), "nothing of it stays"
    assert list(orders) == [
        StartRank(rank=rank, world_size=3, attempt=1, store=place, environment=environment) for rank in range(3)
    ]
    assert set(ends) == {"end"}


async def test_a_rank_alone_has_nobody_to_meet(parent):
    parent.reports, parent.prints = left(0), [f'{GREETINGS}["one"]']
    async with asyncio.timeout(30):
        assert await greetings_of(1, True, command) == ["one"]
    assert parent.made.did[1][0].store is None


@pytest.mark.parametrize(
    ("reports", "prints", "dies", "said"),
    [
        (left(0), [f'{GREETINGS}["one"]'], True, "it said why"),
        (left(0, 3), ["OSError: no room"], False, "rank 1: OSError: no room"),
        (left(-11), [], False, "rank 0: killed by SIGSEGV"),
        (
            [RankExited(rank=1, attempt=1, status=1, error="no new process: try again")],
            ["OSError: something else"],
            False,
            "rank 1: no new process: try again",
        ),
        (left(0, 0), ["nothing to the point"], False, "the ranks left without their greetings"),
        ([RankForked(rank=0, attempt=1, pid=7), *left(0, 5)], [], False, "rank 1: ended with status 5, without a word"),
    ],
)
async def test_what_goes_wrong_is_told_with_its_rank_once_all_is_ended(parent, reports, prints, dies, said):
    parent.reports, parent.prints, parent.dies = reports, prints, dies
    async with asyncio.timeout(30):
        with pytest.raises(HelloError) as raised:
            await greetings_of(2, True, command)
    assert str(raised.value) == said
    assert parent.made.did[-1] == "end"


async def test_a_launcher_that_cannot_be_started_leaves_nothing(parent, monkeypatch):
    folders = []

    async def fail(self, command, environment):
        raise FileNotFoundError("no such command")

    monkeypatch.setattr(parent, "start", fail)
    with pytest.raises(FileNotFoundError):
        await greetings_of(2, True, lambda config_file, *_: folders.append(config_file.parent) or [])
    assert parent.made.did == ["end"]
    assert not folders[0].exists()
    assert asyncio.all_tasks() == {asyncio.current_task()}, "nobody waits any more"


async def test_nobody_waits_any_more_once_it_is_over(parent):
    parent.reports, parent.prints = left(0), [f'{GREETINGS}["one"]']
    await greetings_of(1, True, command)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
