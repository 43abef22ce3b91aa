"""The ranks' group where torch has CUDA: waiting for each other names no device, and one fetches for all."""

import json
import subprocess
import sys
import textwrap

import pytest
import torch
import torch.distributed

from rankdeck.runner.rank import group

HAS_ONE_GPU = """
import torch

torch._C._get_accelerator = lambda *_: torch.device("cuda")
torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 1
"""

RANK = f"""
import json, sys
import torch.distributed
from rankdeck.runner.rank import group
{HAS_ONE_GPU}
path, rank = sys.argv[1], int(sys.argv[2])
torch.distributed.init_process_group("gloo", store=torch.distributed.FileStore(path, 2), rank=rank, world_size=2)
group.wait_for_all()
fetched = []
found = group.fetched_once(fetch=lambda: fetched.append(rank) or "folder", find=lambda: "found")

def fail():
    raise OSError("the hub is not there")

try:
    failed = group.fetched_once(fetch=fail, find=lambda: "found")
except Exception as error:
    failed = type(error).__name__ + ": " + str(error)
group.wait_for_all()
torch.distributed.destroy_process_group()
print(json.dumps([fetched, found, failed]))
"""


@pytest.fixture
def alone_in_a_group(tmp_path, monkeypatch):
    """A gloo group of this process alone, where torch takes CUDA for the accelerator and sees one GPU."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    monkeypatch.setattr(torch._C, "_get_accelerator", lambda *_: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    yield
    torch.distributed.destroy_process_group()


def test_a_barrier_that_names_the_local_rank_wants_that_gpu_and_ours_wants_none(alone_in_a_group):
    with pytest.raises((RuntimeError, NotImplementedError), match=r"(?i)cuda"):
        torch.distributed.barrier(device_ids=[1])  # as accelerate's wait_for_everyone does on local rank 1
    group.wait_for_all()


def test_a_rank_without_a_group_waits_for_nobody_and_fetches_by_itself():
    group.wait_for_all()
    assert group.fetched_once(fetch=lambda: "fetched", find=lambda: "found") == "fetched"


def test_two_ranks_on_one_gpu_wait_for_each_other_and_the_first_fetches_for_both(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RANK), str(tmp_path / "store"), str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        said = [rank.communicate(timeout=60) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], said
    first, second = (json.loads(out) for out, _ in said)
    assert first == [[0], "folder", "OSError: the hub is not there"]
    assert second == [[], "found", "FetchFailedError: fetching on rank 0 failed: OSError: the hub is not there"]


def test_one_rank_on_several_rtx_40_cards_with_an_older_driver_is_not_refused_by_accelerate(monkeypatch):
    import accelerate.state

    seen = []
    monkeypatch.setattr(
        accelerate.state.PartialState,
        "set_device",
        lambda self: seen.append([accelerate.state.os.environ.get(name) for name in group.NO_NCCL]),
    )
    monkeypatch.setattr(accelerate.state, "check_cuda_p2p_ib_support", lambda: False)
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cuda:0")
    for name in group.NO_NCCL:
        monkeypatch.delenv(name, raising=False)
    accelerate.state.PartialState._reset_state()
    accelerate.state.AcceleratorState._reset_state()
    try:
        assert str(group.join(1).device) == "cuda:0"
        assert seen == [["1", "1"]]
        assert [accelerate.state.os.environ.get(name) for name in group.NO_NCCL] == [None, None]
    finally:
        accelerate.state.PartialState._reset_state()
        accelerate.state.AcceleratorState._reset_state()
