"""Why a turn of a knob would do nothing, in words for people. Pure.

Knows what is left to hand out, not who asked. A turn that is refused changes nothing: it draws no mark and begins no
period, since its "before and after" would compare a setting with itself.
"""

from rankdeck.runner.protocol import SetActiveRanks, SetBatchSize
from rankdeck.runner.protocol.config import MAX_BATCH_SIZE
from rankdeck.runner.scheduling.scheduler import Scheduler

SWEEPING = "the sweep sets batch size and active ranks"
STOPPING = "the run is stopping: no more batches are handed out"


def no_prompt_left(scheduler: Scheduler, turn: SetBatchSize | SetActiveRanks) -> str | None:
    """Why no batch is left that `turn` could change; None if there is one."""
    if scheduler.pending:
        return None
    wanted = "another batch size" if isinstance(turn, SetBatchSize) else "another number of ranks"
    in_hand = scheduler.unsettled
    rest = "the last one is in flight" if in_hand == 1 else f"the last {in_hand:,} are in flight"
    return f"no prompts left for {wanted}: {rest if in_hand else 'all are done'}"


def batch_size_refused(
    scheduler: Scheduler, asked: int, *, continuous: bool, most_rows: int | None = None
) -> str | None:
    """Why `asked` prompts a batch is refused; None if it is not, or if it is the batch size already.

    `most_rows` are the most that ranks were loaded for.
    """
    now = scheduler.batch_size
    if asked < 1 and now == 1:
        return "batch size is already 1"
    if asked > MAX_BATCH_SIZE and now == MAX_BATCH_SIZE:
        return f"{MAX_BATCH_SIZE:,} is the largest batch size"
    if most_rows is not None and asked > max(now, most_rows):
        return (
            f"vLLM was started for at most {most_rows:,} rows at once; for more, start the run with that --batch-size"
        )
    # A smaller size that changes nothing is let through: it is on the way to one that does.
    if asked > now and not continuous and scheduler.cut_alike(min(asked, MAX_BATCH_SIZE)):
        left = scheduler.pending
        prompts = "1 prompt left already fits" if left == 1 else f"{left:,} prompts left already fit"
        return f"the {prompts} in one round at batch size {now:,}"
    return None


def active_ranks_refused(now: int, asked: int, ranks: int) -> str | None:
    """Why `asked` active ranks are refused, out of `ranks`; None if they are not, or if so many are active already."""
    if asked < 1 and now == 1:
        return "one rank stays active: pause the run instead"
    if asked > ranks and now == ranks:
        return "the only rank is already active" if ranks == 1 else f"all {ranks} ranks are already active"
    return None
