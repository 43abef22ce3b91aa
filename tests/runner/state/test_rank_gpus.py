"""A rank's GPU is the one that surely is it, or none."""

import pytest

from rankdeck.runner.protocol import DeviceSample
from rankdeck.runner.state.rank_gpus import match_rank_to_gpu, parse_pci_bus_id


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("00000000:65:00.1", (0, 0x65, 0, 1)),
        ("0001:0A:1f.0", (1, 10, 31, 0)),
        ("65:00.7", (0, 0x65, 0, 7)),
        ("65:02", (0, 0x65, 2, 0)),
        ("65", None),
        ("1:2:3:4", None),
        ("65:0g.0", None),
        ("", None),
    ],
)
def test_every_part_of_a_pci_id_counts(text, parts):
    assert parse_pci_bus_id(text) == parts


def sample(number: int, **facts: object) -> DeviceSample:
    return DeviceSample(**{"index": number, "uuid": f"GPU-{number}", "name": "A", **facts})  # type: ignore[arg-type]


def test_where_several_gpus_fit_the_rank_is_on_none_that_is_known():
    alike = [sample(0, pci_bus_id="65:00.0"), sample(1, pci_bus_id="0000:65:00.0")]
    assert match_rank_to_gpu(None, "65:00.0", alike) is None
    twice = [sample(0, uuid="GPU-x"), sample(1, uuid="gpu-X")]
    assert match_rank_to_gpu("x", None, twice) is None
    assert match_rank_to_gpu("x", "65:00.0", [*twice, sample(2, pci_bus_id="65:00.0")]) == 2, "then by its PCI id"
    functions = [sample(0, pci_bus_id="65:00.0"), sample(1, pci_bus_id="65:00.1")]
    assert match_rank_to_gpu(None, "00000000:65:00.1", functions) == 1
