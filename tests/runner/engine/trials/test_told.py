"""What a model says when it is told what to say, and when two such tellings agree."""

from types import SimpleNamespace

import pytest
import torch

from rankdeck.runner.engine.trials import told
from rankdeck.runner.engine.trials.likeness import EXACT, Likeness
from rankdeck.runner.engine.trials.told import Alone, alone, padded, tokens
from tests.runner.engine.lone import CPU, tiny, tokenizer

EVERY = Likeness(EXACT, every=True, exact=True)


def test_tokens_are_repeated_to_as_many_as_are_asked_for_and_none_is_special_or_unknown():
    made = SimpleNamespace(all_special_ids=[2])

    class Tokenizer:
        all_special_ids = made.all_special_ids

        def __call__(self, text, add_special_tokens):
            assert add_special_tokens is False
            return {"input_ids": [len(text), 2, -1, 5, 300]}

    assert tokens(Tokenizer(), 2, None, "abc") == [3, 5]
    assert tokens(Tokenizer(), 7, None, "abc") == [3, 5, 300, 3, 5, 300, 3]
    assert tokens(Tokenizer(), 4, 300, "abc") == [3, 5, 3, 5], "300 is one beyond the last"
    assert tokens(Tokenizer(), 2, 3, "abc") == [0, 1], "nothing is left: the first there are"
    assert len(tokens(None, 40, None)) == 40
    assert max(tokens(None, 40, None)) == 15
    assert tokens(Tokenizer(), 1, None) == [len(told.TEXTS[0])]


def test_rows_are_padded_on_the_left_to_the_widest_or_more():
    ids, mask = padded([[5], [6, 7]], 9)
    assert (ids.tolist(), mask.tolist()) == ([[9, 5], [6, 7]], [[0, 1], [1, 1]])
    ids, mask = padded([[5], [6, 7]], 9, width=3)
    assert (ids.tolist(), mask.tolist()) == ([[9, 9, 5], [9, 6, 7]], [[0, 0, 1], [0, 1, 1]])
    assert padded([[5, 6]], 9, width=1)[0].tolist() == [[5, 6]]


def test_a_model_goes_on_with_what_it_is_told_and_from_its_cache():
    model = tiny(num_key_value_heads=2)
    ids, mask = padded([[5, 6], [7, 8, 9]], 0)
    first = told.told(model, ids, mask, [[10, 11], [12, 13]], 0)
    assert first.sequences.tolist() == [[0, 5, 6, 10, 11], [7, 8, 9, 12, 13]]
    assert first.mask.tolist() == [[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert first.logits.shape == (2, 2, model.config.vocab_size)
    assert first.logits.dtype == torch.float32
    assert not first.left_state
    whole = told.told(model, ids, mask, [[10, 11, 14], [12, 13, 15]], 0)
    more = told.told(model, first.sequences, first.mask, [[14], [15]], 0, first.cache)
    assert EVERY.agree(more.logits, whole.logits[2:])
    assert more.sequences.tolist() == whole.sequences.tolist()


def scores(*chosen: int) -> torch.Tensor:
    logits = torch.zeros(len(chosen), 4)
    for step, token in enumerate(chosen):
        logits[step, token] = 3.0
    return logits


def test_tokens_agree_with_a_prompt_alone_as_long_as_they_are_the_same():
    one = Alone([1], [2, 3, 1], scores(2, 3, 1))
    right = scores(2, 3, 1).log_softmax(-1)
    likely, unlikely = right[0, 2].item(), right[0, 0].item()
    assert one.agrees([2, 3, 1], [likely] * 3, [], EVERY)
    assert not one.agrees([2, 3, 1], [likely, likely, likely - 0.02], [], EVERY)
    assert one.agrees([2, 3, 1], [likely + 0.009] * 3, [], EVERY)
    assert one.agrees([2, 0, 1], [likely, unlikely, 99.0], [], EVERY), "after another token nothing is known"
    assert not one.agrees([2, 0, 1], [likely, likely, likely], [], EVERY)
    rounded = Likeness(0.1, every=False)
    room = 2 * 0.1 * 3**0.5 * 0.75  # deviations of one logit, by the spread of these four
    assert one.agrees([2], [likely - 0.99 * room], [], rounded)
    assert not one.agrees([2], [likely - 1.01 * room], [], rounded)
    assert not one.agrees([2], [float("nan")], [], EVERY)
    with pytest.raises(ValueError, match="zip"):
        one.agrees([2, 3], [likely], [], EVERY)


def test_what_a_processor_changes_is_changed_in_the_prompt_alone_too():
    one = Alone([1], [2], scores(2))
    halved = [lambda ids, logits: logits / 2]
    found = (scores(2) / 2).log_softmax(-1)[0, 2].item()
    assert one.agrees([2], [found], halved, EVERY)
    assert not one.agrees([2], [found], [], EVERY)


def test_prompts_that_are_tried_alone_are_of_unlike_lengths_and_have_the_likeliest_tokens():
    model = tiny(num_key_value_heads=2)
    found, likeness = alone(model, tokenizer(), 0, CPU)
    assert likeness == EVERY
    assert [len(one.prompt) for one in found] == [5, 9, 2]
    assert len({tuple(one.prompt[:2]) for one in found}) == 3, "of unlike tokens"
    for one in found:
        assert one.logits.shape == (4, model.config.vocab_size)
        assert one.tokens == one.logits.argmax(dim=-1).tolist()
        assert one.agrees(
            one.tokens,
            one.logits.log_softmax(-1).gather(1, torch.tensor([one.tokens]).T)[:, 0].tolist(),
            [],
            EVERY,
        )
