"""What a batch costs in floating-point operations, and how many a second a rank's device could do."""

import pytest

from rankdeck.runner.protocol import Experts
from rankdeck.runner.sweep.matrix_share import flops_of, matrix_rates
from tests.runner.sweep.test_sweep_figures import batch, ready

SLOTS = (10 + 11) * 4 - 4
"""Of `batch()`: four rows of ten slots and eleven tokens, the last of which goes into no step."""


def model(**facts: object) -> dict[str, object]:
    """A thousand parameters in bfloat16, all of which a step reads."""
    return {"parameters": 1000, "parameter_bytes": 2000, "weight_read_bytes": 2000, **facts}


def test_every_token_that_goes_in_is_multiplied_with_every_parameter_and_padding_is_too() -> None:
    assert flops_of(ready(0, **model()), batch()) == 2 * 1000 * SLOTS
    assert flops_of(ready(0, **model()), batch(padded_slots=60)) == 2 * 1000 * SLOTS


def test_of_an_input_embedding_that_is_not_the_output_layer_nothing_is_multiplied() -> None:
    assert flops_of(ready(0, **model(weight_read_bytes=1400)), batch()) == 2 * 700 * SLOTS
    wide = model(dtype="float32", parameter_bytes=4000, weight_read_bytes=2800)
    assert flops_of(ready(0, **wide), batch()) == 2 * 700 * SLOTS


def test_of_a_mixture_the_experts_that_a_token_is_routed_to_count() -> None:
    mixture = model(experts=Experts(bytes=1600, count=8, per_token=2))
    assert flops_of(ready(0, **mixture), batch()) == 2 * (200 + 200) * SLOTS


@pytest.mark.parametrize("quantisation", ["int8", "bnb-4bit"])
def test_weights_that_are_only_stored_smaller_are_multiplied_in_the_dtype(quantisation: str) -> None:
    # 400 parameters of an embedding in bfloat16, 600 in something smaller.
    stored = model(dtype=f"bfloat16 {quantisation}", parameter_bytes=1400, weight_read_bytes=600)
    assert flops_of(ready(0, **stored), batch()) == 2 * 600 * SLOTS


@pytest.mark.parametrize(
    "facts",
    [
        {"parameter_bytes": None},
        {"weight_read_bytes": None},
        {"dtype": "float8_e4m3fn"},
        {"dtype": "float16 gptq"},
        {"dtype": "bfloat16 bnb-8bit"},
        {"experts": Experts(bytes=0, count=8, per_token=None)},
        {"experts": Experts(bytes=800, count=None, per_token=2)},
        {"dtype": "bfloat16 int8", "experts": Experts(bytes=800, count=8, per_token=2)},
    ],
    ids=str,
)
def test_where_it_is_not_known_what_a_token_is_multiplied_with_there_is_no_figure(facts: dict[str, object]) -> None:
    assert flops_of(ready(0, **model(**facts)), batch()) is None


def test_a_batch_of_no_rows_computes_nothing() -> None:
    assert flops_of(ready(0, **model()), batch(0, steps=0)) == 0


def test_what_rank_0_measured_holds_for_ranks_whose_device_and_dtype_are_the_same() -> None:
    ranks = [
        ready(0, matrix_flops_per_second=7e14),
        ready(1),
        ready(2, device_name="Old GPU"),
        ready(3, dtype="float32"),
    ]
    assert matrix_rates(ranks) == {0: 7e14, 1: 7e14}
    other = [ready(0, dtype="float32", matrix_flops_per_second=5e13), ready(1)]
    assert matrix_rates(other) == {0: 5e13}, "of other dtypes nothing is said"
    assert matrix_rates([ready(0)]) == {}
