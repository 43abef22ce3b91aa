"""Rows of caches taken out and joined, and what a model keeps outside them. No model computes anything."""

from types import SimpleNamespace

import torch

from rankdeck.runner.engine.generation.cache_rows import KeptRows, join, stacked
from rankdeck.runner.engine.generation.own_state import OwnState


def cache(*layers):
    return SimpleNamespace(layers=[SimpleNamespace(keys=keys, values=keys + 100) for keys in layers])


def numbers(rows: int, width: int, first: int) -> torch.Tensor:
    """[rows, 1 head, width, 2]"""
    return torch.arange(first, first + rows * width * 2).view(rows, 1, width, 2)


def test_joined_caches_have_the_rows_of_all_each_shifted_to_the_right_by_what_it_lacks():
    wide, narrow = cache(numbers(1, 3, 1), numbers(1, 3, 7)), cache(numbers(2, 1, 20), numbers(2, 1, 30))
    keys = [layer.keys.clone() for layer in (*wide.layers, *narrow.layers)]
    assert join([wide, narrow], [0, 2]) is wide
    for place in range(2):
        joined = wide.layers[place]
        assert joined.keys.shape == (3, 1, 3, 2)
        assert torch.equal(joined.keys[:1], keys[place])
        assert torch.equal(joined.keys[1:, :, 2:], keys[2 + place])
        assert not joined.keys[1:, :, :2].any()
        assert torch.equal(joined.values[1:, :, 2:], keys[2 + place] + 100)
        assert (narrow.layers[place].keys, narrow.layers[place].values) == (None, None)


def test_rows_are_stacked_in_their_order_and_filled_on_the_left():
    parts = [torch.tensor([[1, 2, 3]]), torch.tensor([[4], [5]])]
    assert stacked(parts, [0, 2], 9).tolist() == [[1, 2, 3], [9, 9, 4], [9, 9, 5]]
    assert stacked(parts, [1, 3], 0).tolist() == [[0, 1, 2, 3], [0, 0, 0, 4], [0, 0, 0, 5]]


def test_each_layer_reorders_what_it_holds_by_an_index_where_it_holds_it():
    given = []
    layers = [
        SimpleNamespace(reorder_cache=given.append),
        SimpleNamespace(reorder_cache=given.append, keys=None, device=torch.device("meta")),
        SimpleNamespace(reorder_cache=given.append, keys=torch.zeros(1, device="meta"), device=torch.device("cpu")),
    ]
    rows = KeptRows([2, 0])
    rows.take_out(SimpleNamespace(layers=layers))
    assert [index.device.type for index in given] == ["cpu", "meta", "meta"]
    assert given[1] is given[2] is rows.on(torch.device("meta"))
    assert given[0].tolist() == [2, 0]


# --- what a model keeps in its modules ---


def test_what_a_model_has_kept_since_is_put_back_and_that_is_told():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    first, state = model[0], torch.zeros(3)
    first.steps, first.state, first.ready, first.scale = 4, state, None, 0.5
    own = OwnState(model)
    assert own.restore() is False, "nothing is another"
    for change in (
        {"steps": 5},
        {"state": torch.zeros(3)},
        {"ready": True},
        {"scale": 1.5},
        {"state": ["another kind"]},
    ):
        vars(first).update(change)
        assert own.restore() is True
        assert (first.steps, first.state is state, first.ready, first.scale) == (4, True, None, 0.5)
        assert own.restore() is False
    model[1].came_later = torch.zeros(1)
    model.came_later = 7
    assert own.restore() is True
    assert not hasattr(model[1], "came_later")
    assert not hasattr(model, "came_later")


def test_a_buffer_that_was_replaced_is_put_back_and_a_new_one_is_let_be():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2))
    first, mean = model[0], model[0].running_mean
    own = OwnState(model)
    first.register_buffer("running_mean", torch.ones(2))
    first.register_buffer("made_at_the_first_call", torch.ones(1))
    assert own.restore() is True
    assert first.running_mean is mean
    assert "made_at_the_first_call" in dict(first.named_buffers())
    assert own.restore() is False


def test_what_is_private_or_no_plain_value_is_let_be():
    model = torch.nn.Linear(2, 2)
    own = OwnState(model)
    model._hidden, model.words = 5, ["a list"]
    assert own.restore() is False
    assert (model._hidden, model.words) == (5, ["a list"])
