"""The static engine on a simulated GPU: nothing meets across devices, and the host waits no more often than it must."""

import copy
from types import SimpleNamespace

import pytest
import torch

from rankdeck.runner.engine import rows
from rankdeck.runner.engine.decoding import clock, looks
from rankdeck.runner.engine.decoding.graphs import CaptureError, Graphs
from rankdeck.runner.engine.static import BY_GENERATE, NOT_CAPTURED, StaticEngine
from rankdeck.runner.protocol.config import RunConfig
from tests.pretend_cuda import PretendCuda
from tests.runner.engine.tiny import TEXTS, ByteTokenizer, check_way, decoding, ending_early, make, prompts

CUDA = torch.device("cuda", 0)
WAYS = ("captured", "loop", "generate")
ALL_WAYS = pytest.mark.parametrize("way", WAYS)
"""Steps of the decode loop captured or not, and `generate`."""


class Event:
    """Whatever was queued is over."""

    def record(self): ...

    def synchronize(self): ...


@pytest.fixture
def cuda(asked_of_cuda, monkeypatch):
    """torch, on a machine with one GPU, as far as the engines ask."""
    monkeypatch.setattr(torch.cuda, "Event", Event)
    zeros = torch.zeros
    pinned = SimpleNamespace(zeros=lambda *size, pin_memory, **how: zeros(*size, **how), cuda=torch.cuda)
    monkeypatch.setattr(looks, "torch", pinned)
    # What is replayed is the step as it was when it was captured: all that it has from the host is old by then.
    monkeypatch.setattr(Graphs, "_captured", lambda self, step: SimpleNamespace(replay=step))
    monkeypatch.setattr(rows, "LEAVING_SHARE_ELSEWHERE", 1 / 64)  # rows leave one by one
    with PretendCuda() as mode, torch.inference_mode():
        yield mode


def on_cuda(cuda, model, like, devices=None, *, way=None, **settings):
    """An engine with the generation config of the engine `like`, its model on the GPU, or over these devices."""
    placed = copy.deepcopy(model)
    placed = cuda.place(placed) if devices is None else cuda.spread(placed, devices)
    placed.generation_config = copy.deepcopy(like.model.generation_config)
    config = RunConfig(prompts="p", **{"max_new_tokens": 12, "device": "cuda", **decoding(way), **settings})
    engine = StaticEngine(placed, ByteTokenizer(), config, CUDA)
    engine.warm_up()
    if way is not None:
        check_way(engine, "generate" if way == "generate" else "loop")
        engine._captures = way == "captured"
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


@ALL_WAYS
def test_answers_on_a_gpu_are_those_of_the_cpu(cuda, model, way):
    plain = make(model)
    expected = plain.generate(prompts(*TEXTS)).records
    assert on_cuda(cuda, model, plain, way=way).generate(prompts(*TEXTS)).records == expected


MANY = ("a", "b" * 60, "cc", "d" * 58, "eeee", "f" * 30, "gg", "", "another", "yy", "zzz" * 9)


@ALL_WAYS
def test_answers_on_a_gpu_are_those_of_the_cpu_when_rows_leave_batch_after_batch(cuda, model, way):
    plain = ending_early(model)
    engine = on_cuda(cuda, model, plain, way=way)
    for texts in (TEXTS, MANY, MANY[3:], TEXTS[:1], MANY[::-1]):
        expected = plain.generate(prompts(*texts)).records
        given = []
        output = engine.generate(prompts(*texts), on_records=given.extend)
        assert output.records == expected
        assert sorted(given, key=lambda record: record.index) == expected
        assert output.result.steps == 12
        assert {record.finish_reason for record in expected} <= {"stop", "length"}


@ALL_WAYS
def test_rows_that_move_are_not_taken_for_those_whose_places_they_have(cuda, model, way):
    plain = ending_early(model)
    by_length = sorted(plain.generate(prompts(*MANY)).records, key=lambda record: record.output_tokens)
    first, last = by_length[0], by_length[-1]
    assert first.output_tokens < last.output_tokens
    texts = [MANY[first.index]] * 4 + [MANY[last.index]] * 4
    engine = on_cuda(cuda, model, plain, way=way)
    engine._may_join = False
    expected = [first.text] * 4 + [last.text] * 4
    assert [record.text for record in engine.generate(prompts(*texts)).records] == expected


@pytest.mark.parametrize("own", [{"repetition_penalty": 1.7}, {"min_new_tokens": 5}, {"suppress_tokens": [50, 60]}])
@ALL_WAYS
def test_settings_of_the_model_s_own_mean_the_same_on_a_gpu(cuda, model, way, own):
    early = ending_early(model).generation.eos_token_id
    plain = make(model, {"eos_token_id": early, **own})
    engine = on_cuda(cuda, model, plain, way=way)
    for texts in (MANY, TEXTS, MANY[::-1]):
        assert engine.generate(prompts(*texts)).records == plain.generate(prompts(*texts)).records


def test_where_steps_cannot_be_captured_they_are_done_as_they_are_and_that_is_said_once(cuda, model, monkeypatch):
    def captured(self, step):
        raise CaptureError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Graphs, "_captured", captured)
    plain = ending_early(model)
    engine = on_cuda(cuda, model, plain, way="captured")
    engine.take_notes()
    for _ in range(2):
        assert engine.generate(prompts(*MANY)).records == plain.generate(prompts(*MANY)).records
    assert engine.take_notes() == [f"{NOT_CAPTURED}: operation not permitted when stream is capturing"]


def test_a_model_over_two_gpus_answers_as_on_the_cpu_when_rows_leave(cuda, model):
    plain = ending_early(model)
    expected = plain.generate(prompts(*TEXTS)).records
    first, second = ("model.embed_tokens", "model.rotary_emb", "model.layers.0"), ("model.layers.1", "model.norm")
    devices = dict.fromkeys(first, "cuda:0") | dict.fromkeys((*second, "lm_head"), "cuda:1")
    engine = on_cuda(cuda, model, plain, devices)
    assert [device.index for device in engine.devices] == [0, 1]
    assert engine.why_rows_stay is None
    assert f"{BY_GENERATE}: the model is spread over several devices" in engine.take_notes()
    assert engine.generate(prompts(*TEXTS)).records == expected


READS_OF_A_STEP = {"captured": 1, "loop": 1, "generate": 2}
"""The loop reads how its rows are. `generate` asks whether the mask hides anything, and whether all have ended."""


@ALL_WAYS
def test_the_steps_of_a_padded_batch_read_little_from_the_device_and_copy_nothing_to_it(cuda, model, monkeypatch, way):
    monkeypatch.setattr(clock, "PROGRESS_SECONDS", float("inf"))  # a report may count tokens on the device
    engine = on_cuda(cuda, model, make(model), ignore_eos=True, way=way)
    engine.generate(prompts(*TEXTS))
    _, reads, copies = counted(cuda, engine, TEXTS)
    _, fewer_reads, fewer_copies = counted(cuda, engine, TEXTS, max_new_tokens=4)
    assert reads - fewer_reads <= READS_OF_A_STEP[way] * 8
    assert copies == fewer_copies


@ALL_WAYS
def test_rows_that_leave_cost_one_copy_to_the_device_and_not_one_a_layer(cuda, model, way):
    engine = on_cuda(cuda, model, ending_early(model), way=way)
    output, _, _ = counted(cuda, engine, TEXTS)
    assert {record.finish_reason for record in output.records} == {"stop", "length"}
    assert not cuda.copies["index.Tensor"], "an index of the host's"
    assert not cuda.copies["index_select.default"]


@ALL_WAYS
def test_equally_long_prompts_read_no_more_often_than_padded_ones_and_hide_nothing(cuda, model, monkeypatch, way):
    monkeypatch.setattr(clock, "PROGRESS_SECONDS", float("inf"))
    engine = on_cuda(cuda, model, make(model), ignore_eos=True, way=way)
    alike, reads, _ = counted(cuda, engine, ("aaaa", "bbbb", "cccc", "dddd"))
    _, padded_reads, _ = counted(cuda, engine, ("aaaa", "bbbb", "cccc", "ddd"))
    assert alike.result.padded_slots == 0
    assert reads <= padded_reads
