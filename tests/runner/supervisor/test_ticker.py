"""The run's clock: what a tick carries, that each sample is told once, and whose processes are looked at."""

import asyncio
from types import SimpleNamespace

import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol import DeviceSample, StepsInFlight
from rankdeck.runner.supervisor import ticker as module
from rankdeck.runner.supervisor.ticker import Ticker

GPU = DeviceSample(index=0, uuid="GPU-u", name="n")
STEPS = StepsInFlight(rank=0, batch=1, step=2, output_tokens=3)


class Watched:
    """A ticker whose naps are over at once, `turns` times; what it did is in `did`."""

    def __init__(self, monkeypatch, launch=None) -> None:
        self.did: list = []
        self.naps: list[float] = []
        self.events: list = []
        viewers = SimpleNamespace(catch_up=lambda: self.did.append("viewers"))
        stream = SimpleNamespace(emit=self.events.append, viewers=viewers)
        controls = SimpleNamespace(sample=lambda devices: self.did.append(devices))
        self.ticker = Ticker(stream, controls, lambda: launch)  # type: ignore[arg-type]
        self.monkeypatch = monkeypatch

    async def go(self, work: str, turns: int) -> None:
        async def nap(seconds: float) -> None:
            self.naps.append(seconds)
            if len(self.naps) > turns:
                raise asyncio.CancelledError

        with self.monkeypatch.context() as patch:
            patch.setattr(module.asyncio, "sleep", nap)
            with pytest.raises(asyncio.CancelledError):
                await getattr(self.ticker, work)()


def launched(did: list) -> SimpleNamespace:
    pool = SimpleNamespace(steps=[STEPS], pids={0: 100, 1: 101})
    return SimpleNamespace(pool=pool, look_at_logs=lambda: did.append("logs"))


async def test_four_times_a_second_there_is_a_tick_with_the_steps_and_each_sample_once(monkeypatch):
    did: list = []
    watched = Watched(monkeypatch, launched(did))
    watched.ticker._samples = [GPU], []
    await watched.go("tick", 2)
    assert watched.naps == [0.25] * 3
    assert watched.events == [
        protocol.Tick(steps=[STEPS], devices=[GPU], processes=[]),
        protocol.Tick(steps=[STEPS], devices=None, processes=None),
    ]
    assert watched.did == [[GPU], "viewers", "viewers"], "trials get the sample; viewers may catch up each time"
    assert did == ["logs", "logs"]


async def test_before_any_launch_ticks_have_no_steps(monkeypatch):
    watched = Watched(monkeypatch)
    await watched.go("tick", 1)
    assert watched.events == [protocol.Tick()]


@pytest.mark.parametrize("is_launched", [True, False])
async def test_once_a_second_gpus_and_the_processes_of_the_ranks_are_sampled(monkeypatch, is_launched):
    asked: list = []

    class Sensors:
        gpus, reason = 2, "why"

        def sample_devices(self):
            return [GPU]

        def sample_processes(self, pids):
            asked.append(pids)
            return ["processes"]

    monkeypatch.setattr(module.Telemetry, "open", Sensors)
    watched = Watched(monkeypatch, launched([]) if is_launched else None)
    await watched.go("sample", 1)
    assert watched.events == [protocol.TelemetryStarted(gpus=2, reason="why")]
    assert watched.naps == [1.0, 1.0]
    assert watched.ticker._samples == ([GPU], ["processes"])
    assert asked == [{0: 100, 1: 101} if is_launched else {}] * 2
