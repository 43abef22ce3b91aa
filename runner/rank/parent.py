"""`python -m rankdeck.runner.rank.parent`, started by `accelerate launch`: it imports for all ranks, then forks them.

Two thousand modules are imported once, and lie in memory once. Knows what must not have happened in a process that is
forked: threads do not come along, and CUDA does not work in a copy. Where an import has done either, each rank begins
as a new program instead, and imports for itself.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from rankdeck.runner.machine import processes
from rankdeck.runner.protocol import ParentImporting, StartRank
from rankdeck.runner.rank import forking, worker
from rankdeck.runner.rank.options import read_options

THREADS = "/proc/self/task"
CUDA_DEVICES = ("/dev/nvidia-uvm", "/dev/dxg")
"""What a process has open once CUDA runs in it; the second under WSL."""

LAUNCHER_SETTINGS = ("KMP_AFFINITY", "KMP_BLOCKTIME")
"""`accelerate launch` pins the threads of Intel's OpenMP on a CPU: those of all ranks to the same cores."""


def main() -> NoReturn:
    """Import, then fork ranks as ordered, until the supervisor is gone."""
    processes.end_with_parent()  # while it imports, it does not see that the supervisor is gone
    channel = forking.take_channel()
    forking.tell(channel, ParentImporting(pid=os.getpid()))
    options = read_options(sys.argv[1:])
    for name in LAUNCHER_SETTINGS:
        os.environ.pop(name, None)
    with _without_threads_or_cuda():
        worker.import_engines(vllm=options.by_vllm)
    why_not = why_no_forking()
    if why_not is not None:
        sys.stdout.write(f"each rank imports for itself: {why_not}\n")
        sys.stdout.flush()

    def be_a_rank(order: StartRank) -> None:
        if why_not is None and not cuda_is_broken():
            worker.live(options, order)
        else:
            worker.begin_anew(options, order)

    forking.serve(channel, be_a_rank, named=("rankdeck.runner.rank.parent", "rankdeck.runner.rank.worker"))


@contextmanager
def _without_threads_or_cuda() -> Iterator[None]:
    """While modules are imported: numpy starts no threads, and whoever asks for GPUs asks NVML instead of CUDA."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    before = os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK")
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"]
        else:
            os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = before


def why_no_forking() -> str | None:
    """What has begun in this process and would not work in a copy of it; None if nothing has."""
    import torch

    if torch.cuda.is_initialized() or any(path.startswith(CUDA_DEVICES) for path in _open_files()):
        return "an import has started CUDA"
    if os.path.isdir(THREADS) and len(os.listdir(THREADS)) > 1:
        return "an import has started threads"
    return None


def cuda_is_broken() -> bool:
    """Whether torch knows that CUDA was asked for something before this process was forked."""
    import torch

    return bool(getattr(torch.cuda, "_is_in_bad_fork", bool)())


def _open_files() -> list[str]:
    found = []
    for descriptor in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []:
        try:
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:
            continue
    return found


if __name__ == "__main__":
    main()
