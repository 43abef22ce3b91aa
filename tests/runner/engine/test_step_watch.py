"""Steps are counted by `generate`'s calls: a version that calls differently is refused, not counted wrongly."""

import pytest
import torch
import transformers

from rankdeck.runner.engine.generation.marks import LogitCheck
from rankdeck.runner.engine.private_names import NEWEST, OLDEST
from rankdeck.runner.engine.step_watch import StepWatch
from tests.runner.engine.tiny import TEXTS, make, prompts


def watching(width=4):
    watch = StepWatch(
        width, frozenset([1]), torch.device("cpu"), LogitCheck(sampled=False, infinite_is_replaced=False),
        on_step=lambda _: None, cancelled=lambda: False, synchronise=lambda: None, measure=False,
    )  # fmt: skip
    watch.begin(2, None, None)
    return watch


def ids(width):
    return torch.full((2, width), 7)


def feed(watch, widths):
    for width in widths:
        watch(ids(width), None)


@pytest.mark.parametrize("widths", [(6,), (5, 5), (5, 7), (5, 6, 8)])
def test_a_step_that_was_skipped_or_told_twice_is_an_error_that_names_the_version(widths):
    with pytest.raises(
        RuntimeError, match=f"transformers {transformers.__version__} does not generate as rankdeck exp"
    ):
        feed(watching(), widths)


def test_steps_go_on_from_call_to_call_and_a_group_has_its_own_width():
    watch = watching()
    watch.begin_group(2, None, 3)
    watch(ids(4), None)
    watch.begin(2, None, None)
    watch(ids(6), None)
    assert watch.steps == 2
    watch.begin_group(2, None, 3)
    with pytest.raises(RuntimeError, match="5 tokens wide instead of 4"):
        watch(ids(5), None)


def test_a_stop_that_comes_a_step_late_is_an_error_too(model, monkeypatch):
    generate = model.generate

    def undone(**settings):
        output = generate(**settings)
        if "custom_generate" not in settings:
            output.sequences = output.sequences[:, :-1]  # as a deferred check leaves it
        return output

    monkeypatch.setattr(model, "generate", undone)
    with pytest.raises(RuntimeError, match="does not generate as rankdeck expects"):
        make(model).generate(prompts(*TEXTS))


def test_what_is_wrong_with_a_version_is_said_with_both_widths_and_the_versions_that_work():
    watch = watching(1_000)
    with pytest.raises(RuntimeError) as raised:
        watch(ids(1_003), None)
    assert str(raised.value) == (
        f"transformers {transformers.__version__} does not generate as rankdeck expects: rows are 1,003 tokens wide "
        f"instead of 1,001, so its steps cannot be counted; install another version of transformers ({OLDEST} to "
        f"{NEWEST} are known to work)"
    )
