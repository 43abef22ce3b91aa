"""By what a run is bound, with the evidence: a verdict on the newest samples of the load. Pure function of the state.

Each sample votes, and only a clear majority of several seconds speaks, so that a verdict does not flip with a sample. A
counter that a GPU does not give is not guessed: where the measured batches say as much (MBU for DRAM, the matrix rate
for the tensor cores) they stand in for it, and the verdict shows them; else it names what is missing. Does not know how
a verdict is shown.
"""

from collections import Counter
from typing import Literal

import msgspec

from rankdeck.runner.advice.advice import MEMORY_FULL
from rankdeck.runner.state import RunState
from rankdeck.runner.state.load import Load, LoadMeans, known_mean, means
from rankdeck.runner.state.settings import SettingRow, current_setting

Kind = Literal[
    "kernel launches",
    "fixed cost per step",
    "memory bandwidth",
    "compute",
    "the power limit",
    "the CPU",
    "waiting for work",
    "uneven lengths",
    "memory",
    "unknown",
]

LEAST_SAMPLES = 4
MAJORITY = 0.6
"""So many samples, and this share of the newest ones, must agree."""

BUSY = 85.0
"""Percent: below it a GPU stands still between kernels, waiting for its host."""

HIGH_DRAM, HIGH_TENSOR = 0.6, 0.4
"""Shares of the counters' scale: DRAM seldom comes above 90 %, tensor cores in the best case some 70 %."""

HIGH_MBU, HIGH_MATRIX = 0.5, 0.4
"""Shares of what was measured or is on the data sheet, where there are no counters."""

BUSY_CPU = 75.0
"""Percent: below it the ranks' threads do not get their cores, or wait for each other."""

UNEVEN = 0.4
"""Padding waste, as a share of all token slots, above which much of what is computed is thrown away."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What bounds the run; the figures that say so, in words; and what may help, empty if nothing simple does."""

    kind: Kind
    evidence: str
    cure: str = ""

    @property
    def text(self) -> str:
        if self.kind == "waiting for work":
            return f"waiting for work: {self.evidence}"
        if self.kind == "unknown":
            return self.evidence
        return f"bound by {self.kind}: {self.evidence}"


def bound(state: RunState) -> Verdict | None:
    """The verdict; None before there is evidence, while paused, during a sweep, and after the end."""
    if state.phase != "running" or state.paused is not None or state.ended is not None or state.sweeping:
        return None
    if len(state.loads) < LEAST_SAMPLES:
        return None
    evidence = _Evidence(state)
    votes = Counter(evidence.vote(load) for load in state.loads)
    kind, number = votes.most_common(1)[0]
    if number < MAJORITY * len(state.loads):
        figures = f": {evidence.figures}" if evidence.figures else ""
        return Verdict(kind="unknown", evidence=f"bound by several things in turn{figures}")
    return evidence.verdict(kind)


class _Evidence:
    """The newest samples, and the measured batches of the present setting."""

    def __init__(self, state: RunState) -> None:
        self._state, self._row = state, current_setting(state)
        self._means = means(state.loads)
        active = [rank.ready for rank in state.ranks[: state.active_ranks] if rank.ready is not None]
        self._on_gpu = any(rank.device != "cpu" for rank in active)
        self.figures = _figures(self._means, self._row, on_gpu=self._on_gpu)

    def vote(self, load: Load) -> Kind:
        """By what the run was bound when this sample was taken."""
        if load.at_work < load.active:
            return "waiting for work"
        return self._vote_of_gpu(load) if self._on_gpu else self._vote_of_cpu(load)

    def _vote_of_gpu(self, load: Load) -> Kind:
        if (load.capped or 0.0) >= 0.5:
            return "the power limit"
        row = self._row
        computes = _reaches(load.tensor, HIGH_TENSOR, row.matrix_share if row else None, HIGH_MATRIX)
        if computes:
            return "compute"
        reads = _reaches(load.dram, HIGH_DRAM, row.mbu if row else None, HIGH_MBU)
        if reads:
            return "memory bandwidth"
        if load.busy is not None and load.busy < BUSY:
            return "the CPU"
        if self._state.padding_waste >= UNEVEN:
            return "uneven lengths"
        return "unknown" if load.busy is None or computes is None or reads is None else "kernel launches"

    def _vote_of_cpu(self, load: Load) -> Kind:
        """Without GPUs: what the ranks' own processors do."""
        if load.cpu is None:
            return "unknown"
        if load.cpu < BUSY_CPU:
            return "the CPU"
        share, mbu = (self._row.matrix_share, self._row.mbu) if self._row else (None, None)
        if share is not None and share >= HIGH_MATRIX:
            return "compute"
        if mbu is not None and mbu >= HIGH_MBU:
            return "memory bandwidth"
        if self._state.padding_waste >= UNEVEN:
            return "uneven lengths"
        return "unknown" if share is None or mbu is None else "fixed cost per step"

    def verdict(self, kind: Kind) -> Verdict:
        state, shown = self._state, self.figures
        full = _memory_full(state, self._row)
        match kind:
            case "waiting for work":
                return Verdict(kind=kind, evidence=_joined(self._without_a_batch(), shown))
            case "the CPU" if not self._on_gpu:
                got = f"the ranks get {self._means.cpu.value or 0.0:.0f}% of their cores"
                return Verdict(kind=kind, evidence=f"{got}: other programs use them, or threads wait")
            case "the CPU":
                return Verdict(kind=kind, evidence=f"{shown}: GPUs wait for their host", cure=full or LARGER)
            case "kernel launches" if full:
                return Verdict(kind="memory", evidence=_joined(full, shown))
            case "kernel launches" | "fixed cost per step":
                return Verdict(kind=kind, evidence=shown, cure=full or LARGER)
            case "memory bandwidth":
                return Verdict(kind=kind, evidence=shown, cure=full or "a larger batch reads the weights less often")
            case "uneven lengths":
                waste = f"{state.padding_waste:.0%} of the token slots hold no token"
                return Verdict(kind=kind, evidence=_joined(waste, shown), cure="a smaller batch size wastes less")
            case "the power limit":
                lowered = known_mean(load.capped for load in state.loads) or 0.0
                clocks = f"it lowers the clocks of {lowered:.0%} of the GPUs"
                return Verdict(kind=kind, evidence=_joined(clocks, shown))
            case "unknown":
                return Verdict(kind=kind, evidence=_joined(f"no verdict: {self._missing()}", shown))
            case _:
                return Verdict(kind=kind, evidence=shown)

    def _without_a_batch(self) -> str:
        ranks = self._state.active_ranks
        if ranks == 1:
            return "the rank has no batch"
        # By shares: the number of active ranks may have changed since the oldest sample.
        share = known_mean((load.active - load.at_work) / load.active for load in self._state.loads if load.active)
        return f"{max(1, round((share or 0.0) * ranks))} of {ranks} ranks without a batch"

    def _missing(self) -> str:
        """What would have to be known for a verdict."""
        means, row, every = self._means, self._row, len(self._state.loads)
        if not self._on_gpu and means.cpu.count < every:
            return "CPU % is not known"
        counters = {"busy": means.busy, "DRAM": means.dram, "tensor": means.tensor} if self._on_gpu else {}
        missing = [name for name, mean in counters.items() if mean.count < every]
        said = [f"no {_listed(missing)} counter here"] if missing else []
        if "busy" in missing:  # nothing that was measured stands in for it
            return said[0]
        if row is None:
            return ", ".join([*said, "no whole batch of this setting yet"])
        shares = {"MBU": row.mbu, "matrix rate": row.matrix_share}
        for counter, name in (("DRAM", "MBU"), ("tensor", "matrix rate")):
            if self._on_gpu and counter not in missing:
                del shares[name]
        lacking = _listed([name for name, share in shares.items() if share is None])
        return ", ".join([*said, f"no {lacking} of this model"])


LARGER = "larger batches cost little"


def _joined(*said: str) -> str:
    return "; ".join(filter(None, said))


def _listed(names: list[str]) -> str:
    """`DRAM`, `DRAM or tensor`, `busy, DRAM or tensor`."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else ""


def _reaches(percent: float | None, high: float, share: float | None, high_share: float) -> bool | None:
    """Whether a counter is high, or where there is none, the share that stands in for it; None without either."""
    if percent is not None:
        return percent >= 100 * high
    return None if share is None else share >= high_share


def _memory_full(state: RunState, row: SettingRow | None) -> str:
    """Why no larger batch fits into memory; empty if one may.

    What torch keeps beyond the most that this setting needs counts as free: a larger batch would take it.
    """
    capped = next((rank for rank in state.ranks[: state.active_ranks] if rank.cap is not None), None)
    if capped is not None:
        return f"rank {capped.rank} ran out of memory above {capped.cap} prompts"
    if row is None or row.peak_memory_bytes is None or state.continuous:  # which takes its memory at once
        return ""
    for device in state.devices:
        used, total = device.sample.memory_used_bytes, device.sample.memory_total_bytes
        if not device.ranks or used is None or not total:
            continue
        held = [state.ranks[rank].reserved_memory_bytes or 0 for rank in device.ranks if rank < len(state.ranks)]
        spare = sum(max(0, each - row.peak_memory_bytes) for each in held)
        if used - spare > MEMORY_FULL * total:
            return f"memory of GPU {device.sample.index} is {(used - spare) / total:.0%} full"
    return ""


def _figures(figures: LoadMeans, row: SettingRow | None, *, on_gpu: bool) -> str:
    """Each figure that is known, with its name; a share of measured batches where a counter is missing."""
    known = [("busy", figures.busy), ("DRAM", figures.dram), ("tensor", figures.tensor)] if on_gpu else []
    known = known if on_gpu else [("CPU", figures.cpu)]
    said = [f"{name} {mean.value:.0f}%" for name, mean in known if mean.value is not None]
    if row is not None and row.mbu is not None and not (on_gpu and figures.dram.count):
        said.append(f"MBU {row.mbu:.0%}")
    if row is not None and row.matrix_share is not None and not (on_gpu and figures.tensor.count):
        said.append(f"matrix rate {row.matrix_share:.0%}")
    return ", ".join(said)
