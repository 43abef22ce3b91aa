"""A rank at work when a batch fails: what it survives, what it frees, and when it gives up its process. The engine and
the connection are stand-ins, torch.cuda is scripted."""

import weakref
from itertools import repeat
from types import SimpleNamespace

import pytest
import torch

from rankdeck.runner import protocol
from rankdeck.runner.engine.continuous import ContinuousEngine
from rankdeck.runner.protocol import Leave, Prompt, Work
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.rank import work
from rankdeck.runner.rank.work import DeviceLostError, EngineBrokenError, RankWork
from tests.fake_cuda import FakeCuda

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
ILLEGAL = "Triton Error [CUDA]: an illegal memory access was encountered"


class Tensor:
    """Stands for what a batch holds on the GPU: takes weak references."""


class Engine:
    """Raises these errors, batch by batch; a frame of each holds a `Tensor`."""

    broken = False

    def __init__(self, *raised: Exception, devices: list[torch.device]) -> None:
        self.raised, self.devices, self.device = list(raised), devices, devices[0]
        self.held: weakref.ref[Tensor] | None = None

    def take_notes(self) -> list[str]:
        return []

    def generate(self, *_, **__):
        tensor = Tensor()
        self.held = weakref.ref(tensor)
        raise self.raised.pop(0)

    def close(self) -> None:
        pass


class Link:
    """Hands out one order after another, then has the rank leave."""

    def __init__(self, orders: int) -> None:
        prompts = [Prompt(index=0, id="0", text="a")]
        self.orders = [*(Work(batch=batch, prompts=prompts) for batch in range(1, orders + 1)), Leave()]
        self.sent: list[object] = []
        self.sharing = self.limit = None

    def next_order(self):
        return self.orders.pop(0)

    next_order_now = next_order

    def send(self, *messages) -> None:
        self.sent.extend(messages)

    def progress(self, steps) -> None:
        pass

    def cancelled(self, batch: int) -> bool:
        return False


@pytest.fixture
def cuda(monkeypatch) -> FakeCuda:
    return FakeCuda().install(monkeypatch)


def run(engine, orders: int | None = None) -> Link:
    link = Link(orders or len(engine.raised))
    RankWork(0, RunConfig(prompts="p"), engine, link).run()
    return link


def test_after_an_error_that_the_gpu_survives_the_rank_goes_on(cuda):
    link = run(Engine(ValueError("bad"), RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), devices=[GPU]))
    assert [(failed.batch, failed.kind, failed.error) for failed in link.sent] == [
        (1, "error", "ValueError: bad"),
        (2, "error", "RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ]
    assert cuda.calls == ["synchronize cuda:0"] * 2


@pytest.mark.parametrize(
    ("error", "later"),
    [
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), RuntimeError("CUDA error: unspecified")),
        (RuntimeError("CUDA driver error: invalid argument"), RuntimeError("CUDA error: unknown error")),
        (ValueError("of the host, while a kernel died"), RuntimeError("CUDA error: misaligned address")),
        (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: an illegal memory access")),
    ],
)
def test_a_rank_whose_gpu_no_longer_answers_ends_without_giving_its_prompts_up(cuda, error, later):
    cuda.broken = repeat(later)
    engine, link = Engine(error, devices=[torch.device("cuda", 2), GPU]), Link(2)
    with pytest.raises(DeviceLostError, match=r"this process can no longer use cuda:2, cuda:0: ") as lost:
        RankWork(0, RunConfig(prompts="p"), engine, link).run()
    assert lost.value.__cause__ is error
    assert link.sent == [], "that the rank is lost says it all: its prompts go back"
    assert len(link.orders) == 2, "it takes no other batch"


def test_all_gpus_of_a_rank_are_asked(cuda):
    run(Engine(ValueError("bad"), devices=[GPU, torch.device("cuda", 1)]))
    assert cuda.calls == ["synchronize cuda:0", "synchronize cuda:1"]


def test_an_error_that_the_gpu_reports_late_but_only_once_costs_the_batch_alone(cuda):
    cuda.broken = iter([RuntimeError("CUDA error: invalid argument")])
    assert [failed.kind for failed in run(Engine(ValueError("bad"), devices=[GPU])).sent] == ["error"]


@pytest.mark.parametrize("text", [ILLEGAL, "CUDA error: device-side assert triggered"])
def test_of_some_errors_the_text_says_enough(cuda, text):
    with pytest.raises(DeviceLostError, match=text[:20].replace("[", r"\[")):
        run(Engine(RuntimeError(text), devices=[GPU]))


def test_a_rank_on_a_cpu_has_no_gpu_to_lose(cuda):
    cuda.broken = repeat(RuntimeError("must not be asked"))
    assert [failed.kind for failed in run(Engine(RuntimeError(ILLEGAL), devices=[CPU])).sent] == ["error"]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA driver error: ")])
def test_after_too_little_memory_the_batch_is_let_go_before_the_reserve_is_given_back(cuda, monkeypatch, error):
    if not str(error).endswith("memory"):
        error.__cause__ = RuntimeError("Triton Error [CUDA]: out of memory")
    engine = Engine(error, devices=[GPU])
    alive_when_emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive_when_emptied.append(engine.held() is not None))
    (failed,) = run(engine).sent
    assert failed.kind == "out_of_memory"
    assert alive_when_emptied == [False]


def continuous(error: Exception, monkeypatch) -> ContinuousEngine:
    """A continuous engine whose first step raises; everything before it is a stand-in."""
    engine = ContinuousEngine.__new__(ContinuousEngine)
    engine.devices, engine.device = [GPU], GPU
    engine._notes, engine._keys, engine._manager = [], {"0": "row"}, SimpleNamespace(current_batch=0)
    for name, stand_in in {
        "tokenise": lambda prompts: ({0: [1, 2]}, {}),
        "submit": lambda key, ids: None,
        "tokens_in_flight": lambda: 0,
        "close": lambda: engine._keys.clear(),
    }.items():
        monkeypatch.setattr(engine, name, stand_in)

    def ended(seconds: float):
        raise error

    monkeypatch.setattr(engine, "ended", ended)
    return engine


@pytest.mark.parametrize(
    ("error", "kind"),
    [(ValueError("bad"), "error"), (RuntimeError("CUDA driver error: out of memory"), "out_of_memory")],
)
def test_a_continuous_rank_survives_and_dies_of_the_same(cuda, monkeypatch, error, kind):
    engine = continuous(error, monkeypatch)
    link = Link(1)
    link.next_order_now = lambda: None
    RankWork(0, RunConfig(prompts="p"), engine, link).run()
    assert [type(message) for message in link.sent] == [protocol.BatchFailed]
    assert link.sent[0].kind == kind

    cuda.broken = repeat(RuntimeError("CUDA error: unknown error"))
    link = Link(1)
    link.next_order_now = lambda: None
    with pytest.raises(DeviceLostError):
        RankWork(0, RunConfig(prompts="p"), continuous(error, monkeypatch), link).run()
    assert link.sent == []


def test_what_was_raised_stands_in_the_rank_s_log(cuda, capsys):
    run(Engine(ValueError("bad"), devices=[CPU]))
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last):")
    assert said.endswith("ValueError: bad\n")


def test_memory_is_freed_on_the_rank_s_own_device_and_only_if_there_was_too_little(cuda, monkeypatch):
    freed = []
    monkeypatch.setattr(work.memory, "free_memory", freed.append)
    second = torch.device("cuda", 1)
    run(Engine(ValueError("bad"), torch.OutOfMemoryError("full"), devices=[second, GPU]))
    assert freed == [second]


def test_what_is_said_of_a_lost_gpu_is_its_first_line():
    lost = DeviceLostError([GPU], RuntimeError("CUDA error: unknown error\nCUDA kernel errors might be"))
    assert str(lost) == "this process can no longer use cuda:0: RuntimeError: CUDA error: unknown error"


@pytest.mark.parametrize(
    ("error", "told"),
    [(RuntimeError("an issue"), []), (torch.OutOfMemoryError("CUDA out of memory"), ["out_of_memory"])],
)
def test_an_engine_that_cannot_go_on_ends_its_rank_and_too_little_memory_is_told_before(cuda, error, told):
    engine = Engine(error, devices=[GPU])
    engine.name, engine.broken = "vllm", True
    link = Link(1)
    with pytest.raises(EngineBrokenError, match="vllm cannot go on: "):
        RankWork(0, RunConfig(prompts="p"), engine, link).run()
    assert [(failed.kind, failed.leaving) for failed in link.sent] == [(kind, True) for kind in told]
