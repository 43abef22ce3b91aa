"""Flash attention for the continuous engine: which one a GPU can have with the packages that are here, else the cure.

Pure: what is here comes in as a value (`runner.inputs.flash_packages` looks). Knows what transformers makes of the
packages: `flash-attn` and `flash-attn-3` are asked first; where they are missing, `kernels` fetches a kernel that is
built already from the hub, once, into the hub's cache. Where the hub may not be asked, it takes what is in the cache.
Compute capabilities are (major, minor).
"""

from typing import NamedTuple

import msgspec

COST = "without flash attention transformers' continuous batching needs a mask, and runs without CUDA graphs"
CURE = "pip install 'rankdeck[gpu]'"

FLASH_2, FLASH_3 = "flash_attention_2", "flash_attention_3"
"""The names that transformers has for them."""

LEAST_CAPABILITY = (8, 0)
HOPPER = 9
"""Version 3 is written for the GPUs of this major compute capability; version 2 computes on these and on later ones."""

KERNELS = {FLASH_2: "kernels-community/flash-attn2", FLASH_3: "kernels-community/vllm-flash-attn3"}
"""Where transformers has `kernels` fetch them from."""


class FlashFound(msgspec.Struct, frozen=True, kw_only=True):
    """What this machine has for flash attention: versions of packages, None if not installed.

    `kernels_wanted` are the releases of `kernels` that this transformers takes, as `>=0.18.2,<0.19` (empty if it does
    not say), and `kernels_fit` whether the one here is among them. `cached` are the names of those whose kernel is in
    the hub's cache; `offline` is whether only these may be used.
    """

    flash_attn: str | None = None
    flash_attn_3: str | None = None
    kernels: str | None = None
    kernels_wanted: str = ""
    kernels_fit: bool = False
    offline: bool = False
    cached: tuple[str, ...] = ()


class Missing(NamedTuple):
    """What is missing, and what to do about it, each in a few words."""

    what: str
    cure: str


def choices(found: FlashFound, capability: tuple[int, int]) -> tuple[str, ...]:
    """The names to ask transformers for on a GPU of this compute capability, the fastest first."""
    if capability < LEAST_CAPABILITY:
        return ()
    names = (FLASH_3, FLASH_2) if capability[0] == HOPPER else (FLASH_2,)
    return tuple(name for name in names if _is_there(found, name))


def missing(found: FlashFound) -> Missing:
    """What keeps flash attention away where `choices` has none though the GPU could compute it."""
    if found.kernels is None:
        return Missing("flash-attn and kernels are not installed", CURE)
    if not found.kernels_fit:
        what = f"kernels {found.kernels} is installed, and this transformers takes {found.kernels_wanted}"
        return Missing(what, f"pip install 'kernels{found.kernels_wanted}'")
    return Missing(
        "its kernel is not in the hub's cache, and HF_HUB_OFFLINE is set",
        "unset HF_HUB_OFFLINE for one run: the kernel stays in the cache",
    )


def source(found: FlashFound, name: str) -> str:
    """Where this one comes from, for people."""
    if (package := _package(found, name)) is not None:
        return f"{name} by {'flash-attn-3' if name == FLASH_3 else 'flash-attn'} {package}"
    cached = "in the hub's cache" if name in found.cached else "fetched from the hub when it is first wanted"
    return f"{name} by kernels {found.kernels}, its kernel is {cached}"


def _package(found: FlashFound, name: str) -> str | None:
    return found.flash_attn_3 if name == FLASH_3 else found.flash_attn


def _is_there(found: FlashFound, name: str) -> bool:
    if _package(found, name) is not None:
        return True
    return found.kernels_fit and (not found.offline or name in found.cached)
