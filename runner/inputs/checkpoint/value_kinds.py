"""Settings in a model's config.json and generation_config.json whose value is of the wrong kind, a string for a number.

transformers says so late, when ranks load, and names neither file nor setting. Pure; knows no files.
"""

from collections.abc import Iterator, Mapping
from typing import Any

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "forced_bos_token_id", "forced_eos_token_id")
WHOLE = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "top_k", "min_length", "max_length", "min_new_tokens", "max_new_tokens", "no_repeat_ngram_size",
)  # fmt: skip
NUMBERS = (
    "temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "encoder_repetition_penalty", "length_penalty",
    "epsilon_cutoff", "eta_cutoff",
)  # fmt: skip
DTYPES = frozenset(
    ("auto", "float32", "float16", "bfloat16", "float64", "float", "half", "double", "float8_e4m3fn", "float8_e5m2")
)


def wrong_kinds(values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with each setting that has a value of the wrong kind."""
    for name in TOKEN_IDS:
        found = values.get(name)
        each = found if isinstance(found, list) else [found]
        if any(one is not None and not _is_whole(one) for one in each):
            yield f"{name} must be a whole number, not {found!r}"
    for name in WHOLE:
        found = values.get(name)
        # Some architectures have a number for each layer.
        if found is not None and not isinstance(found, list | dict) and not _is_whole(found):
            yield f"{name} must be a whole number, not {found!r}"
    for name in NUMBERS:
        found = values.get(name)
        if found is not None and not _is_whole(found) and not isinstance(found, float):
            yield f"{name} must be a number, not {found!r}"
    for name in ("dtype", "torch_dtype"):
        found = values.get(name)
        if isinstance(found, str) and found.removeprefix("torch.") not in DTYPES:
            yield f"{name} must be one that torch has, such as float32 or bfloat16, not {found!r}"


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
