"""The figures of a model are found under the names that models give them."""

from typing import Any

import pytest

from rankdeck.runner.inputs.model_config import shape_from_config
from tests.checkpoints import LLAMA


def context(**values: Any) -> int | None:
    return shape_from_config({**LLAMA, **values}, None).context


@pytest.mark.parametrize(
    "name",
    [
        *("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length"),
        *("max_target_positions", "context_length", "model_max_length"),
    ],
)
def test_the_context_is_found_under_each_of_its_names(name: str) -> None:
    assert context() is None
    assert context(**{name: 2048}) == 2048
    assert context(text_config={name: 4096}, **{name: 2048}) == 4096
    assert context(**{name: -1}) is context(**{name: True}) is None


def test_the_usual_name_goes_before_the_others() -> None:
    assert context(max_position_embeddings=4096, seq_length=2048) == 4096
