"""What telemetry does with failures of any kind, on a scripted NVML; and the ranks' processes.

The figures themselves are tested through the real bindings, in fake_nvml/.
"""

import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.machine.gpu import METRIC_FIELDS
from rankdeck.runner.machine.nvml import BusySample, GpmBuffer, Handle, Memory, NvmlApi, NvmlFailure
from rankdeck.runner.machine.telemetry import Telemetry

Answers = dict[str, Sequence[object]]
"""By method: the results of its calls in turn; the last one repeats."""

WORKING: Answers = {
    "busy_samples": [[BusySample(1, 10)], [BusySample(2, 20), BusySample(3, 60)], []],
    "busy_percent": [55],
    "memory": [Memory(used=6, total=9, free=2)],
    "memory_v1": [Memory(used=7, total=9, free=2)],
    "power_milliwatts": [250_500],
    "power_limit_milliwatts": [400_000],
    "energy_millijoules": [1500],
    "sm_clock_mhz": [1200],
    "sm_clock_max_mhz": [1900],
    "temperature_celsius": [50],
    "temperature_celsius_v1": [51],
    "slowdown_celsius": [90],
    "clocks_event_reasons": [0],
    "clocks_throttle_reasons": [1],
    "gpm_supported": [True],
    "gpm_fill": [None],
    "gpm_compare": [{2: 1.0, 3: 2.0, 5: 3.0, 10: 4.0}],
}


class FakeNvml:
    """NVML with one script for all its GPUs; counts its calls and the buffers not yet freed."""

    def __init__(self, answers: Answers, gpus: int = 1) -> None:
        self.answers = {**WORKING, **answers}
        self.gpus = gpus
        self.calls: dict[str, int] = {}
        self.buffers = 0
        self.running = False

    def _next(self, method: str) -> object:
        count = self.calls[method] = self.calls.get(method, 0) + 1
        series = self.answers[method]
        answer = series[min(count, len(series)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _number(self, method: str) -> int:
        answer = self._next(method)
        assert isinstance(answer, int)
        return answer

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        assert self.running
        self.running = False

    def gpu_count(self) -> int:
        return self.gpus

    def gpu(self, index: int) -> Handle:
        return index

    def name(self, handle: Handle) -> str:
        return f"Fake GPU {handle}"

    def uuid(self, handle: Handle) -> str:
        return f"GPU-{handle}"

    def pci_bus_id(self, handle: Handle) -> str:
        return f"00000000:{handle:0>2}:00.0"

    def minor_number(self, handle: Handle) -> int:
        raise NvmlFailure(3)

    def mig_mode(self, handle: Handle) -> bool:
        raise NvmlFailure(3)

    def mig_devices(self, handle: Handle) -> list[Handle]:
        raise AssertionError("asked a GPU without MIG for its MIG devices")

    def mig_instances(self, handle: Handle) -> tuple[int, int]:
        raise NvmlFailure(3)

    def busy_samples(self, handle: Handle, since_microseconds: int) -> list[BusySample]:
        answer = self._next("busy_samples")
        assert isinstance(answer, list)
        return answer

    def busy_percent(self, handle: Handle) -> int:
        return self._number("busy_percent")

    def memory(self, handle: Handle) -> Memory:
        answer = self._next("memory")
        assert isinstance(answer, Memory)
        return answer

    def memory_v1(self, handle: Handle) -> Memory:
        answer = self._next("memory_v1")
        assert isinstance(answer, Memory)
        return answer

    def power_milliwatts(self, handle: Handle) -> int:
        return self._number("power_milliwatts")

    def power_limit_milliwatts(self, handle: Handle) -> int:
        return self._number("power_limit_milliwatts")

    def energy_millijoules(self, handle: Handle) -> int:
        return self._number("energy_millijoules")

    def sm_clock_mhz(self, handle: Handle) -> int:
        return self._number("sm_clock_mhz")

    def sm_clock_max_mhz(self, handle: Handle) -> int:
        return self._number("sm_clock_max_mhz")

    def temperature_celsius(self, handle: Handle) -> int:
        return self._number("temperature_celsius")

    def temperature_celsius_v1(self, handle: Handle) -> int:
        return self._number("temperature_celsius_v1")

    def slowdown_celsius(self, handle: Handle) -> int:
        return self._number("slowdown_celsius")

    def clocks_event_reasons(self, handle: Handle) -> int:
        return self._number("clocks_event_reasons")

    def clocks_throttle_reasons(self, handle: Handle) -> int:
        return self._number("clocks_throttle_reasons")

    def gpm_supported(self, handle: Handle) -> bool:
        return bool(self._next("gpm_supported"))

    def gpm_allocate(self) -> GpmBuffer:
        self.buffers += 1
        return object()

    def gpm_free(self, buffer: GpmBuffer) -> None:
        self.buffers -= 1

    def gpm_fill(self, handle: Handle, buffer: GpmBuffer) -> None:
        self._next("gpm_fill")

    def gpm_fill_mig(self, handle: Handle, gpu_instance: int, buffer: GpmBuffer) -> None:
        self._next("gpm_fill")

    def gpm_compare(
        self, before: GpmBuffer, after: GpmBuffer, metrics: Sequence[int]
    ) -> dict[int, float | NvmlFailure]:
        answer = self._next("gpm_compare")
        assert isinstance(answer, dict)
        return answer


def open_on(api: NvmlApi) -> Telemetry:
    return Telemetry.open({}, api)


codes = st.sampled_from([3, 13, 10, 4, 6, 999, 15])
scripts = st.dictionaries(
    st.sampled_from(sorted(WORKING)), st.lists(st.one_of(st.none(), codes), min_size=1, max_size=4), max_size=6
)


@given(scripts)
def test_whatever_fails_each_figure_has_a_value_or_a_reason_and_no_buffer_leaks(
    script: dict[str, list[int | None]],
) -> None:
    answers: Answers = {
        method: [WORKING[method][-1] if code is None else NvmlFailure(code) for code in codes]
        for method, codes in script.items()
    }
    api = FakeNvml(answers, gpus=2)
    telemetry = open_on(api)
    for _ in range(5):
        for gpu in telemetry.sample_devices():
            missing = {field for field in METRIC_FIELDS if getattr(gpu, field) is None}
            assert missing == set(gpu.unavailable)
            assert all(gpu.unavailable.values())
            assert not gpu.lost or missing == set(METRIC_FIELDS)
    telemetry.close()
    assert api.buffers == 0
    assert not api.running


@given(st.sampled_from(["power_milliwatts", "energy_millijoules", "slowdown_celsius", "memory"]), st.integers(1, 5))
def test_a_call_that_fails_for_good_is_made_once_and_one_that_fails_for_a_moment_every_time(
    method: str, looks: int
) -> None:
    for code, calls in ((3, 1), (13, 1), (10, looks), (999, looks)):
        api = FakeNvml({method: [NvmlFailure(code)]})
        telemetry = open_on(api)
        for _ in range(looks):
            telemetry.sample_devices()
        assert api.calls[method] == calls


@given(st.lists(st.integers(0, 100), min_size=1, max_size=30))
def test_busy_is_the_mean_least_and_most_of_the_driver_samples_since_the_last_sample(percents: list[int]) -> None:
    new = [BusySample(100 + number, percent) for number, percent in enumerate(percents)]
    junk = [BusySample(0, 50), BusySample(90, 50), BusySample(300, 4294967295)]
    telemetry = open_on(FakeNvml({"busy_samples": [[BusySample(99, 7)], junk + new]}))
    telemetry.sample_devices()
    (gpu,) = telemetry.sample_devices()
    assert gpu.busy_percent == pytest.approx(sum(percents) / len(percents))
    assert (gpu.busy_min_percent, gpu.busy_max_percent) == (min(percents), max(percents))


def test_after_a_look_without_samples_the_old_ones_do_not_count_again() -> None:
    looks = [[BusySample(99, 7)], [], [BusySample(98, 3), BusySample(99, 7), BusySample(100, 50)]]
    telemetry = open_on(FakeNvml({"busy_samples": looks}))
    assert [telemetry.sample_devices()[0].busy_percent for _ in looks] == [55, 55, 50]


def test_a_gpm_sample_that_fails_for_a_moment_leaves_just_a_gap() -> None:
    telemetry = open_on(FakeNvml({"gpm_fill": [None, None, NvmlFailure(10), None]}))
    assert [telemetry.sample_devices()[0].sm_percent for _ in range(4)] == [None, 1.0, None, 1.0]


def test_a_gpm_value_that_is_not_finite_is_missing() -> None:
    telemetry = open_on(FakeNvml({"gpm_compare": [{2: math.nan, 3: NvmlFailure(3), 5: 0.0, 10: 4.0}]}))
    telemetry.sample_devices()
    (gpu,) = telemetry.sample_devices()
    assert (gpu.sm_percent, gpu.occupancy_percent, gpu.tensor_percent, gpu.dram_percent) == (None, None, 0.0, 4.0)
    assert gpu.unavailable["occupancy_percent"] == "not supported by this GPU"


def test_opening_never_raises() -> None:
    class Broken(FakeNvml):
        def gpu_count(self) -> int:
            raise OSError("exec format\nerror")

    api = Broken({})
    telemetry = open_on(api)
    assert (telemetry.gpus, telemetry.reason) == (0, "NVML does not start: exec format error")
    assert not api.running


def test_closing_twice_does_no_harm() -> None:
    telemetry = open_on(FakeNvml({}))
    telemetry.close()
    telemetry.close()
    assert telemetry.sample_devices() == []


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for the end of its standard input."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    yield process
    process.kill()
    process.communicate()


def without_nvml() -> Telemetry:
    return open_on(FakeNvml({}, gpus=0))


def test_a_rank_has_memory_from_the_first_sample_and_cpu_from_the_second() -> None:
    telemetry = without_nvml()
    (first,) = telemetry.sample_processes({3: os.getpid()})
    assert (first.rank, first.cpu_percent) == (3, None)
    begin = psutil.Process().cpu_times().user
    while psutil.Process().cpu_times().user - begin < 0.05:
        sum(range(1000))
    (second,) = telemetry.sample_processes({3: os.getpid()})
    assert second.cpu_percent is not None
    assert second.cpu_percent > 0
    assert second.rss_bytes == pytest.approx(psutil.Process().memory_info().rss, abs=2**22)


def test_processes_are_in_the_order_of_their_ranks() -> None:
    samples = without_nvml().sample_processes({2: os.getpid(), 0: os.getpid(), 1: os.getpid()})
    assert [sample.rank for sample in samples] == [0, 1, 2]


def test_a_rank_that_died_has_no_figures_before_and_after_it_is_reaped(child: subprocess.Popen[bytes]) -> None:
    telemetry = without_nvml()
    assert telemetry.sample_processes({0: child.pid})[0].rss_bytes is not None
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    for _ in ("a zombie", "gone"):
        (sample,) = telemetry.sample_processes({0: child.pid})
        assert (sample.cpu_percent, sample.rss_bytes) == (None, None)
        child.wait()


def test_a_restarted_rank_is_watched_as_a_new_process(child: subprocess.Popen[bytes]) -> None:
    telemetry = without_nvml()
    telemetry.sample_processes({0: os.getpid()})
    (sample,) = telemetry.sample_processes({0: child.pid})
    assert sample.cpu_percent is None
    assert sample.rss_bytes is not None


def test_a_process_that_never_was_has_no_figures() -> None:
    (sample,) = without_nvml().sample_processes({0: 2**31 - 1})
    assert (sample.cpu_percent, sample.rss_bytes) == (None, None)
