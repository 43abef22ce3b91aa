"""The figures of each GPU, through the real ctypes bindings, from a fake libnvidia-ml.so.1 (nvml.c)."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rankdeck.runner.machine.telemetry import Telemetry
from rankdeck.runner.protocol import DeviceSample

GIB = 2**30

Driver = Callable[..., Path]


def look(times: int, environ: dict[str, str] | None = None) -> list[list[DeviceSample]]:
    telemetry = Telemetry.open(environ or {})
    assert telemetry.reason is None
    looks = [telemetry.sample_devices() for _ in range(times)]
    telemetry.close()
    return looks


def test_every_figure_of_a_hopper_gpu_is_right_to_the_unit(driver: Driver, two_gpus: str) -> None:
    driver(two_gpus)
    assert look(2)[1][0] == DeviceSample(
        index=0,
        uuid="GPU-11111111-aaaa-0000-0000-000000000000",
        name="NVIDIA H100 80GB HBM3",
        pci_bus_id="00000000:65:00.0",
        busy_percent=50.0,
        busy_min_percent=10.0,
        busy_max_percent=90.0,
        memory_used_bytes=24 * GIB,
        memory_total_bytes=80 * GIB,
        memory_free_bytes=56 * GIB - 512 * 2**20,
        power_watts=99.999,
        power_limit_watts=700.0,
        energy_joules=1234567999.999,
        sm_clock_mhz=1755,
        sm_clock_max_mhz=1980,
        temperature_celsius=61,
        slowdown_celsius=87,
        throttle_reasons=["idle"],
        sm_percent=81.5,
        occupancy_percent=40.25,
        tensor_percent=None,
        dram_percent=None,
        unavailable={
            "tensor_percent": "the driver gave no reading",
            "dram_percent": "no reading between these two looks",
        },
    )


def test_busy_is_measured_between_looks_and_read_off_where_the_driver_has_no_samples(
    driver: Driver, two_gpus: str
) -> None:
    driver(two_gpus)
    looks = [samples[0] for samples in look(4)]
    # The first look finds samples from before the run, the third none at all.
    assert [(s.busy_percent, s.busy_min_percent, s.busy_max_percent) for s in looks] == [
        (97.0, None, None),
        (50.0, 10.0, 90.0),
        (97.0, None, None),
        (33.0, 33.0, 33.0),
    ]
    assert "busy_percent" not in looks[2].unavailable
    assert "one reading" in looks[2].unavailable["busy_min_percent"]


def test_gpm_compares_two_looks_and_gives_its_buffers_back(driver: Driver, two_gpus: str) -> None:
    log = driver(two_gpus)
    looks = [samples[0] for samples in look(3)]
    assert looks[0].unavailable["sm_percent"] == "needs a second look"
    assert (looks[2].sm_percent, looks[2].occupancy_percent) == (82.5, 40.25)
    assert (looks[2].tensor_percent, looks[2].dram_percent) == (33.5, 71.125)
    assert log.read_text().splitlines()[-1] == "shutdown"


def test_throttle_reasons_are_words_and_an_unknown_one_is_shown(driver: Driver, two_gpus: str) -> None:
    driver(two_gpus)
    assert [samples[0].throttle_reasons for samples in look(4)] == [
        ["power cap"],
        ["idle"],
        [],
        ["hardware slowdown", "thermal slowdown (software)", "power brake", "unknown (0x800)"],
    ]


def test_an_old_gpu_has_what_it_has_and_is_not_asked_again_for_the_rest(driver: Driver, two_gpus: str) -> None:
    log = driver(two_gpus)
    old = look(3)[2][1]
    assert (old.busy_percent, old.power_watts, old.temperature_celsius) == (42.0, 101.5, 70)
    assert (old.memory_used_bytes, old.memory_total_bytes) == (GIB, 8 * GIB)
    for field in ("power_limit_watts", "energy_joules", "sm_clock_mhz", "slowdown_celsius", "sm_percent"):
        assert getattr(old, field) is None
        assert old.unavailable[field] == "not supported by this GPU"
    calls = log.read_text().splitlines()
    assert [calls.count(f"1.{key}") for key in ("power", "limit", "energy", "memory", "gpm")] == [3, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("symbol", "fields"),
    [
        ("nvmlDeviceGetPowerUsage", ["power_watts"]),
        ("nvmlDeviceGetEnforcedPowerLimit", ["power_limit_watts"]),
        ("nvmlDeviceGetTotalEnergyConsumption", ["energy_joules"]),
        ("nvmlDeviceGetClockInfo", ["sm_clock_mhz"]),
        ("nvmlDeviceGetMaxClockInfo", ["sm_clock_max_mhz"]),
        ("nvmlDeviceGetTemperatureThreshold", ["slowdown_celsius"]),
        ("nvmlDeviceGetPciInfo_v3", ["pci_bus_id"]),
        ("nvmlDeviceGetSamples", ["busy_min_percent", "busy_max_percent"]),
        ("nvmlDeviceGetMemoryInfo_v2", []),
        ("nvmlDeviceGetTemperatureV", []),
        ("nvmlDeviceGetCurrentClocksEventReasons", []),
        ("nvmlDeviceGetMigMode", []),
        ("nvmlGpmQueryDeviceSupport", ["sm_percent", "occupancy_percent", "tensor_percent", "dram_percent"]),
        ("nvmlGpmMetricsGet", ["sm_percent", "occupancy_percent", "tensor_percent", "dram_percent"]),
    ],
)
def test_a_missing_symbol_disables_its_own_figures_only(
    driver: Driver, symbol: str, fields: list[str], two_gpus: str
) -> None:
    driver(two_gpus, hidden=(symbol,))
    gpu = look(3)[2][0]
    # On the third look the driver has no busy samples anyway.
    expected = {"busy_min_percent", "busy_max_percent", *fields}
    assert set(gpu.unavailable) == expected
    assert {field for field in DeviceSample.__struct_fields__ if getattr(gpu, field) is None} == expected


def test_memory_version_1_stands_in_for_version_2_and_counts_what_the_driver_reserves(
    driver: Driver, two_gpus: str
) -> None:
    driver(two_gpus, hidden=("nvmlDeviceGetMemoryInfo_v2",))
    gpu = look(1)[0][0]
    assert (gpu.memory_used_bytes, gpu.memory_total_bytes) == (24 * GIB + 512 * 2**20, 80 * GIB)


def test_a_gpu_lost_midway_is_marked_and_left_alone_while_the_others_go_on(driver: Driver, two_gpus: str) -> None:
    log = driver(two_gpus.replace("0.temperature 61", "0.temperature 61 E15"))
    looks = look(4)
    assert [samples[0].lost for samples in looks] == [False, True, True, True]
    assert [samples[1].power_watts for samples in looks] == [101.5] * 4
    lost = looks[2][0]
    assert (lost.uuid, lost.power_watts) == ("GPU-11111111-aaaa-0000-0000-000000000000", None)
    assert lost.unavailable["power_watts"] == "the GPU is lost"
    assert log.read_text().splitlines().count("0.power") == 2


def test_a_figure_that_fails_for_a_moment_comes_back(driver: Driver, two_gpus: str) -> None:
    driver(two_gpus.replace("0.power 412345 99999", "0.power 1000 E10 3000"))
    looks = [samples[0] for samples in look(3)]
    assert [gpu.power_watts for gpu in looks] == [1.0, None, 3.0]
    assert looks[1].unavailable["power_watts"] == "Timeout"


def test_the_drivers_way_of_saying_no_value_is_not_taken_for_one(driver: Driver, two_gpus: str) -> None:
    driver(two_gpus.replace("0.power 412345 99999", "0.power 0xFFFFFFFF"))
    gpu = look(1)[0][0]
    assert gpu.power_watts is None
    assert gpu.unavailable["power_watts"] == "the driver gave no reading"


def test_names_from_the_driver_are_decoded_and_freed_of_control_characters(driver: Driver, two_gpus: str) -> None:
    driver(two_gpus.replace("GeForce", "\x1b[31mGeForce\x07"))
    assert look(1)[0][1].name == "NVIDIA [31mGeForce GTX 1080"


def test_a_name_that_is_no_text_does_not_stop_the_rest(driver: Driver, tmp_path: Path, two_gpus: str) -> None:
    driver(two_gpus)
    script = tmp_path / "script"
    script.write_bytes(script.read_bytes().replace(b"GeForce", b"Ge\xff\xfeForce"))
    gpu = look(1)[0][1]
    assert (gpu.name, gpu.power_watts) == (
        "NVIDIA Ge\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}Force GTX 1080",
        101.5,
    )


def test_a_gpu_that_cannot_be_opened_is_listed_with_the_reason_and_tried_again(driver: Driver, two_gpus: str) -> None:
    driver(two_gpus + "1.open E10 E10 0\n")
    looks = [samples[1] for samples in look(3)]
    assert [(gpu.name, gpu.power_watts) for gpu in looks] == [
        ("GPU 1", None),
        ("NVIDIA GeForce GTX 1080", 101.5),
        ("NVIDIA GeForce GTX 1080", 101.5),
    ]
    assert looks[0].unavailable["power_watts"] == "the GPU cannot be opened: Timeout"
    assert not looks[0].lost
