"""How large transformers' continuous batching is made: by need on a CPU, by its share on a GPU."""

from types import SimpleNamespace

import pytest
import torch

from rankdeck.runner.engine import continuous_config, memory
from rankdeck.runner.engine.continuous_config import attention_to_pin, batching_config, cache_share, may_switch_to_flash
from rankdeck.runner.protocol.config import RunConfig

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)
GIB = 2**30


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """The library's settings, as a dictionary."""
    monkeypatch.setattr(continuous_config, "ContinuousBatchingConfig", lambda **given: given)
    room = SimpleNamespace(available=10**12)
    monkeypatch.setattr(continuous_config.psutil, "virtual_memory", lambda: room)
    return room


def config(**more) -> RunConfig:
    return RunConfig(prompts="p", **more)


@pytest.mark.parametrize(("known", "page"), [({"page_size"}, "page_size"), (set(), "block_size")])
def test_on_a_cpu_there_is_room_for_128_rows_in_pages_of_64_tokens(monkeypatch, known, page):
    monkeypatch.setattr(continuous_config, "KNOWN", known)
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
    assert continuous_config._cpu_cache_tokens(config(**run), context, 1000) == tokens
    assert continuous_config._cpu_cache_tokens(config(**run), context, None) == tokens


def test_one_long_prompt_finds_room_too(monkeypatch):
    monkeypatch.setattr(continuous_config, "CONTINUOUS_ROWS", 1)
    for context, tokens in ((2048, 2148), (8192, 8292), (100_000, 8292), (None, 356), (0, 356)):
        assert continuous_config._cpu_cache_tokens(config(max_new_tokens=100), context, 1000) == tokens


def test_all_ranks_together_take_a_quarter_of_the_memory_that_is_free(settings):
    settings.available = 4_000_000
    assert continuous_config._cpu_cache_tokens(config(ranks=2), 2048, 100) == 5000
    assert batching_config(config(ranks=2), CPU, 2048, 100)["num_blocks"] == 78


@pytest.mark.parametrize(
    ("attention", "dtype", "capability", "may"),
    [
        ("auto", torch.float16, (8, 0), True),
        ("auto", torch.bfloat16, (9, 0), True),
        ("auto", torch.bfloat16, (7, 9), False),
        ("auto", torch.float32, (9, 0), False),
        ("sdpa", torch.bfloat16, (9, 0), False),
    ],
)
def test_flash_is_taken_where_nothing_else_is_asked_for_and_it_can_compute(
    monkeypatch, attention, dtype, capability, may
):
    asked = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: asked.append(device) or capability)
    monkeypatch.setattr(memory, "fraction_of", lambda device: 1.0)
    run = config(device="cuda", attention=attention)
    assert may_switch_to_flash(run, GPU, dtype) is may
    monkeypatch.setattr(continuous_config, "KNOWN", {"auto_switch_to_flash"})
    found = batching_config(run, GPU, 2048, 1000, dtype=dtype)
    assert found == {"return_logprobs": True, **({} if may else {"auto_switch_to_flash": False})}
    assert attention_to_pin(run, GPU, dtype, "sdpa") is None
    monkeypatch.setattr(continuous_config, "KNOWN", set())  # transformers 5.17
    assert batching_config(run, GPU, 2048, 1000, dtype=dtype) == {"return_logprobs": True}
    assert attention_to_pin(run, GPU, dtype, "eager") == (None if may else "paged|eager")
    assert attention_to_pin(run, GPU, dtype, None) == (None if may else "paged|sdpa")
    assert attention_to_pin(run, CPU, dtype, "eager") is None
    assert set(asked) <= {GPU}


@pytest.mark.parametrize("fraction", [1.0, 0.999, 0.5])
def test_only_a_rank_that_shares_its_gpu_is_told_how_much_to_take(monkeypatch, fraction):
    monkeypatch.setattr(memory, "fraction_of", lambda device: fraction if device == GPU else 1.0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * GIB, 80 * GIB) if device == GPU else None)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 14 * GIB if device == GPU else None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    torch.manual_seed(3)
    drawn = int(torch.randint(2**31, ()))
    torch.manual_seed(3)
    found = batching_config(config(seed=3), GPU, None, None, dtype=torch.bfloat16)
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
