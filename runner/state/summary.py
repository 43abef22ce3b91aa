"""The final figures of a run, as run.json holds them and every view shows them. Pure."""

from collections.abc import Sequence

from rankdeck.runner import protocol
from rankdeck.runner.protocol import OutputRecord, Summary
from rankdeck.runner.state.run import RunState


def summarise(state: RunState, unwritten: Sequence[OutputRecord] = ()) -> Summary:
    """The figures of a run so far, as run.json holds them; records that are not on disk are not counted as done."""
    failed = sum(record.error is not None for record in unwritten)
    seconds = state.seconds_before
    if state.first_batch_at is not None and state.last_result_at is not None:
        seconds += max(0.0, state.last_result_at - state.first_batch_at)

    def rate(tokens: int) -> float:
        return round(tokens / seconds, 3) if seconds > 0 else 0.0

    return Summary(
        prompts=state.prompts,
        completed=state.completed - (len(unwritten) - failed),
        failed=state.failed - failed,
        prompt_tokens=state.prompt_tokens,
        output_tokens=state.output_tokens,
        seconds=round(seconds, 3),
        tokens_per_second=rate(state.output_tokens),
        padding_waste=_rounded(state.padding_waste),
        length=state.config.length_mode if state.config else "natural length",
        ranks=[
            protocol.RankSummary(
                rank=rank.rank,
                device=rank.device,
                prompts=rank.prompts,
                batches=rank.batches,
                prompt_tokens=rank.prompt_tokens,
                output_tokens=rank.output_tokens,
                tokens_per_second=rate(rank.output_tokens),
                padding_waste=_rounded(rank.padding_waste),
                idle=round(state.idle(rank), 4),
            )
            for rank in state.ranks
        ],
    )


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)
