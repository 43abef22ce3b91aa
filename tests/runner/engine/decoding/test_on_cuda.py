"""The decode loop on a simulated GPU: a captured step neither reads from the device nor copies anything to it."""

import copy

import pytest
import torch

from rankdeck.runner.engine import rows
from rankdeck.runner.engine.static import StaticEngine
from rankdeck.runner.protocol.config import RunConfig
from tests.pretend_cuda import PretendCuda
from tests.runner.engine.decoding.captured import capture
from tests.runner.engine.tiny import TEXTS, ByteTokenizer, ending_early, make, prompts


@pytest.fixture
def cuda(asked_of_cuda, monkeypatch):
    """torch, on a machine with one GPU, as far as the engines ask."""
    monkeypatch.setattr(rows, "group_slots", lambda *_: 8)
    with PretendCuda() as mode, torch.inference_mode():
        yield mode


def looping(cuda, model, like, **settings):
    """An engine on the GPU, with the generation config of the engine `like`."""
    placed = cuda.place(copy.deepcopy(model))
    placed.generation_config = copy.deepcopy(like.model.generation_config)
    config = RunConfig(prompts="p", **{"max_new_tokens": 12, "device": "cuda", **settings})
    engine = StaticEngine(placed, ByteTokenizer(), config, torch.device("cuda", 0))
    engine.warm_up()
    assert engine.in_loop, engine.take_notes()
    cuda.forget()
    return engine


@pytest.mark.parametrize(
    "settings", [{}, {"ignore_eos": True}, {"do_sample": True, "seed": 3}, {"do_sample": True, "seed": 3, "top_k": 9}]
)
def test_answers_are_those_of_the_cpu_and_no_step_reads_or_copies(model, cuda, monkeypatch, settings):
    here = make(model, **settings) if "ignore_eos" in settings else ending_early(model, **settings)
    expected = [record.text for record in here.generate(prompts(*TEXTS)).records]
    moved = []

    def run(_size, step, _reads):
        before = sum(cuda.reads.values()), sum(cuda.copies.values())
        step()
        moved.append((sum(cuda.reads.values()) - before[0], sum(cuda.copies.values()) - before[1]))

    engine = capture(looping(cuda, model, here, **settings), monkeypatch, run)
    found = engine.generate(prompts(*TEXTS))
    assert [record.text for record in found.records] == expected
    assert moved
    assert set(moved) == {(0, 0)}
