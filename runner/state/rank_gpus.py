"""Which GPU a rank runs on: its UUID or PCI id matched with NVML's samples. Pure.

Never by index: NVML counts in PCI order, CUDA may not.
"""

from collections.abc import Callable, Sequence

from rankdeck.runner.protocol import DeviceSample, RankReady


def match_rank_to_gpu(device_uuid: str | None, pci_bus_id: str | None, samples: Sequence[DeviceSample]) -> int | None:
    """The position in `samples` of the device a rank runs on; None if no sample matches, or several do.

    By UUID, with or without its `GPU-` or `MIG-` prefix; then by PCI id, whatever the width of its domain. A MIG device
    shares the PCI id of its GPU with the others there: only its UUID tells which it is.
    """
    position = _match(device_uuid, bare_uuid, [sample.uuid for sample in samples])
    if position is None:
        whole = [None if sample.is_mig else sample.pci_bus_id for sample in samples]
        position = _match(pci_bus_id, parse_pci_bus_id, whole)
    return position


def match_rank_to_gpus(rank: RankReady, samples: Sequence[DeviceSample]) -> list[int]:
    """The positions in `samples` of the devices that `rank` runs on: usually one, several if its model is spread."""
    if not rank.device_uuids:
        found = [match_rank_to_gpu(rank.device_uuid, rank.pci_bus_id, samples)]
    else:
        found = [match_rank_to_gpu(uuid, None, samples) for uuid in rank.device_uuids]
    return [position for position in dict.fromkeys(found) if position is not None]


def bare_uuid(uuid: str) -> str | None:
    """A UUID in a form to compare: lower case, without prefix. None if it is empty."""
    return uuid.strip().lower().removeprefix("mig-").removeprefix("gpu-") or None


def parse_pci_bus_id(pci_bus_id: str) -> tuple[int, int, int, int] | None:
    """Domain, bus, device and function of `00000000:65:00.0`, `0000:65:00.0`, `65:00.0` or `65:00`."""
    address, _, function = pci_bus_id.strip().lower().partition(".")
    parts = [*address.split(":"), function or "0"]
    if len(parts) == 3:
        parts.insert(0, "0")
    if len(parts) != 4 or not all(part and set(part) <= set("0123456789abcdef") for part in parts):
        return None
    domain, bus, device, number = (int(part, 16) for part in parts)
    return domain, bus, device, number


def _match(wanted: str | None, normal: Callable[[str], object], candidates: Sequence[str | None]) -> int | None:
    key = None if wanted is None else normal(wanted)
    if key is None:
        return None
    found = [
        position for position, candidate in enumerate(candidates) if candidate is not None and normal(candidate) == key
    ]
    return found[0] if len(found) == 1 else None
