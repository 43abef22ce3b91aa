"""MIG devices, slices of a GPU: what each has of its own, what only its GPU has, and which of them a run may use."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rankdeck.runner.machine import examine
from rankdeck.runner.machine.check import OF_THE_WHOLE_GPU
from rankdeck.runner.machine.facts import Facts, TorchFound
from rankdeck.runner.machine.gpu_checks import gpu_checks
from rankdeck.runner.machine.telemetry import Telemetry, count_visible_gpus, rank_variables, why_no_gpu
from rankdeck.runner.protocol import BatchResult, DeviceSample, RankReady
from rankdeck.runner.supervisor.trial_meter import TrialMeter

GIB = 2**30

Driver = Callable[..., Path]

FIRST, SECOND = "MIG-aaaaaaaa-0000-0000-0000-000000000000", "MIG-bbbbbbbb-0000-0000-0000-000000000000"
MIG = f"""\
0.mig_slots 7
0m0.name NVIDIA H100 80GB HBM3 MIG 1g.10gb
0m0.uuid {FIRST}
0m0.gi 3
0m0.ci 0
0m0.memory 10737418240,1073741824,0
0m2.name NVIDIA H100 80GB HBM3 MIG 2g.20gb
0m2.uuid {SECOND}
0m2.gi 5
0m2.ci 1
0m2.memory 21474836480,2147483648,0
0gi5.gpm.2 61.5
0gi5.gpm.3 20
0gi5.gpm.5 30
0gi5.gpm.10 40
"""


@pytest.fixture
def sliced(two_gpus: str) -> str:
    """The script of a Hopper GPU with two MIG devices, and of an old GPU."""
    return two_gpus.replace("0.mig 0", "0.mig 1") + MIG


def look(times: int, environ: dict[str, str]) -> list[DeviceSample]:
    telemetry = Telemetry.open(environ)
    assert telemetry.reason is None
    looks = [telemetry.sample_devices() for _ in range(times)]
    telemetry.close()
    return looks[-1]


def test_a_mig_device_has_memory_of_its_own_and_clocks_and_temperature_of_its_gpu(driver: Driver, sliced: str) -> None:
    driver(sliced)
    (mig,) = look(1, {"CUDA_VISIBLE_DEVICES": SECOND})
    assert (mig.uuid, mig.name) == (SECOND, "NVIDIA H100 80GB HBM3 MIG 2g.20gb")
    assert (mig.memory_used_bytes, mig.memory_total_bytes, mig.memory_free_bytes) == (2 * GIB, 20 * GIB, 18 * GIB)
    assert (mig.sm_clock_mhz, mig.temperature_celsius, mig.pci_bus_id) == (1755, 61, "00000000:65:00.0")
    assert (mig.throttle_reasons, mig.is_mig) == (["power cap"], True)


def test_power_energy_and_load_of_the_whole_gpu_are_not_shown_as_those_of_a_slice(driver: Driver, sliced: str) -> None:
    log = driver(sliced)
    (mig,) = look(2, {"CUDA_VISIBLE_DEVICES": SECOND})
    for field in ("power_watts", "power_limit_watts", "energy_joules", "busy_percent", "busy_min_percent"):
        assert getattr(mig, field) is None
        assert mig.unavailable[field] == OF_THE_WHOLE_GPU
    asked = log.read_text().splitlines()
    assert not {"0.power", "0.energy", "0.samples", "0.busy"} & set(asked), "and the driver is not asked for them"


def test_a_trial_on_a_slice_has_no_tokens_per_joule(driver: Driver, sliced: str) -> None:
    driver(sliced)
    (mig,) = look(1, {"CUDA_VISIBLE_DEVICES": SECOND})
    rank = RankReady(
        rank=0, device="cuda:0", device_name="MIG", device_uuid=SECOND, dtype="bfloat16", engine="static", seconds=1.0,
        parameters=1,
    )  # fmt: skip
    meter = TrialMeter([rank], started=0.0)
    batch = BatchResult(
        rows=1, prompt_tokens=9, output_tokens=9, slots=18, padded_slots=0, steps=9, prefill_seconds=0.1,
        decode_seconds=0.9, seconds=1.0,
    )  # fmt: skip
    meter.add_batch(0, 0.0, 1.0, batch)
    for at in (0.0, 1.0):
        meter.add_samples(at, [mig])
    found = meter.result({})
    assert (found.power_watts, found.tokens_per_joule, found.busy_percent) == (None, None, None)


def test_gpm_figures_of_a_mig_device_are_those_of_its_gpu_instance(driver: Driver, sliced: str) -> None:
    log = driver(sliced)
    (mig,) = look(2, {"CUDA_VISIBLE_DEVICES": SECOND})
    assert (mig.sm_percent, mig.occupancy_percent, mig.tensor_percent, mig.dram_percent) == (61.5, 20, 30, 40)
    assert log.read_text().splitlines()[-1] == "shutdown", "every buffer was freed"


def test_without_the_id_of_its_gpu_instance_a_mig_device_has_no_gpm_figures(driver: Driver, sliced: str) -> None:
    driver(sliced, hidden=("nvmlDeviceGetGpuInstanceId",))
    (mig,) = look(2, {"CUDA_VISIBLE_DEVICES": SECOND})
    assert (mig.sm_percent, mig.unavailable["sm_percent"]) == (None, OF_THE_WHOLE_GPU)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, f"{FIRST},{SECOND}"),
        ("0", f"{FIRST},{SECOND}"),
        ("0,1", f"{FIRST},{SECOND}"),
        (f"{SECOND},{FIRST}", f"{SECOND},{FIRST}"),
        ("MIG-bbbb", SECOND),
        ("MIG-GPU-11111111-aaaa-0000-0000-000000000000/5/1", SECOND),
        (f"{SECOND},MIG-dead,{FIRST}", SECOND),
    ],
)
def test_ranks_are_told_all_mig_devices_of_the_run_and_every_count_agrees(
    driver: Driver, sliced: str, value: str | None, told: str
) -> None:
    driver(sliced + "driver 570.86\n")
    environ = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    assert rank_variables(environ) == {"CUDA_VISIBLE_DEVICES": told, "RANKDECK_GPUS": told}
    uuids = told.split(",")
    machine = examine.machine(environ)
    assert count_visible_gpus(environ) == machine.visible == len(machine.gpus) == len(uuids)
    free = {FIRST: 9 * GIB, SECOND: 18 * GIB}
    assert machine.free.gpus == tuple(free[uuid] for uuid in uuids), "in the order in which ranks are given them"


@pytest.mark.parametrize("value", ["0", "GPU-11111111"])
def test_of_a_gpu_in_mig_mode_without_mig_devices_that_is_said(driver: Driver, two_gpus: str, value: str) -> None:
    driver(two_gpus.replace("0.mig 0", "0.mig 1") + "0.mig_slots 7\n")
    reason = why_no_gpu({"CUDA_VISIBLE_DEVICES": value})
    said = f"CUDA_VISIBLE_DEVICES={value!r} names GPU 0 in MIG mode, which has no MIG device; see nvidia-smi mig -cgi"
    assert reason == said


def test_another_containers_mig_devices_do_not_hide_ones_own(driver: Driver, sliced: str) -> None:
    driver(sliced + "0m1.open E4\n0m1.uuid MIG-someone-elses\n0m2.open 0\n")
    assert rank_variables({})["RANKDECK_GPUS"] == f"{FIRST},{SECOND}"


def test_a_mig_device_that_was_taken_away_since_it_was_listed_is_none(driver: Driver, sliced: str) -> None:
    driver(sliced.replace(f"0m0.uuid {FIRST}", "0m0.uuid E6"))
    assert rank_variables({})["RANKDECK_GPUS"] == SECOND


def test_doctor_says_which_figures_a_mig_device_lacks_and_how_ranks_get_theirs(driver: Driver, sliced: str) -> None:
    driver(sliced + "driver 570.86\n")
    facts = Facts(
        machine=examine.machine({"CUDA_VISIBLE_DEVICES": "0"}),
        torch=TorchFound(available=True, cuda="12.8", devices=("H100",)),
    )
    checks = gpu_checks(facts)
    said = " ".join(check.found for check in checks)
    assert {check.status for check in checks} == {"ok"}
    assert "n/a, as only the whole GPU has them: busy, power, energy" in said
    assert "each rank is given its own" in said


@pytest.mark.parametrize(("value", "left_out"), [(None, 1), ("0,1", 1), ("0", 0), ("1", 0), (FIRST, 0)])
def test_doctor_says_how_many_whole_gpus_are_left_out(
    driver: Driver, sliced: str, value: str | None, left_out: int
) -> None:
    driver(sliced + "driver 570.86\n")
    machine = examine.machine({} if value is None else {"CUDA_VISIBLE_DEVICES": value})
    assert machine.left_out == left_out
    said = [check.found for check in gpu_checks(Facts(machine=machine)) if check.name == "left out"]
    assert said == ["1 whole GPU left out: CUDA gives a process a MIG device or whole GPUs, not both"][:left_out]
