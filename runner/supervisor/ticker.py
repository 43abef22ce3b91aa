"""The run's clock and its sensors: a Tick four times a second, with telemetry once a second.

Knows how often, and that a driver call may hang. Does not know what the figures mean.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from rankdeck.runner import protocol
from rankdeck.runner.machine.telemetry import Telemetry
from rankdeck.runner.supervisor.event_stream import EventStream
from rankdeck.runner.supervisor.knobs import KnobControls
from rankdeck.runner.supervisor.launch import RankLaunch

TICK_SECONDS = 0.25
TELEMETRY_SECONDS = 1.0


class Ticker:
    """`tick` and `sample` run side by side until they are cancelled."""

    def __init__(
        self, events: EventStream, controls: KnobControls, current_launch: Callable[[], RankLaunch | None]
    ) -> None:
        self._events, self._controls, self._current_launch = events, controls, current_launch
        self._samples: tuple[list[protocol.DeviceSample], list[protocol.ProcessSample]] | None = None

    async def tick(self) -> None:
        """Emit ticks, pass on the newest telemetry and what the ranks logged, let slow viewers catch up."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            (devices, processes), self._samples = self._samples or (None, None), None
            launch = self._current_launch()
            steps = launch.pool.steps if launch is not None else []
            self._events.emit(protocol.Tick(steps=steps, devices=devices, processes=processes))
            if devices is not None:
                self._controls.sample(devices)
            self._events.viewers.catch_up()
            if launch is not None:
                launch.look_at_logs()

    async def sample(self) -> None:
        """Sample GPUs and processes in a thread that does nothing else: a driver call that hangs delays nobody."""
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, "telemetry")
        telemetry = await loop.run_in_executor(thread, Telemetry.open)
        self._events.emit(protocol.TelemetryStarted(gpus=telemetry.gpus, reason=telemetry.reason))
        while True:
            devices = await loop.run_in_executor(thread, telemetry.sample_devices)
            launch = self._current_launch()
            pids = dict(launch.pool.pids) if launch is not None else {}
            processes = await loop.run_in_executor(thread, telemetry.sample_processes, pids)
            self._samples = devices, processes
            await asyncio.sleep(TELEMETRY_SECONDS)
