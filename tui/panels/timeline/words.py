"""What is under the timeline's cursor, in words. Pure."""

from statistics import median

from rankdeck.runner.advice.findings import ranks_words
from rankdeck.runner.advice.segments import Segment
from rankdeck.runner.advice.slow_rank import similar_rows
from rankdeck.runner.state import RankState, RunState
from rankdeck.runner.state.timeline import LOADING, Span
from rankdeck.tui.words.text import count, percent, rate, some

ALIKE = 1.15
"""Within this factor a batch is said to have taken as long as others."""

NEWEST = 40
"""How many of the newest spans of each lane are compared, to say why there was a gap and how long others took."""

_LOADING_WORDS = {
    "starting": "being started",
    "importing": "importing its libraries",
    "joining": "joining the other ranks",
    "loading": "loading its model",
    "compiling": "compiling",
    "warming up": "warming up",
}


def explained(state: RunState, rank: int, segment: Segment | None) -> str:
    """One or two sentences about a segment of a rank's lane."""
    if segment is None:
        return "a lane per rank and a bar per batch, once there are ranks"
    span = segment.span
    seconds = f"{segment.seconds:.1f} s"
    if segment.kind == "idle":
        return f"rank {rank} {'has had' if segment.live else 'had'} no batch for {seconds}: {_why_idle(state, segment)}"
    if segment.kind == "paused":
        return f"rank {rank} had no batch for {seconds}: paused, {segment.reason}"
    if segment.kind == "inactive":
        return f"rank {rank} got no batch for {seconds}: only {segment.reason}; it kept its model"
    if span is None:
        return ""
    if segment.kind == "ready":
        waits = "is ready and has waited" if segment.live else "was ready and waited"
        return f"rank {rank} {waits} {seconds} for the other ranks"
    if segment.kind in LOADING:
        again = f", after it was launched again (attempt {span.attempt})" if span.attempt > 1 else ""
        return f"rank {rank}: {_LOADING_WORDS[segment.kind]}, {seconds}{' so far' if segment.live else ''}{again}"
    if segment.kind in ("lost", "failed", "stopped", "down") and span.joined > 1:
        what = "times without its process" if segment.kind == "down" else f"batches {segment.kind}"
        return f"rank {rank}: {count(span.joined)} {what}, so long ago that they are kept as one: {seconds}"
    if segment.kind == "down":
        cause = _rank_state(state, rank).cause or (
            state.loss.cause if state.loss is not None and state.loss.rank == rank else ""
        )
        then = "" if segment.live else f"; {seconds} later the ranks were launched again"
        return f"rank {rank} was lost{f': {cause}' if cause else ''}{then}"
    if segment.kind in ("lost", "failed", "stopped"):
        return f"#{span.batch} on rank {rank}: {_IN_VAIN[segment.kind].format(seconds, some(span.rows, 'prompt'))}"
    if span.joined > 1:
        return _joined(rank, segment, span)
    if segment.kind == "stint" or _rank_state(state, rank).continuous:
        return _stint(state, rank, segment, span)
    return _live(state, rank, segment, span) if segment.live else _batch(state, rank, segment, span)


def _rank_state(state: RunState, rank: int) -> RankState:
    """The rank of a lane; a blank one for a lane whose rank is gone, as in a run resumed with fewer ranks."""
    return state.ranks[rank] if rank < len(state.ranks) else RankState(rank=rank)


_IN_VAIN = {
    "lost": "lost after {0}, for its ranks ended; {1} went back to the front of the queue",
    "failed": "failed after {0}; the log says why. {1} went back to the queue",
    "stopped": "stopped after {0} with the run; {1} not finished",
}


def _why_idle(state: RunState, segment: Segment) -> str:
    """Whether there was work that went to other ranks, or none."""
    lanes = state.timeline.lanes
    began = [span.began for lane in lanes for span in (*lane.spans[-NEWEST:], *([lane.open] if lane.open else []))]
    if any(moment > segment.began + 0.001 for moment in began):
        return "its next batch came only then"
    at_work = {
        rank: span
        for rank, lane in enumerate(lanes)
        for span in (lane.open or (lane.spans[-1] if lane.spans else None),)
        if span is not None and (lane.open is not None or span.ended > segment.began + 0.001)
    }
    if not at_work:
        return "nothing was left to do"
    still = "finishes" if segment.live else "finished"
    if len(at_work) == 1:
        ((rank, span),) = at_work.items()
        return f"nothing was left for it while rank {rank} {still} #{span.batch}"
    return f"nothing was left for it while {ranks_words(list(at_work))} {still.removesuffix('es')} their last batches"


def _batch(state: RunState, rank: int, segment: Segment, span: Span) -> str:
    work = span.work
    if work is None:
        return f"#{span.batch} on rank {rank}: {some(span.rows, 'prompt')} in {segment.seconds:.1f} s"
    return (
        f"#{span.batch} on rank {rank}: {some(span.rows, 'prompt')}, {some(work.output_tokens, 'output token')} in "
        f"{segment.seconds:.1f} s (prefill {work.prefill_seconds:.1f} s, decode {work.decode_seconds:.1f} s, "
        f"{some(work.steps, 'step')}), {_rate(work.output_tokens, segment.seconds)}, "
        f"padding waste {percent(work.padding_waste)}{_beside_others(state, rank, span)}"
    )


def _beside_others(state: RunState, rank: int, span: Span) -> str:
    """How long a batch took compared with similar ones of the other ranks, or of its own rank if there are none."""
    rows = similar_rows(span.rows)
    alike = [
        (number, other.seconds)
        for number, lane in enumerate(state.timeline.lanes)
        for other in lane.spans[-NEWEST:]
        if other.kind == "batch" and other.joined == 1 and other is not span
        if similar_rows(other.rows) == rows and other.seconds > 0
    ]
    others = [seconds for number, seconds in alike if number != rank]
    whose = "the other ranks' batches of its size" if others else "its rank's other batches of its size"
    times = others or [seconds for _, seconds in alike]
    if not times:
        return ""
    ratio = span.seconds / median(times)
    if 1 / ALIKE < ratio < ALIKE:
        return f"; as long as {whose}"
    return f"; {ratio:.1f} x as long as {whose}"


def _live(state: RunState, rank: int, segment: Segment, span: Span) -> str:
    mine = _rank_state(state, rank)
    most = f" of {state.config.new_tokens}" if state.config is not None else ""
    start = f"#{span.batch} on rank {rank}: {some(span.rows, 'prompt')}, in its hand for {segment.seconds:.1f} s"
    if mine.phase == "prefill":
        return f"{start}, prefill"
    return f"{start}, step {mine.step}{most}, {some(mine.in_flight_tokens, 'output token')} so far"


def _stint(state: RunState, rank: int, segment: Segment, span: Span) -> str:
    """A continuous rank has one batch, whose rows come and go; its lane shows it account by account."""
    work = span.work
    if segment.live or work is None:
        rows = _rank_state(state, rank).rows_at_once
        at_once = "" if rows is None else f", {some(rows, 'row')} at once now"
        return f"continuous rank {rank}: {segment.seconds:.1f} s since its last account{at_once}"
    at_once = f", {work.row_steps / work.steps:.1f} rows at once on average" if work.steps else ""
    return (
        f"{segment.seconds:.1f} s of continuous rank {rank}: {some(span.rows, 'prompt')} ended, "
        f"{some(work.output_tokens, 'output token')}, {_rate(work.output_tokens, segment.seconds)}{at_once} "
        f"({some(work.steps, 'step')}); the bar is as high as that, of batch size {state.batch_size}"
    )


def _joined(rank: int, segment: Segment, span: Span) -> str:
    work = span.work
    figures = ""
    if work is not None:
        figures = f", {some(work.output_tokens, 'output token')}, {_rate(work.output_tokens, segment.seconds)}"
    gaps = f"; {percent(span.gaps / segment.seconds)} of it between them" if segment.seconds else ""
    return (
        f"{count(span.joined)} batches of rank {rank} from #{span.batch} on, so long ago that they are kept as one: "
        f"{segment.seconds:.1f} s, {some(span.rows, 'prompt')}{figures}{gaps}"
    )


def _rate(tokens: int, seconds: float) -> str:
    return f"{rate(tokens / seconds) if seconds > 0 else 0} tok/s"
