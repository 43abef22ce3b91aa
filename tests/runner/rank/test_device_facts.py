"""What a rank says of its device, and what of the GPUs that it cannot use."""

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
