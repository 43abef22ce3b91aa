"""Reduces events of batches, accounts and outputs. Pure, like the whole reducer.

An account is what a continuous rank reports from time to time of its one long batch. A batch or account counts for a
period of unchanged knobs if all of it lies within. Tokens are counted once: in flight until their output arrives, then
as done.

On a GPU a batch is *cold* if it pays for what is done once: lazy initialisation and tuning in a rank's first since its
launch (the engines' own warm-up is two rows of a few tokens), and the allocator's growth in the first with more rows
than any before. Cold batches count for all totals, but what a setting brings is taken from the others where there are
any. On a CPU no such cost shows: a rank's first batch took 0.99 and 1.08 of the mean of the seven after it (2 cores).
"""

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.state.costs import CostPoint, with_batch, with_length
from rankdeck.runner.state.periods import most, share_of_batch
from rankdeck.runner.state.run import RankState, RunState, Total
from rankdeck.runner.sweep.matrix_share import flops_of
from rankdeck.runner.sweep.mbu import reading_of

Accounted = protocol.BatchFinished | protocol.AccountClosed

SAME_ROWS = 1.1
"""Up to this factor more rows than an earlier batch count as the same size: even rounds vary a little."""


SLACK_SECONDS = 0.5
"""What an account may take longer by the rank's clock than by the supervisor's, between its messages."""


def replace_rank(state: RunState, number: int, **changes: object) -> RunState:
    """The state with one rank changed; unchanged if there is no such rank."""
    if not 0 <= number < len(state.ranks):
        return state
    ranks = list(state.ranks)
    ranks[number] = msgspec.structs.replace(ranks[number], **changes)
    return msgspec.structs.replace(state, ranks=tuple(ranks))


def _period_number(state: RunState) -> int | None:
    """The number of the period that a batch starting now belongs to; None while an inactive rank is still at work."""
    inactive_at_work = any(rank.batch is not None and rank.rank >= state.active_ranks for rank in state.ranks)
    return state.periods[-1].number if state.periods and not inactive_at_work else None


def batch_started(state: RunState, event: protocol.BatchStarted) -> RunState:
    """A rank has a batch in hand."""
    if event.kept and state.active_ranks > 0:  # 0 before the run is known: a journal may lack its beginning
        left = state.prompts - state.done - sum(rank.rows for rank in state.ranks)
        rounds = state.rounds.cut(max(event.rows, left), state.batch_size, state.active_ranks)
        state = msgspec.structs.replace(state, rounds=rounds)
    state = replace_rank(
        state,
        event.rank,
        phase="prefill",
        phase_since=event.at,
        batch=event.batch,
        rows=event.rows,
        step=0,
        first_step=None,
        last_step=None,
        in_flight_tokens=0,
        batch_started_at=event.at,
        batch_rows=event.rows,
        batch_period=None if event.warm_up else _period_number(state),
        batch_kept=event.kept,
        begun_in=None if event.warm_up else state.period_number,
        account_started_at=event.at,
        accounts=0,
    )
    if state.first_batch_at is None:
        state = msgspec.structs.replace(state, first_batch_at=event.at)
    if not state.window:
        state = msgspec.structs.replace(state, window=(total_now(state, event.at),))
    return state


def total_now(state: RunState, at: float) -> Total:
    """The output tokens of each rank so far, those in flight included."""
    return Total(at, tuple(rank.output_tokens + rank.in_flight_tokens for rank in state.ranks))


def output(state: RunState, event: protocol.Output) -> RunState:
    """A prompt has its record: an answer, or an error."""
    record = event.record
    error = record.finish_reason == "error"
    state = msgspec.structs.replace(
        state,
        completed=state.completed + (not error),
        failed=state.failed + error,
        unusable_logits=state.unusable_logits + (protocol.UNUSABLE_LOGITS in (record.error or "")),
        output_tokens=state.output_tokens + record.output_tokens,
        prompt_tokens=state.prompt_tokens + record.prompt_tokens,
        last_result_at=event.at,
    )
    if not error and state.config is not None:
        lengths = with_length(state.lengths, record.output_tokens, state.config.new_tokens)
        state = msgspec.structs.replace(state, lengths=lengths)
    if record.rank is None or not 0 <= record.rank < len(state.ranks):
        return state
    rank = state.ranks[record.rank]
    # The row's tokens move from "in flight" to "done", so that they are never counted twice.
    return replace_rank(
        state,
        rank.rank,
        prompts=rank.prompts + 1,
        prompt_tokens=rank.prompt_tokens + record.prompt_tokens,
        output_tokens=rank.output_tokens + record.output_tokens,
        rows=max(0, rank.rows - 1),
        in_flight_tokens=max(0, rank.in_flight_tokens - record.output_tokens),
    )


def paused(state: RunState) -> RunState:
    """A pause begins: a continuous rank's account that spans this moment counts for no period."""
    ranks = tuple(msgspec.structs.replace(rank, batch_period=None) if rank.continuous else rank for rank in state.ranks)
    return msgspec.structs.replace(state, ranks=ranks)


def resumed(state: RunState, at: float) -> RunState:
    """A pause ends. A stepwise rank has closed its account when it began, and begins the next one now."""
    anew = {"batch_period": _period_number(state), "begun_in": state.period_number, "account_started_at": at}
    ranks = tuple(
        msgspec.structs.replace(rank, **anew) if _stands_still(state, rank) else rank for rank in paused(state).ranks
    )
    return msgspec.structs.replace(state, ranks=ranks)


def _stands_still(state: RunState, rank: RankState) -> bool:
    """Whether the rank's rows do while the run is paused: a closed batch, in a sweep, is finished."""
    trials = {period.number for period in state.periods if period.trial}
    return rank.stepwise and rank.batch is not None and not state.sweeping and rank.begun_in not in trials


def account_closed(state: RunState, event: protocol.AccountClosed) -> RunState:
    """A continuous rank's account is closed: it counts for its period as a whole batch does."""
    if not 0 <= event.rank < len(state.ranks):
        return state
    state = _computed(state, event)
    rank = state.ranks[event.rank]
    seconds = max(0.0, event.at - rank.account_started_at)
    if rank.stepwise and event.result.seconds > seconds + SLACK_SECONDS:
        # It began before a pause that was too short for the rank to notice.
        state = replace_rank(state, event.rank, batch_period=None)
    if rank.stepwise:
        seconds = max(seconds, event.result.seconds)  # it may be heard late, after a resume that it does not belong to
    state = _warmed(_measured(state, event, seconds), event)
    return replace_rank(
        state,
        event.rank,
        batch_period=_period_number(state),
        begun_in=state.period_number,
        account_started_at=event.at,
        accounts=rank.accounts + 1,
    )


def batch_finished(state: RunState, event: protocol.BatchFinished) -> RunState:
    """A batch is over: its figures count for totals, its period and the costs, and the rank waits."""
    if not 0 <= event.rank < len(state.ranks):
        return state
    state = _computed(state, event)
    rank = state.ranks[event.rank]
    state = replace_rank(state, event.rank, batches=rank.batches + 1)
    if not rank.batch_kept and state.sweep is not None and not state.sweep.plan.outputs:
        state = _unkept(state, event)
    if not rank.accounts:  # else it is a continuous rank's last account, with ever fewer rows
        began, least = rank.batch_started_at, 0.0
        if rank.stepwise and rank.batch_kept:
            began, least = rank.account_started_at, event.result.seconds
        state = _measured(state, event, max(least, event.at - began))
    state = _warmed(state, event)
    return msgspec.structs.replace(batch_over(state, event.rank, event.at), last_result_at=event.at)


def _computed(state: RunState, event: Accounted) -> RunState:
    """The state with the token slots and the peaks of memory of a batch or account."""
    rank, result = state.ranks[event.rank], event.result
    slots, padded = _slots(result)
    state = replace_rank(
        state,
        event.rank,
        slots=rank.slots + slots,
        padded_slots=rank.padded_slots + padded,
        peak_memory_bytes=most(rank.peak_memory_bytes, result.peak_memory_bytes),
        reserved_memory_bytes=most(rank.reserved_memory_bytes, result.reserved_memory_bytes),
    )
    return msgspec.structs.replace(state, slots=state.slots + slots, padded_slots=state.padded_slots + padded)


def _slots(result: protocol.BatchResult) -> tuple[int, int]:
    """The token slots of a batch or account, and those that held no token; none where the latter is not known."""
    return (0, 0) if result.padded_slots is None else (result.slots, result.padded_slots)


def _measured(state: RunState, event: Accounted, seconds: float) -> RunState:
    """The state with a batch or account of `seconds` in its period and in the costs, if it lies within a period."""
    rank, result = state.ranks[event.rank], event.result
    whole = rank.batch_period is not None and rank.batch_period == state.periods[-1].number
    if result.rows <= 0 or not whole or rank.batch != event.batch:
        return state
    cold, memory = is_cold(rank, result.rows), (result.peak_memory_bytes, result.reserved_memory_bytes)
    read, flops = (reading_of(rank.ready, result), flops_of(rank.ready, result)) if rank.ready else (None, None)
    slots, padded = _slots(result)
    room = {"slots": slots, "padded_slots": padded, "rows": 0 if rank.continuous else result.rows}
    share = share_of_batch(result.output_tokens, seconds, cold=cold, read=read, flops=flops, **room)
    last = state.periods[-1].with_batch(event.rank, share, *memory)
    state = msgspec.structs.replace(state, periods=(*state.periods[:-1], last))
    if rank.batch_kept and rank.continuous and not last.trial:
        return state  # rows come and go, so it is no batch of a given size
    cost = _cost(state.active_ranks, result, seconds, cold=cold)
    return msgspec.structs.replace(state, costs=with_batch(state.costs, cost), measured_lengths=state.lengths)


def is_cold(rank: RankState, rows: int) -> bool:
    """Whether a batch of so many rows that `rank` has just ended was cold."""
    return _on_gpu(rank) and (not rank.warm_rows or memory_grows(rank, rows))


def memory_grows(rank: RankState, rows: int) -> bool:
    """Whether a GPU's allocator has to grow for a batch of so many rows; continuous ranks take their memory at once."""
    return _on_gpu(rank) and not rank.continuous and rows > SAME_ROWS * rank.warm_rows


def _on_gpu(rank: RankState) -> bool:
    return rank.ready is not None and rank.ready.device != "cpu"


def _warmed(state: RunState, event: Accounted) -> RunState:
    rank = state.ranks[event.rank]
    return replace_rank(state, event.rank, warm_rows=max(rank.warm_rows, event.result.rows))


def _unkept(state: RunState, event: protocol.BatchFinished) -> RunState:
    """The state with the tokens of a batch whose outputs are thrown away: they were generated, so they count."""
    rank, result = state.ranks[event.rank], event.result
    state = replace_rank(
        state,
        event.rank,
        prompt_tokens=rank.prompt_tokens + result.prompt_tokens,
        output_tokens=rank.output_tokens + result.output_tokens,
    )
    return msgspec.structs.replace(
        state,
        prompt_tokens=state.prompt_tokens + result.prompt_tokens,
        output_tokens=state.output_tokens + result.output_tokens,
    )


def _cost(active_ranks: int, result: protocol.BatchResult, seconds: float, *, cold: bool) -> CostPoint:
    return CostPoint(
        cold=cold,
        active_ranks=active_ranks,
        rows=result.rows,
        batches=1,
        steps=result.steps,
        row_steps=result.decode_slots,
        prompt_slots=result.slots - result.decode_slots,
        prompt_tokens=result.prompt_tokens,
        output_tokens=result.output_tokens,
        prefill_seconds=result.prefill_seconds,
        decode_seconds=result.decode_seconds,
        seconds=seconds,
    )


def batch_over(state: RunState, number: int, at: float) -> RunState:
    """A rank's batch is over, however it ended; `at` is in unix seconds."""
    if not 0 <= number < len(state.ranks):
        return state
    rank = state.ranks[number]
    busy = max(0.0, at - rank.batch_started_at) if rank.batch is not None else 0.0
    return replace_rank(
        state,
        number,
        phase="waiting",
        phase_since=at,
        batch=None,
        rows=0,
        batch_rows=0,
        step=0,
        first_step=None,
        last_step=None,
        in_flight_tokens=0,
        rows_at_once=None,
        cache_used=None,
        busy_seconds=rank.busy_seconds + busy,
    )
