"""When logits count as the same but for rounding, in float32 and in the half types."""

import pytest
import torch

from rankdeck.runner.engine.trials import likeness as measured
from rankdeck.runner.engine.trials.likeness import EXACT, MOST, UNMEASURED, Likeness, differences, likeness
from tests.runner.engine.lone import tiny

ALL, MANY = Likeness(EXACT, every=True, exact=True), Likeness(UNMEASURED, every=False)


def test_logits_are_compared_by_their_own_spread_and_rounding_is_let_pass():
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 50)
    rounded, other = logits * (1 + 1e-4), logits.clone()
    other[1, 2] += torch.randn(50)
    assert ALL.agree(rounded, logits)
    assert not ALL.agree(other, logits)
    assert MANY.agree(other, logits), "one row of four may have gone to another expert"
    other[2, 0] += torch.randn(50)
    assert MANY.agree(other, logits), "at another step it may be another row"
    other[2, 1] += torch.randn(50)
    assert not MANY.agree(other, logits), "at each step most rows are the same"
    nan = torch.full_like(logits, float("nan"))
    assert ALL.agree(nan, nan), "nothing tells them apart"
    assert not ALL.agree(nan, logits)


@pytest.mark.parametrize("least", [float("-inf"), torch.finfo(torch.float32).min, -3e4])
def test_tokens_that_a_model_rules_out_hide_no_difference_of_the_others(least):
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 50)
    logits[..., 7:9] = least
    other = logits.clone()
    other[1, 2] += torch.randn(50)
    assert ALL.agree(logits * (1 - 1e-4), logits)
    assert not ALL.agree(other, logits)
    fewer = logits.clone()
    fewer[0, 0, 7] = 1.0
    assert not ALL.agree(fewer, logits), "ruled out in one of them only"
    nothing = torch.full_like(logits, least)
    assert ALL.agree(nothing, nothing)


@pytest.mark.parametrize(
    ("alike", "same", "enough"),
    [
        (ALL, [True, True], True),
        (ALL, [True, True, True, False], False),
        (MANY, [True, True, False], True),
        (MANY, [True, False], False),
        (MANY, [True, False, False], False),
    ],
)
def test_most_rows_are_more_than_half(alike, same, enough):
    assert alike.enough(same) is enough


@pytest.mark.parametrize("alike", [ALL, MANY, Likeness(0.03, every=False)])
def test_a_difference_counts_beside_the_logits_own_spread(alike):
    logits = torch.tensor([[[3.0, -3.0, 0.0, 0.0]]]) + 40  # where they lie plays no part, nor how far apart
    for scale in (1.0, 50.0):
        spread = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]) * (18**0.5)
        assert alike.agree(scale * (logits + 0.9 * alike.tolerance * spread), scale * logits)
        assert not alike.agree(scale * (logits + 1.1 * alike.tolerance * spread), scale * logits)
        found = differences(scale * (logits + 0.25 * spread), scale * logits)
        assert found.shape == (1, 1)
        assert found.item() == pytest.approx(0.25, rel=1e-4)


def test_a_probability_may_differ_as_the_logits_may_and_the_flatter_they_are_the_less():
    logits = torch.tensor([3.0, -3.0, 0.0, 0.0, float("-inf")])
    spread = (18 / 4) ** 0.5
    assert Likeness(0.02, every=False).log_tolerance(logits) == pytest.approx(2 * 0.02 * spread)
    assert Likeness(0.02, every=False).log_tolerance(logits / 10) == pytest.approx(2 * 0.02 * spread / 10)
    assert Likeness(0.02, every=False).log_tolerance(torch.full((3,), float("-inf"))) == 0.01
    assert ALL.log_tolerance(logits) == 0.01


# --- measured on a model --------------------------------------------------------------------------


def logits_of(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([[5, 6, 7, 8]])).logits.float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_the_wide_types_nothing_is_measured(dtype):
    model = tiny(num_key_value_heads=2).to(dtype)
    assert likeness(model, lambda: pytest.fail("computed again"), torch.ones(1)) == ALL


def test_in_the_half_types_rounding_is_measured_and_leaves_the_model_as_it_was():
    model = tiny(num_key_value_heads=2)
    exact = logits_of(model)
    model = model.to(torch.bfloat16)
    before = logits_of(model)
    found = likeness(model, lambda: logits_of(model), before)
    assert found.every, "it has no experts that a rounding could choose between"
    assert not found.exact
    assert EXACT < found.tolerance < MOST / 2
    assert found.agree(before, exact), "it is as large as what this type makes of the model"
    assert torch.equal(logits_of(model), before)
    assert found == likeness(model, lambda: logits_of(model), before), "not by chance"


def test_what_is_measured_is_the_usual_difference_and_some_more():
    model = tiny(num_key_value_heads=2).to(torch.float16)
    before = torch.tensor([[3.0, -3.0, 0.0, 0.0]]).repeat(3, 1)
    spread = 18**0.5

    def moved(*by: float):
        return lambda: before + torch.tensor([[each * spread, 0.0, 0.0, 0.0] for each in by])

    assert likeness(model, moved(0.02, 0.03, 9.0), before).tolerance == pytest.approx(0.09), "9: another expert"
    assert likeness(model, moved(0.0, 0.0, 0.001), before).tolerance == EXACT, "never stricter than float32"
    assert likeness(model, moved(1.0, 1.0, 1.0), before).tolerance == MOST
    assert likeness(model, moved(float("nan"), 1.0, 1.0), before).tolerance == UNMEASURED


def test_of_a_mixture_of_experts_most_rows_are_enough():
    model = tiny("mixtral", num_key_value_heads=2, num_local_experts=4).to(torch.bfloat16)
    assert not likeness(model, lambda: logits_of(model), logits_of(model)).every


def test_a_model_that_cannot_be_measured_gets_the_tolerance_of_before_unless_memory_ran_out():
    model = tiny(num_key_value_heads=2).to(torch.bfloat16)

    def fails(error: Exception):
        def again() -> torch.Tensor:
            raise error

        return again

    assert likeness(model, fails(TypeError("no")), torch.ones(1)) == Likeness(UNMEASURED, every=True)
    with pytest.raises(torch.OutOfMemoryError):
        likeness(model, fails(torch.OutOfMemoryError("CUDA out of memory.")), torch.ones(1))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_that_gives_no_tensor_or_no_floats_gives_what_it_gave():
    class Odd(torch.nn.Module):
        def forward(self, given):
            return given

    model = torch.nn.Sequential(Odd()).to(torch.bfloat16)
    with measured._moved_by_rounding(model):
        assert model([1]) == [1]
        assert torch.equal(model(torch.tensor([1, 2])), torch.tensor([1, 2]))
        ones = torch.ones(64, dtype=torch.bfloat16)
        moved = model(ones)
    assert len(set(moved.tolist())) == 2, "up and down"
    assert all(0 <= abs(each - 1) <= torch.finfo(torch.bfloat16).eps for each in moved.tolist())
