"""Which GPU is which: CUDA_VISIBLE_DEVICES, and the GPU a rank runs on."""

import string
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.machine.visible_gpus import GpuNames, MigNames, Place, entries, places_to_sample, visible_places
from rankdeck.runner.protocol import DeviceSample
from rankdeck.runner.state.rank_gpus import match_rank_to_gpu, parse_pci_bus_id

FIRST = "GPU-8f6a1111-0000-0000-0000-000000000001"
SECOND = "GPU-8f6b2222-0000-0000-0000-000000000002"
THIRD = "GPU-c0de3333-0000-0000-0000-000000000003"
THREE_GPUS = [GpuNames(FIRST), GpuNames(SECOND), GpuNames(THIRD)]
MIG_A = "MIG-aaaa1111-0000-0000-0000-000000000001"
MIG_B = "MIG-bbbb2222-0000-0000-0000-000000000002"
MIG_BOX = [
    GpuNames(FIRST),
    GpuNames(SECOND, mig_mode=True, migs=(MigNames(MIG_A, (1, 0)), MigNames(MIG_B, (2, 0)))),
    GpuNames(THIRD, mig_mode=True),
]


@pytest.mark.parametrize(
    ("value", "gpus"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("  ", []),
        ("1", [1]),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("+1", [1]),
        ("1gpu,2ampere", [1, 2]),
        ("0,-1,1", [0]),
        ("-1", []),
        ("NoDevFiles", []),
        ("0,,1", [0]),
        ("0,7,1", [0]),
        ("0,0", []),
        ("0,1,0", []),
        (f"{THIRD},{FIRST}", [2, 0]),
        ("GPU-c0de,GPU-8f6a", [2, 0]),
        ("GPU-8f6", []),
        ("GPU-c0de,GPU-8f6,GPU-8f6a", [2]),
        ("GPU-c0de,0", [2]),
        ("0,GPU-c0de", [0]),
        (f"{THIRD},GPU-c0de", []),
        ("MIG-aaaa", []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(value: str | None, gpus: list[int]) -> None:
    assert visible_places(value, THREE_GPUS) == [Place(gpu) for gpu in gpus]


@pytest.mark.parametrize(
    ("value", "places"),
    [
        (MIG_B, [Place(1, 1)]),
        ("MIG-bbbb", [Place(1, 1)]),
        (f"MIG-{SECOND}/2/0", [Place(1, 1)]),
        (f"{MIG_B},{MIG_A}", [Place(1, 1), Place(1, 0)]),
        (f"{MIG_B},MIG-dead,{MIG_A}", [Place(1, 1)]),
        (f"{MIG_B},0", [Place(1, 1)]),
        (f"{MIG_A},{MIG_A}", []),
        ("MIG-", []),
        (None, [Place(1, 0), Place(1, 1)]),
        ("0", [Place(0)]),
        ("0,1", [Place(1, 0), Place(1, 1)]),
        ("2", []),
        (SECOND, [Place(1, 0), Place(1, 1)]),
    ],
)
def test_a_run_has_the_mig_devices_that_are_named_or_those_of_its_gpus_and_no_whole_gpu_besides(
    value: str | None, places: list[Place]
) -> None:
    assert visible_places(value, MIG_BOX) == places


@pytest.mark.parametrize(
    ("value", "gpus", "told"),
    [
        (None, THREE_GPUS, None),
        ("2, 0 ", THREE_GPUS, ["2", "0"]),
        ("+1,2ampere,x,0", THREE_GPUS, ["1", "2"]),
        ("0,7,1", THREE_GPUS, ["0"]),
        (f" GPU-c0de, {FIRST}", THREE_GPUS, [THIRD, FIRST]),
        ("GPU-c0de,GPU-dead,GPU-8f6a", THREE_GPUS, [THIRD]),
        ("GPU-c0de,0", THREE_GPUS, [THIRD]),
        (f"{FIRST},{SECOND},{THIRD}", [*THREE_GPUS[:1], GpuNames(SECOND, broken=True), THREE_GPUS[2]], [FIRST, THIRD]),
        ("NoDevFiles", THREE_GPUS, []),
        ("-1", THREE_GPUS, []),
        (None, MIG_BOX, [MIG_A, MIG_B]),
        ("1", MIG_BOX, [MIG_A, MIG_B]),
        (f"MIG-{SECOND}/2/0,MIG-aaaa", MIG_BOX, [MIG_B, MIG_A]),
    ],
)
def test_ranks_are_told_only_the_entries_that_cuda_would_read(
    value: str | None, gpus: list[GpuNames], told: list[str] | None
) -> None:
    assert entries(value, gpus) == told


@pytest.mark.parametrize(
    ("environ", "gpus"),
    [
        ({}, [0, 1, 2]),
        ({"CUDA_VISIBLE_DEVICES": f"{THIRD},{FIRST}"}, [0, 2]),
        ({"CUDA_VISIBLE_DEVICES": "2,0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, [0, 2]),
        ({"CUDA_VISIBLE_DEVICES": "2,0"}, [0, 1, 2]),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
    ],
)
def test_only_the_jobs_gpus_are_watched_if_it_is_certain_which_they_are(
    environ: dict[str, str], gpus: list[int]
) -> None:
    assert places_to_sample(environ, THREE_GPUS, {"H100", "L4"}) == [Place(gpu) for gpu in gpus]


def test_of_identical_gpus_only_the_named_ones_are_watched() -> None:
    assert places_to_sample({"CUDA_VISIBLE_DEVICES": "2,0"}, THREE_GPUS, {"H100"}) == [Place(0), Place(2)]


@given(st.permutations(range(8)), st.integers(1, 7), st.sampled_from(["x", "-1", "", "99", "GPU-00"]))
def test_entries_after_the_first_invalid_one_are_ignored(order: list[int], valid: int, invalid: str) -> None:
    gpus = [GpuNames(f"GPU-{number:08x}") for number in range(8)]
    entries = [*map(str, order[:valid]), invalid, *map(str, order[valid:])]
    assert visible_places(",".join(entries), gpus) == [Place(number) for number in order[:valid]]


@given(st.text(alphabet=string.printable, max_size=40))
def test_any_value_gives_distinct_gpus_of_this_machine_or_none(value: str) -> None:
    for machine in (THREE_GPUS, MIG_BOX, []):
        places = visible_places(value, machine)
        assert len(set(places)) == len(places)
        assert all(place.gpu < len(machine) for place in places)


def sample(index: int, uuid: str, pci_bus_id: str | None = None) -> DeviceSample:
    return DeviceSample(index=index, uuid=uuid, name="GPU", pci_bus_id=pci_bus_id)


def test_a_rank_finds_its_gpu_by_uuid_whatever_the_prefix_and_case() -> None:
    samples = [sample(0, FIRST), sample(1, SECOND)]
    assert match_rank_to_gpu(FIRST.removeprefix("GPU-"), None, samples) == 0
    assert match_rank_to_gpu(SECOND.removeprefix("GPU-").upper(), None, samples) == 1
    assert match_rank_to_gpu(SECOND, None, samples) == 1


def test_the_uuid_outweighs_the_pci_id() -> None:
    samples = [sample(0, FIRST, "00000000:65:00.0"), sample(1, SECOND, "00000000:B3:00.0")]
    assert match_rank_to_gpu(FIRST, "0000:b3:00.0", samples) == 0


def test_a_rank_without_a_known_uuid_finds_its_gpu_by_pci_id() -> None:
    samples = [sample(0, FIRST, "00000000:65:00.0"), sample(1, SECOND, "00000000:B3:00.0")]
    assert match_rank_to_gpu(None, "0000:b3:00.0", samples) == 1
    assert match_rank_to_gpu(THIRD, "0000:65:00", samples) == 0


def test_the_answer_is_a_position_among_the_samples_not_the_gpus_number() -> None:
    assert match_rank_to_gpu(THIRD, None, [sample(5, FIRST), sample(7, THIRD)]) == 1


@pytest.mark.parametrize(("uuid", "pci"), [(None, None), ("", ""), (THIRD, None), (None, "0001:65:00.0"), (None, "?")])
def test_a_rank_that_matches_nothing_stays_unmapped(uuid: str | None, pci: str | None) -> None:
    samples = [sample(0, FIRST, "00000000:65:00.0"), sample(1, "", None), sample(2, "", "")]
    assert match_rank_to_gpu(uuid, pci, samples) is None


def test_two_mig_devices_of_one_gpu_are_told_apart_only_by_uuid() -> None:
    samples = [sample(0, MIG_A, "00000000:65:00.0"), sample(0, MIG_B, "00000000:65:00.0")]
    assert match_rank_to_gpu(MIG_B.removeprefix("MIG-"), "0000:65:00.0", samples) == 1
    assert match_rank_to_gpu(None, "0000:65:00.0", samples) is None
    assert match_rank_to_gpu(MIG_B, "0000:65:00.0", samples[:1]) is None, "another MIG device of the same GPU"


@pytest.mark.parametrize("value", [None, "1", "0,1", f"{MIG_B},{MIG_A}"])
def test_mig_devices_are_watched_each_however_they_were_named(value: str | None) -> None:
    environ = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    assert places_to_sample(environ, MIG_BOX, {"A100", "H100"}) == [Place(1, 0), Place(1, 1)]


@given(st.lists(st.uuids(), unique=True, min_size=1, max_size=8), st.data())
def test_every_gpu_is_found_by_its_own_uuid(uuids: list[UUID], data: st.DataObject) -> None:
    samples = [sample(index, f"GPU-{uuid}") for index, uuid in enumerate(uuids)]
    wanted = data.draw(st.integers(0, len(uuids) - 1))
    spellings = [str(uuids[wanted]), str(uuids[wanted]).upper(), f"GPU-{uuids[wanted]}"]
    assert [match_rank_to_gpu(spelling, None, samples) for spelling in spellings] == [wanted] * 3


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFF), st.integers(0, 0x1F))
def test_pci_ids_are_the_same_in_every_spelling(domain: int, bus: int, device: int) -> None:
    spellings = [
        f"{domain:08X}:{bus:02X}:{device:02X}.0",
        f"{domain:04x}:{bus:02x}:{device:02x}.0",
        f"{domain:x}:{bus:02X}:{device:02x}",
    ]
    assert {parse_pci_bus_id(spelling) for spelling in spellings} == {(domain, bus, device, 0)}


@given(st.text(max_size=20))
def test_the_pci_parser_accepts_any_text(text: str) -> None:
    parse_pci_bus_id(text)
