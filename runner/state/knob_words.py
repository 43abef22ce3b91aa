"""What turning a knob is called in a log: one short line for people. Pure.

A view without a screen says these lines as they happen; runner.log and the Log view keep them.
"""

from runner import protocol
from runner.protocol import AnyEvent

SOURCE = "knobs"
"""The source of these lines among those of the supervisor, the launcher and the ranks."""


def knob_words(event: AnyEvent) -> str | None:
    """`batch size 16: as asked for`; None of an event that is no turn of a knob."""
    match event:
        case protocol.BatchSizeChanged():
            return f"batch size {event.batch_size}: {event.reason}"
        case protocol.ActiveRanksChanged():
            return f"active ranks {event.active_ranks}"
        case protocol.RankCapped():
            return f"rank {event.rank}: at most {event.batch_size} prompts per batch from now on"
        case protocol.Paused():
            return f"paused: {event.reason}"
        case protocol.Resumed():
            return "resumed"
        case protocol.TrialStarted():
            trial = event.trial
            ranks = "1 rank" if trial.active_ranks == 1 else f"{trial.active_ranks} ranks"
            return f"trial {trial.number}: {ranks} at batch size {trial.batch_size}"
        case _:
            return None
