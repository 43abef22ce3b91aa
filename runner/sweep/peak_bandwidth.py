"""Peak memory bandwidth of a device: from a table of known GPUs, else from the copy that rank 0 timed. Pure.

The figures in the table are what the makers publish (decimal bytes per second), for the newer GPUs as others quote it:
not every sheet itself was at hand. For any other GPU the copy counts, which reaches about 80 to 95 % of the peak.
"""

import re
from collections.abc import Sequence

from rankdeck.runner.protocol import RankReady

GIGABYTE = 1e9

# Matched in lower case, without punctuation: a GPU's name must contain all words of an entry, consecutively.
# The first entry that is found counts, so a longer name stands before a shorter one that it contains. What is missing
# here is measured by a copy: names that several memories share (H100 SXM with 64 or 96 GB, RTX 3080, RTX 4070), and
# those without a data sheet (RTX PRO 4500 Server Edition).
PEAK_GIGABYTES_PER_SECOND: tuple[tuple[str, float | None], ...] = (
    # NVIDIA DGX B200 and DGX B300: 64 TB/s for 8 GPUs. GB200 NVL72 and GB300 NVL72: 576 TB/s for 72.
    ("b200", 8000),
    ("gb200", 8000),
    ("b300", 8000),
    ("gb300", 8000),
    # NVIDIA DGX Spark.
    ("gb10", 273),
    # NVIDIA GH200 Grace Hopper Superchip: 96 GB of HBM3 (beside 120 or 480 GB of the CPU's), or 144 GB of HBM3e.
    ("gh200 480gb", 4000),
    ("gh200 120gb", 4000),
    ("gh200 144g hbm3e", 4900),
    # NVIDIA H200 (SXM and NVL), H100 (SXM, NVL, PCIe), H800 (the same memory as H100), H20.
    ("h200", 4800),
    ("h100 nvl", 3938),
    ("h100 pcie", 2039),
    ("h100 80gb hbm3", 3352),
    ("h800 pcie", 2039),
    ("h800", 3352),
    ("h20 3e", 4800),
    ("h20", 4000),
    # NVIDIA A100 (the older drivers leave out the 4 of SXM4), A800 (the same memory as A100), A100X and A30X.
    ("a100 sxm4 80gb", 2039),
    ("a100 sxm 80gb", 2039),
    ("a100 80gb pcie", 1935),
    ("a100 sxm4 40gb", 1555),
    ("a100 pcie 40gb", 1555),
    ("a800 sxm4 80gb", 2039),
    ("a800 80gb pcie", 1935),
    ("a800 sxm4 40gb", 1555),
    ("a800 40gb active", 1555),
    ("a100x", 2039),
    ("a30x", 1223),
    # NVIDIA A40, A30, A16 (each of its four GPUs), A10, A2, and Amazon's A10G.
    ("a40", 696),
    ("a30", 933),
    ("a16", 200),
    ("a10g", 600),
    ("a10", 600),
    ("a2", 200),
    # NVIDIA L40S, L40, L20, L4.
    ("l40s", 864),
    ("l40", 864),
    ("l20", 864),
    ("l4", 300),
    # NVIDIA T4, V100, V100S.
    ("t4", 320),
    ("v100s pcie", 1134),
    ("v100 sxm2", 900),
    ("v100 pcie", 900),
    # NVIDIA RTX PRO Blackwell: the server's memory is slower than that of the two workstation editions.
    ("rtx pro 6000 blackwell server edition", 1597),
    ("rtx pro 6000 blackwell workstation edition", 1792),
    ("rtx pro 6000 blackwell max q workstation edition", 1792),
    ("rtx pro 5000 blackwell", 1344),
    ("rtx pro 5000 72gb blackwell", 1344),
    ("rtx pro 4500 blackwell server edition", None),
    ("rtx pro 4500 blackwell", 896),
    ("rtx pro 4000 blackwell sff edition", 432),
    ("rtx pro 4000 blackwell", 672),
    ("rtx pro 2000 blackwell", 288),
    # NVIDIA RTX Ada Generation.
    ("rtx 6000 ada", 960),
    ("rtx 5880 ada", 960),
    ("rtx 5000 ada", 576),
    ("rtx 4500 ada", 432),
    ("rtx 4000 sff ada", 280),
    ("rtx 4000 ada", 360),
    ("rtx 2000 ada", 224),
    # NVIDIA RTX A series (Ampere).
    ("rtx a6000", 768),
    ("rtx a5500", 768),
    ("rtx a5000", 768),
    ("rtx a4500", 640),
    ("rtx a4000", 448),
    # NVIDIA GeForce, from the width of the memory and its rate per pin, as the sheets give them.
    ("rtx 5090 d v2", 1344),
    ("rtx 5090", 1792),
    ("rtx 5080", 960),
    ("rtx 5070 ti", 896),
    ("rtx 5070", 672),
    ("rtx 5060 ti", 448),
    ("rtx 4090", 1008),
    ("rtx 4080 super", 736),
    ("rtx 4080", 717),
    ("rtx 4070 ti super", 672),
    ("rtx 4070 ti", 504),
    ("rtx 3090 ti", 1008),
    ("rtx 3090", 936),
    ("rtx 3080 ti", 912),
)
"""None: a GPU that must not be taken for the one with the shorter name."""

NOT_THE_WHOLE_GPU = ("mig", "laptop", "max q design")
"""A slice of a GPU, or a laptop version, has the same name but another bandwidth."""

VIRTUAL_GPU = re.compile(r"-\d+[abcq]$", re.IGNORECASE)
"""How the name of a vGPU profile ends: `NVIDIA A40-8Q` is eight gigabytes of an A40."""


def known_bandwidth(device_name: str) -> float | None:
    """Bytes/s of the device of this name; None if it is not in the table."""
    words = " ".join("".join(letter if letter.isalnum() else " " for letter in device_name.lower()).split())
    if VIRTUAL_GPU.search(device_name.strip()) or any(f" {part} " in f" {words} " for part in NOT_THE_WHOLE_GPU):
        return None
    for name, figure in PEAK_GIGABYTES_PER_SECOND:
        if f" {name} " in f" {words} ":
            return None if figure is None else figure * GIGABYTE
    return None


def peak_bandwidth(ready: Sequence[RankReady]) -> tuple[float | None, str | None]:
    """Peak bandwidth of the first rank's device in bytes/s and the source of the figure; None where unknown."""
    if not ready:
        return None, None
    first = ready[0]
    if first.device != "cpu" and (figure := known_bandwidth(first.device_name)) is not None:
        return figure, f"data sheet of {first.device_name}"
    for rank in ready:
        if rank.bandwidth_bytes_per_second is not None and rank.device_name == first.device_name:
            return rank.bandwidth_bytes_per_second, f"measured by a copy on {rank.device_name}"
    return None, None


def bandwidths(ready: Sequence[RankReady]) -> dict[int, float]:
    """Peak bandwidth of each rank's device in bytes/s, by rank; ranks whose figure is unknown are left out.

    Each by its device's own name: the data sheet, else the copy that was measured on a device of that name. On a CPU
    that is what one rank reaches with its threads while all are at work. The machine can do more than that, and less
    than so much for each rank: several ranks together may come to more than all of it.
    """
    figures = {rank.rank: peak_bandwidth([rank, *ready])[0] for rank in ready}
    return {rank: figure for rank, figure in figures.items() if figure is not None}
