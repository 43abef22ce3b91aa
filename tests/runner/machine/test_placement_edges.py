"""Ranks over GPUs at the bounds: how many fit, what is said where they do not, and what each rank is told and shown."""

import msgspec
import pytest

from rankdeck.runner.inputs.memory_room import Room
from rankdeck.runner.machine import placement
from rankdeck.runner.machine.facts import Machine
from rankdeck.runner.machine.placement import Comparison
from rankdeck.runner.machine.visible_gpus import (
    GpuNames,
    MigNames,
    gpu_numbers,
    named_by_number,
    order_is_certain,
    whole_gpus_left_out,
)
from rankdeck.runner.protocol import DeviceSample
from rankdeck.runner.protocol.config import RunConfig


def problems(gpus: int, *, mig: bool = False, **settings: object) -> list[str]:
    config = RunConfig(**{"prompts": "p", "device": "cuda", **settings})  # type: ignore[arg-type]
    return [str(problem) for problem in placement.check(config, gpus, mig=mig)]


@pytest.mark.parametrize(
    ("gpus", "each", "per_rank", "most"),
    [(4, None, 1, 4), (4, 3, 1, 12), (4, 0, 0, 4), (5, None, 2, 2), (1, None, 2, 0), (0, 2, 1, 0), (3, 1, 3, 1)],
)
def test_so_many_ranks_fit_on_so_many_gpus(gpus: int, each: int | None, per_rank: int, most: int) -> None:
    assert placement.most_ranks(gpus, each, per_rank) == most


@pytest.mark.parametrize(
    ("gpus", "settings", "said"),
    [
        (
            4,
            {"ranks": 4, "gpus_per_rank": 2},
            ["--ranks: 4 ranks of 2 GPUs each need 8 GPUs, and 4 can be seen here; at most 2"],
        ),
        (4, {"ranks": 2, "gpus_per_rank": 2}, []),
        (3, {"ranks": 1, "gpus_per_rank": 4}, ["--gpus-per-rank: 4 GPUs per rank, and 3 can be seen here"]),
        (4, {"ranks": 1, "gpus_per_rank": 4}, []),
        (
            4,
            {"ranks": 9, "ranks_per_gpu": 2},
            ["--ranks: 9 ranks are too many for 4 GPUs at 2 per GPU: at most 8; or raise --ranks-per-gpu"],
        ),
        (4, {"ranks": 8, "ranks_per_gpu": 2}, []),
        (4, {"ranks": 99}, []),
        (0, {"ranks": 99, "device": "auto"}, []),
        (
            0,
            {"ranks_per_gpu": 2, "device": "auto"},
            ["--ranks-per-gpu: needs NVIDIA GPUs, and none can be seen here; leave it out"],
        ),
        (
            0,
            {"gpus_per_rank": 2},
            ["--gpus-per-rank: needs NVIDIA GPUs, and none can be seen here; leave it out"],
        ),
        (0, {"ranks_per_gpu": 1, "gpus_per_rank": 1}, []),
        (0, {"ranks": 3, "gpus_per_rank": 2, "ranks_per_gpu": 2, "device": "cpu"}, []),
    ],
)
def test_a_layout_that_does_not_fit_is_refused_with_what_would(
    gpus: int, settings: dict[str, object], said: list[str]
) -> None:
    assert problems(gpus, **settings) == said


def test_of_mig_devices_a_rank_has_one() -> None:
    refused = ["--gpus-per-rank: a process cannot have more than one MIG device; leave it out"]
    assert problems(8, mig=True, gpus_per_rank=2) == refused
    assert problems(8, mig=True, gpus_per_rank=1, ranks_per_gpu=2, ranks=16) == []
    assert problems(8, mig=True, ranks_per_gpu=2, ranks=17)[0].startswith("--ranks: 17 ranks are too many for 8 GPUs")


def test_what_needs_gpus_is_what_asks_for_more_than_one_of_something() -> None:
    config = RunConfig(prompts="p")
    assert placement.asked_for(config) == []
    assert placement.asked_for(msgspec.structs.replace(config, ranks_per_gpu=1)) == []
    assert placement.asked_for(msgspec.structs.replace(config, ranks_per_gpu=2, gpus_per_rank=2)) == [
        "ranks_per_gpu",
        "gpus_per_rank",
    ]


def test_each_rank_is_shown_its_own_devices_and_no_others() -> None:
    def shown(value: str | None, per_rank: int, *ranks: int) -> list[str | None]:
        environ = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
        found = [placement.own_environment(environ, rank, per_rank) for rank in ranks]
        assert all(set(one) <= {"CUDA_VISIBLE_DEVICES"} for one in found)
        return [one.get("CUDA_VISIBLE_DEVICES") for one in found]

    assert shown("0,1", 1, 0, 1) == [None, None], "they pick theirs themselves"
    assert shown(" MIG-a, MIG-b ", 1, 0, 1, 2, 3) == ["MIG-a", "MIG-b", "MIG-a", "MIG-b"]
    assert shown(None, 3, 0, 1, 2) == ["0,1,2", "3,4,5", "6,7,8"]
    assert shown(" 4 , 5,6 ,7", 2, 0, 1, 2) == ["4,5", "6,7", ""]


@pytest.mark.parametrize(
    ("ranks", "counted", "seen", "found"),
    [
        (4, "", "abc", Comparison()),
        (4, "abc", "", Comparison()),
        (4, "ab", "ab", Comparison()),
        (4, "ab", "AB", Comparison()),
        (4, "ab", "ax", Comparison()),
        (
            4,
            "ab",
            "ba",
            Comparison(remark="CUDA numbers the GPUs differently from nvidia-smi; the GPU table goes by UUID"),
        ),
        (2, "abc", "ab", Comparison(remark="torch sees 2 GPUs, but the driver has 3 for this run")),
        (4, "a", "ab", Comparison(remark="torch sees 2 GPUs, but the driver has 1 for this run")),
        (1, "ab", "a", Comparison(remark="torch sees 1 GPU, but the driver has 2 for this run")),
        (
            5,
            "abc",
            "ab",
            Comparison(
                refusal="torch sees 2 GPUs, but the driver has 3 for this run: 3 ranks would share a GPU instead of 2; "
                "start 4 at most (--ranks), or name in CUDA_VISIBLE_DEVICES the GPUs that torch can use"
            ),
        ),
    ],
)
def test_what_torch_sees_is_set_against_what_the_driver_counts(
    ranks: int, counted: str, seen: str, found: Comparison
) -> None:
    assert placement.compare(ranks, list(counted), list(seen)) == found


def test_ranks_that_share_a_gpu_are_counted_on_each() -> None:
    assert [placement.sharing(rank, 5, 2) for rank in range(5)] == [3, 2, 3, 2, 3]
    assert [placement.sharing(rank, 2, 4) for rank in range(2)] == [1, 1]


def test_a_spread_device_has_the_numbers_of_the_run() -> None:
    assert [placement.device_text("cuda:0", rank, 3) for rank in (0, 2)] == ["cuda:0,1,2", "cuda:6,7,8"]
    assert [placement.device_index(rank, 3, 1) for rank in (0, 2, 3, 7)] == [0, 2, 0, 1]
    assert placement.device_index(5, 3, 2) == 0


def test_the_variables_of_a_rank_have_the_names_that_others_read() -> None:
    assert (placement.OWN_DEVICE, placement.COUNTED) == ("ACCELERATE_TORCH_DEVICE", "RANKDECK_GPUS")


# --- names of GPUs ---

BOX = [
    GpuNames("GPU-a"),
    GpuNames("GPU-b", mig_mode=True, migs=(MigNames("MIG-b0", (1, 0)), MigNames("MIG-b1"))),
    GpuNames("GPU-c"),
]


@pytest.mark.parametrize(
    ("value", "left_out"),
    [(None, 2), ("0,1,2", 2), (" 0,1 ", 1), ("0,2", 0), ("1", 0), ("", 0), ("MIG-b0", 0), (" GPU-a,GPU-b", 1)],
)
def test_whole_gpus_beside_mig_devices_are_counted_as_left_out(value: str | None, left_out: int) -> None:
    assert whole_gpus_left_out(value, BOX) == left_out


@pytest.mark.parametrize(
    ("value", "numbers"),
    [(None, [0, 1, 2]), ("2,0", [2, 0]), ("GPU-c,GPU-a", [2, 0]), ("GPU-", []), ("MIG-b0", []), ("x", []), ("3", [])],
)
def test_the_gpus_that_are_named_are_numbered_as_nvml_does(value: str | None, numbers: list[int]) -> None:
    assert gpu_numbers(value, BOX) == numbers


@pytest.mark.parametrize(
    ("environ", "models", "certain"),
    [
        ({}, ["H100", "H100"], True),
        ({}, [], True),
        ({}, ["H100", "L4"], False),
        ({"CUDA_VISIBLE_DEVICES": "1,0"}, ["H100", "L4"], False),
        ({"CUDA_VISIBLE_DEVICES": " GPU-a"}, ["H100", "L4"], True),
        ({"CUDA_VISIBLE_DEVICES": "MIG-a"}, ["H100", "L4"], True),
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, ["H100", "L4"], True),
        ({"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, ["H100", "L4"], False),
    ],
)
def test_the_order_of_gpus_is_certain_by_uuid_by_pci_or_among_equals(
    environ: dict[str, str], models: list[str], certain: bool
) -> None:
    assert order_is_certain(environ, models) is certain


@pytest.mark.parametrize(
    ("value", "by_number"), [(None, True), ("0", True), ("", True), (" GPU-a", False), ("MIG-a", False)]
)
def test_who_names_no_uuid_goes_on_with_numbers(value: str | None, by_number: bool) -> None:
    assert named_by_number({} if value is None else {"CUDA_VISIBLE_DEVICES": value}) is by_number


# --- the memory that a run would find ---


def gpu(index: int, free: int, **more: object) -> DeviceSample:
    more = {"uuid": f"GPU-{index}", **more}
    return DeviceSample(index=index, name="H100", memory_free_bytes=free, memory_total_bytes=80, **more)  # type: ignore[arg-type]


def test_free_and_whole_memory_are_those_of_the_gpus_that_a_run_sees_in_its_order() -> None:
    gpus = (gpu(4, 10), gpu(5, 20, lost=True), gpu(6, 30))
    machine = Machine(memory_free_bytes=7, memory_total_bytes=9, gpus=gpus, seen=(2, 1), by_number=True)
    assert machine.visible == 2
    assert machine.free == Room((30, None), 7, numbers=(6, 5), by_number=True)
    assert machine.whole == Room((80, None), 9, numbers=(6, 5), by_number=True)


def test_where_it_is_not_known_which_gpus_they_are_figures_count_only_if_all_are_seen() -> None:
    gpus = (gpu(0, 10), gpu(1, 20))
    every = Machine(gpus=gpus, seen=(None, None), by_number=True)
    assert every.free == Room((10, 20), None, ordered=False)
    assert Machine(gpus=gpus, seen=(None,)).free == Room((None,), None, ordered=False)
    assert Machine(gpus=gpus, seen=(0, None)).free == Room((10, 20), None, ordered=False)


def test_mig_devices_have_no_numbers_of_their_own() -> None:
    slices = (gpu(0, 10, uuid="MIG-a"), gpu(0, 20, uuid="MIG-b"))
    assert Machine(gpus=slices, seen=(1, 0)).free == Room((20, 10), None, numbers=(), mig=True)
    assert Machine(gpus=slices, seen=(None, None)).whole == Room((80, 80), None, ordered=False, mig=True)
