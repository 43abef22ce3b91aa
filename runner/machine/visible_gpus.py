"""Which GPUs CUDA_VISIBLE_DEVICES lets a run have, and in which order CUDA counts them. Pure functions of strings.

Knows how CUDA reads its variables, and that a run has more than one process. Does not know NVML itself, nor which rank
runs on which GPU.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
MIG, GPU = "MIG-", "GPU-"


class MigNames(NamedTuple):
    """The names of a MIG device: its UUID, and the ids of its GPU instance and compute instance, if known.

    The ids are part of its older name, `MIG-GPU-<UUID>/1/0`, which CUDA still reads.
    """

    uuid: str
    instances: tuple[int, int] | None = None


class GpuNames(NamedTuple):
    """The names by which CUDA_VISIBLE_DEVICES may list a GPU: its UUID, and in MIG mode those of its MIG devices."""

    uuid: str
    broken: bool = False
    mig_mode: bool = False
    migs: tuple[MigNames, ...] = ()


class Place(NamedTuple):
    """A device by position: the GPU in NVML's order, and on it the MIG device, unless it is the whole GPU."""

    gpu: int
    mig: int | None = None


def visible_places(value: str | None, gpus: Sequence[GpuNames]) -> list[Place]:
    """The devices that a run may use, in CUDA's order; `value` is CUDA_VISIBLE_DEVICES, None if unset.

    Ordinals, `GPU-` UUIDs and `MIG-` UUIDs (both may be shortened as long as they are unambiguous) are read up to the
    first entry that names no device; a device named twice hides all of them, as in CUDA. One CUDA process sees a single
    MIG device, and no whole GPU besides. A run has a process for each rank, and each can be given another MIG device:
    so the run has all that are named, and those of every GPU that is. Which GPU an ordinal names is certain only under
    CUDA_DEVICE_ORDER=PCI_BUS_ID; the number of devices always is.
    """
    value = None if value is None else value.strip()
    slices = [Place(number, mig) for number, gpu in enumerate(gpus) for mig in range(len(gpu.migs))]
    if value is not None and value.startswith(MIG):
        return [slices[chosen] for chosen in _by_name(value, MIG, [_mig_names(gpus, place) for place in slices])]
    numbers = gpu_numbers(value, gpus)
    migs = [place for number in numbers for place in slices if place.gpu == number and gpus[number].mig_mode]
    return migs or [Place(number) for number in numbers if not gpus[number].mig_mode]


def whole_gpus_left_out(value: str | None, gpus: Sequence[GpuNames]) -> int:
    """How many whole GPUs a run does not get, though they are visible, because it gets MIG devices."""
    value = None if value is None else value.strip()
    if not any(place.mig is not None for place in visible_places(value, gpus)):
        return 0
    return sum(not gpus[number].mig_mode for number in gpu_numbers(value, gpus))


def entries(value: str | None, gpus: Sequence[GpuNames]) -> list[str] | None:
    """CUDA_VISIBLE_DEVICES for the ranks, an entry for each of `visible_places`; None to leave it as it is, unset.

    What CUDA would not read is left out, so that entries can be shared out among ranks. MIG devices are named by UUID
    even where the user named none: an ordinal gets CUDA the first one of a GPU, whichever rank asks. So are GPUs where
    one of the machine is broken: CUDA may count it or not, and may not start if it is among those that it is to see.
    """
    places = visible_places(value, gpus)
    migs = [gpus[place.gpu].migs[place.mig].uuid for place in places if place.mig is not None]
    if migs:
        return migs
    uuids = [gpus[place.gpu].uuid for place in places if not gpus[place.gpu].broken]
    by_uuid = value is not None and value.strip().startswith(GPU)
    if by_uuid or (all(uuids) and any(gpu.broken for gpu in gpus)):
        return uuids
    return None if value is None else [str(place.gpu) for place in places]


def places_to_sample(environ: Mapping[str, str], gpus: Sequence[GpuNames], models: Collection[str]) -> list[Place]:
    """The devices to watch for a job under `environ`, in NVML's order; `models` are those of the GPUs that work.

    These are the ones it sees, if that is certain. Ordinals may follow CUDA's own order, fastest first: then all GPUs
    are watched, and ranks are matched to theirs by UUID. MIG devices are certain: each rank is told its own by UUID.
    """
    value = environ.get(VISIBLE)
    places = visible_places(value, gpus)
    if not places or value is None or places[0].mig is not None or order_is_certain(environ, models):
        # A MIG number is compared only between MIG devices; None stands for the whole GPU.
        return sorted(places, key=lambda place: (place.gpu, -1 if place.mig is None else place.mig))
    return [Place(number) for number, gpu in enumerate(gpus) if not gpu.mig_mode]


def order_is_certain(environ: Mapping[str, str], names: Iterable[str]) -> bool:
    """Whether CUDA counts the GPUs of this machine in the order of `visible_places`; `names` are their models.

    By default it counts the fastest first; GPUs of one model are equally fast and stay in order. MIG devices are named
    by UUID in any case: leave their models out.
    """
    value = environ.get(VISIBLE)
    by_uuid = value is not None and value.strip().startswith((GPU, MIG))
    return by_uuid or environ.get(ORDER) == "PCI_BUS_ID" or len(set(names)) <= 1


def named_by_number(environ: Mapping[str, str]) -> bool:
    """Whether CUDA_VISIBLE_DEVICES names no UUID, so that whoever changes it goes on with numbers."""
    value = environ.get(VISIBLE)
    return value is None or not value.strip().startswith((GPU, MIG))


def gpu_numbers(value: str | None, gpus: Sequence[GpuNames]) -> list[int]:
    """The GPUs that `value` names, not counting MIG devices; all GPUs if it is None."""
    if value is None:
        return list(range(len(gpus)))
    if value.startswith((GPU, MIG)):
        return _by_name(value, GPU, [(gpu.uuid,) for gpu in gpus])
    return _by_ordinal(value, len(gpus))


def _mig_names(gpus: Sequence[GpuNames], place: Place) -> tuple[str, ...]:
    gpu = gpus[place.gpu]
    mig = gpu.migs[place.mig or 0]
    if mig.instances is None:
        return (mig.uuid,)
    return mig.uuid, f"{MIG}{gpu.uuid}/{mig.instances[0]}/{mig.instances[1]}"


def _by_name(value: str, prefix: str, names: Sequence[tuple[str, ...]]) -> list[int]:
    """The devices that the entries of `value` name, each by the beginning of one of its `names`."""
    chosen: list[int] = []
    for entry in value.split(","):
        named = entry.strip()
        if not named.startswith(prefix):
            break
        found = [number for number, known in enumerate(names) if named in known] or [
            number for number, known in enumerate(names) if any(name.startswith(named) for name in known)
        ]
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
