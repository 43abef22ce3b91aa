"""The ranks' process group, and accelerate's place in it.

Knows accelerate's and torch's process groups, and no GPU. Ranks that are to gather find each other through a file that
only their user can read, and talk over the loopback alone; torch's own rendezvous would listen on every interface.
Waiting for each other is not done here: accelerate's `wait_for_everyone` hands the local rank to `barrier` as the
ordinal of a device, and torch makes `cuda:LOCAL_RANK` of it even where gloo is the backend.
"""

import os
from datetime import timedelta
from typing import Any

from rankdeck.runner.launching.environment import LOOPBACK

NO_NCCL = {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"}
"""Without both, accelerate refuses several RTX 40 cards on drivers before 550. No rank uses NCCL by way of
accelerate."""


def join(rank: int, world_size: int, store: str | None, timeout: timedelta | None = None) -> Any:
    """This rank's Accelerator. With a `store` the ranks form a group; to wait in it longer than `timeout` raises.

    gloo even on GPUs: generating needs no collective, so NCCL would only cost memory and start-up time.
    """
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs, patch_environment

    place = {}
    if store is not None and world_size > 1:
        _form_group(rank, world_size, store, timeout)
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    with patch_environment(**NO_NCCL, **place):
        return Accelerator(kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")] if place else [])


def _form_group(rank: int, world_size: int, store: str, timeout: timedelta | None) -> None:
    import torch.distributed

    os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK
    torch.distributed.init_process_group(
        "gloo",
        store=torch.distributed.FileStore(store, world_size),
        rank=rank,
        world_size=world_size,
        **({} if timeout is None else {"timeout": timeout}),
    )
