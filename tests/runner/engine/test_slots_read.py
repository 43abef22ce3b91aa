"""What the static engine says that its decode steps read of the cache is what they attend to."""

import pytest

from rankdeck.runner.engine import rows
from rankdeck.runner.engine.rows import slots_read
from tests.runner.engine.test_engine import MIXED
from tests.runner.engine.tiny import BOTH_WAYS, TEXTS, ending_early, make, prompts


def watched(engine, texts):
    """A batch's result, and the attention masks' sizes summed over the forward passes of one token per row."""
    seen = []

    def look(_, arguments, named):
        ids = named["input_ids"] if "input_ids" in named else arguments[0]
        if ids.shape[1] == 1:
            seen.append(named["attention_mask"].numel())

    hook = engine.model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        return engine.generate(prompts(*texts)).result, sum(seen)
    finally:
        hook.remove()


@BOTH_WAYS
def test_of_rows_that_have_left_nothing_is_read(model, way):
    result, attended = watched(ending_early(model, way=way), TEXTS)
    assert result.row_steps < 4 * result.steps, "the test needs rows that leave"
    assert result.slots_read == attended


@BOTH_WAYS
def test_a_fixed_length_reads_all_rows_to_the_end(model, way):
    one = make(model, ignore_eos=True, way=way)
    one._may_join = False
    result, attended = watched(one, TEXTS)
    width = {"loop": 37, "generate": 40}[way]  # of the longest prompt, and of its padding to a multiple of 8
    assert result.slots_read == attended == 4 * sum(width + step for step in range(1, 12))


@BOTH_WAYS
@pytest.mark.parametrize("settings", [{}, {"ignore_eos": True}, {"max_new_tokens": 1}])
def test_groups_are_read_as_wide_as_they_were_joined(model, monkeypatch, settings, way):
    monkeypatch.setitem(rows.GROUP_SLOTS, "cpu", 8)
    one = ending_early(model, way=way, **settings)
    result, attended = watched(one, MIXED)
    assert result.slots_read == attended


def test_the_first_step_is_the_prefill_and_reads_no_cache():
    assert slots_read(3, 10, 1, 1) == 0
    assert slots_read(3, 10, 2, 2) == slots_read(3, 10, 1, 2) == 3 * 11
    assert slots_read(2, 10, 3, 5) == 2 * (12 + 13 + 14)
