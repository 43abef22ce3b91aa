"""The settings of transformers' continuous batching: its size on a CPU and on a GPU, and its options."""

from types import SimpleNamespace

import pytest
import torch

from rankdeck.runner.engine import memory, private_names
from rankdeck.runner.engine.paged import config as paged_config
from rankdeck.runner.engine.paged.config import batching_config, cache_share, most_rows, paged_attention
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)
GIB = 2**30


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """The library's settings, as a dictionary."""
    monkeypatch.setattr(paged_config, "ContinuousBatchingConfig", lambda **given: given)
    room = SimpleNamespace(available=10**12)
    monkeypatch.setattr(paged_config.psutil, "virtual_memory", lambda: room)
    return room


def config(**more) -> RunConfig:
    return RunConfig(prompts="p", **more)


@pytest.mark.parametrize(("known", "page"), [({"page_size"}, "page_size"), (set(), "block_size")])
def test_on_a_cpu_there_is_room_for_128_rows_in_pages_of_64_tokens(monkeypatch, known, page):
    monkeypatch.setattr(paged_config, "KNOWN", known)
    torch.manual_seed(7)
    drawn = int(torch.randint(2**31, ()))
    torch.manual_seed(7)
    found = batching_config(config(max_new_tokens=256, seed=7), CPU, 2048, 1000)
    blocks = 128 * (256 + 256) // 64
    assert found == {"return_logprobs": True, "seed": drawn, page: 64, "num_blocks": blocks, "max_batch_tokens": 512}
    assert "seed" not in batching_config(config(), CPU, 2048, 1000)
    later = [batching_config(config(seed=0), CPU, 2048, 1000)["seed"] for _ in range(3)]
    assert len({drawn, *later}) == 4, "a generator that begins anew must not repeat itself"


@pytest.mark.parametrize(
    ("run", "context", "tokens"),
    [
        ({"max_new_tokens": 100}, 2048, 128 * 356),
        ({"max_new_tokens": 100, "batch_size": 127}, 2048, 128 * 356),
        ({"max_new_tokens": 100, "batch_size": 200}, 2048, 200 * 356),
        ({"max_new_tokens": 100}, None, 128 * 356),
    ],
)
def test_the_rows_of_a_run_find_room(run, context, tokens):
    assert paged_config.cpu_cache_tokens(config(**run), context, 1000) == tokens
    assert paged_config.cpu_cache_tokens(config(**run), context, None) == tokens


def test_one_long_prompt_finds_room_too(monkeypatch):
    monkeypatch.setattr(paged_config, "CONTINUOUS_ROWS", 1)
    for context, tokens in ((2048, 2148), (8192, 8292), (100_000, 8292), (None, 356), (0, 356)):
        assert paged_config.cpu_cache_tokens(config(max_new_tokens=100), context, 1000) == tokens


def test_all_ranks_together_take_a_quarter_of_the_memory_that_is_free(settings):
    settings.available = 4_000_000
    assert paged_config.cpu_cache_tokens(config(ranks=2), 2048, 100) == 5000
    assert batching_config(config(ranks=2), CPU, 2048, 100)["num_blocks"] == 78


@pytest.mark.parametrize(
    ("run", "prompts", "rows"),
    [
        ({}, None, 1024),
        ({}, 10_000, 1024),
        ({}, 1000, 1000),
        ({}, 100, 256),
        ({"batch_size": 16}, 10_000, 1024),
        ({"batch_size": 2048}, 10_000, 2048),
        ({"batch_size": 2048}, 1500, 1500),
        ({"sweep": SweepPlan(batch_sizes=[64, 4096], ranks=[1])}, 100, 4096),
        ({"sweep": SweepPlan(batch_sizes=[64, 128], ranks=[1])}, 100, 1024),
    ],
)
def test_a_step_may_have_as_many_rows_as_a_knob_may_ask_for_but_no_more_than_there_are_prompts(run, prompts, rows):
    assert most_rows(config(**run), prompts) == rows
    assert batching_config(config(**run), CPU, 2048, 1000, prompts=prompts)["max_requests_per_batch"] == rows


@pytest.mark.parametrize(
    ("run", "tokens"),
    [
        ({}, 512),
        ({"batch_size": 512}, 512),
        ({"batch_size": 900}, 900),
        ({"sweep": SweepPlan(batch_sizes=[64, 700], ranks=[1])}, 700),
    ],
)
def test_a_step_on_a_cpu_has_room_for_a_token_of_each_row(run, tokens):
    assert batching_config(config(**run), CPU, 2048, 1000)["max_batch_tokens"] == tokens


@pytest.mark.parametrize("forgets", [True, False])
def test_rows_share_blocks_where_this_transformers_can_be_told_to_forget_them(monkeypatch, forgets):
    gone = private_names.Name("transformers.cache_utils", "Cache", "no_such_attribute")
    monkeypatch.setattr(private_names, "SHARING", () if forgets else (gone,))
    assert batching_config(config(), CPU, 2048, 1000)["allow_block_sharing"] is forgets


@pytest.mark.parametrize("compiled", [True, False])
def test_on_a_gpu_the_library_neither_looks_for_flash_attention_nor_compiles_by_itself(monkeypatch, compiled):
    monkeypatch.setattr(memory, "fraction_of", lambda device: 1.0)
    monkeypatch.setattr(paged_config, "KNOWN", {"auto_switch_to_flash", "default_compile_level"})
    found = batching_config(config(device="cuda"), GPU, 2048, 1000, compiled=compiled)
    level = {"default_compile_level": 1} if compiled else {}
    assert found == {"return_logprobs": True, "auto_switch_to_flash": False, **level}
    monkeypatch.setattr(paged_config, "KNOWN", set())
    assert batching_config(config(device="cuda"), GPU, 2048, 1000, compiled=compiled) == {"return_logprobs": True}


def test_a_transformers_that_cannot_be_told_to_leave_flash_alone_is_given_an_attention_of_its_own(monkeypatch):
    monkeypatch.setattr(paged_config, "KNOWN", {"auto_switch_to_flash"})
    assert paged_attention(GPU, "sdpa") is None
    monkeypatch.setattr(paged_config, "KNOWN", set())  # transformers 5.17
    assert paged_attention(GPU, "eager") == "paged|eager"
    assert paged_attention(GPU, None) == "paged|sdpa"
    assert paged_attention(CPU, "eager") is None


@pytest.mark.parametrize("fraction", [1.0, 0.999, 0.5])
def test_only_a_rank_that_shares_its_gpu_is_told_how_much_to_take(monkeypatch, fraction):
    monkeypatch.setattr(memory, "fraction_of", lambda device: fraction if device == GPU else 1.0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * GIB, 80 * GIB) if device == GPU else None)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 14 * GIB if device == GPU else None)
    torch.manual_seed(3)
    drawn = int(torch.randint(2**31, ()))
    torch.manual_seed(3)
    monkeypatch.setattr(paged_config, "KNOWN", set())
    found = batching_config(config(seed=3), GPU, None, None)
    share = {"max_memory_percent": cache_share(int(fraction * 80 * GIB), 14 * GIB, 60 * GIB)} if fraction < 1 else {}
    assert found == {"return_logprobs": True, "seed": drawn, **share}


@pytest.mark.parametrize(
    ("most", "own", "free", "share"),
    [
        (100, 0, 100, 0.85),
        (100, 35, 100, 0.5),
        (100, 0, 50, 0.85),
        (100, 84, 100, 0.05),
        (100, 90, 100, 0.05),
        (1, 0, 0, 0.85),
    ],
)
def test_a_cache_is_what_is_left_of_a_rank_s_part_within_bounds(most, own, free, share):
    assert cache_share(most, own, free) == pytest.approx(share)
