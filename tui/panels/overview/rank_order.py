"""Which ranks are shown, and in which order. Pure; knows nothing of how a rank is shown."""

import re
from collections.abc import Callable, Set
from typing import Literal, NamedTuple

from rankdeck.runner.advice.segments import idle_lately
from rankdeck.runner.advice.slow_rank import slow_ranks
from rankdeck.runner.state import RankState, RunState
from rankdeck.tui.words.status import shown_phase
from rankdeck.tui.words.text import visible

SortBy = Literal["rank", "worst first", "tok/s", "prompts", "waste", "idle"]
SORTS: tuple[SortBy, ...] = ("rank", "worst first", "tok/s", "prompts", "waste", "idle")

AGAIN_SECONDS = 3.0
"""Rows move no more often than this, so that a reader does not lose the row."""

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


class RankView(NamedTuple):
    """How the list of ranks is to be sorted and filtered."""

    sort: SortBy = "rank"
    filter: str = ""


def pace(rank: RankState, now: float) -> float | None:
    """Output tokens/s over the time the rank had a batch; None before its first."""
    seconds = rank.busy_seconds + (max(0.0, now - rank.batch_started_at) if rank.batch is not None else 0.0)
    return (rank.output_tokens + rank.in_flight_tokens) / seconds if seconds > 0 else None


def arranged(state: RunState, view: RankView) -> list[int]:
    """The numbers of the ranks that `view` lets through, in its order."""
    slow = slow_ranks(state)
    shown = [rank for rank in state.ranks if matches(state, rank, view.filter, slow)]
    if view.sort != "rank":
        shown.sort(key=_key(state, view.sort, slow))
    return [rank.rank for rank in shown]


def matches(state: RunState, rank: RankState, text: str, slow: Set[int]) -> bool:
    """Whether each word of `text` is the rank's number, a range around it, or part of its state, device or trouble."""
    about = " ".join((shown_phase(state, rank), rank.device, *trouble(rank, slow))).lower()
    return all(_is_said(word, rank.rank, about) for word in text.lower().split())


def _is_said(word: str, number: int, about: str) -> bool:
    found = _RANGE.fullmatch(word)
    if found is None:  # cuda:1 must not match cuda:10
        return re.search(re.escape(word) + r"(?!\d)" * word[-1].isdigit(), about) is not None
    return int(found[1]) <= number <= int(found[2] or found[1])


def trouble(rank: RankState, slow: Set[int]) -> list[str]:
    """What is wrong with a rank, the worst first."""
    found = []
    if rank.phase == "lost":
        found.append("lost")
    if rank.silence is not None:
        found.append("silent")
    if rank.cap is not None:
        found.append("capped")
    if rank.rank in slow:
        found.append("slow")
    return found


def troubled(state: RunState) -> frozenset[tuple[int, str]]:
    """Everything wrong with any rank; when this changes, the order is remade at once."""
    slow = slow_ranks(state)
    return frozenset((rank.rank, word) for rank in state.ranks for word in trouble(rank, slow))


def _key(state: RunState, sort: SortBy, slow: Set[int]) -> Callable[[RankState], tuple[float, ...]]:
    def worst(rank: RankState) -> tuple[float, ...]:
        speed = pace(rank, state.now)
        bad = (rank.phase != "lost", rank.silence is None, rank.cap is None, rank.rank not in slow)
        return (*map(float, bad), float("inf") if speed is None else speed, -idle_lately(state, rank.rank), rank.rank)

    keys: dict[SortBy, Callable[[RankState], tuple[float, ...]]] = {
        "worst first": worst,
        "tok/s": lambda rank: (-state.rank_rate(rank), rank.rank),
        "prompts": lambda rank: (-rank.prompts, rank.rank),
        "waste": lambda rank: (-(rank.padding_waste or 0.0), rank.rank),
        "idle": lambda rank: (-idle_lately(state, rank.rank), rank.rank),
    }
    return keys[sort]


class Arrangement:
    """Keeps an order for a while, so that rows do not jump about."""

    def __init__(self) -> None:
        self._made_for: object = None
        self._at = 0.0
        self._order: list[int] = []

    def of(self, state: RunState, view: RankView) -> list[int]:
        """The order, remade when it is old, when something goes wrong, or when the view changes."""
        kind = (view, len(state.ranks), troubled(state), state.ended is None)
        if kind != self._made_for or not 0 <= state.now - self._at < AGAIN_SECONDS:
            self._made_for, self._at, self._order = kind, state.now, arranged(state, view)
        return self._order


def ranks_title(state: RunState, view: RankView, shown: int) -> str:
    """Plain text: how many ranks there are, how many are shown, and in which order."""
    total = len(state.ranks)
    words = ["Ranks"]
    if view.filter:
        words.append(f"{shown} of {total}: {visible(view.filter)}")
    elif total > 8:
        words.append(str(total))
    if view.sort != "rank":
        words.append(view.sort if view.sort == "worst first" else f"by {view.sort}")
    return "  ".join(words)
