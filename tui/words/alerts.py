"""The window's title, and alerts for a user who is not watching: the run has ended or needs attention. Pure.

Knows the state and words. Setting the title, ringing the bell and sending the text is up to the application.
"""

from rankdeck.runner.state import RunState
from rankdeck.tui.words.status import ASKED_FOR, ENDED_EARLY
from rankdeck.tui.words.sweep import how_ended
from rankdeck.tui.words.text import cut, rate, some, visible, whole_percent

LONGEST_NAME, LONGEST_ALERT = 40, 120

BELL = "\x07"

_ENDINGS = {
    "completed": "has completed",
    ENDED_EARLY: "was ended early",
    "stopped": "was stopped",
    "failed": "has failed",
}


def title(state: RunState) -> str:
    """`rankdeck 64% 231 tok/s NAME`, without what is not known yet."""
    words = ["rankdeck"]
    if state.ended is not None:
        words.append(how_ended(state))
    elif state.paused is not None:
        words.append(f"{whole_percent(state.done_share)} paused")
    elif state.first_batch_at is not None:
        words.append(f"{whole_percent(state.done_share)} {rate(state.rate_now)} tok/s")
    elif state.config is not None:
        words.append(state.phase)
    return " ".join((*words, cut(visible(state.name), LONGEST_NAME))).strip()


def since(before: RunState, now: RunState) -> list[str]:
    """Alerts for what has happened since `before`: short, with control characters made visible."""
    said: list[str] = []
    if now.ended is not None and before.ended is None:
        done = f"{now.completed:,} of {some(now.prompts, 'prompt')}"
        said.append(f"{_ENDINGS[how_ended(now)]}: {done}" + (f", {now.failed:,} failed" if now.failed else ""))
    if now.paused is not None and now.paused != ASKED_FOR and now.paused != before.paused:
        said.append(f"is paused: {now.paused}")
    new_marks = now.marks[len(before.marks) :] if now.marks[: len(before.marks)] == before.marks else ()
    kinds = {mark.kind for mark in new_marks}
    if "rank lost" in kinds:
        said.append("has lost a rank")
    if "memory" in kinds:
        said.append("was out of memory on a rank, and goes on with smaller batches")
    return [cut(visible(f"{now.name} {words}"), LONGEST_ALERT) for words in said]


def lost(state: RunState, why: str) -> str:
    """The alert that the run can no longer be watched."""
    return cut(visible(f"{state.name} can no longer be watched: {why}".strip()), LONGEST_ALERT)


def signal_of(kind: str, text: str) -> str:
    """The control codes of an alert, for a `notify` setting of `osc9` or `bell`; empty for any other."""
    if kind == "osc9":
        return f"\x1b]9;{visible(text)}\x07"
    return BELL if kind == "bell" else ""
