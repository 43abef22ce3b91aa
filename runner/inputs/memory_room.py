"""The memory that devices have, and how ranks share devices. Pure.

Does not know what a rank needs (`runner.inputs.memory_estimate` does), nor where the figures come from.
"""

from typing import NamedTuple

from rankdeck.runner.protocol.config import RunConfig


class Room(NamedTuple):
    """Bytes of each visible GPU and of the host, free or in all; None where unknown.

    The GPUs are in CUDA's order, unless `ordered` is False: that is enough for a run that uses all of them. `numbers`
    are what nvidia-smi calls them, empty if that is not certain or they are MIG devices; with `by_number`
    CUDA_VISIBLE_DEVICES can name them so.
    """

    gpus: tuple[int | None, ...]
    host: int | None
    ordered: bool = True
    numbers: tuple[int, ...] = ()
    by_number: bool = False
    mig: bool = False


NO_ROOM = Room((), None)


class Share(NamedTuple):
    """How ranks share devices: round-robin over the GPUs, or several GPUs each; on a CPU all share it."""

    all_ranks: int
    on_gpu: bool
    gpus: int
    gpus_per_rank: int

    @classmethod
    def of(cls, config: RunConfig, room: Room) -> "Share":
        on_gpu = config.device == "cuda" or (config.device == "auto" and bool(room.gpus))
        return cls(max(1, config.ranks), on_gpu, len(room.gpus), max(1, config.gpus_per_rank))

    @property
    def devices(self) -> int:
        """How many devices are in use."""
        if not self.on_gpu:
            return 1
        return max(1, min(self.gpus, self.all_ranks * self.gpus_per_rank))

    @property
    def ranks(self) -> int:
        """Ranks on the fullest device."""
        if not self.on_gpu:
            return self.all_ranks
        return 1 if self.gpus_per_rank > 1 else -(-self.all_ranks // max(1, self.gpus))

    def fullest_of(self, room: Room) -> int | None:
        """The position in `room.gpus` of the GPU in use that has least; None if it may be another."""
        used = room.gpus[: self.devices]
        known = [figure for figure in used if figure is not None]
        if not known or len(known) < len(used) or not (room.ordered or self.devices == len(room.gpus)):
            return None
        return used.index(min(known))

    def least_of(self, room: Room) -> int | None:
        """What the device in use has that has least."""
        if not self.on_gpu:
            return room.host
        place = self.fullest_of(room)
        return None if place is None else room.gpus[place]

    def on_device(self, per_rank: float) -> float:
        """How much of something the fullest device holds, if every rank has `per_rank` of it."""
        return per_rank * self.ranks / (self.gpus_per_rank if self.on_gpu else 1)


def gib(number: int) -> str:
    """A number of bytes in GiB, as `12.3`."""
    return f"{number / 2**30:.1f}"
