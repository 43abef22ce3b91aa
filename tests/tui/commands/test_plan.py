"""`rankdeck plan`: every line of its answer, what it takes from a run, and each bound of what may be asked."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rankdeck.runner.forecast.answer_lengths import Answers
from rankdeck.runner.forecast.plan import Plan, PlanRow
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.state.costs import CostPoint
from rankdeck.tui.commands import plan as command
from tests.reports import write_run
from tests.runner.forecast.test_cost_model import point
from tests.tui.commands.test_cli import rankdeck

BY_HAND = ("--prompts", "100", "--batch-size", "16", "--batch-seconds", "2")


def row(ranks: int = 1, size: int = 16, **changes: Any) -> PlanRow:
    values = {"rounds": 7, "seconds": 14.0, "tokens_per_second": 714.3, "speedup": 1.0, "efficiency": 1.0, "idle": 0.0}
    return PlanRow(ranks=ranks, batch_size=size, **{**values, **changes})


def lines(*rows: PlanRow, fixed: bool = True, **changes: Any) -> list[str]:
    values: dict[str, Any] = {"prompts": 100, "dispatch": "pull", "tokens_per_prompt": 100.0, "reasons": []}
    found = Plan(rows=list(rows), best=rows[0], basis="given", **{**values, **changes})
    return list(command.lines(found, Answers(max_new_tokens=100, fixed=fixed)))


def test_a_plan_is_a_table_with_its_best_row_the_reasons_and_the_basis() -> None:
    one = row(1, 16)
    two = row(
        2, 1000, rounds=1234, seconds=1234.56, tokens_per_second=12345.6, speedup=1.987, efficiency=0.9935, idle=0.25
    )
    assert lines(one, two, reasons=["because", "and"], residual=0.034) == [
        "100 prompts, 100 output tokens each, fixed length, pull dispatch",
        "",
        "  ranks  batch size  rounds  seconds   tok/s  speedup  efficiency  idle",
        "      1          16       7     14.0     714     1.00        100%    0%  best",
        "      2        1000   1,234  1,234.6  12,346     1.99         99%   25%",
        "",
        "best: 1 rank at batch size 16: 100 prompts in 14.0 s, 714 tok/s",
        "because",
        "and",
        "",
        "given",
        "the model reproduces the measured batches within 3% (root mean square)",
    ]


def test_what_was_not_measured_is_marked_and_said_once_with_four_reasons_at_most() -> None:
    rows = [row(number, extrapolated=True, why=f"why {min(number, 6)}") for number in range(1, 8)]
    found = lines(row(9), *rows[:5])
    assert found[4].startswith("~")
    assert found[3].endswith("best")
    assert found[9:16] == [
        "", "~ predicted beyond what was measured:", "  why 1", "  why 2", "  why 3", "  why 4",
        "  and 1 more like these",
    ]  # fmt: skip
    assert "  and 2 more like these" in lines(*rows), "the same reason counts once"
    four = lines(*rows[:4])
    assert "  why 4" in four
    assert not any("more like these" in line for line in four)
    assert any(line.endswith("714 tok/s, predicted beyond what was measured") for line in four)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompts": 1}, "1 prompt, 100 output tokens each, fixed length, pull dispatch"),
        (
            {"prompts": 12345, "dispatch": "split"},
            "12,345 prompts, 100 output tokens each, fixed length, split dispatch",
        ),
        ({"fixed": False, "tokens_per_prompt": 1234.4}, "100 prompts, 1,234 output tokens each, natural length, pull"),
    ],
)
def test_the_job_is_said_first(changes: dict[str, Any], said: str) -> None:
    assert lines(row(), **changes)[0].startswith(said)


@pytest.mark.parametrize(
    ("residual", "said"),
    [
        (None, None),
        (0.0, "how well the model fits is not known: it has as many parameters as there are settings measured"),
        (9e-7, "how well the model fits is not known: it has as many parameters as there are settings measured"),
        (1.1e-6, "within 0.0% (root"),
        (0.0094, "within 0.9% (root"),
        (0.01, "within 1% (root"),
        (0.126, "within 13% (root"),
    ],
)
def test_how_well_the_model_fits_is_said_where_it_is_known(residual: float | None, said: str | None) -> None:
    *_, last = lines(row(), residual=residual)
    assert (last == "given") if said is None else (said in last)


@pytest.mark.parametrize(
    ("seconds", "rate", "said"),
    [
        (0.01234, 0.1234, "0.0123 s, 0.123 tok/s"),
        (0.9994, 9.994, "0.999 s, 9.99 tok/s"),
        (1.0, 10.0, "1.0 s, 10 tok/s"),
        (1e6, 1e6, "1,000,000.0 s, 1,000,000 tok/s"),
    ],
)
def test_figures_have_as_many_places_as_they_are_worth(seconds: float, rate: float, said: str) -> None:
    best = [line for line in lines(row(2, seconds=seconds, tokens_per_second=rate)) if line.startswith("best: ")]
    assert best == [f"best: 2 ranks at batch size 16: 100 prompts in {said}"]


# --- what is asked --------------------------------------------------------------------------------


def asked(*words: str) -> dict[str, Any]:
    result = rankdeck("plan", *words, "--json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_costs_given_by_hand_are_predicted_for_one_to_eight_ranks_and_100_tokens() -> None:
    found = asked(*BY_HAND)
    assert [(row["ranks"], row["batch_size"]) for row in found["rows"]] == [(ranks, 16) for ranks in range(1, 9)]
    assert (found["prompts"], found["dispatch"], found["tokens_per_prompt"]) == (100, "pull", 100.0)
    assert found["rows"][0]["seconds"] == 14.0
    assert found["basis"] == (
        "given: 2 s for a batch of up to 16; a batch is taken to cost that whatever its rows, "
        "and on any number of ranks"
    )
    whole = asked("--prompts", "100", "--batch-size", "16", "--seconds", "14", "--max-new-tokens", "7")
    assert (whole["rows"][0]["seconds"], whole["tokens_per_prompt"]) == (14.0, 7.0)
    assert whole["basis"].startswith("given: 14 s on 1 rank in 7 batches of up to 16, 2 s each; a batch is taken")
    assert whole["rows"][1]["why"].startswith("2 ranks not measured"), "it was of one rank"


def test_the_batch_sizes_of_the_list_go_before_the_one_of_the_cost() -> None:
    found = asked(*BY_HAND, "--batch-sizes", "8,16", "--ranks", "1,2", "--dispatch", "split")
    assert [(row["ranks"], row["batch_size"]) for row in found["rows"]] == [(1, 8), (2, 8), (1, 16), (2, 16)]
    assert found["dispatch"] == "split"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*BY_HAND, "--batch-sizes", "1-250", "--ranks", "1-2"), None),
        (
            (*BY_HAND, "--batch-sizes", "1-167", "--ranks", "1-3"),
            "--ranks, --batch-sizes: 3 numbers of ranks and 167 batch sizes make more than 500 rows; name fewer",
        ),
        ((*BY_HAND, "--ranks", "256"), None),
        ((*BY_HAND, "--ranks", "257"), "--ranks: at most 256 are possible, not 257"),
        ((*BY_HAND, "--batch-sizes", "65536", "--ranks", "1"), None),
        ((*BY_HAND, "--batch-sizes", "65537"), "--batch-sizes: must be numbers from 1 to 65,536, not 65537"),
        (("--prompts", "1", "--batch-size", "1", "--seconds", "1e9", "--ranks", "1"), None),
        (
            ("--prompts", "1", "--batch-size", "1", "--seconds", "1.1e9"),
            "--seconds: must be above 0 and at most 1e+09, not 1100000000.0",
        ),
        (
            ("--prompts", "1", "--batch-size", "1", "--batch-seconds", "0"),
            "--batch-seconds: must be above 0 and at most 1e+09, not 0.0",
        ),
        (("--prompts", "1", "--batch-size", "1", "--batch-seconds", "nan"), "--batch-seconds: must be above 0 and at "
                                                                          "most 1e+09, not nan"),
        (("--prompts", "0", "--batch-size", "1", "--seconds", "1"), "--prompts: must be at least 1, not 0"),
        (("--prompts", "1", "--batch-size", "65537", "--seconds", "1"), "--batch-size: must be at most 65536, not "
                                                                       "65537"),
        (("--batch-seconds", "1", "--batch-size", "1"),
         "--batch-seconds needs --prompts: how many prompts the job has"),
        (("--seconds", "1", "--prompts", "1"), "--seconds needs --batch-size: of which batches they are"),
        (("mine", "--seconds", "1"), "--seconds: a run's measured batches and a cost given by hand exclude each other; "
                                     "leave one out"),
        (("mine", "--batch-size", "1", "--batch-sizes", "1"), "--batch-size and --batch-sizes exclude each other"),
    ],
    ids=lambda value: " ".join(value)[-30:] if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_can_be_asked_has_bounds(words: tuple[str, ...], said: str | None) -> None:
    result = rankdeck("plan", *words)
    assert (result.exit_code, result.stderr) == ((0, "") if said is None else (2, f"rankdeck: {said}\n"))


# --- what a run tells -------------------------------------------------------------------------------


def measured(directory: Path, *costs: CostPoint, **changes: Any) -> str:
    config = {"ranks": 2, "max_new_tokens": 50, "ignore_eos": True, **changes.pop("config", {})}
    write_run(
        directory,
        **{"prompts": 128, **changes},
        costs=list(costs),
        config=msgspec.convert({"prompts": "p", **config}, RunConfig),
    )
    return str(directory)


def test_a_run_is_planned_with_its_own_prompts_tokens_dispatch_batch_size_and_ranks(tmp_path: Path) -> None:
    name = measured(tmp_path / "mine", point(16), config={"dispatch": "split", "batch_size": 8})
    found = asked(name)
    assert [(row["ranks"], row["batch_size"]) for row in found["rows"]] == [(1, 8), (2, 8)]
    assert (found["prompts"], found["dispatch"], found["tokens_per_prompt"]) == (128, "split", 50.0)
    assert found["basis"] == "fitted to 3 batches of mine (active ranks: 1; rows: 16; fixed length)"
    other = asked(name, "--prompts", "64", "--dispatch", "pull", "--max-new-tokens", "9", "--batch-size", "4")
    assert (other["prompts"], other["dispatch"], other["tokens_per_prompt"]) == (64, "pull", 9.0)
    assert {row["batch_size"] for row in other["rows"]} == {4}


def test_without_a_batch_size_the_largest_that_was_measured_is_taken_and_as_many_ranks_as_were_at_work(
    tmp_path: Path,
) -> None:
    name = measured(tmp_path / "mine", point(4), point(16), point(4, ranks=3), config={"ranks": 1})
    found = asked(name)
    assert [(row["ranks"], row["batch_size"]) for row in found["rows"]] == [(1, 16), (2, 16), (3, 16)]
    assert "(active ranks: 1, 3; rows: 4 to 16; fixed length)" in found["basis"]


def test_of_a_sweep_the_sizes_that_it_measured_are_planned(tmp_path: Path) -> None:
    plan = {"batch_sizes": [2, 4, 64], "ranks": [1]}
    name = measured(tmp_path / "mine", point(4), point(3), point(2), config={"sweep": plan, "ranks": 1})
    assert [row["batch_size"] for row in asked(name)["rows"]] == [2, 4]
    name = measured(tmp_path / "other", point(3), config={"sweep": plan, "ranks": 1})
    assert [row["batch_size"] for row in asked(name)["rows"]] == [3]
    assert SweepPlan(batch_sizes=[1], ranks=[1]).outputs is False


def test_a_run_of_no_prompts_is_planned_for_one_and_natural_answers_are_as_long_as_they_were(tmp_path: Path) -> None:
    name = measured(tmp_path / "mine", point(16, steps=20), prompts=0, config={"ignore_eos": False})
    found = asked(name)
    assert (found["prompts"], found["tokens_per_prompt"]) == (1, 20.0)
    assert "natural length)" in found["basis"]
    assert "natural length" in rankdeck("plan", name).stdout.splitlines()[0]


@pytest.mark.parametrize(("status", "yet"), [("running", " yet"), ("stopped", "")])
def test_a_run_that_has_measured_nothing_says_what_else_there_is(tmp_path: Path, status: str, yet: str) -> None:
    result = rankdeck("plan", measured(tmp_path / "mine", status=status))
    assert (result.exit_code, result.stderr) == (
        2,
        f"rankdeck: mine has no measured batches in its run.json{yet}; plan from a finished run or from a sweep "
        "(`rankdeck sweep PROMPTS`), or give what a batch takes (--batch-seconds, --batch-size)\n",
    )


def test_a_histogram_of_another_size_is_refused_with_its_file(tmp_path: Path) -> None:
    result = rankdeck("plan", measured(tmp_path / "mine", point(4), lengths=[1, 2]))
    assert (result.exit_code, result.stderr) == (
        2, f"rankdeck: {tmp_path / 'mine' / 'run.json'}: lengths must have 64 bins, not 2\n"
    )  # fmt: skip
