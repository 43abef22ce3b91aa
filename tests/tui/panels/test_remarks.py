"""What is said beside the fields of a new run: mistakes where they can be seen, and a doubt only if there are none."""

from rankdeck.runner.inputs.memory_estimate import MemoryEstimate, PromptSizes, estimate
from rankdeck.runner.inputs.memory_room import Room
from rankdeck.runner.inputs.model_config import DEMO
from rankdeck.runner.protocol.config import Problem, RunConfig
from rankdeck.tui.panels.forms.remarks import Remark, remarks, unseen_mistakes, unseen_settings
from rankdeck.tui.panels.forms.run_form import FIRST_VALUES

RANKS, PROMPTS, TOP_P = Problem("ranks", "x"), Problem("prompts", "y"), Problem("top_p", "z")


def estimated(batch_size: int, free: int) -> MemoryEstimate:
    config = RunConfig(prompts="p.txt", device="cpu", batch_size=batch_size)
    return estimate(DEMO, config, PromptSizes(100, 30), Room((), free))


def test_an_empty_field_that_was_never_typed_into_is_not_a_mistake() -> None:
    assert remarks([PROMPTS], None, FIRST_VALUES, set()) == {}
    assert remarks([PROMPTS], None, FIRST_VALUES, {"prompts"}) == {"prompts": Remark("y", wrong=True)}
    assert remarks([Problem("sweep", "q")], None, FIRST_VALUES, set()) == {"sweep": Remark("q", wrong=True)}


def test_of_two_problems_with_a_setting_the_first_is_said() -> None:
    assert remarks([RANKS, Problem("ranks", "later")], None, FIRST_VALUES, set())["ranks"].words == "x"


def test_a_run_that_does_not_fit_is_doubtful_unless_something_is_wrong() -> None:
    tight = estimated(60_000, 8 * 2**30)
    assert not tight.fits
    (doubt,) = remarks([], tight, FIRST_VALUES, set()).values()
    assert (doubt.wrong, doubt.marked[0]) == (False, "▲")
    assert remarks([RANKS], tight, FIRST_VALUES, set()) == {"ranks": Remark("x", wrong=True)}
    assert remarks([], estimated(1, 2**40), FIRST_VALUES, set()) == {}
    assert list(remarks([], estimated(1, 1), FIRST_VALUES, set())) == ["model"]


def test_a_run_that_cannot_fit_is_a_mistake() -> None:
    config = RunConfig(prompts="p.txt", device="cuda", ranks=9)
    rooms = Room((2 * 2**30,), None), Room((2 * 2**30,), None)
    (mistake,) = remarks([], estimate(DEMO, config, PromptSizes(100, 30), *rooms), FIRST_VALUES, set()).items()
    assert mistake[0] == "ranks"
    assert mistake[1].wrong
    assert "9 ranks on a GPU need" in mistake[1].words
    assert "(--ranks)" not in mistake[1].words, "the form's own words"


def test_mistakes_and_settings_are_named_elsewhere_only_while_they_are_out_of_sight() -> None:
    said = remarks([RANKS, TOP_P, Problem("sweep", "q")], None, {**FIRST_VALUES, "top_p": "7"}, set())
    assert unseen_mistakes(said, more=True) == "sweep: q"
    assert unseen_mistakes(said, more=False) == "sweep: q; top-p: z"
    values = {**FIRST_VALUES, "limit": "4", "ranks": "3"}
    assert unseen_settings(values, more=False) == "also: limit 4"
    assert unseen_settings(values, more=True) == ""
