"""What the continuous engine takes of a GPU that ranks share, and what it leaves as it was."""

import pytest
import torch

from rankdeck.runner.engine import continuous, memory
from rankdeck.runner.engine.continuous import ContinuousEngine, Unsupported
from rankdeck.runner.engine.paged.config import LEAST_SHARE, batching_config, cache_share
from rankdeck.runner.protocol.config import RunConfig
from tests.runner.engine.tiny import make, prompts

GIB = 2**30


def test_ranks_that_share_a_gpu_come_to_as_much_of_it_in_whatever_order_they_load():
    first = 62 * GIB * cache_share(40 * GIB, 15 * GIB, 62 * GIB)  # the other rank has its context, no weights yet
    second = 22 * GIB * cache_share(40 * GIB, 15 * GIB, 22 * GIB)
    assert first == pytest.approx(0.85 * 40 * GIB - 15 * GIB)
    assert second == pytest.approx(0.85 * 22 * GIB), "never all that is free"
    assert cache_share(20 * GIB, 30 * GIB, 10 * GIB) == LEAST_SHARE


def test_a_rank_asks_for_its_share_of_a_shared_gpu_and_leaves_a_gpu_of_its_own_to_the_library(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (60 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 14 * GIB)
    shares = []
    for fraction in (1.0, 0.5):
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _, now=fraction: now)
        settings = batching_config(RunConfig(prompts="p", ranks=2), torch.device("cuda:1"), None, None)
        shares.append(settings.max_memory_percent)
    assert shares == [None, pytest.approx((0.85 * 40 - 14) / 60)]


def test_an_attention_that_is_pinned_is_set_before_the_manager_comes_and_given_back_after(model, monkeypatch):
    own, seen = model.config._attn_implementation, []
    monkeypatch.setattr(continuous, "paged_attention", lambda *_: "paged|eager")
    init = model.init_continuous_batching

    def look(**arguments):
        seen.append(model.config._attn_implementation)
        return init(**arguments)

    monkeypatch.setattr(model, "init_continuous_batching", look)
    one = make(model, kind=ContinuousEngine)
    one.generate(prompts("a"))
    one.close()
    assert seen == ["paged|eager"]
    assert model.config._attn_implementation == own


def test_a_gpu_that_is_lost_in_the_warm_up_is_no_lack_of_support(model, monkeypatch):
    def lose(**_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(model, "init_continuous_batching", lose)
    monkeypatch.setattr(memory, "is_lost", lambda *_: True)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        make(model, kind=ContinuousEngine).warm_up()


def test_a_closed_engine_gives_the_model_back_with_the_attention_it_came_with(model):
    own = model.config._attn_implementation
    one = make(model, kind=ContinuousEngine)
    one.generate(prompts("a"))
    one._manager._original_attn_impl = None  # as after a fatal error, in which the manager does not look back
    model.set_attn_implementation("eager")
    one.close()
    assert model.config._attn_implementation == own


def test_so_does_one_that_could_not_begin(model, monkeypatch):
    own = model.config._attn_implementation

    def switch_and_fail(**_):
        model.set_attn_implementation("eager")
        raise ValueError("no such attention")

    monkeypatch.setattr(model, "init_continuous_batching", switch_and_fail)
    with pytest.raises(Unsupported, match="no such attention"):
        make(model, kind=ContinuousEngine).warm_up()
    assert model.config._attn_implementation == own


def test_what_the_host_makes_of_an_answer_is_not_the_time_of_decoding(model):
    one = make(model, kind=ContinuousEngine, ignore_eos=True)
    clock = Clock()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("time.perf_counter", clock)
        result = one.generate(prompts("a"), on_records=clock.advance).result
        one.close()
    assert (result.seconds, result.prefill_seconds, result.decode_seconds) == (4096.0, 0.0, 0.0)


class Clock:
    def __init__(self):
        self.now = 1.0

    def __call__(self):
        return self.now

    def advance(self, _):
        self.now += 4096.0
