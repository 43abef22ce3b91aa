"""Peak memory bandwidths: a GPU is found by the name that its driver prints, and no other is mistaken for it."""

import pytest

from rankdeck.runner.sweep.peak_bandwidth import PEAK_GIGABYTES_PER_SECOND, bandwidths, known_bandwidth, peak_bandwidth
from tests.runner.sweep.test_sweep_figures import ready


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        ("NVIDIA B200", 8000),
        ("NVIDIA GB200", 8000),
        ("NVIDIA B300 SXM6 AC", 8000),
        ("NVIDIA GB300", 8000),
        ("NVIDIA GB10", 273),
        ("NVIDIA GH200 480GB", 4000),
        ("NVIDIA GH200 120GB", 4000),
        ("NVIDIA GH200 144G HBM3e", 4900),
        ("NVIDIA H200", 4800),
        ("NVIDIA H200 NVL", 4800),
        ("NVIDIA H100 80GB HBM3", 3352),
        ("NVIDIA H100 NVL", 3938),
        ("NVIDIA H100 PCIe", 2039),
        ("NVIDIA H100", None),
        ("NVIDIA A10-4Q", None),
        ("NVIDIA A40-48Q", None),
        ("GRID A100-8C", None),
        ("NVIDIA H100 64GB HBM2", None),
        ("NVIDIA H800", 3352),
        ("NVIDIA H800 PCIe", 2039),
        ("NVIDIA H20", 4000),
        ("NVIDIA H20-3e", 4800),
        ("NVIDIA A100-SXM4-80GB", 2039),
        ("A100-SXM-80GB", 2039),
        ("NVIDIA A100-SXM4-40GB", 1555),
        ("NVIDIA A100-PCIE-40GB", 1555),
        ("NVIDIA A100 80GB PCIe", 1935),
        ("NVIDIA A100X", 2039),
        ("NVIDIA A100-SXM-64GB", None),
        ("NVIDIA A800-SXM4-80GB", 2039),
        ("NVIDIA A800 80GB PCIe", 1935),
        ("NVIDIA A800 40GB Active", 1555),
        ("NVIDIA A10", 600),
        ("NVIDIA A10G", 600),
        ("NVIDIA A2", 200),
        ("NVIDIA A40", 696),
        ("NVIDIA L4", 300),
        ("NVIDIA L40", 864),
        ("NVIDIA L40S", 864),
        ("NVIDIA L20", 864),
        ("NVIDIA L4000", None),
        ("Tesla T4", 320),
        ("Tesla V100-SXM2-32GB", 900),
        ("Tesla V100S-PCIE-32GB", 1134),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 1597),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 1792),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 1792),
        ("NVIDIA RTX PRO 5000 Blackwell", 1344),
        ("NVIDIA RTX PRO 5000 72GB Blackwell", 1344),
        ("NVIDIA RTX PRO 4500 Blackwell", 896),
        ("NVIDIA RTX PRO 4500 Blackwell Server Edition", None),
        ("NVIDIA RTX PRO 4000 Blackwell", 672),
        ("NVIDIA RTX PRO 4000 Blackwell SFF Edition", 432),
        ("NVIDIA RTX 6000 Ada Generation", 960),
        ("NVIDIA RTX 4500 Ada Generation", 432),
        ("NVIDIA RTX 4000 Ada Generation", 360),
        ("NVIDIA RTX 4000 SFF Ada Generation", 280),
        ("NVIDIA RTX A6000", 768),
        ("Quadro RTX 6000", None),
        ("NVIDIA GeForce RTX 5090", 1792),
        ("NVIDIA GeForce RTX 5090 D v2", 1344),
        ("NVIDIA GeForce RTX 5070 Ti", 896),
        ("NVIDIA GeForce RTX 5070", 672),
        ("NVIDIA GeForce RTX 4080 SUPER", 736),
        ("NVIDIA GeForce RTX 4080", 717),
        ("NVIDIA GeForce RTX 3090 Ti", 1008),
        ("NVIDIA GeForce RTX 3090", 936),
        ("NVIDIA GeForce RTX 3080", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("Quadro RTX 5000 with Max-Q Design", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("", None),
        ("NVIDIA A30", 933),
        ("NVIDIA A30X", 1223),
        ("NVIDIA A16", 200),
        ("NVIDIA A800-SXM4-40GB", 1555),
        ("Tesla V100-PCIE-16GB", 900),
        ("NVIDIA RTX PRO 2000 Blackwell", 288),
        ("NVIDIA RTX 5880 Ada Generation", 960),
        ("NVIDIA RTX 5000 Ada Generation", 576),
        ("NVIDIA RTX 2000 Ada Generation", 224),
        ("NVIDIA RTX A5500", 768),
        ("NVIDIA RTX A5000", 768),
        ("NVIDIA RTX A4500", 640),
        ("NVIDIA RTX A4000", 448),
        ("NVIDIA GeForce RTX 5080", 960),
        ("NVIDIA GeForce RTX 5060 Ti", 448),
        ("NVIDIA GeForce RTX 4090", 1008),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", 672),
        ("NVIDIA GeForce RTX 4070 Ti", 504),
        ("NVIDIA GeForce RTX 3080 Ti", 912),
    ],
)
def test_a_known_gpu_is_found_by_its_name_and_no_other_is_mistaken_for_it(name: str, gigabytes: float | None) -> None:
    assert known_bandwidth(name) == (gigabytes * 1e9 if gigabytes is not None else None)


def test_no_name_in_the_table_hides_a_longer_one_behind_it() -> None:
    for place, (name, _) in enumerate(PEAK_GIGABYTES_PER_SECOND):
        before = [other for other, _ in PEAK_GIGABYTES_PER_SECOND[:place]]
        assert not [other for other in before if f" {other} " in f" {name} "], name


def test_for_an_unknown_device_the_measured_copy_counts_and_is_named_as_the_source() -> None:
    unknown = [ready(0, device_name="New GPU", bandwidth_bytes_per_second=7e11), ready(1, device_name="New GPU")]
    assert peak_bandwidth(unknown) == (7e11, "measured by a copy on New GPU")
    assert peak_bandwidth([unknown[1]]) == (None, None)
    assert peak_bandwidth([ready(0)])[1] == "data sheet of NVIDIA H200"
    assert peak_bandwidth([]) == (None, None)


def test_every_figure_of_the_table_is_looked_up_by_a_name_in_these_tests() -> None:
    names = test_a_known_gpu_is_found_by_its_name_and_no_other_is_mistaken_for_it.pytestmark[0].args[1]
    said = [" ".join("".join(c if c.isalnum() else " " for c in name.lower()).split()) for name, _ in names]
    for entry, _ in PEAK_GIGABYTES_PER_SECOND:
        assert any(f" {entry} " in f" {name} " for name in said), entry


def test_a_cpu_is_in_no_table_whatever_its_name_and_its_copy_counts() -> None:
    cpu = ready(0, device="cpu", device_name="NVIDIA H200", bandwidth_bytes_per_second=2e10)
    assert peak_bandwidth([cpu]) == (2e10, "measured by a copy on NVIDIA H200")


def test_a_copy_on_another_kind_of_device_is_no_measure_of_this_one() -> None:
    other = ready(0, device_name="Old GPU", bandwidth_bytes_per_second=3e11)
    assert peak_bandwidth([ready(1, device_name="New GPU"), other]) == (None, None)


def test_each_rank_has_the_peak_of_its_own_device_and_one_of_which_nothing_is_known_has_none() -> None:
    ranks = [
        ready(0, device_name="New GPU", bandwidth_bytes_per_second=7e11),
        ready(1),
        ready(2, device_name="Old GPU"),
        ready(3, device_name="New GPU"),
    ]
    assert bandwidths(ranks) == {0: 7e11, 1: 4.8e12, 3: 7e11}
    assert bandwidths([]) == {}
