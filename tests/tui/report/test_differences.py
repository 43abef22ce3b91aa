"""Two runs compared, and a run's notices, as values: signs, percentages, what makes the work another, what is said."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory.run_file import RunFile
from rankdeck.runner.sweep.cells import Cell
from rankdeck.runner.sweep.intervals import Estimate
from rankdeck.tui.report import compare, run
from rankdeck.tui.report.compare import Difference, caution, differences, rank_differences, setting_differences
from rankdeck.tui.report.source import EqualTexts, ReportSource
from tests.reports import summary, write_run
from tests.scripted_sweep import plan


def a_run(name: str = "one", **config: Any) -> RunFile:
    return RunFile(name=name, started_at=1.0, config=RunConfig(**{"prompts": "p", **config}), prompts=9)


@pytest.mark.parametrize(
    ("one", "other", "share", "texts"),
    [
        (123.457, 100.0, False, ["123.457", "100.000", "+23.457", "+23.5%"]),
        (100.0, 125.0, False, ["100.000", "125.000", "-25.000", "-20.0%"]),
        (5.0, 0.0, False, ["5.000", "0.000", "+5.000", "-"]),
        (1.0001, 1.0, False, ["1.000", "1.000", "0.000", "0.0%"]),
        (None, 2.0, False, ["n/a", "2.000", "n/a", "-"]),
        (2.0, None, False, ["2.000", "n/a", "n/a", "-"]),
        (0.25, 0.125, True, ["25.00%", "12.50%", "+12.50 points", "-"]),
    ],
)
def test_a_difference_is_one_minus_the_other_and_its_percentage_of_the_other(
    one: float | None, other: float | None, share: bool, texts: list[str]
) -> None:
    found = Difference(figure="f", digits=3, share=share, one=one, other=other)
    assert [item.text for item in found.items()] == texts
    assert found.difference == (one - other if one is not None and other is not None else None)


def test_every_headline_figure_and_each_rank_is_compared() -> None:
    one = summary(100.0, completed=9, failed=1, seconds=2.0, padding_waste=0.5)
    other = summary(50.0, completed=8, failed=2, seconds=4.0, padding_waste=0.25)
    assert [(each.figure, each.one, each.other) for each in differences(one, other)] == [
        ("tokens/s", 100.0, 50.0), ("output tokens", 1235, 1235), ("prompt tokens", 100, 100), ("prompts done", 9, 8),
        ("prompts failed", 1, 2), ("seconds", 2.0, 4.0), ("padding waste", 0.5, 0.25),
    ]  # fmt: skip
    assert all(each.other is None for each in differences(one, None))
    fewer = replace(other, ranks=other.ranks[:1])
    found = rank_differences(one, fewer)
    assert [(each.figure, each.other is None) for each in found] == [
        ("rank 0 tokens/s", False), ("rank 1 tokens/s", True),
    ]  # fmt: skip
    assert [each.one for each in found] == [rank.tokens_per_second for rank in one.ranks]
    assert rank_differences(None, None) == []


def test_settings_without_effect_on_figures_and_plans_of_sweeps_are_not_compared() -> None:
    one = RunConfig(prompts="p", name="a", output="o", max_restarts=1, patience=5.0, sweep=plan((1,), (1,)), ranks=2)
    other = RunConfig(prompts="p", name="b", ranks=4, seed=3)
    assert setting_differences(one, other) == [("ranks", 2, 4), ("seed", one.seed, 3)]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        *(({name: value}, name) for name, value in (
            ("prompts", "q"), ("model", "m"), ("limit", 3), ("column", "c"), ("chat", True),
            ("do_sample", True), ("dtype", "bfloat16"), ("quantization", "int8"),
        )),
        ({"max_new_tokens": 7}, "max_new_tokens"),
        ({"ranks": 7, "batch_size": 3, "engine": "static", "seed": 4, "order": "input"}, None),
    ],
)  # fmt: skip
def test_what_changes_the_work_is_named_and_what_only_changes_its_pace_is_not(
    changes: dict[str, Any], named: str | None
) -> None:
    said = caution(a_run(), a_run("other", **changes))
    assert said == (f"Not the same work: {named} differ." if named else None)


def test_another_length_makes_tokens_a_second_incomparable_and_another_number_of_prompts_another_work() -> None:
    assert caution(a_run(), a_run("other", ignore_eos=True)) == (
        "one has natural length, other fixed length: their tokens/s are not to be compared."
    )
    assert caution(a_run(), replace(a_run(), prompts=8)) == "Not the same work: number of prompts differ."
    both = replace(a_run("other", prompts="q"), prompts=8)
    assert caution(a_run(), both) == "Not the same work: prompts differ.", "other prompts are another number, too"
    swept = {"ignore_eos": True, "max_new_tokens": 100}
    cut = replace(plan((1,), (1,)), trial_tokens=32)
    assert caution(a_run(**swept), a_run(**swept, sweep=cut)) == (
        "Not the same work: tokens of a trial's answers differ."
    )


def equal(**counts: Any) -> EqualTexts:
    return EqualTexts(
        **{"equal": 0, "differing": 0, "other_prompt": 0, "only_one": 0, "only_other": 0, "first": [], **counts}
    )


def test_prompts_are_the_same_if_they_have_the_same_content_whatever_their_file_is_called() -> None:
    one = replace(a_run(), prompts_digest="abc")
    renamed = replace(a_run("other", prompts="./elsewhere.txt", limit=5), prompts_digest="abc")
    edited = replace(a_run("other"), prompts_digest="def")
    assert caution(one, renamed) is None
    assert caution(one, edited) == "Not the same work: prompts differ."
    both = replace(a_run("other", dtype="float16"), prompts_digest="def")
    assert caution(one, both) == "Not the same work: prompts, dtype differ."


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (None, "Whether the answers' texts are equal cannot be said: one run's outputs.jsonl is damaged."),
        (equal(only_one=3), "No prompt has an answer in both runs, so no texts can be compared."),
        (equal(equal=1), "Of 1 prompt answered in both runs, 1 have equal texts."),
        (
            equal(equal=2, differing=2, first=[4, 9]),
            "Of 4 prompts answered in both runs, 2 have equal texts and 2 differ (index 4, 9).",
        ),
        (
            equal(differing=3, first=[4, 9]),
            "Of 3 prompts answered in both runs, 0 have equal texts and 3 differ (index 4, 9, …).",
        ),
        (
            equal(equal=1, other_prompt=2, only_other=5),
            "Of 1 prompt answered in both runs, 1 have equal texts. 2 indexes belong to another prompt in the other "
            "run. Answered only here: 0; only there: 5.",
        ),
    ],
)
def test_how_many_texts_are_equal_is_said_in_a_sentence(texts: EqualTexts | None, said: str) -> None:
    assert compare._texts(texts) == said


def test_a_difference_within_the_noise_needs_noise_on_both_sides() -> None:
    def cell(mean: float, half: float | None) -> Cell:
        rate = Estimate(mean=mean, half_width=half, count=3)
        return Cell(active_ranks=1, batch_size=1, outcome="measured", tokens_per_second=rate)

    assert compare._within_noise(cell(100, 5), cell(101, 5))
    assert not compare._within_noise(cell(100, 1), cell(200, 1))
    assert not compare._within_noise(cell(100, None), cell(100, 5))
    assert not compare._within_noise(cell(100, 5), cell(100, None))
    assert not compare._within_noise(None, cell(100, 5))
    assert not compare._within_noise(Cell(active_ranks=1, batch_size=1, outcome="failed"), cell(100, 5))


# --- the notices of a run -------------------------------------------------------------------------


def notices(
    tmp_path: Path, *, live: bool = False, missing: tuple[str, ...] = (), **changes: Any
) -> list[tuple[str, ...]]:
    figures = changes.pop("summary", summary(completed=9, failed=0))
    made = write_run(tmp_path / "r", summary=figures, **changes)
    found = ReportSource(
        run=made, state=None, answers=None, summary=figures, sweep=None, live=live, read_at=0.0, missing=list(missing)
    )
    return [(each.kind, each.title, each.text) for each in run._notices(found)]


def test_whoever_reads_the_figures_is_told_first_what_they_are_of(tmp_path: Path) -> None:
    assert notices(tmp_path) == []
    assert notices(tmp_path, status="failed", cause="why") == [("bad", "The run failed.", "why")]
    assert notices(tmp_path, status="failed") == [
        ("bad", "The run failed.", "No cause is known; runner.log has its last lines.")
    ]
    assert notices(tmp_path, status="stopped", cause="by hand") == [
        ("warn", "The run was stopped before its end.", "by hand")
    ]
    assert notices(tmp_path, status="running", live=True) == [
        ("info", "The run is still going.", "Figures as of 1970-01-01 00:00 UTC.")
    ]
    assert notices(tmp_path, status="running") == [
        (
            "warn",
            "The run lost its supervisor before its end.",
            "Its last figures are here; `rankdeck resume r` goes on with it.",
        )
    ]
    assert notices(tmp_path, summary=summary(completed=0, failed=2), missing=("a", "b")) == [
        ("warn", "No prompt is done.", "There are no answers, so all figures are zero."),
        ("warn", "2 prompts ended in an error.", "See Answers."),
        ("warn", "Something is missing.", "a"),
        ("warn", "Something is missing.", "b"),
    ]
