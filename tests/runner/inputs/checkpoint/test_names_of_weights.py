"""What is told of weights by their names holds for transformers' own models: none of them is refused."""

import pytest
import torch
import transformers

from rankdeck.runner.inputs.checkpoint import weights
from rankdeck.runner.inputs.checkpoint.safetensors_file import Tensor

SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize(
    "kind",
    [
        *("biogpt", "bloom", "falcon", "falcon_mamba", "gemma", "gpt2", "gpt_neox", "gptj", "granitemoe", "llama"),
        *("mamba", "mixtral", "mpt", "olmo", "opt", "persimmon", "phi", "qwen2", "qwen3", "rwkv", "stablelm", "xglm"),
    ],
)
def test_a_model_as_transformers_makes_it_lacks_nothing(kind: str) -> None:
    config = transformers.AutoConfig.for_model(kind, **SMALL, num_key_value_heads=2, pad_token_id=0)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    tied = set(model.all_tied_weights_keys) if config.tie_word_embeddings else set()
    stored = {
        name: Tensor("F32", list(weight.shape), (0, 0))
        for name, weight in model.state_dict().items()
        if name not in tied
    }
    assert weights.misfits(stored, config.to_dict()) == []
    assert weights.embedding_of(stored) is not None or kind in ("mamba", "falcon_mamba", "rwkv")
