"""The static engine on a simulated GPU: nothing meets across devices, and the host waits no more often than it must."""

import copy

import pytest
import torch

from rankdeck.runner.engine import rows, step_watch
from rankdeck.runner.engine.static import StaticEngine
from rankdeck.runner.protocol.config import RunConfig
from tests.pretend_cuda import PretendCuda
from tests.runner.engine.tiny import TEXTS, ByteTokenizer, ending_early, make, prompts

CUDA = torch.device("cuda", 0)


@pytest.fixture
def cuda(monkeypatch):
    """torch, on a machine with one GPU, as far as the engines ask."""
    for name in ("_lazy_init", "synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    for name in ("max_memory_allocated", "max_memory_reserved"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: 0)
    monkeypatch.setattr(rows, "LEAVING_SHARE_ELSEWHERE", 1 / 64)  # rows leave one by one
    with PretendCuda() as mode, torch.inference_mode():
        yield mode


def on_cuda(cuda, model, like, devices=None, **settings):
    """An engine with the generation config of the engine `like`, its model on the GPU, or over these devices."""
    placed = copy.deepcopy(model)
    placed = cuda.place(placed) if devices is None else cuda.spread(placed, devices)
    placed.generation_config = copy.deepcopy(like.model.generation_config)
    config = RunConfig(prompts="p", **{"max_new_tokens": 12, "device": "cuda", **settings})
    engine = StaticEngine(placed, ByteTokenizer(), config, CUDA)
    engine.warm_up()
    cuda.forget()
    return engine


def counted(cuda, engine, texts, **arguments):
    cuda.forget()
    output = engine.generate(prompts(*texts), **arguments)
    return output, sum(cuda.reads.values()), sum(cuda.copies.values())


def test_a_simulated_gpu_refuses_what_a_real_one_refuses_and_counts_what_is_read(cuda):
    here, there = torch.ones(2), torch.ones(2, device="cuda")
    with pytest.raises(RuntimeError, match="cpu and cuda:0 meet"):
        here + there
    with pytest.raises(RuntimeError, match="cuda:0 and cuda:1 meet"):
        there + torch.ones(2, device="cuda:1")
    assert (there + there).device == CUDA
    assert not cuda.reads
    assert there.sum().item() == 2
    assert bool(there[0] == 1)
    assert there.tolist() == [1, 1]
    assert sum(cuda.reads.values()) == 3
    there[torch.tensor([1])]
    assert sum(cuda.copies.values()) == 1


def test_answers_on_a_gpu_are_those_of_the_cpu(cuda, model):
    plain = make(model)
    expected = plain.generate(prompts(*TEXTS)).records
    assert on_cuda(cuda, model, plain).generate(prompts(*TEXTS)).records == expected


def test_answers_on_a_gpu_are_those_of_the_cpu_when_rows_leave(cuda, model):
    plain = ending_early(model)
    expected = plain.generate(prompts(*TEXTS)).records
    assert {record.finish_reason for record in expected} == {"stop", "length"}
    assert on_cuda(cuda, model, plain).generate(prompts(*TEXTS)).records == expected


def test_a_model_over_two_gpus_answers_as_on_the_cpu_when_rows_leave(cuda, model):
    plain = ending_early(model)
    expected = plain.generate(prompts(*TEXTS)).records
    first, second = ("model.embed_tokens", "model.rotary_emb", "model.layers.0"), ("model.layers.1", "model.norm")
    devices = dict.fromkeys(first, "cuda:0") | dict.fromkeys((*second, "lm_head"), "cuda:1")
    engine = on_cuda(cuda, model, plain, devices)
    assert [device.index for device in engine.devices] == [0, 1]
    assert engine.why_rows_stay is None
    assert engine.generate(prompts(*TEXTS)).records == expected


def test_the_steps_of_a_padded_batch_read_twice_from_the_device_and_copy_nothing_to_it(cuda, model, monkeypatch):
    monkeypatch.setattr(step_watch, "PROGRESS_SECONDS", float("inf"))  # a report counts tokens on the device
    engine = on_cuda(cuda, model, make(model), ignore_eos=True)
    _, reads, copies = counted(cuda, engine, TEXTS)
    _, fewer_reads, fewer_copies = counted(cuda, engine, TEXTS, max_new_tokens=4)
    # Both by `generate`: whether the mask hides anything, and whether all rows have ended.
    assert reads - fewer_reads <= 2 * 8
    assert copies == fewer_copies


def test_rows_that_leave_cost_one_copy_to_the_device_and_not_one_a_layer(cuda, model):
    engine = on_cuda(cuda, model, ending_early(model))
    output, _, _ = counted(cuda, engine, TEXTS)
    assert {record.finish_reason for record in output.records} == {"stop", "length"}
    assert not cuda.copies["index.Tensor"], "an index of the host's"
    assert not cuda.copies["index_select.default"]


def test_equally_long_prompts_read_no_more_often_than_padded_ones_and_hide_nothing(cuda, model, monkeypatch):
    monkeypatch.setattr(step_watch, "PROGRESS_SECONDS", float("inf"))
    engine = on_cuda(cuda, model, make(model), ignore_eos=True)
    alike, reads, _ = counted(cuda, engine, ("aaaa", "bbbb", "cccc"))
    _, padded_reads, _ = counted(cuda, engine, ("aaaa", "bbbb", "ccc"))
    assert alike.result.padded_slots == 0
    assert reads <= padded_reads
