"""What is said of a rank that says nothing, in the log, as the cause of its loss and on the screen. Pure."""

from rankdeck.runner.protocol import RankSilent
from rankdeck.runner.state.run import RunState

_MISSED = {"loading": "no progress in loading", "at work": "no step"}


def silence_words(silence: RankSilent, *, outlook: bool = False, more: float = 0.0) -> str:
    """`no step for 15 s, its process is stopped`, `more` seconds later; with `outlook` also what follows."""
    seconds = silence.seconds + more
    missed = _MISSED.get(silence.stage)
    said = [f"{missed} for {seconds:.0f} s"] if missed else []
    said += [f"its process is {silence.process}"] if silence.process is not None else []
    words = ", ".join(said)
    if not outlook or silence.patience is None:
        return words
    left = max(0.0, silence.patience - seconds)
    follows = "it is ended and its batch done again" if silence.stage == "at work" else "it is ended"
    return f"{words}; in {left:.0f} s {follows} (--patience)"


def silent_ranks(state: RunState) -> list[RankSilent]:
    """The ranks that say nothing, as they were last told of."""
    return [rank.silence for rank in state.ranks if rank.silence is not None] if state.ended is None else []


def waits_for(state: RunState) -> int | None:
    """The rank whose batch nobody can tell the end of; None while every rank at work is heard of."""
    return next((silence.rank for silence in silent_ranks(state) if silence.stage == "at work"), None)
