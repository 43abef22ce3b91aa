"""What a run is bound by, with the evidence: a verdict on the newest samples of the load. Pure function of the state.

How the samples vote, and how long a verdict is held, is in `runner.state.votes`. A counter that a GPU does not give is
not guessed: where the measured batches say as much (MBU for DRAM, the matrix rate for the tensor cores) they stand in
for it, and the verdict shows them; else it names what is missing. Does not know how a verdict is shown.
"""

from collections.abc import Sequence

import msgspec

from rankdeck.runner.advice.advice import MEMORY_FULL
from rankdeck.runner.state import RunState
from rankdeck.runner.state.load import Load, LoadMeans, known_mean, means
from rankdeck.runner.state.settings import SettingRow, circumstances, current_setting
from rankdeck.runner.state.votes import (
    HIGH_DRAM,
    HIGH_MATRIX,
    HIGH_MBU,
    HIGH_TENSOR,
    LEAST_SAMPLES,
    NO_VERDICT,
    Circumstances,
    Kind,
    leading,
    of_period,
    vote,
)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the run is bound by; the figures that say so, in words; and what may help, empty if nothing simple does.

    `before`: there are too few samples of the present setting yet, so kind and figures are those of the setting before.
    `ended`: the run has ended, and they are of its last seconds.
    """

    kind: Kind
    evidence: str
    cure: str = ""
    before: bool = False
    ended: bool = False

    @property
    def text(self) -> str:
        if self.kind == "waiting for work":
            return f"waiting for work: {self.evidence}"
        if self.kind == "unknown":
            return self.evidence
        when = " at the end" if self.ended else " before this change" if self.before else ""
        bound = f"bound by {self.kind}{when}"
        return f"{bound}: {self.evidence}" if self.evidence else bound


def bound(state: RunState) -> Verdict | None:
    """The verdict; None before there is evidence, while paused, during a sweep, and after the end.

    Just after a turn of a knob it is the last one, unless samples of the new setting already say otherwise.
    """
    if state.phase != "running" or state.paused is not None or state.ended is not None or state.sweeping:
        return None
    present = of_period(state.loads, state.period_number)
    case = circumstances(state, state.period_number)
    if state.held.kind is not None:
        return _held(state, case, state.held.kind)
    if len(present) < LEAST_SAMPLES:
        return None
    return _Evidence(state, case, present).verdict(leading([vote(load, case) for load in present]))


def bound_at_the_end(state: RunState) -> Verdict | None:
    """What a run that has ended was bound by in its last seconds; None before, and if it was short of work by then."""
    kind = state.held.kind
    if state.ended is None or kind is None or kind in (*NO_VERDICT, "waiting for work"):
        return None
    found = _held(state, circumstances(state, state.period_number), kind)
    return None if found is None else msgspec.structs.replace(found, before=False, ended=True)


def _held(state: RunState, case: Circumstances, kind: Kind) -> Verdict | None:
    """The verdict that is held, with the figures of the present setting; before these say so, with those before."""
    present = of_period(state.loads, state.period_number)
    agree = bool(present) and leading([vote(load, case) for load in present]) == kind
    if agree or len(present) >= LEAST_SAMPLES:
        return _Evidence(state, case, present).verdict(kind)
    if not state.loads or kind in (*NO_VERDICT, "waiting for work", "uneven lengths"):
        return None
    unmeasured = msgspec.structs.replace(case, measured=False, mbu=None, matrix_share=None)
    found = _Evidence(state, unmeasured, (), state.held.load).verdict(kind)
    return msgspec.structs.replace(found, cure="", before=True)


class _Evidence:
    """These samples, or the `figures` of others before them, and the measured batches of the present setting."""

    def __init__(
        self, state: RunState, case: Circumstances, loads: Sequence[Load], figures: LoadMeans | None = None
    ) -> None:
        self._state, self._case, self._loads = state, case, loads
        self._row = current_setting(state) if case.measured else None
        self._means, self._on_gpu = figures or means(loads), case.on_gpu
        self.figures = _joined(_figures(self._means, case), _one_at_a_time(state, case))

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
                return Verdict(kind=kind, evidence=f"{shown}: GPUs wait for the host", cure=full or LARGER)
            case "kernel launches" if full:
                return Verdict(kind="memory", evidence=_joined(full, shown))
            case "kernel launches" | "fixed cost per step":
                return Verdict(kind=kind, evidence=shown, cure=full or LARGER)
            case "memory bandwidth":
                return Verdict(kind=kind, evidence=shown, cure=full or "a larger batch reads the weights less often")
            case "uneven lengths":
                waste = f"{self._case.padding_waste or 0.0:.0%} of the token slots hold no token"
                return Verdict(kind=kind, evidence=_joined(waste, shown), cure="a smaller batch size wastes less")
            case "the power limit":
                lowered = known_mean(load.capped for load in self._loads)
                clocks = f"it lowers the clocks of {lowered:.0%} of the GPUs" if lowered is not None else ""
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
        share = known_mean((load.active - load.at_work) / load.active for load in self._loads if load.active)
        return f"{max(1, round((share or 0.0) * ranks))} of {ranks} ranks without a batch"

    def _missing(self) -> str:
        """What would have to be known for a verdict."""
        means, row, every = self._means, self._row, len(self._loads)
        if not self._on_gpu and means.cpu.count < every:
            return "CPU % is unknown"
        counters = {"busy": means.busy, "DRAM": means.dram, "tensor": means.tensor} if self._on_gpu else {}
        missing = [name for name, mean in counters.items() if mean.count < every]
        said = [f"no {_listed(missing)} counter here"] if missing else []
        if self._on_gpu and self._case.no_tensor_cores and "tensor" not in missing:
            missing.append("tensor")
            said.append("float32 may leave out the tensor cores")
        if "busy" in missing:  # nothing that was measured stands in for it
            return said[0]
        if row is None:
            return ", ".join([*said, "no whole batch at this setting yet"])
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


def _memory_full(state: RunState, row: SettingRow | None) -> str:
    """Why no larger batch fits into memory; empty if one may.

    What torch keeps beyond the most that this setting needs counts as free: a larger batch would take it.
    """
    capped = next((rank for rank in state.ranks[: state.active_ranks] if rank.cap is not None), None)
    if capped is not None:
        return f"rank {capped.rank} ran out of memory above {capped.cap} prompts"
    if row is None or row.peak_memory_bytes is None or state.continuous:  # which takes all its memory at the start
        return ""
    for device in state.devices:
        used, total = device.sample.memory_used_bytes, device.sample.memory_total_bytes
        if not device.ranks or used is None or not total:
            continue
        held = [state.ranks[rank].reserved_memory_bytes or 0 for rank in device.ranks if rank < len(state.ranks)]
        spare = sum(max(0, each - row.peak_memory_bytes) for each in held)
        if used - spare > MEMORY_FULL * total:
            return f"GPU {device.sample.index}'s memory is {(used - spare) / total:.0%} full"
    return ""


def _figures(figures: LoadMeans, case: Circumstances) -> str:
    """Each figure that is known, with its name; a share of measured batches where a counter is missing or lower."""
    known = [("busy", figures.busy), ("DRAM", figures.dram), ("tensor", figures.tensor)] if case.on_gpu else []
    known = known if case.on_gpu else [("CPU", figures.cpu)]
    said = [f"{name} {mean.value:.0f}%" for name, mean in known if mean.value is not None]
    if case.mbu is not None and _speaks(case, figures.dram.value, HIGH_DRAM, case.mbu, HIGH_MBU):
        said.append(f"MBU {case.mbu:.0%}")
    if case.matrix_share is not None and _speaks(
        case, figures.tensor.value, HIGH_TENSOR, case.matrix_share, HIGH_MATRIX
    ):
        said.append(f"matrix rate {case.matrix_share:.0%}")
    return ", ".join(said)


def _speaks(case: Circumstances, percent: float | None, high: float, share: float, high_share: float) -> bool:
    """Whether a share of what was measured says what the counter does not."""
    if not case.on_gpu or percent is None:
        return True
    return (case.of_one(share) or 0.0) >= high_share and (case.of_one(percent) or 0.0) < 100 * high


def _one_at_a_time(state: RunState, case: Circumstances) -> str:
    """Why the GPUs of a rank that is spread over several are mostly idle; empty if none is."""
    if case.gpus_per_rank <= 1:
        return ""
    number = f"{case.gpus_per_rank:.0f} " if case.gpus_per_rank.is_integer() else ""
    whose = "its" if state.active_ranks == 1 else "each rank's"
    return f"{whose} {number}GPUs work one at a time"
