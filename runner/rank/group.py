"""The ranks' process group: how a rank enters it, how all wait for each other, and how one fetches for all.

Knows accelerate's and torch's process groups, and no GPU. accelerate's own `wait_for_everyone`, and with it
`local_main_process_first`, hands the local rank to `barrier` as the ordinal of a device. torch makes `cuda:LOCAL_RANK`
of it even where gloo is the backend, and a rank that sees fewer GPUs than that dies. A barrier without a device stays
on the host.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

Found = TypeVar("Found")

NO_NCCL = {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"}
"""Without both, accelerate refuses several RTX 40 cards on drivers before 550. Its launcher sets them, but only for
several ranks. No rank uses NCCL."""


class FetchFailedError(Exception):
    """The first rank could not fetch what all ranks need; the text is what it said."""


def join(world_size: int, timeout: timedelta | None = None) -> Any:
    """This rank's Accelerator. Several ranks form a group; one that waits in it longer than `timeout` raises.

    gloo even on GPUs: generating needs no collective, so NCCL would only cost memory and start-up time.
    """
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs, patch_environment

    waiting = {} if timeout is None else {"timeout": timeout}
    group = [InitProcessGroupKwargs(backend="gloo", **waiting)] if world_size > 1 else []
    with patch_environment(**NO_NCCL):
        return Accelerator(kwargs_handlers=group)


def wait_for_all() -> None:
    """Wait until every rank has come this far; a rank without a group has nobody to wait for."""
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def fetched_once(fetch: Callable[[], Found], find: Callable[[], Found]) -> Found:
    """What the first rank gets from `fetch`, and every other rank, once that is there, from `find`.

    Raises:
        FetchFailedError: on the other ranks, if the first rank's `fetch` raised.
    """
    import torch.distributed

    if not torch.distributed.is_initialized():
        return fetch()
    if torch.distributed.get_rank() != 0:
        if failure := _from_the_first(None):
            raise FetchFailedError(f"fetching on rank 0 failed: {failure}")
        return find()
    try:
        found = fetch()
    except BaseException as error:
        _from_the_first(f"{type(error).__name__}: {error}")
        raise
    _from_the_first(None)
    return found


def _from_the_first(text: str | None) -> str | None:
    """The first rank's `text`, on every rank, each of which has to call this."""
    import torch.distributed

    texts = [text]
    torch.distributed.broadcast_object_list(texts, src=0)
    return texts[0]
