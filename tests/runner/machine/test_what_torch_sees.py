"""What a rank makes of the GPUs that torch sees, where NVML has counted others, and how it is given a MIG device."""

import os
from types import SimpleNamespace

import msgspec
import pytest
import torch

from rankdeck.runner import checks
from rankdeck.runner.engine import memory
from rankdeck.runner.machine import placement, telemetry
from rankdeck.runner.machine.telemetry import VisibleGpu
from rankdeck.runner.protocol import StartRank
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.rank import device, worker
from rankdeck.runner.rank.options import Options
from rankdeck.runner.supervisor import launch

EIGHT = [f"GPU-{number}" for number in range(8)]
MIGS = "MIG-a,MIG-b,MIG-c"


@pytest.fixture
def sees(monkeypatch):
    """Stands in for torch.cuda with the GPUs of these UUIDs; gives the list of devices that were made current."""

    def stand_in(uuids: list[str]) -> list[int]:
        counted, current = [], []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "init", lambda: counted.append(True))
        # Before CUDA is initialised, torch counts what NVML lists.
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(uuids) if counted else 8)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=uuids[index]))
        monkeypatch.setattr(torch.cuda, "set_device", current.append)
        monkeypatch.setattr(memory, "_allocate", lambda device: None)
        return current

    monkeypatch.setenv(placement.OWN_DEVICE, "unset")
    monkeypatch.setenv(placement.COUNTED, ",".join(EIGHT))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return stand_in


def config(ranks: int, **settings) -> RunConfig:
    return RunConfig(prompts="p", device="cuda", ranks=ranks, **settings)


def test_a_rank_refuses_to_load_where_torch_sees_too_few_gpus_for_the_plan(sees):
    current = sees(["0"])
    with pytest.raises(RuntimeError) as refusal:
        device.take_device(config(8), 3)
    assert str(refusal.value) == (
        "torch sees 1 GPU, but the driver has 8 for this run: 8 ranks would share a GPU instead of 1; "
        "start 1 at most (--ranks), or name in CUDA_VISIBLE_DEVICES the GPUs that torch can use"
    )
    assert current == [], "before anything is on a GPU"


@pytest.mark.parametrize(
    ("ranks", "seen", "refused"),
    [
        (8, 8, False),
        (8, 7, True),
        (7, 7, False),
        (4, 4, False),
        (16, 8, False),
        (16, 7, True),
        (9, 5, False),
        (1, 1, False),
    ],
)
def test_what_counts_is_how_many_ranks_would_share_a_gpu(ranks, seen, refused):
    found = placement.compare(ranks, EIGHT, EIGHT[:seen])
    assert (found.refusal is not None) == refused
    if refused:
        assert f"start {seen * -(-ranks // 8)} at most (--ranks)" in found.refusal


def test_a_difference_that_does_no_harm_is_said_in_the_log(sees):
    sees(EIGHT[:4])
    assert device.take_device(config(2), 1) == "torch sees 4 GPUs, but the driver has 8 for this run"
    assert placement.compare(2, EIGHT[:1], EIGHT[:2]).remark == "torch sees 2 GPUs, but the driver has 1 for this run"


def test_gpus_in_another_order_are_said_in_the_log(sees):
    sees(["1", "0", *"234567"])
    assert "differently from nvidia-smi" in device.take_device(config(8), 0)
    sees([uuid.removeprefix("GPU-") for uuid in EIGHT])
    assert device.take_device(config(8), 0) is None


def test_without_nvml_there_is_nothing_to_compare(sees, monkeypatch):
    current = sees(["0", "1"])
    monkeypatch.delenv(placement.COUNTED)
    assert device.take_device(config(8), 3) is None
    assert current == [1]


def test_mig_devices_are_given_one_to_each_rank_in_turn(sees, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", MIGS)
    given = []
    for rank in range(4):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", MIGS)
        device.hide_other_gpus(config(4), rank)
        given.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert given == ["MIG-a", "MIG-b", "MIG-c", "MIG-a"]
    current = sees(["of the whole GPU"])
    monkeypatch.setenv(placement.COUNTED, MIGS)
    assert device.take_device(config(4), 3) is None, "one is seen, as it should be"
    assert current == [0]


def test_a_rank_on_a_mig_device_reports_the_uuid_it_was_given(sees, monkeypatch):
    sees(["of the whole GPU"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-b")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name="MIG 1g", uuid="of the whole GPU")
    )
    monkeypatch.setenv(placement.COUNTED, MIGS)
    gpu = torch.device("cuda", 0)
    facts = device.device_facts(gpu, [gpu], config(4), 1)
    assert (facts["device_uuid"], facts["device"]) == ("MIG-b", "cuda:1"), "cuda:0 to every process"
    assert device.devices_of_run(1) == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert device.devices_of_run(2) == 2


def test_only_one_rank_says_what_differs(monkeypatch, tmp_path):
    run = SimpleNamespace(config=RunConfig(prompts="p", device="cpu"), prompts=1)
    monkeypatch.setattr("rankdeck.runner.run_directory.read_run_file", lambda _: run)
    monkeypatch.setattr(worker, "take_device", lambda *_, **__: "torch sees more")
    monkeypatch.setattr("accelerate.Accelerator", lambda **_: SimpleNamespace(device=torch.device("cpu")))
    said = []
    for rank in (0, 1):
        link = SimpleNamespace(send=said.append)
        worker._Rank(Options(run_dir=tmp_path, socket="", model=""), StartRank(rank=rank, world_size=1), link)._join()
    assert [line.text for line in said] == ["torch sees more"]


def test_several_mig_devices_for_a_rank_are_refused(monkeypatch, tmp_path):
    (tmp_path / "p.txt").write_text("hello\n")
    migs = [VisibleGpu(0, uuid, "A100") for uuid in MIGS.split(",")]
    monkeypatch.setattr(telemetry, "visible_gpus", lambda environ, api=None: migs)
    settings = config(1, gpus_per_rank=2)
    (problem,) = checks.check(msgspec.structs.replace(settings, prompts=str(tmp_path / "p.txt")))
    assert str(problem) == "--gpus-per-rank: a process cannot have more than one MIG device; leave it out"
    shared = msgspec.structs.replace(
        settings, prompts=str(tmp_path / "p.txt"), gpus_per_rank=1, ranks=6, ranks_per_gpu=2
    )
    assert checks.check(shared) == [], "two ranks on each can be had"


@pytest.mark.parametrize(("device", "told"), [("cuda", {"RANKDECK_GPUS": "GPU-7"}), ("cpu", {})])
async def test_ranks_are_launched_with_what_nvml_has_counted(monkeypatch, tmp_path, device, told):
    orders = []
    parent = SimpleNamespace(lives=True, pid=None, order=lambda *given: orders.extend(given))
    monkeypatch.setattr(telemetry, "rank_variables", lambda environ: {"RANKDECK_GPUS": "GPU-7"})
    monkeypatch.setattr("rankdeck.runner.run_directory.socket_path", lambda directory: directory / "sock")
    run = RunConfig(prompts="p", device=device, ranks=1)
    events = SimpleNamespace(log=lambda source, text: None)
    pool = SimpleNamespace(attempt=1)
    await launch.RankLaunch(pool, tmp_path, run, "demo", lambda *_: ["true"], parent, events).start()
    assert [order.environment for order in orders] == [told], "by a parent that was there before, too"


def test_gpus_are_counted_by_cuda_itself_where_torch_goes_on_asking_nvml(sees, monkeypatch):
    sees(EIGHT)
    monkeypatch.setattr(torch._C, "_cuda_getDeviceCount", lambda: 1, raising=False)
    with pytest.raises(RuntimeError, match="torch sees 1 GPU, but the driver has 8"):
        device.take_device(config(8), 3)


def test_a_driver_that_is_too_old_for_torch_is_told_in_torch_s_words(monkeypatch):
    def fail() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nAdvice of torch's")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", fail)
    with pytest.raises(
        RuntimeError, match=r"built for CUDA 13\.0, .* driver on your system is too old .*\. See `rankdeck"
    ):
        device.take_device(config(1), 0)
