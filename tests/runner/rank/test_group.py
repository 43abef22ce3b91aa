"""The ranks' group: found through a file, over the loopback alone, without a device; and accelerate's place in it."""

import json
import os
import subprocess
import sys
from datetime import timedelta

import psutil
import pytest

from rankdeck.runner.rank import group

RANK = """
import json, os, sys
from rankdeck.runner.rank import group
from accelerate.utils import gather_object
store, rank = sys.argv[1], int(sys.argv[2])
accelerator = group.join(rank, 2, store)
print("joined", flush=True)
sys.stdin.readline()
gathered = gather_object([[rank, os.getpid()]])
with accelerator.split_between_processes(list(range(5))) as share:
    pass
place = [name for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE") if name in os.environ]
print(json.dumps([gathered, share, accelerator.process_index, accelerator.num_processes, place]), flush=True)
accelerator.end_training()
"""


def test_two_ranks_join_through_a_file_gather_and_listen_on_the_loopback_alone(tmp_path):
    store = str(tmp_path / "store")
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, store, str(rank)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    try:
        assert [rank.stdout.readline() for rank in ranks if rank.stdout] == ["joined\n"] * 2
        connections = [one for rank in ranks for one in psutil.Process(rank.pid).net_connections("inet")]
        for rank in ranks:
            assert rank.stdin is not None
            rank.stdin.write("go on\n")
            rank.stdin.flush()
        said = [json.loads(rank.communicate(timeout=60)[0]) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert connections, "gloo's"
    assert {one.laddr.ip for one in connections} <= {"127.0.0.1", "::1"}
    everybody = [[rank, process.pid] for rank, process in enumerate(ranks)]
    assert said == [[everybody, [0, 1, 2], 0, 2, []], [everybody, [3, 4], 1, 2, []]]


def test_a_rank_that_is_not_to_gather_forms_no_group(monkeypatch):
    import accelerate
    import torch.distributed

    made = []
    monkeypatch.setattr(accelerate, "Accelerator", lambda **given: made.append(given) or "accelerator")
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: pytest.fail("nobody is to join"))
    assert group.join(3, 4, None) == "accelerator"
    assert group.join(0, 1, "/a/store") == "accelerator", "nor one that is alone"
    assert made == [{"kwargs_handlers": []}] * 2


def test_on_gpus_too_the_group_is_gloo_s_and_no_rank_may_start_nccl(monkeypatch, tmp_path):
    import accelerate
    import torch.distributed

    joined, seen = [], []

    def make(kwargs_handlers):
        seen.extend([*(handler.backend for handler in kwargs_handlers), os.environ["LOCAL_RANK"], os.environ["RANK"]])

    monkeypatch.setattr(accelerate, "Accelerator", make)
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda backend, **how: joined.append((backend, how["rank"]))
    )
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    group.join(1, 2, str(tmp_path / "store"))
    assert joined == [("gloo", 1)]
    assert seen == ["gloo", "1", "1"]
    assert os.environ["GLOO_SOCKET_IFNAME"] == group.LOOPBACK


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
        assert str(group.join(0, 1, None).device) == "cuda:0"
        assert seen == [["1", "1"]]
        assert [accelerate.state.os.environ.get(name) for name in group.NO_NCCL] == [None, None]
    finally:
        accelerate.state.PartialState._reset_state()
        accelerate.state.AcceleratorState._reset_state()


@pytest.mark.parametrize(("timeout", "given"), [(None, {}), (timedelta(days=7), {"timeout": timedelta(days=7)})])
def test_ranks_wait_for_each_other_as_long_as_they_are_told_to_in_a_group_of_all_of_them(
    monkeypatch, tmp_path, timeout, given
):
    import accelerate
    import torch.distributed

    formed, places = [], []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **how: formed.append(how))
    monkeypatch.setattr(torch.distributed, "FileStore", lambda *where: where)
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    monkeypatch.setattr(accelerate, "Accelerator", lambda **_: places.extend(os.environ.get(name) for name in names))
    for name in names:
        monkeypatch.delenv(name, raising=False)
    group.join(1, 3, "/the/store", timeout)
    assert formed == [{"store": ("/the/store", 3), "rank": 1, "world_size": 3, **given}]
    assert places == ["1", "1", "3", "3"]
    assert not any(name in os.environ for name in names)


def test_a_rank_waits_for_the_others_through_any_download():
    from rankdeck.runner.rank import worker

    assert timedelta(days=7) == worker.GROUP_TIMEOUT
    assert group.NO_NCCL == {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"}
