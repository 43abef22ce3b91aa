"""Settings out of their range are refused by name, whoever gave them: values at and just beyond each bound."""

import msgspec
import pytest

from rankdeck.runner.protocol import config
from rankdeck.runner.protocol.config import MAX_BATCH_SIZE, MAX_RANKS, RunConfig
from rankdeck.runner.protocol.sweep_plan import MAX_TRIAL_PROMPTS, SweepPlan


def refused(**settings: object) -> set[str]:
    """The settings that are refused."""
    checked = msgspec.structs.replace(RunConfig(prompts="p.txt"), **settings)
    return {problem.setting for problem in config.check(checked)}


@pytest.mark.parametrize(
    ("setting", "good", "bad"),
    [
        ("top_p", (0.01, 0.9, 1.0), (0.0, -0.1, 1.1, 1.0000001, float("nan"), float("inf"))),
        ("top_k", (1, 50), (0, -1)),
        ("temperature", (0.01, 1.0, 2.5), (0.0, -1.0, float("nan"))),
    ],
)
def test_sampling_settings_have_their_bounds(setting, good, bad):
    assert [value for value in good if refused(do_sample=True, **{setting: value})] == []
    assert [value for value in bad if refused(do_sample=True, **{setting: value}) != {setting}] == []
    assert refused(do_sample=False, **{setting: good[0]}) == {setting}, "it would change nothing"


@pytest.mark.parametrize(
    ("setting", "good", "bad"),
    [
        ("ranks", (1, MAX_RANKS), (0, -1, MAX_RANKS + 1)),
        ("batch_size", (None, 1, MAX_BATCH_SIZE), (0, -1, MAX_BATCH_SIZE + 1)),
        ("max_new_tokens", (1, 100), (0, -1)),
        ("limit", (None, 1), (0, -1)),
        ("max_restarts", (0, 3), (-1,)),
        ("name", (None, "a", "a.b-c_d", "x" * 64), ("", ".a", "-a", "a b", "a/b", "x" * 65, "a\n")),
    ],
)
def test_settings_of_a_run_have_their_bounds(setting, good, bad):
    assert [value for value in good if refused(**{setting: value})] == []
    assert [value for value in bad if refused(**{setting: value}) != {setting}] == []


def test_all_wrong_settings_are_named_at_once():
    assert refused(ranks=0, batch_size=0, do_sample=True, top_p=1.1, top_k=0) == {
        "ranks",
        "batch_size",
        "top_p",
        "top_k",
    }


@pytest.mark.parametrize(
    ("plan", "wrong"),
    [
        ({}, set()),
        ({"batch_sizes": []}, {"batch_sizes"}),
        ({"batch_sizes": [0]}, {"batch_sizes"}),
        ({"batch_sizes": [MAX_BATCH_SIZE + 1]}, {"batch_sizes"}),
        ({"ranks": [3]}, {"ranks"}),
        ({"ranks": []}, {"ranks"}),
        ({"repeats": 0}, {"repeats"}),
        ({"least_rounds": 0}, {"rounds"}),
        ({"least_seconds": -1.0}, {"seconds"}),
        ({"least_seconds": float("inf")}, {"seconds"}),
    ],
)
def test_a_plan_of_a_sweep_has_its_bounds(plan, wrong):
    whole = SweepPlan(**{"batch_sizes": [1, 2], "ranks": [1, 2], **plan})
    assert refused(ranks=2, sweep=whole) == wrong


def test_the_prompts_of_a_trial_are_those_of_all_its_ranks_and_their_number_has_a_bound():
    most = MAX_TRIAL_PROMPTS // (2 * 4)
    for rounds, wrong in ((most, set()), (most + 1, {"rounds"})):
        plan = SweepPlan(batch_sizes=[1, 4], ranks=[1, 2], least_rounds=rounds)
        assert refused(ranks=2, sweep=plan) == wrong
