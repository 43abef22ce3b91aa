"""Looks for the packages that bring flash attention, and for its kernels in the hub's cache. Imports none of them.

Knows how they are installed, and that transformers says in its own metadata which releases of `kernels` it takes. What
follows from that is `runner.inputs.flash_attention`'s.
"""

import os
import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import msgspec

from rankdeck.runner.inputs import quantization
from rankdeck.runner.inputs.flash_attention import KERNELS, FlashFound
from rankdeck.runner.inputs.quantization import Package, Version, numbers


def look(version: Version = quantization.installed) -> FlashFound:
    """What this machine has."""
    kernels, wanted = version(Package("kernels", "kernels")), wanted_of(_requirements())
    found = FlashFound(
        flash_attn=_of_its_own_name(version(Package("flash_attn", "flash-attn"))),
        flash_attn_3=_of_its_own_name(version(Package("flash_attn_interface", "flash-attn-3"))),
        kernels=kernels,
        kernels_wanted=wanted,
    )
    if kernels is None or not fits(kernels, wanted):
        return found
    from huggingface_hub import constants  # a third of a second

    cache = Path(os.environ.get("KERNELS_CACHE") or constants.HF_HUB_CACHE)
    cached = tuple(name for name, repository in KERNELS.items() if _is_cached(cache, repository))
    return msgspec.structs.replace(found, kernels_fit=True, offline=bool(constants.HF_HUB_OFFLINE), cached=cached)


def fits(version: str, wanted: str) -> bool:
    """Whether a version is within a range such as `>=0.18.2,<0.19`."""
    least, below = re.search(r">=([\d.]+)", wanted), re.search(r"<([\d.]+)", wanted)
    here = numbers(version)
    return (least is None or here >= numbers(least[1])) and (below is None or here < numbers(below[1]))


def wanted_of(requirements: Iterable[str]) -> str:
    """The range of `kernels` in transformers' requirements, of whatever extra; empty if there is none."""
    for line in requirements:
        if (match := re.match(r"kernels((?:[<>]=?[\d.]+,?)+)", line.replace(" ", ""))) is not None:
            return ",".join(sorted(match[1].split(","), reverse=True))
    return ""


def _requirements() -> list[str]:
    try:
        return metadata.requires("transformers") or []
    except metadata.PackageNotFoundError:
        return []


def _of_its_own_name(version: str | None) -> str | None:
    """None for a module that another distribution brings: version 4 is installed as `flash_attn`, too."""
    return None if version == "?" else version


def _is_cached(cache: Path, repository: str) -> bool:
    """Whether a release of this kernel is in the cache, by either of the names that releases of `kernels` give it."""
    folder = repository.replace("/", "--")
    return any(any((cache / f"{kind}--{folder}" / "refs").glob("v*")) for kind in ("kernels", "models"))
