"""Where the seconds between the command and the first batch went, phase by phase. Pure.

Knows the events of a launch, but no clock: each phase begins at the `at` of an event. Ranks load in parallel, so each
of their phases begins when the last rank enters it; the phases add up to the whole.
"""

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.protocol import AnyEvent


class LoadingTime(msgspec.Struct, frozen=True, kw_only=True):
    """When each phase up to the first batch began, in unix seconds, in order of time.

    `starting` is the command until its supervisor is up, `model` looks for the model (and fetches the demo's),
    `launching` is `accelerate launch` up to its process; importing for the ranks, and their own phases, follow. `first
    batch` is from all ranks being ready to the first batch, `lost launches` are the launches before the last one.
    `first_ready_at` is when the first rank was ready and began to wait for the others.
    """

    began: dict[str, float] = {}
    first_ready_at: float | None = None
    ready_at: float | None = None
    batch_at: float | None = None

    @property
    def phases(self) -> dict[str, float]:
        """Seconds of each phase that is over, in order of time."""
        end = self.batch_at if self.batch_at is not None else self.ready_at
        moments = [*self.began.values(), *([end] if end is not None else [])]
        return {
            phase: round(max(0.0, after - at), 3)
            for phase, at, after in zip(self.began, moments, moments[1:], strict=False)
        }

    @property
    def seconds(self) -> float:
        """Seconds of all phases that are over."""
        return round(sum(self.phases.values()), 3)

    @property
    def waited_seconds(self) -> float:
        """Seconds that the first ready rank waited for the last."""
        if self.ready_at is None or self.first_ready_at is None:
            return 0.0
        return round(max(0.0, self.ready_at - self.first_ready_at), 3)


def after(loading: LoadingTime, event: AnyEvent) -> LoadingTime:
    """`loading` after `event`. After the first batch, only resuming the run changes it."""
    match event:
        case protocol.RunStarted() if event.asked_at:
            return LoadingTime(began={"starting": event.asked_at, "model": event.at})
        case protocol.RunStarted() | protocol.RunTakenUp():
            return LoadingTime(began={"model": event.at})
    if loading.batch_at is not None:
        return loading
    match event:
        case protocol.RanksLaunched():
            return LoadingTime(began=_launched(loading.began, event.at))
        case protocol.RankPhase():
            return msgspec.structs.replace(loading, began={**loading.began, event.phase: event.at})
        case protocol.RankReady() if loading.first_ready_at is None:
            return msgspec.structs.replace(loading, first_ready_at=event.at)
        case protocol.RanksReady():
            began = {**loading.began, "first batch": event.at}
            return msgspec.structs.replace(loading, began=began, ready_at=event.at)
        case protocol.BatchStarted():
            return msgspec.structs.replace(loading, batch_at=event.at)
    return loading


def _launched(began: dict[str, float], at: float) -> dict[str, float]:
    """The ranks' phases start afresh; earlier launches become one phase."""
    kept = {phase: moment for phase, moment in began.items() if phase in ("starting", "model", "lost launches")}
    if "launching" in began:
        kept.setdefault("lost launches", began["launching"])
    return {**kept, "launching": at}


def loading_line(loading: LoadingTime) -> str:
    """The seconds before the first batch in one line; phases of less than 0.05 s are left out."""
    spent = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in loading.phases.items() if seconds >= 0.05)
    waited = f"; the first rank waited {loading.waited_seconds:.1f} s" if loading.waited_seconds >= 0.05 else ""
    return f"{loading.seconds:.1f} s" + (f": {spent}" if spent else "") + waited
