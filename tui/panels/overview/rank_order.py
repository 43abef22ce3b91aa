"""Which ranks are shown, and in which order. Pure; what is shown of them is others' business."""

import re
from collections.abc import Callable, Set
from typing import Literal, NamedTuple

from rankdeck.runner.advice.slow_rank import slow_ranks
from rankdeck.runner.state import RankState, RunState
from rankdeck.tui.words.status import shown_phase
from rankdeck.tui.words.text import visible

SortBy = Literal["rank", "worst first", "tok/s", "prompts", "waste", "idle"]
SORTS: tuple[SortBy, ...] = ("rank", "worst first", "tok/s", "prompts", "waste", "idle")

AGAIN_SECONDS = 3.0
"""Rows change their places no more often than this: who reads a row must not lose it."""

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


class RankView(NamedTuple):
    """What was asked of the list of ranks."""

    sort: SortBy = "rank"
    filter: str = ""


def pace(rank: RankState, now: float) -> float | None:
    """Output tokens/s while a batch is in hand; None before there are any."""
    seconds = rank.busy_seconds + (max(0.0, now - rank.batch_started_at) if rank.batch is not None else 0.0)
    return (rank.output_tokens + rank.in_flight_tokens) / seconds if seconds > 0 else None


def arranged(state: RunState, view: RankView) -> list[int]:
    """The numbers of the ranks that `view` shows, in its order."""
    slow = slow_ranks(state)
    shown = [rank for rank in state.ranks if matches(state, rank, view.filter, slow)]
    if view.sort != "rank":
        shown.sort(key=_key(state, view.sort, slow))
    return [rank.rank for rank in shown]


def matches(state: RunState, rank: RankState, text: str, slow: Set[int]) -> bool:
    """Whether each word of `text` is the rank's number, a range with it, or part of its state, device or trouble."""
    about = " ".join((shown_phase(state, rank), rank.device, *trouble(rank, slow))).lower()
    return all(_is_said(word, rank.rank, about) for word in text.lower().split())


def _is_said(word: str, number: int, about: str) -> bool:
    found = _RANGE.fullmatch(word)
    if found is None:  # and cuda:1 is not cuda:10
        return re.search(re.escape(word) + r"(?!\d)" * word[-1].isdigit(), about) is not None
    return int(found[1]) <= number <= int(found[2] or found[1])


def trouble(rank: RankState, slow: Set[int]) -> list[str]:
    """What is wrong with it, the worst first."""
    found = []
    if rank.phase == "lost":
        found.append("lost")
    if rank.cap is not None:
        found.append("capped")
    if rank.rank in slow:
        found.append("slow")
    return found


def troubled(state: RunState) -> frozenset[tuple[int, str]]:
    """All that is wrong with any rank: where this changes, the order is made anew at once."""
    slow = slow_ranks(state)
    return frozenset((rank.rank, word) for rank in state.ranks for word in trouble(rank, slow))


def _key(state: RunState, sort: SortBy, slow: Set[int]) -> Callable[[RankState], tuple[float, ...]]:
    def worst(rank: RankState) -> tuple[float, ...]:
        speed = pace(rank, state.now)
        bad = (rank.phase != "lost", rank.cap is None, rank.rank not in slow)
        return (*map(float, bad), float("inf") if speed is None else speed, -state.idle(rank), rank.rank)

    keys: dict[SortBy, Callable[[RankState], tuple[float, ...]]] = {
        "worst first": worst,
        "tok/s": lambda rank: (-state.rank_rate(rank), rank.rank),
        "prompts": lambda rank: (-rank.prompts, rank.rank),
        "waste": lambda rank: (-rank.padding_waste, rank.rank),
        "idle": lambda rank: (-state.idle(rank), rank.rank),
    }
    return keys[sort]


class Arrangement:
    """Keeps an order for a while, so that rows stand still."""

    def __init__(self) -> None:
        self._made_for: object = None
        self._at = 0.0
        self._order: list[int] = []

    def of(self, state: RunState, view: RankView) -> list[int]:
        """The order, made anew when it is old, or when something went wrong or was asked for."""
        kind = (view, len(state.ranks), troubled(state), state.ended is None)
        if kind != self._made_for or not 0 <= state.now - self._at < AGAIN_SECONDS:
            self._made_for, self._at, self._order = kind, state.now, arranged(state, view)
        return self._order


def ranks_title(state: RunState, view: RankView, shown: int) -> str:
    """Plain text: how many there are, how many of them are shown, and in which order."""
    total = len(state.ranks)
    words = ["Ranks"]
    if view.filter:
        words.append(f"{shown} of {total}: {visible(view.filter)}")
    elif total > 8:
        words.append(str(total))
    if view.sort != "rank":
        words.append(view.sort if view.sort == "worst first" else f"by {view.sort}")
    return "  ".join(words)
