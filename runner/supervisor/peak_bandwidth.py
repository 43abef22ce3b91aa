"""Peak memory bandwidth of a device: from a table of known GPUs, else from the copy that rank 0 timed. Pure.

The figures in the table are from the data sheets (decimal bytes per second). For any other GPU the copy
counts, which reaches about 80 to 95 % of the peak.
"""

from collections.abc import Sequence

from rankdeck.runner.protocol import RankReady

GIGABYTE = 1e9

# The first entry found in the device's name counts, whatever its case and punctuation: longer names come first.
PEAK_GIGABYTES_PER_SECOND: tuple[tuple[str, float], ...] = (
    ("b200", 8000),
    ("gh200 480gb", 4000),
    ("gh200", 4900),
    ("h200", 4800),
    ("h100 nvl", 3938),
    ("h100 pcie", 2039),
    ("h100 80gb hbm3", 3352),
    ("h800 pcie", 2039),
    ("a100 sxm4 80gb", 2039),
    ("a100 80gb pcie", 1935),
    ("a100 sxm4 40gb", 1555),
    ("a100 pcie 40gb", 1555),
    ("a40", 696),
    ("a30", 933),
    ("a10g", 600),
    ("a10", 600),
    ("l40s", 864),
    ("l40", 864),
    ("l4", 300),
    ("t4", 320),
    ("v100 sxm2", 900),
    ("v100 pcie", 900),
    ("rtx 6000 ada", 960),
    ("rtx a6000", 768),
    ("rtx a5000", 768),
    ("rtx 5090", 1792),
    ("rtx 5080", 960),
    ("rtx 4090", 1008),
    ("rtx 4080 super", 736),
    ("rtx 4080", 717),
    ("rtx 3090 ti", 1008),
    ("rtx 3090", 936),
    ("rtx 3080 ti", 912),
)


NOT_THE_WHOLE_GPU = ("mig", "laptop", "max q")
"""A slice of a GPU, or a laptop version, has the same name but another bandwidth."""


def known_bandwidth(device_name: str) -> float | None:
    """Bytes/s of the device of this name; None if it is not in the table."""
    words = " ".join("".join(letter if letter.isalnum() else " " for letter in device_name.lower()).split())
    if any(f" {part} " in f" {words} " for part in NOT_THE_WHOLE_GPU):
        return None
    for name, figure in PEAK_GIGABYTES_PER_SECOND:
        if f" {name} " in f" {words} ":
            return figure * GIGABYTE
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
