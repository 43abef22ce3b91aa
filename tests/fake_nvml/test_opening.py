"""Opening NVML, or not: the library, the driver, and the GPUs a job may use, through the real bindings."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pytest

from rankdeck.runner import start
from rankdeck.runner.machine import examine
from rankdeck.runner.machine.telemetry import Telemetry, count_visible_gpus, visible_gpus
from tests import ROOT

Driver = Callable[..., Path]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("init E18", "different versions"),
        ("init E4", "no permission"),
        ("init E9", "not loaded"),
        ("init E28", "has no GPU"),
        ("init E27", "NVML does not start: NVML Error with code 27"),
        ("count 0", "has no GPU"),
        ("count E999", "NVML does not start: Unknown Error"),
    ],
)
def test_where_nvml_gives_no_gpus_one_line_says_why(driver: Driver, script: str, words: str) -> None:
    driver(script)
    telemetry = Telemetry.open({})
    assert telemetry.gpus == 0
    assert telemetry.reason is not None
    assert words in telemetry.reason
    assert "\n" not in telemetry.reason
    assert telemetry.sample_devices() == []
    assert count_visible_gpus({}) == 0
    telemetry.close()


def test_a_machine_without_the_library_says_so(tmp_path: Path, use_libraries_in: Callable[[Path], None]) -> None:
    use_libraries_in(tmp_path)
    telemetry = Telemetry.open({})
    assert telemetry.gpus == 0
    assert telemetry.reason is not None
    assert telemetry.reason.startswith("no NVIDIA driver: libnvidia-ml.so.1 cannot be loaded")
    assert count_visible_gpus({}) == 0


def test_visible_gpus_are_named_in_the_order_a_cuda_process_sees_them(driver: Driver, two_gpus: str) -> None:
    log = driver(two_gpus)
    assert [gpu.name for gpu in visible_gpus({"CUDA_VISIBLE_DEVICES": "GPU-2222,GPU-1111"})] == [
        "NVIDIA GeForce GTX 1080",
        "NVIDIA H100 80GB HBM3",
    ]
    assert [count_visible_gpus({"CUDA_VISIBLE_DEVICES": value}) for value in ("", "1", "0,1,5", "5,0")] == [0, 1, 2, 0]
    assert count_visible_gpus({}) == 2
    assert in_use(log) == [2, 1] * 6


def in_use(log: Path) -> list[int]:
    """How many users NVML has after each start and each stop, of which the process itself is the first."""
    calls = [call for call in log.read_text().splitlines() if call in ("init", "shutdown")]
    assert calls[0] == "init", "the process's own"
    return list(accumulate((1 if call == "init" else -1 for call in calls[1:]), initial=1))[1:]


def test_nvml_stays_up_between_looks_and_every_start_has_its_stop(driver: Driver, two_gpus: str) -> None:
    log = driver(two_gpus)
    watching = Telemetry.open({})
    assert count_visible_gpus({}) == 2
    examine.machine({})
    watching.close()
    watching.close()
    assert in_use(log) == [2, 3, 2, 3, 2, 3, 2, 1], "GPUs are brought up once"


def test_a_start_that_failed_holds_nothing(driver: Driver) -> None:
    log = driver("init E18\n")
    for _ in range(2):
        assert count_visible_gpus({}) == 0
    assert log.read_text().splitlines() == ["init", "init"]


def test_a_machine_is_looked_at_with_its_driver_and_what_is_free(driver: Driver, two_gpus: str) -> None:
    driver(two_gpus + "driver 570.86.15\ncuda 12080\n")
    machine = examine.machine({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    assert (machine.driver, machine.cuda, machine.visible, machine.no_gpu) == ("570.86.15", (12, 8), 2, None)
    assert machine.free.gpus == (85899345920 - 25769803776 - 536870912, 7 * 2**30), (
        "what the driver reserves is not free"
    )
    assert not examine.machine({}).free.ordered, "CUDA counts the fastest first, whichever that is"
    (hidden,) = examine.machine({"CUDA_VISIBLE_DEVICES": "GPU-22222222"}).gpus
    assert hidden.name == "NVIDIA GeForce GTX 1080"


def test_a_driver_that_does_not_tell_its_version_is_no_reason_to_fail(driver: Driver, two_gpus: str) -> None:
    driver(two_gpus, hidden=("nvmlSystemGetDriverVersion", "nvmlSystemGetCudaDriverVersion_v2"))
    machine = examine.machine({})
    assert (machine.driver, machine.cuda, machine.visible) == (None, None, 2)


@pytest.mark.parametrize(
    ("value", "words"),
    [("", "is empty"), ("GPU-dead", "'GPU-dead' names no GPU"), ("0, 0", "names a GPU twice, which hides them all")],
)
def test_a_variable_that_hides_every_gpu_is_the_reason_given(
    driver: Driver, value: str, words: str, two_gpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(two_gpus)
    telemetry = Telemetry.open({"CUDA_VISIBLE_DEVICES": value})
    assert telemetry.gpus == 0
    assert words in (telemetry.reason or "")
    telemetry.close()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    with pytest.raises(start.InputError) as refusal:
        asyncio.run(start.hello(1, "cuda"))
    assert words in str(refusal.value), "said where GPUs were asked for"


def test_the_library_is_found_by_the_systems_loader_and_torch_is_not_imported(
    build: Callable[[tuple[str, ...]], Path], tmp_path: Path, two_gpus: str
) -> None:
    (tmp_path / "script").write_text(two_gpus)
    program = (
        "import json, sys; from rankdeck.runner.machine.telemetry import Telemetry, count_visible_gpus\n"
        "telemetry = Telemetry.open(); names = [gpu.name for gpu in telemetry.sample_devices()]; telemetry.close()\n"
        "json.dump([names, count_visible_gpus({}), 'torch' in sys.modules], sys.stdout)"
    )
    environ = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environ["LD_LIBRARY_PATH"] = str(build(()).parent)
    environ["FAKE_NVML_SCRIPT"] = str(tmp_path / "script")
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, check=True, cwd=ROOT)
    assert json.loads(done.stdout) == [["NVIDIA H100 80GB HBM3", "NVIDIA GeForce GTX 1080"], 2, False]
