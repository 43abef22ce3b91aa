"""One finding about this machine, and the words that findings share. Pure."""

import re
from typing import Literal

import msgspec

Status = Literal["ok", "warn", "bad"]

Numbers = tuple[int, ...]

MIB, GIB = 2**20, 2**30

OF_THE_WHOLE_GPU = "only the whole GPU has this figure, not a MIG device"
"""Why a MIG device has no power and no load: nobody is told what others on the GPU draw as if it were theirs."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One finding: what was looked at, its status, what was found, and the cure if it needs one."""

    group: str
    name: str
    status: Status
    found: str
    cure: str | None = None


def gib(number: int) -> str:
    """Bytes in GiB, without the unit."""
    return f"{number / GIB:.1f}"


def size(number: int) -> str:
    """Bytes with their unit: `1.5 GiB`, `64 MiB`."""
    return f"{number / GIB:.1f} GiB" if number >= GIB else f"{number / MIB:.0f} MiB"


def counted(number: int, one: str) -> str:
    """`1 core`, `4 cores`."""
    return f"{number} {one}" if number == 1 else f"{number} {one}s"


def version_numbers(version: str) -> Numbers:
    """`2.6.0+cu124` as (2, 6, 0); empty if it starts with no number."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
