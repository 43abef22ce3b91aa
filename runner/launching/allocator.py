"""Settings of torch's CUDA allocator for the ranks: expandable segments, unless the user's say otherwise. Pure."""

from collections.abc import Mapping

ALLOCATOR_SETTINGS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Where torch's allocator reads its settings: torch before 2.9 only from the first, later ones from the first that
is set, even if it is empty."""

EXPANDABLE = "expandable_segments"


def with_expandable_segments(environ: Mapping[str, str]) -> dict[str, str]:
    """Allocator settings with expandable segments, to be added to `environ`; the user's own stay.

    Keys and values that grow by a token a step are new tensors at every step, a little larger each time. Without this
    none fits where the last one was, and the allocator reserves many times what is in use.
    """
    found = {name: environ[name] for name in ALLOCATOR_SETTINGS if name in environ}
    added = {}
    for name, settings in (found or dict.fromkeys(ALLOCATOR_SETTINGS, "")).items():
        entries = [entry.strip() for entry in settings.split(",") if entry.strip()]
        if not any(_decides_on_segments(entry) for entry in entries):
            added[name] = ",".join([*entries, f"{EXPANDABLE}:True"])
    return added


def _decides_on_segments(entry: str) -> bool:
    """Whether one of the user's allocator settings already decides for or against expandable segments."""
    name, _, value = (part.strip() for part in entry.partition(":"))
    if name == "backend":
        return value != "native"  # cudaMallocAsync has no segments
    # With a limit on splitting, torch can fail with expandable segments (pytorch issue 119452).
    return name in (EXPANDABLE, "max_split_size_mb")
