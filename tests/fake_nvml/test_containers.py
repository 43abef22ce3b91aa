"""GPUs that NVML lists but this process may not open, as in a container: they are not counted, nor are broken ones."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rankdeck.runner.machine import examine, gpu
from rankdeck.runner.machine.facts import Facts
from rankdeck.runner.machine.gpu_checks import gpu_checks
from rankdeck.runner.machine.telemetry import Telemetry, count_visible_gpus, rank_variables, visible_gpus, why_no_gpu

Driver = Callable[..., Path]

EIGHT = "count 8\ndriver 570.86\n" + "".join(
    f"{number}.name NVIDIA H100\n{number}.uuid GPU-{number}\n{number}.memory 100,40,0\n" for number in range(8)
)


def watched(environ: dict[str, str]) -> list[str]:
    telemetry = Telemetry.open(environ)
    uuids = [sample.uuid for sample in telemetry.sample_devices()]
    telemetry.close()
    return uuids


@pytest.mark.parametrize("refusal", ["open E4", "uuid E4", "name E4"])
def test_of_eight_gpus_of_which_one_opens_a_run_has_one(driver: Driver, refusal: str) -> None:
    refused = [f"{number}.{refusal}\n" for number in range(8) if number != 5]
    script = EIGHT
    if not refusal.startswith("open"):
        key = refusal.split()[0]
        lines = EIGHT.splitlines(keepends=True)
        script = "".join(line for line in lines if f".{key} " not in line or line.startswith("5."))
    driver(script + "".join(refused))
    assert count_visible_gpus({}) == 1
    assert watched({}) == ["GPU-5"]
    assert count_visible_gpus({"CUDA_VISIBLE_DEVICES": "0"}) == 1, "CUDA numbers only what it can open"
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0"})[0].uuid == "GPU-5"
    assert count_visible_gpus({"CUDA_VISIBLE_DEVICES": "5"}) == 0
    assert rank_variables({"CUDA_VISIBLE_DEVICES": "0,5"}) == {"CUDA_VISIBLE_DEVICES": "0", "RANKDECK_GPUS": "GPU-5"}


def test_a_gpu_whose_device_file_is_missing_or_closed_is_not_ours(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = tmp_path / "dev"
    devices.mkdir()
    monkeypatch.setattr(gpu, "DEVICE_FILES", devices)
    minors = "".join(f"{number}.minor {7 - number}\n" for number in range(8))
    driver(EIGHT + minors)
    assert count_visible_gpus({}) == 8, "no such files at all: GPUs are reached in another way here"
    for minor in (2, 6):
        (devices / f"nvidia{minor}").touch()
    assert [one.uuid for one in visible_gpus({})] == ["GPU-1", "GPU-5"], "by minor number, which is no index"
    monkeypatch.setattr("os.access", lambda path, mode: path.name != "nvidia2")
    assert [one.uuid for one in visible_gpus({})] == [f"GPU-{number}" for number in range(8) if number != 5]


def test_doctor_says_in_one_line_how_many_gpus_are_not_ours(driver: Driver) -> None:
    driver(EIGHT + "".join(f"{number}.open E4\n" for number in range(7)))
    checks = gpu_checks(Facts(machine=examine.machine({})))
    (line,) = (check.found for check in checks if check.name == "others")
    assert line.startswith("the driver lists 7 more GPUs, which this process may not open")
    assert not [check for check in checks if check.status != "ok"]


def test_where_no_gpu_opens_the_reason_and_its_cure_are_said(driver: Driver) -> None:
    driver(EIGHT + "".join(f"{number}.open E4\n" for number in range(8)))
    assert str(why_no_gpu({})).startswith("the driver lists 8 GPUs, and this process may not open any: start the cont")


def test_where_the_only_gpu_does_not_open_there_is_one(driver: Driver) -> None:
    driver("count 1\n0.open E4\n")
    assert str(why_no_gpu({})).startswith("the driver lists 1 GPU, and this process may not open it: start the cont")


@pytest.mark.parametrize(
    ("fifth", "shown"),
    [("NVIDIA H100", ["GPU-2", "GPU-3"]), ("NVIDIA L4", [f"GPU-{number}" for number in range(8)])],
)
def test_of_eight_identical_gpus_only_those_that_are_named_are_watched(
    driver: Driver, fifth: str, shown: list[str]
) -> None:
    driver(EIGHT.replace("5.name NVIDIA H100", f"5.name {fifth}"))
    assert watched({"CUDA_VISIBLE_DEVICES": "2,3"}) == shown, "of unlike GPUs CUDA may count the fastest first"


@pytest.mark.parametrize("failure", ["4.open E999", "4.uuid E999"])
def test_a_gpu_that_is_lost_or_fails_stays_listed_and_no_rank_is_planned_for_it(driver: Driver, failure: str) -> None:
    script = "".join(line for line in EIGHT.splitlines(keepends=True) if not line.startswith(failure[:6]))
    driver(f"{script}3.open E15\n{failure}\n")
    telemetry = Telemetry.open({})
    samples = telemetry.sample_devices()
    telemetry.close()
    assert [sample.index for sample in samples if sample.lost] == [3]
    assert len(samples) == 8
    assert telemetry.not_ours == 0
    assert [one.gpu for one in visible_gpus({})] == [0, 1, 2, 5, 6, 7]
    checks = {check.name: check for check in gpu_checks(Facts(machine=examine.machine({})))}
    assert checks["GPU 4"].status == checks["GPU 3"].status == "bad"
    assert checks["GPU 4"].found.endswith("cannot be used (Unknown Error): no rank is planned for it")


@pytest.mark.parametrize(("value", "working"), [(None, "0125"), ("5,4,0", "50"), ("GPU-5,GPU-4,GPU-0", "50")])
def test_ranks_see_no_broken_gpu_whether_cuda_would_count_it_or_not(
    driver: Driver, value: str | None, working: str
) -> None:
    script = "".join(line for line in EIGHT.splitlines(keepends=True) if line[0] not in "67")
    driver(script.replace("count 8", "count 6") + "3.open E15\n4.open E999\n")
    told = ",".join(f"GPU-{number}" for number in working)
    environ = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    if value == "GPU-5,GPU-4,GPU-0":
        told = "GPU-5"  # where its UUID is not known, CUDA's list ends
    assert rank_variables(environ) == {"CUDA_VISIBLE_DEVICES": told, "RANKDECK_GPUS": told}


def test_where_no_gpu_works_that_is_the_reason(driver: Driver) -> None:
    driver("count 2\n0.open E999\n1.open E15\n")
    assert str(why_no_gpu({})).startswith("every GPU is lost or cannot be opened: reset them")
    assert rank_variables({}) == {}


def test_a_driver_that_has_no_uuids_has_gpus_and_nothing_is_compared(driver: Driver) -> None:
    driver(EIGHT, hidden=("nvmlDeviceGetUUID",))
    assert count_visible_gpus({}) == 8
    assert rank_variables({}) == {}
    assert rank_variables({"CUDA_VISIBLE_DEVICES": "2,1"}) == {"CUDA_VISIBLE_DEVICES": "2,1"}


def test_what_ranks_are_told_is_cut_where_cuda_would_cut_it(driver: Driver) -> None:
    driver(EIGHT)
    uuids = "GPU-2,GPU-0"
    assert rank_variables({"CUDA_VISIBLE_DEVICES": " GPU-2 , GPU-0,GPU-9,GPU-1"}) == {
        "CUDA_VISIBLE_DEVICES": uuids,
        "RANKDECK_GPUS": uuids,
    }
    assert rank_variables({}) == {"RANKDECK_GPUS": ",".join(f"GPU-{number}" for number in range(8))}
    for nothing in ("-1", "", "NoDevFiles", "0,0"):
        assert rank_variables({"CUDA_VISIBLE_DEVICES": nothing}) == {}
