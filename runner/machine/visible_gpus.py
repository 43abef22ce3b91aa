"""Which GPUs CUDA_VISIBLE_DEVICES lets a job see, and in which order CUDA counts them. Pure functions of strings.

Knows how CUDA reads its variables. Does not know NVML itself, nor which rank runs on which GPU.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"


class GpuNames(NamedTuple):
    """The names by which CUDA_VISIBLE_DEVICES may list a GPU: its UUID, and in MIG mode those of its MIG devices."""

    uuid: str
    mig_mode: bool = False
    mig_uuids: tuple[str, ...] = ()


class Place(NamedTuple):
    """A device by position: the GPU in NVML's order, and on it the MIG device, unless it is the whole GPU."""

    gpu: int
    mig: int | None = None


def visible_places(value: str | None, gpus: Sequence[GpuNames]) -> list[Place]:
    """The devices one CUDA process sees, in its order; `value` is CUDA_VISIBLE_DEVICES, None if unset.

    Ordinals, `GPU-` UUIDs and `MIG-` UUIDs (both may be shortened as long as they are unambiguous) are read up to the
    first entry that names no device; a device named twice hides all of them, as in CUDA. A process sees a single MIG
    device, and no whole GPU besides. Which GPU an ordinal names is certain only under CUDA_DEVICE_ORDER=PCI_BUS_ID; the
    number of devices always is.
    """
    value = None if value is None else value.strip()
    if value is not None and value.startswith("MIG-"):
        places = [Place(number, mig) for number, gpu in enumerate(gpus) for mig in range(len(gpu.mig_uuids))]
        uuids = [uuid for gpu in gpus for uuid in gpu.mig_uuids]
        return [places[chosen] for chosen in _by_uuid(value, "MIG-", uuids)][:1]
    if value is None:
        numbers = list(range(len(gpus)))
    elif value.startswith("GPU-"):
        numbers = _by_uuid(value, "GPU-", [gpu.uuid for gpu in gpus])
    else:
        numbers = _by_ordinal(value, len(gpus))
    for number in numbers:
        if gpus[number].mig_mode and gpus[number].mig_uuids:
            return [Place(number, 0)]
    return [Place(number) for number in numbers if not gpus[number].mig_mode]


def places_to_sample(environ: Mapping[str, str], gpus: Sequence[GpuNames]) -> list[Place]:
    """The devices to watch for a job under `environ`, in NVML's order.

    These are the ones it sees, if that is certain. Ordinals may follow CUDA's own order, fastest first: then all GPUs
    are watched, and ranks are matched to theirs by UUID.
    """
    value = environ.get(VISIBLE)
    places = visible_places(value, gpus)
    by_name = value is None or value.strip().startswith(("GPU-", "MIG-"))
    if by_name or environ.get(ORDER) == "PCI_BUS_ID":
        # A MIG number is compared only between MIG devices; None stands for the whole GPU.
        return sorted(places, key=lambda place: (place.gpu, -1 if place.mig is None else place.mig))
    return [Place(number) for number in range(len(gpus))] if places else []


def order_is_certain(environ: Mapping[str, str], names: Iterable[str]) -> bool:
    """Whether CUDA counts the GPUs of this machine in the order of `visible_places`; `names` are their models.

    By default it counts the fastest first; GPUs of one model are equally fast and stay in order.
    """
    value = environ.get(VISIBLE)
    by_uuid = value is not None and value.strip().startswith(("GPU-", "MIG-"))
    return by_uuid or environ.get(ORDER) == "PCI_BUS_ID" or len(set(names)) <= 1


def _by_uuid(value: str, prefix: str, uuids: Sequence[str]) -> list[int]:
    chosen: list[int] = []
    for entry in value.split(","):
        named = entry.strip()
        if not named.startswith(prefix):
            break
        found = [number for number, uuid in enumerate(uuids) if uuid.startswith(named)]
        if len(found) != 1:
            break
        chosen += found
    return chosen if len(set(chosen)) == len(chosen) else []


def _by_ordinal(value: str, count: int) -> list[int]:
    chosen: list[int] = []
    for entry in value.split(","):
        number = _leading_number(entry.strip())
        if number is None:
            break
        chosen.append(number)
    if len(set(chosen)) != len(chosen):
        return []
    # An ordinal out of range ends the list like any other entry that names no device.
    beyond = next((position for position, number in enumerate(chosen) if number >= count), len(chosen))
    return chosen[:beyond]


def _leading_number(entry: str) -> int | None:
    """What C's strtoul reads from an entry: `1x` is 1; None for a negative number or no number."""
    body = entry.removeprefix("+")
    digits = body[: len(body) - len(body.lstrip("0123456789"))]
    return int(digits) if digits else None
