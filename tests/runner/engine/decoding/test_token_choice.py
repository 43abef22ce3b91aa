"""The likeliest token, looked for block by block on a CPU: it is the one that `argmax` of the whole row gives."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.engine.decoding.token_choice import BLOCK, likeliest

FEW = st.sampled_from([-2.0, -1.0, 0.0, 1.0, float("-inf")])
"""So few values that rows have ties in all places."""

WIDTHS = st.sampled_from([1, 7, BLOCK, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 1, 3 * BLOCK - 1, 5 * BLOCK])


@given(width=WIDTHS, rows=st.integers(1, 4), data=st.data())
def test_it_is_the_first_of_the_largest(width, rows, data):
    common = data.draw(FEW)
    scores = torch.full((rows, width), common)
    places = st.tuples(st.integers(0, rows - 1), st.integers(0, width - 1))
    for (row, at), value in data.draw(st.dictionaries(places, FEW, max_size=12)).items():
        scores[row, at] = value
    expected = [values.index(max(values)) for values in scores.tolist()]
    assert likeliest(scores).tolist() == expected


@pytest.mark.parametrize("at", [0, BLOCK - 1, BLOCK, 3 * BLOCK - 1, 3 * BLOCK, 3 * BLOCK + 6])
def test_it_is_found_wherever_it_is(at):
    scores = torch.zeros(2, 3 * BLOCK + 7)
    scores[1, at] = 1
    assert likeliest(scores).tolist() == [0, at]


@pytest.mark.parametrize("at", [3, BLOCK, 2 * BLOCK + 9])
def test_a_score_that_is_not_a_number_is_what_is_found_as_argmax_does(at):
    scores = torch.zeros(1, 2 * BLOCK + 10)
    scores[0, at] = float("nan")
    assert likeliest(scores).tolist() == scores.argmax(dim=-1).tolist() == [at]
