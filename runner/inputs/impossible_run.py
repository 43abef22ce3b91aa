"""Why a run cannot be: more than the memory of its fullest device; with the numbers and the ways out. Pure.

Refuses only what is clear: weights, and on a CPU the ranks' processes, beyond the memory there is, or weights well
beyond what is free. What is more is an estimate, and `runner.inputs.memory_estimate` makes it.
"""

from typing import NamedTuple

from rankdeck.runner.inputs.memory_room import Room, Share, gib
from rankdeck.runner.protocol.config import Problem

MARGIN = 1.1
"""What is free may become a little more until the weights are loaded."""

CALCULATED_MARGIN = 1.4
"""Parameters that were not counted in the weights' files may be fewer."""

USABLE = 0.9
"""The part of a GPU's free memory that the weights may take where a rank is spread over several."""


class Weights(NamedTuple):
    """Bytes of weights: of a rank, and those on the fullest device that its ranks share with nobody (0: unknown).

    `most_ranks` is how many ranks that device takes, each with a prompt; `counted` is whether the parameters were
    counted, not calculated; `processes` is what the ranks' processes take of the device at least.
    """

    of_rank: int
    on_device: int
    most_ranks: int
    counted: bool
    processes: int = 0

    @property
    def surely(self) -> float:
        """What there is at least of them on the device, however wrong the count."""
        return self.on_device / (1.0 if self.counted else CALCULATED_MARGIN)

    @property
    def said(self) -> str:
        """What is needed for what."""
        if not self.processes:
            return f"{gib(self.on_device)} GiB for the weights alone"
        needed = gib(self.on_device + self.processes)
        if not self.on_device:
            return f"at least {needed} GiB for their processes, without any model"
        return f"at least {needed} GiB, {gib(self.on_device)} for weights and {gib(self.processes)} for processes"

    def fits_in(self, free: int | None) -> bool:
        """Whether they may fit on a GPU of which so much is free now."""
        return free is not None and self.surely <= free * MARGIN


def why_impossible(weights: Weights, share: Share, free: Room, whole: Room) -> Problem | None:
    """Why a run cannot be, with the numbers and the ways out; None if it may, though it may not fit."""
    has, total = share.least_of(free), share.least_of(whole)
    too_large = total is not None and weights.surely + weights.processes > total
    # On a CPU what is free changes with every file that is read.
    too_full = share.on_gpu and has is not None and not weights.fits_in(has)
    if not too_large and not too_full:
        return None
    there = "on a GPU " if share.on_gpu else ""
    ranks = "a rank needs" if share.ranks == 1 else f"{share.ranks} ranks {there}need"
    ways = [*_others_room(weights, share, free, whole), *_fewer_ranks(weights, share), *_spread(weights, share, free)]
    if weights.on_device >= weights.processes:
        ways.append("make the weights smaller (--quantization, --dtype), or choose a smaller model")
    said = f"{ranks} {weights.said}, and {_where(share, free, whole)}"
    setting = "ranks" if weights.most_ranks and share.ranks > 1 else "model"
    return Problem(setting, f"{said}; {'; '.join(ways)}. This is an estimate: --ignore-memory starts it anyway")


def why_too_many_ranks(ranks: int, process: int, free: Room, whole: Room) -> Problem | None:
    """Why the host cannot have so many ranks, whatever they load: each is a process that takes `process` bytes."""
    most = int((free.host or 0) // process)
    return why_impossible(Weights(0, 0, most, True, ranks * process), Share(ranks, False, 0, 1), free, whole)


def _where(share: Share, free: Room, whole: Room) -> str:
    """The fullest device, by its number where that is certain, and what it has."""
    place = share.fullest_of(free) if share.on_gpu else None
    if place is None:
        total, device = share.least_of(whole), "a GPU" if share.on_gpu else "this machine"
    else:
        total = whole.gpus[place] if place < len(whole.gpus) else None
        device = f"GPU {free.numbers[place]}" if free.numbers else "a GPU" if share.devices == 1 else "the fullest GPU"
    return f"{device} has {gib(share.least_of(free) or 0)}{f' of {gib(total)}' if total is not None else ''} GiB free"


def _others_room(weights: Weights, share: Share, free: Room, whole: Room) -> list[str]:
    """Where somebody else fills a GPU that would do if it were empty: do without it, or have it emptied."""
    place = share.fullest_of(free) if share.on_gpu else None
    total = whole.gpus[place] if place is not None and place < len(whole.gpus) else None
    if total is None or weights.surely > total:
        return []
    holder = "see with nvidia-smi who holds it"
    roomy = [position for position, each in enumerate(free.gpus) if weights.fits_in(each)]
    ranks = len(roomy) * share.ranks // share.gpus_per_rank
    if not ranks:
        return [holder]
    if free.by_number and free.numbers:
        without = "with CUDA_VISIBLE_DEVICES=" + ",".join(str(free.numbers[position]) for position in roomy)
    else:
        without = "of CUDA_VISIBLE_DEVICES"
    fewer = f" and --ranks {ranks}" if ranks < share.all_ranks else ""
    return [f"leave it out {without}{fewer}, or {holder}"]


def _fewer_ranks(weights: Weights, share: Share) -> list[str]:
    if not 0 < weights.most_ranks < share.ranks:
        return []
    ranks = weights.most_ranks * share.devices
    return [f"{ranks} rank{'s' * (ranks != 1)} in all would fit (--ranks)"]


def _spread(weights: Weights, share: Share, free: Room) -> list[str]:
    """A rank over several GPUs, if none can have it alone, with as many ranks as there are GPUs for."""
    has = share.least_of(free)
    alone = weights.most_ranks or any(weights.fits_in(each) for each in free.gpus)
    if not share.on_gpu or not has or alone or free.mig:
        return []
    needed = -(-weights.of_rank // int(has * USABLE))
    if not share.gpus_per_rank < needed <= share.gpus:
        return []
    ranks = share.gpus // needed
    flags = f"--gpus-per-rank {needed}" + (f" --ranks {ranks}" if ranks < share.all_ranks else "")
    return [f"spread a rank over {needed} GPUs ({flags})"]
