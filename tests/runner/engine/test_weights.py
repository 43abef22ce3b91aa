"""What is said of weights that are missing, of other sizes, unreadable or too many. The report is made up."""

import pytest
import torch

from rankdeck.runner.engine.weights import WrongWeightsError, checked


class Model:
    def __init__(self, quantised: bool = False) -> None:
        if quantised:
            self.hf_quantizer = object()

    def named_buffers(self):
        return [("a.mask", torch.ones(3, dtype=torch.int64)), ("a.correction", torch.ones(3))]


def refused(found, model=None) -> str:
    with pytest.raises(WrongWeightsError) as raised:
        checked(model or Model(), found, "the/model")
    said = str(raised.value)
    before, after = (
        "the/model does not hold the weights of a causal language model: ",
        ". Without them its answers would",
    )
    assert said.startswith(before)
    assert said.endswith(f"{after} be random")
    return said.removeprefix(before).removesuffix(f"{after} be random")


def test_all_that_is_wrong_is_said_at_once_in_the_order_of_names():
    found = {
        "missing_keys": {"b", "a"},
        "mismatched_keys": {("w", torch.Size([3]), torch.Size([2, 4000]))},
        "error_msgs": ["cannot convert c", "cannot convert d"],
        "unexpected_keys": {"more"},
    }
    assert refused(found) == (
        "2 weights missing: a, b; 1 weight of another size: w has 3 instead of 2 x 4,000; "
        "2 weights that could not be read: cannot convert c, cannot convert d"
    )


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (1, "1 weight missing: w0000"),
        (4, "4 weights missing: w0000, w0001, w0002, w0003"),
        (5, "5 weights missing: w0000, w0001, w0002, w0003 and 1 more"),
        (2004, "2,004 weights missing: w0000, w0001, w0002, w0003 and 2,000 more"),
    ],
)
def test_four_names_are_said_and_the_rest_is_a_number(count, said):
    assert refused({"missing_keys": [f"w{number:04}" for number in range(count)]}) == said


def test_weights_that_nobody_uses_are_one_line_and_nothing_at_all_is_none():
    said = "2 weights in the files that this model does not use: a, b"
    assert checked(Model(), {"unexpected_keys": {"b", "a"}}, "m") == [said]
    assert checked(Model(), {}, "m") == []
    assert (
        checked(Model(), dict.fromkeys(("missing_keys", "mismatched_keys", "error_msgs", "unexpected_keys")), "m") == []
    )


def test_what_a_model_makes_itself_may_be_missing_and_of_a_quantised_one_all_but_weights():
    assert checked(Model(), {"missing_keys": ["a.mask"]}, "m") == []
    assert refused({"missing_keys": ["a.mask", "a.correction", "a.bias"]}) == "2 weights missing: a.bias, a.correction"
    quantised = Model(quantised=True)
    assert checked(quantised, {"missing_keys": ["a.scales", "a.bias", "weight.zeros"]}, "m") == []
    assert refused({"missing_keys": ["a.scales", "a.weight"]}, quantised) == "1 weight missing: a.weight"
