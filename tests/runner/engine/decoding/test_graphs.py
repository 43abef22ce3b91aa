"""When a step is captured: not the first time, once for each size, and never again after that; and what fails then."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from rankdeck.runner.engine import memory
from rankdeck.runner.engine.decoding.graphs import CaptureError, Graphs


class Card:
    """What is asked of torch.cuda to capture a graph; notes what happens, in order."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.pools: list[object] = []

    def CUDAGraph(self):
        return SimpleNamespace(replay=lambda: self.said.append("replay"))

    def current_stream(self, _device):
        return "the outer one"

    @contextlib.contextmanager
    def stream(self, which):
        assert which == "the outer one"
        yield

    def graph_pool_handle(self):
        return object()

    @contextlib.contextmanager
    def graph(self, _graph, *, pool, capture_error_mode):
        assert capture_error_mode == "thread_local"
        self.pools.append(pool)
        self.said.append("capture")
        yield


@pytest.fixture
def card(monkeypatch):
    made = Card()
    for name in ("CUDAGraph", "graph_pool_handle", "graph", "current_stream", "stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(made, name))
    return made


@pytest.fixture
def graphs(card):
    return Graphs(torch.device("cuda"))


def step_of(card):
    return lambda: card.said.append("step")


def test_the_first_step_of_a_size_is_done_as_it_is_the_next_is_captured_and_all_are_replayed(card, graphs):
    for _ in range(4):
        graphs.run((8, 128), step_of(card), None)
    assert card.said == ["step", "capture", "step", "replay", "replay", "replay"]
    assert len(graphs) == 1


def test_each_size_has_a_graph_and_all_share_one_pool_of_memory(card, graphs):
    for size in ((8, 128), (4, 128), (8, 128), (4, 128), (8, 256), (8, 256), (8, 128)):
        graphs.run(size, step_of(card), None)
    assert len(graphs) == 3
    assert card.said.count("capture") == 3
    assert len(set(map(id, card.pools))) == 1


def test_what_was_forgotten_is_captured_anew_in_a_pool_of_its_own(card, graphs):
    for _ in range(2):
        graphs.run(1, step_of(card), None)
    graphs.forget()
    assert len(graphs) == 0
    for _ in range(2):
        graphs.run(1, step_of(card), None)
    assert card.said == ["step", "capture", "step", "replay"] * 2
    assert card.pools[0] is not card.pools[1]


def failing(error):
    def step():
        raise error

    return step


def test_a_step_that_cannot_be_captured_says_why_in_one_line(card, graphs, monkeypatch):
    monkeypatch.setattr(memory, "is_lost", lambda *_: False)
    graphs.run(1, step_of(card), None)
    with pytest.raises(CaptureError, match="not permitted when stream is capturing") as told:
        graphs.run(1, failing(RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")), None)
    assert "\n" not in str(told.value)


def test_too_little_memory_is_no_reason_against_capturing(card, graphs):
    graphs.run(1, step_of(card), None)
    with pytest.raises(torch.OutOfMemoryError):
        graphs.run(1, failing(torch.OutOfMemoryError("CUDA out of memory")), None)


def test_nor_is_a_lost_gpu(card, graphs, monkeypatch):
    monkeypatch.setattr(memory, "is_lost", lambda *_: True)
    graphs.run(1, step_of(card), None)
    with pytest.raises(RuntimeError, match="illegal memory access") as told:
        graphs.run(1, failing(RuntimeError("CUDA error: an illegal memory access was encountered")), None)
    assert not isinstance(told.value, CaptureError)


def test_an_error_of_a_step_that_is_done_as_it_is_is_its_own(card, graphs):
    with pytest.raises(ZeroDivisionError):
        graphs.run(1, failing(ZeroDivisionError()), None)
