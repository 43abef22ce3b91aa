"""What a rank says of its device, and what of the GPUs that it cannot use."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rankdeck.runner.machine import placement
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.rank import device

GPUS = [torch.device("cuda", index) for index in range(3)]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv(placement.COUNTED, raising=False)


def properties(monkeypatch, **more) -> None:
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda at: SimpleNamespace(name="H100", **{"uuid": f"u{at.index}", **more})
    )


def facts(*of: torch.device, **settings) -> dict:
    return device.device_facts(of[0], list(of), RunConfig(prompts="p", device="cuda", **settings), 0)


def test_a_gpu_is_known_by_its_name_its_uuid_and_its_place_on_the_bus(monkeypatch):
    properties(monkeypatch, pci_domain_id=1, pci_bus_id=0xAB, pci_device_id=3)
    assert facts(GPUS[1]) == {
        "device": "cuda:1",
        "device_name": "H100",
        "device_uuid": "u1",
        "device_uuids": [],
        "pci_bus_id": "00000001:ab:03.0",
    }


def test_of_several_gpus_all_are_named_unless_torch_knows_not_all_of_them(monkeypatch):
    properties(monkeypatch)
    found = facts(*GPUS[:2], gpus_per_rank=2)
    assert (found["device_uuid"], found["device_uuids"]) == ("u0", ["u0", "u1"])
    assert "pci_bus_id" not in found
    properties(monkeypatch, uuid="")
    found = facts(*GPUS[:2], gpus_per_rank=2)
    assert (found["device_uuid"], found["device_uuids"]) == (None, [])


def test_a_cpu_has_the_name_of_its_processor_and_threads():
    found = device.device_facts(torch.device("cpu"), [], RunConfig(prompts="p"), 0)
    assert found == {"device": "cpu", "device_name": device._cpu_name(), "threads": torch.get_num_threads()}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor: 0\nmodel name\t: EPYC 9V: x \nmodel name\t: other\n", "EPYC 9V: x"),
        ("flags: a\n", "CPU"),
        ("model name:\n", "CPU"),
        (None, "CPU"),
    ],
)
def test_the_name_of_the_processor_is_the_first_that_the_kernel_says(monkeypatch, text, name):
    def read_text(path, **_):
        if text is None:
            raise OSError
        return text

    monkeypatch.setattr(Path, "read_text", read_text)
    assert device._cpu_name() == name


@pytest.mark.parametrize(
    ("built", "said"),
    [
        (None, "torch {} sees no CUDA device; install a CUDA build of it, or use --device cpu"),
        (
            "13.0",
            "torch {}, built for CUDA 13.0, cannot use a GPU here: it finds no GPU. See `rankdeck doctor`, or use "
            "--device cpu",
        ),
    ],
)
def test_why_there_is_no_gpu_is_said_with_what_to_do(monkeypatch, built, said):
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    assert device._why_no_cuda() == said.format(torch.__version__)


@pytest.mark.parametrize(
    ("counted", "kind", "found"),
    [("GPU-1,GPU-2", "cuda", 2), ("GPU-1,GPU-2", "cpu", 2), ("", "cuda", 5), ("", "cpu", 0)],
)
def test_the_gpus_of_a_run_are_those_that_nvml_counted_else_those_that_are_seen(monkeypatch, counted, kind, found):
    monkeypatch.setenv(placement.COUNTED, counted)
    monkeypatch.setattr(device, "_count_opened", lambda: 5)
    assert device.gpus_of_run(RunConfig(prompts="p", device=kind)) == found


def test_on_a_cpu_no_gpu_is_hidden_or_taken(monkeypatch):
    monkeypatch.setattr(placement, "own_environment", lambda *_: pytest.fail("there is nothing to hide"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("nobody asks"))
    config = RunConfig(prompts="p", device="cpu")
    device.hide_other_gpus(config, 1)
    assert device.take_device(config, 1) is None


@pytest.fixture
def opened(monkeypatch):
    """Stands in for torch.cuda with this many GPUs; gives what was made current."""

    def of(seen: int, *, remark: str | None = None) -> list[int]:
        current: list[int] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(device, "_count_opened", lambda: seen)
        monkeypatch.setattr(device, "_uuid", lambda index: f"u{index}")
        monkeypatch.setattr(torch.cuda, "set_device", current.append)
        monkeypatch.setattr(
            "rankdeck.runner.engine.memory.without_expandable_segments", lambda at: remark and f"{at}: {remark}"
        )
        return current

    monkeypatch.setenv(placement.OWN_DEVICE, "unset")
    return of


def taken(rank: int, **settings) -> str | None:
    return device.take_device(RunConfig(**{"prompts": "p", "device": "cuda", "ranks": 4, **settings}), rank)


def test_the_device_a_rank_takes_is_the_one_that_accelerate_takes_and_is_remarked_on(monkeypatch, opened):
    current = opened(3, remark="no segments")
    assert taken(2) == "cuda:2: no segments"
    assert (current, os.environ[placement.OWN_DEVICE]) == ([2], "cuda:2")
    monkeypatch.setenv(placement.COUNTED, "GPU-u1,GPU-u0,GPU-u2")
    assert taken(3) == (
        "CUDA numbers the GPUs differently from nvidia-smi; the GPU table goes by UUID; cuda:0: no segments"
    )
    assert current == [2, 0]


def test_a_rank_of_several_gpus_or_with_a_mig_device_compares_nothing(monkeypatch, opened):
    current = opened(2)
    monkeypatch.setenv(placement.COUNTED, ",".join(f"GPU-u{number}" for number in range(8)))
    assert taken(1, gpus_per_rank=2) is None
    opened(1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a")
    assert taken(3, ranks=8) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(RuntimeError, match="8 ranks would share a GPU instead of 1"):
        taken(3, ranks=8)
    assert current == [0]


@pytest.mark.parametrize(("seen", "enough"), [(1, False), (2, True)])
def test_a_rank_needs_all_of_its_gpus(monkeypatch, opened, seen, enough):
    opened(seen)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    if enough:
        assert taken(1, gpus_per_rank=2) is None
    else:
        with pytest.raises(RuntimeError) as raised:
            taken(1, gpus_per_rank=2)
        assert str(raised.value) == "torch sees 1 of the 2 GPUs of this rank (CUDA_VISIBLE_DEVICES=4,5)"


def test_only_where_gpus_were_asked_for_are_others_hidden(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    device.hide_other_gpus(RunConfig(prompts="p", device="cpu", gpus_per_rank=2), 1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5,6,7"
    device.hide_other_gpus(RunConfig(prompts="p", device="cuda", gpus_per_rank=2), 1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "6,7"


@pytest.mark.parametrize(
    ("visible", "counted", "seen", "devices"),
    [
        ("0,1", "GPU-a,GPU-b,GPU-c", 2, 2),
        ("MIG-a", "MIG-a,MIG-b", 1, 2),
        ("MIG-a", "", 1, 1),
        (None, "", 4, 4),
    ],
)
def test_the_devices_of_a_run_are_those_that_are_seen_but_of_mig_devices_all(
    monkeypatch, visible, counted, seen, devices
):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv(placement.COUNTED, counted)
    assert device.devices_of_run(seen) == devices


def test_a_rank_on_a_mig_device_has_the_number_of_the_run_not_of_its_process(monkeypatch):
    properties(monkeypatch, pci_domain_id=0, pci_bus_id=1, pci_device_id=0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-b")
    monkeypatch.setenv(placement.COUNTED, "MIG-a,MIG-b")
    config = RunConfig(prompts="p", device="cuda", ranks=4)
    found = [device.device_facts(GPUS[0], GPUS[:1], config, rank)["device"] for rank in range(4)]
    assert found == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert device.device_facts(GPUS[0], GPUS[:1], config, 1)["device_uuids"] == []


def test_gpus_are_counted_after_cuda_has_begun(monkeypatch):
    did = []
    monkeypatch.setattr(torch.cuda, "init", lambda: did.append("init"))
    monkeypatch.setattr(torch._C, "_cuda_getDeviceCount", lambda: len(did) and 3, raising=False)
    assert device._count_opened() == 3
    monkeypatch.delattr(torch._C, "_cuda_getDeviceCount")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    assert device._count_opened() == 5, "by a build without CUDA"
