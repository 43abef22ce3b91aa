"""The model of the engines' tests: tiny, with random weights."""

import pytest
import torch
import transformers

from tests.runner.engine.tiny import EOS


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)  # many on a tiny model, beside other tests, only wait for one another
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, eos_token_id=EOS, pad_token_id=0, bos_token_id=2,
        initializer_range=0.6,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture
def asked_of_cuda(monkeypatch):
    """What engines ask of torch.cuda beside tensors has an answer without a GPU."""
    for name in ("_lazy_init", "synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    for name in ("max_memory_allocated", "max_memory_reserved"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: 0)
