"""Settings of the wrong kind are told by name: whole numbers, numbers, tokens and dtypes, as transformers has them."""

from typing import Any

import pytest

from rankdeck.runner.inputs.checkpoint.value_kinds import wrong_kinds

TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "forced_bos_token_id", "forced_eos_token_id")
WHOLE = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "top_k", "min_length", "max_length", "min_new_tokens", "max_new_tokens", "no_repeat_ngram_size",
)  # fmt: skip
NUMBERS = (
    "temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "encoder_repetition_penalty", "length_penalty",
    "epsilon_cutoff", "eta_cutoff",
)  # fmt: skip


def said(name: str, value: Any) -> list[str]:
    return list(wrong_kinds({name: value}))


@pytest.mark.parametrize("name", TOKENS)
def test_a_token_is_a_whole_number_or_several(name: str) -> None:
    for good in (None, 0, -1, 7, [1, 2], [], [None, 1]):
        assert said(name, good) == []
    for bad in ("2", 2.0, True, [1, "2"], [True], {"a": 1}):
        assert said(name, bad) == [f"{name} must be a whole number, not {bad!r}"]


@pytest.mark.parametrize("name", WHOLE)
def test_a_size_or_a_count_is_a_whole_number_or_one_for_each_layer(name: str) -> None:
    for good in (None, 0, 7, [1, "2"], {"0": 1}):
        assert said(name, good) == []
    for bad in ("2", 2.0, True):
        assert said(name, bad) == [f"{name} must be a whole number, not {bad!r}"]


@pytest.mark.parametrize("name", NUMBERS)
def test_a_share_or_a_penalty_is_a_number(name: str) -> None:
    for good in (None, 0, 1, 0.5):
        assert said(name, good) == []
    for bad in ("0.5", True, [0.5], {}):
        assert said(name, bad) == [f"{name} must be a number, not {bad!r}"]


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_a_dtype_is_one_that_torch_has(name: str) -> None:
    known = ["auto", "float32", "float16", "bfloat16", "float64", "float", "half", "double"]
    known += ["float8_e4m3fn", "float8_e5m2"]
    for good in (*known, *(f"torch.{kind}" for kind in known), None, 5, {"text_config": "x"}):
        assert said(name, good) == []
    for bad in ("fp16", "float99", "", "Float32"):
        assert said(name, bad) == [f"{name} must be one that torch has, such as float32 or bfloat16, not {bad!r}"]


def test_everything_that_is_wrong_is_told_and_other_settings_are_not_looked_at() -> None:
    wrong = {"eos_token_id": "1", "top_k": "2", "top_p": "3", "dtype": "x", "other": "4"}
    assert [line.partition(" ")[0] for line in wrong_kinds(wrong)] == ["eos_token_id", "top_k", "top_p", "dtype"]
    assert list(wrong_kinds({})) == []
