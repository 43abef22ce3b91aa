"""What a rank says of its device, and what of the GPUs that it cannot use."""

import os
from types import SimpleNamespace

import pytest
import torch

from rankdeck.runner.engine import memory
from rankdeck.runner.machine import placement, processes
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


@pytest.mark.parametrize(("told", "cores"), [("6", 6), ("", None), (None, None)])
def test_a_cpu_has_the_name_of_its_processor_threads_and_the_cores_that_all_ranks_share(monkeypatch, told, cores):
    monkeypatch.delenv("RANKDECK_CORES", raising=False)
    if told is not None:
        monkeypatch.setenv("RANKDECK_CORES", told)
    found = device.device_facts(torch.device("cpu"), [], RunConfig(prompts="p"), 0)
    name, threads = processes.cpu_name(), torch.get_num_threads()
    assert found == {"device": "cpu", "device_name": name, "threads": threads, "cores": cores}


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
    monkeypatch.setattr(placement, "own_environment", lambda *_, **__: pytest.fail("there is nothing to hide"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("nobody asks"))
    config = RunConfig(prompts="p", device="cpu")
    device.hide_other_gpus(config, 1)
    assert device.take_device(config, 1) is None


# --- taking a device ---


@pytest.fixture
def cuda(monkeypatch):
    """Three GPUs that torch sees; `done` has what was asked of them."""
    found = SimpleNamespace(done=[], seen=3, segments=None)
    monkeypatch.setenv(placement.OWN_DEVICE, "unset")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "_count_opened", lambda: found.seen)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: found.done.append(("current", index)))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"u{index}"))

    def without_expandable_segments(at):
        found.done.append(("tried", str(at)))
        return found.segments

    monkeypatch.setattr(memory, "without_expandable_segments", without_expandable_segments)
    return found


def gpu_run(**settings) -> RunConfig:
    return RunConfig(prompts="p", device="cuda", **settings)


@pytest.mark.parametrize(
    ("segments", "counted", "said"),
    [
        (None, "", None),
        ("they do not work", "", "they do not work"),
        (None, "GPU-u0,GPU-u1", "torch sees 3 GPUs, but the driver has 2 for this run"),
        ("they do not work", "GPU-u0,GPU-u1", "torch sees 3 GPUs, but the driver has 2 for this run; they do not work"),
        (None, "GPU-u0,GPU-u1,GPU-u2", None),
    ],
)
def test_a_rank_makes_its_gpu_the_one_of_torch_and_accelerate_and_says_what_is_odd(
    monkeypatch, cuda, segments, counted, said
):
    monkeypatch.setenv(placement.COUNTED, counted)
    cuda.segments = segments
    assert device.take_device(gpu_run(ranks=2), 4) == said
    assert cuda.done == [("current", 1), ("tried", "cuda:1")], "the first tensor is on its own"
    assert os.environ[placement.OWN_DEVICE] == "cuda:1"


def test_a_rank_that_is_spread_or_has_a_mig_device_compares_nothing_with_what_nvml_counted(monkeypatch, cuda):
    monkeypatch.setattr(placement, "compare", lambda *_: pytest.fail("it sees its own alone"))
    assert device.take_device(gpu_run(ranks=1, gpus_per_rank=3), 0) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a")
    cuda.seen = 1
    assert device.take_device(gpu_run(ranks=4), 3) is None
    assert [done for done in cuda.done if done[0] == "current"] == [("current", 0)] * 2


def test_what_torch_sees_is_compared_in_its_order(monkeypatch, cuda):
    asked = []
    monkeypatch.setattr(placement, "compare", lambda *given: asked.append(given) or placement.Comparison())
    monkeypatch.setenv(placement.COUNTED, "GPU-a,,GPU-b")
    device.take_device(gpu_run(ranks=2), 0)
    assert asked == [(2, ["GPU-a", "GPU-b"], ["u0", "u1", "u2"])]


@pytest.mark.parametrize(("seen", "visible"), [(1, None), (0, "5,6")])
def test_a_spread_rank_that_sees_too_few_gpus_takes_none(monkeypatch, cuda, seen, visible):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    cuda.seen = seen
    with pytest.raises(RuntimeError) as raised:
        device.take_device(gpu_run(ranks=1, gpus_per_rank=2), 0)
    assert str(raised.value) == f"torch sees {seen} of the 2 GPUs of this rank (CUDA_VISIBLE_DEVICES={visible})"
    assert cuda.done == []


@pytest.mark.parametrize(("counts", "found"), [({}, 4), ({"_cuda_getDeviceCount": lambda: 2}, 2)])
def test_gpus_are_counted_once_cuda_is_there_by_cuda_itself_where_torch_can(monkeypatch, counts, found):
    order = []
    monkeypatch.setattr(torch.cuda, "init", lambda: order.append("init"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: order.append("count") or 4)
    monkeypatch.setattr(torch, "_C", SimpleNamespace(**counts))
    assert device._count_opened() == found
    assert order == (["init"] if counts else ["init", "count"])


# --- a share of it ---


@pytest.fixture
def shares(monkeypatch):
    """What is done to hold a rank to its share, in order."""
    done: list = []
    monkeypatch.setattr(device, "_count_opened", lambda: 3)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda at: done.append(("context", at)))
    monkeypatch.setattr(memory, "hold_to_share", lambda *given: done.append(("held", *given)) or "the share")

    def go(rank: int, at: torch.device = GPUS[1], **settings):
        done.clear()
        found = device.hold_to_share(gpu_run(**settings), rank, at, lambda *given: done.append(given))
        return found, list(done)

    return go


@pytest.mark.parametrize(
    ("ranks", "rank", "sharing"), [(4, 0, 2), (4, 1, 1), (6, 5, 2), (7, 0, 3), (7, 3, 3), (7, 4, 2)]
)
def test_all_ranks_of_a_run_that_shares_gpus_meet_twice_and_those_that_share_theirs_are_held(
    shares, ranks, rank, sharing
):
    found, done = shares(rank, ranks=ranks)
    held = [("held", GPUS[1], sharing, 3)] if sharing > 1 else []
    assert done == [("context", GPUS[1]), (rank, "memory taken"), *held, (rank, "memory seen")]
    assert found == ("the share" if held else None)


@pytest.mark.parametrize(
    "settings", [{"ranks": 3}, {"ranks": 8, "gpus_per_rank": 2}, {"ranks": 8, "at": torch.device("cpu")}]
)
def test_where_no_gpu_is_shared_nobody_waits(shares, settings):
    assert shares(0, **settings) == (None, [])


# --- which device it is ---


def test_each_rank_with_a_mig_device_is_at_its_own_number_of_the_run_s(monkeypatch):
    properties(monkeypatch, uuid="of the whole GPU")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-b")
    monkeypatch.setenv(placement.COUNTED, "MIG-a,MIG-b")
    found = [device.device_facts(GPUS[0], GPUS[:1], gpu_run(ranks=4), rank) for rank in range(3)]
    assert [one["device"] for one in found] == ["cuda:0", "cuda:1", "cuda:0"]
    assert {(one["device_uuid"], *one["device_uuids"]) for one in found} == {("MIG-b",)}
    monkeypatch.delenv(placement.COUNTED)
    assert device.devices_of_run(1) == 1
    assert device.device_facts(GPUS[0], GPUS[:1], gpu_run(ranks=4), 3)["device"] == "cuda:0"


def test_a_rank_that_sees_its_gpu_alone_is_at_its_number_of_the_run_s(monkeypatch):
    properties(monkeypatch)
    found = device.device_facts(GPUS[0], GPUS[:1], gpu_run(ranks=4), 3, alone=True)
    assert (found["device"], found["device_uuid"]) == ("cuda:3", "u0")
    spread = device.device_facts(GPUS[0], GPUS[:2], gpu_run(gpus_per_rank=2), 1, alone=True)
    assert spread["device"] == "cuda:2,3"


def test_a_rank_that_keeps_its_threads_says_nothing_of_the_cores_it_might_come_to_use(monkeypatch):
    monkeypatch.setenv("RANKDECK_CORES", "8")
    config = RunConfig(prompts="p")
    found = [device.device_facts(torch.device("cpu"), [], config, 0, alone=alone)["cores"] for alone in (False, True)]
    assert found == [8, None]


def test_a_spread_rank_is_at_the_run_s_numbers_of_its_gpus(monkeypatch):
    properties(monkeypatch)
    found = device.device_facts(GPUS[0], GPUS[:2], gpu_run(gpus_per_rank=2), 1)
    assert (found["device"], found["device_uuid"]) == ("cuda:2,3", "u0")


def test_where_the_driver_does_not_tell_a_place_on_the_bus_none_is_said(monkeypatch):
    properties(monkeypatch)
    assert set(facts(GPUS[2])) == {"device", "device_name", "device_uuid", "device_uuids"}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda at: SimpleNamespace(name="Old"))
    assert facts(GPUS[2]) == {"device": "cuda:2", "device_name": "Old", "device_uuid": None, "device_uuids": []}


def test_why_cuda_cannot_be_used_is_its_own_first_line(monkeypatch):
    def fail():
        raise RuntimeError("The driver is too old\nadvice")

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "init", fail)
    assert device._why_no_cuda() == (
        f"torch {torch.__version__}, built for CUDA 12.8, cannot use a GPU here: RuntimeError: The driver is too old. "
        "See `rankdeck doctor`, or use --device cpu"
    )


def test_a_rank_sees_what_its_place_gives_it(monkeypatch):
    asked = []
    monkeypatch.setenv("SEEN", "before")
    monkeypatch.setattr(placement, "own_environment", lambda *given, alone: asked.append(given) or {"SEEN": "its own"})
    device.hide_other_gpus(gpu_run(gpus_per_rank=2), 3)
    assert asked == [(os.environ, 3, 2)]
    assert os.environ["SEEN"] == "its own"
