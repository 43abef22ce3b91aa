"""What the timeline shows, in words: a lost rank, a slow rank, a last round that is not full, ranks idle at the end;
and logits that are no numbers.

Pure functions of the state; each finding says the figures it rests on.
"""

from collections.abc import Iterator
from typing import NamedTuple

from rankdeck.runner.advice.advice import uneven_rounds
from rankdeck.runner.advice.segments import end_of, idle_tail
from rankdeck.runner.advice.slow_rank import slow_rank, slow_rank_words
from rankdeck.runner.state import RunState
from rankdeck.runner.state.timeline import LOADING, Span

FULL, MOST_ROUNDS = 0.85, 4
SEVERAL = 3
WIDER = {
    "float16": "It ends at 65,504: try --dtype bfloat16 or float32. If NaN there too, the weights are damaged.",
    "bfloat16": "Try --dtype float32. If NaN there too, the weights are damaged.",
}
"""What helps against logits that are no numbers, by dtype."""

LEAST_TAIL_SECONDS, LEAST_TAIL_SHARE = 0.5, 0.05


class Finding(NamedTuple):
    """One thing worth seeing in the timeline, and the ranks it is about."""

    kind: str
    text: str
    ranks: tuple[int, ...] = ()


class Round(NamedTuple):
    """One batch of every rank that got one. `places` is the room of all active ranks at this batch size, in prompts."""

    number: int
    began: float
    ended: float
    rows: int
    places: int
    over: bool

    @property
    def full(self) -> float:
        return self.rows / self.places


def findings(state: RunState) -> tuple[Finding, ...]:
    """All findings, the most useful first; none in a sweep, whose trials turn the knobs on purpose."""
    if state.sweep is not None and (state.sweeping or not state.sweep.plan.outputs):
        return ()
    slow, uneven, tail = list(_slow_rank(state)), list(_rounds(state)), list(_tail(state))
    if slow:
        # Rounds mean little if one rank takes fewer batches than the others.
        uneven = []
    return (*_unusable_logits(state), *_lost(state), *slow, *uneven, *tail)


# --- logits that are no numbers -----------------------------------------------------------------


def _unusable_logits(state: RunState) -> Iterator[Finding]:
    """A few prompts that overflow a dtype are a matter of the dtype; every one, of the weights."""
    count = state.unusable_logits
    if count < SEVERAL:
        return
    dtype = next((rank.ready.dtype for rank in state.ranks if rank.ready is not None), "")
    cure = WIDER.get(dtype.partition(" ")[0], "Its weights are damaged: fetch them again.")
    yield Finding(
        "logits",
        f"{count:,} of {state.done:,} prompts ended in NaN logits: {state.model_label} computes "
        f"in {dtype or 'its dtype'}. {cure}",
    )


# --- a lost rank --------------------------------------------------------------------------------


def _lost(state: RunState) -> Iterator[Finding]:
    """What lost ranks have cost so far: the batches lost, and launching the ranks again."""
    lanes = state.timeline.lanes
    lost = [rank for rank, lane in enumerate(lanes) for span in lane.spans if span.kind == "down"]
    if not lost or state.seconds <= 0:
        return
    end = end_of(state)
    away = [_away_seconds([*lane.spans, *([lane.open] if lane.open is not None else [])], end) for lane in lanes]
    mean, so_far = sum(away) / len(away), "" if state.ended is not None else " so far"
    share = min(1.0, mean / state.seconds)
    yield Finding(
        "rank lost",
        f"{ranks_words(sorted(set(lost))).capitalize()} {'was' if len(set(lost)) == 1 else 'were'} lost: batches in "
        f"vain and launching the ranks again took {mean:.1f} s, {share:.0%} of the run{so_far}.",
        tuple(sorted(set(lost))),
    )


def _away_seconds(spans: list[Span], end: float) -> float:
    """Seconds of a rank that went into lost batches and into loading again."""
    return sum(
        (end if number == len(spans) - 1 and span.ended <= span.began else span.ended) - span.began
        for number, span in enumerate(spans)
        if span.kind in ("lost", "down") or (span.attempt > 1 and span.kind in (*LOADING, "ready"))
    )


# --- a slow rank --------------------------------------------------------------------------------


def _slow_rank(state: RunState) -> Iterator[Finding]:
    if (slow := slow_rank(state)) is not None:
        yield Finding("slow rank", slow_rank_words(state, slow), (slow.rank,))


# --- rounds -------------------------------------------------------------------------------------


def rounds(state: RunState) -> list[Round]:
    """The rounds of a run, including unfinished ones; empty if they mean nothing, as when a knob was turned."""
    steady = not any(mark.kind in ("batch size", "active ranks", "trial", "taken up", "memory") for mark in state.marks)
    if state.continuous or state.attempt > 1 or state.auto or not steady or state.active_ranks < 1:
        return []
    lanes = state.timeline.lanes[: state.active_ranks]
    batches = []
    for lane in lanes:
        mine = [span for span in lane.spans if span.kind == "batch"]
        if any(span.joined > 1 for span in lane.spans) or len(mine) > MOST_ROUNDS + 1:
            return []
        if lane.open is not None and lane.open.kind == "batch":
            mine.append(lane.open)
        batches.append((mine, lane.open))
    found = []
    end = end_of(state)
    for number in range(max((len(mine) for mine, _ in batches), default=0)):
        here = [(mine[number], open_now) for mine, open_now in batches if number < len(mine)]
        over = all(span is not open_now for span, open_now in here)
        found.append(
            Round(
                number + 1,
                min(span.began for span, _ in here),
                max(end if span is open_now else span.ended for span, open_now in here),
                sum(span.rows for span, _ in here),
                state.active_ranks * state.batch_size,
                over,
            )
        )
    return found


def _rounds(state: RunState) -> Iterator[Finding]:
    found = rounds(state)
    complete = bool(found) and found[-1].over and state.done >= state.prompts > 0
    cure = next((advice.text for advice in uneven_rounds(state)), "")
    if complete and 2 <= len(found) <= MOST_ROUNDS:
        last, seconds = found[-1], state.seconds
        even = max(one.full for one in found) - min(one.full for one in found) < 0.1
        if even and last.full < FULL:
            many = {2: "Both", 3: "All 3", 4: "All 4"}[len(found)]
            share = sum(one.full for one in found) / len(found)
            rows = sum(one.rows for one in found) / len(found) / state.active_ranks
            cure = f"{many} rounds were {share:.0%} full, {rows:.0f} of {state.batch_size} prompts a rank. {cure}"
        elif not even and last.full < FULL:
            took = f", yet took {(last.ended - last.began) / seconds:.0%} of the run" if seconds > 0 else ""
            cure = f"Round {last.number} of {last.number} was {last.full:.0%} full{took}. {cure}"
    if cure:
        yield Finding("rounds", cure.strip())


# --- the end ------------------------------------------------------------------------------------


def _tail(state: RunState) -> Iterator[Finding]:
    """Ranks that were idle while others were still at work."""
    if not state.timeline.lanes or state.done < state.prompts or not state.prompts or state.seconds <= 0:
        return
    least = max(LEAST_TAIL_SECONDS, LEAST_TAIL_SHARE * state.seconds)
    active = range(min(state.active_ranks, len(state.timeline.lanes)))
    tails = {rank: idle_tail(state, rank) for rank in active}
    idle = {rank: tail for rank, tail in tails.items() if tail >= least}
    if not idle:
        return
    longest = max(idle.values())
    up_to = "" if longest - min(idle.values()) < 0.1 * longest else "up to "
    share = sum(tails.values()) / (len(tails) * state.seconds)
    who = ranks_words(list(idle)).capitalize()
    text = f"{who} idle at the end, {up_to}{longest:.1f} s: {share:.0%} of all ranks' time."
    yield Finding("tail", text, tuple(idle))


def ranks_words(ranks: list[int]) -> str:
    """`rank 3`, `ranks 0 and 2`, `ranks 1 to 7`."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if len(ranks) > 2 and ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"ranks {ranks[0]} to {ranks[-1]}"
    if len(ranks) > 6:
        return f"{len(ranks)} ranks"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"
