"""Which GPUs' memory counts for a run: those it would see, in the order in which it would use them."""

import resource

import pytest

from rankdeck.runner.inputs.memory_room import Share
from rankdeck.runner.machine import examine
from rankdeck.runner.machine.nvml import Handle, Memory, NvmlFailure
from tests.runner.machine.test_telemetry import FakeNvml

GIB = 2**30
FREE = (1, 20, None, 40)
"""GPU 0 is full, and nothing is known about GPU 2."""

BY_PCI = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


class Box(FakeNvml):
    """Four GPUs, each with its own memory, of one model or of four."""

    def __init__(self, alike: bool, free: tuple[int | None, ...] = FREE) -> None:
        super().__init__({}, gpus=4)
        self._alike, self._free = alike, free

    def name(self, handle: Handle) -> str:
        return "Fake GPU" if self._alike else super().name(handle)

    def memory(self, handle: Handle) -> Memory:
        assert isinstance(handle, int)
        free = self._free[handle]
        if free is None:
            raise NvmlFailure(3)
        return Memory(used=(48 - free) * GIB, total=48 * GIB, free=free * GIB)

    memory_v1 = memory

    def driver_version(self) -> str:
        return "570.86"

    def cuda_version(self) -> int:
        return 12080


def free_gib(environ: dict[str, str], *, alike: bool) -> list[int | None]:
    found = examine.machine(environ, Box(alike)).free.gpus
    return [None if free is None else free // GIB for free in found]


@pytest.mark.parametrize("order", [{}, BY_PCI], ids=["fastest first", "by PCI"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, [1, 20, None, 40]), ("3", [40]), ("3,1", [40, 20]), ("2,3", [None, 40]), ("", []), ("7", [])],
)
def test_a_run_is_judged_by_the_gpus_it_sees(
    value: str | None, expected: list[int | None], order: dict[str, str]
) -> None:
    environ = order if value is None else {**order, "CUDA_VISIBLE_DEVICES": value}
    assert free_gib(environ, alike=True) == expected


def test_with_different_gpus_a_number_is_certain_only_if_cuda_counts_like_nvml() -> None:
    assert free_gib({"CUDA_VISIBLE_DEVICES": "3"}, alike=False) == [None]
    assert free_gib({"CUDA_VISIBLE_DEVICES": "3", **BY_PCI}, alike=False) == [40]
    assert free_gib({"CUDA_VISIBLE_DEVICES": "GPU-3,GPU-1"}, alike=False) == [40, 20]


@pytest.mark.parametrize(("value", "expected"), [(None, 1), ("3,2,1,0", 1), ("3,2,1", None), ("3,3", None)])
def test_with_different_gpus_the_least_free_memory_is_known_if_a_run_sees_them_all(
    value: str | None, expected: int | None
) -> None:
    environ = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    four = Share(all_ranks=4, on_gpu=True, gpus=4, gpus_per_rank=1)
    found = four.least_of(examine.machine(environ, Box(alike=False, free=(1, 20, 30, 40))).free)
    assert found == (None if expected is None else expected * GIB)
    of_three = four.least_of(examine.machine(environ, Box(alike=False)).free)
    assert of_three is None, "one of them does not report its memory"


@pytest.mark.parametrize(
    ("value", "alike", "numbers"),
    [(None, True, (0, 1, 2, 3)), ("3,1", True, (3, 1)), ("GPU-3,GPU-1", False, (3, 1)), (None, False, ())],
)
def test_gpus_have_nvidia_smis_numbers_where_it_is_certain_which_they_are(
    value: str | None, alike: bool, numbers: tuple[int, ...]
) -> None:
    environ = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    room = examine.machine(environ, Box(alike)).free
    assert room.numbers == numbers
    assert room.by_number == (alike is True), "whoever named UUIDs goes on with them"


def test_the_number_of_gpus_that_a_run_sees_is_always_known() -> None:
    assert examine.machine({"CUDA_VISIBLE_DEVICES": "3,0"}, Box(alike=False)).visible == 2


def test_open_files_are_judged_by_the_hard_limit_which_the_supervisor_goes_up_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    assert examine.facts({}).open_files == 4096
