"""`rankdeck plan`: what other ranks and batch sizes would bring, and why."""

import json
import time
from pathlib import Path

import msgspec
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rankdeck.runner.forecast import cost_model, plan
from rankdeck.runner.forecast.answer_lengths import Answers
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.run_directory.run_file import RunFile, write_run_file
from rankdeck.runner.state.costs import CostPoint
from rankdeck.tui.commands.options import number_list
from rankdeck.tui.commands.plan import plan_command
from tests.runner.forecast.test_cost_model import point

JOBS = {"prompts": st.integers(1, 400), "ranks": st.integers(1, 9), "batch_size": st.integers(1, 50)}
DISPATCHES = st.sampled_from(["pull", "split"])
ARTICLE = ["--prompts", "100", "--batch-size", "16", "--seconds", "19.2", "--ranks", "1-5", "--dispatch", "split"]
FIXED = Answers(max_new_tokens=100)

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False)
app.command("plan")(plan_command)


def rankdeck_plan(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


# --- the simulation -----------------------------------------------------------------------------


@given(**JOBS, dispatch=DISPATCHES, base=st.floats(0, 5), slope=st.floats(0.001, 1))
def test_the_closed_form_agrees_with_the_scheduler_within_1_percent(prompts, ranks, batch_size, dispatch, base, slope):
    def cost(rows):
        return base + slope * rows

    played = plan.play(prompts, ranks, batch_size, dispatch, cost)
    computed = plan.compute(prompts, ranks, batch_size, dispatch, cost)
    assert computed.rounds == played.rounds
    assert computed.seconds == pytest.approx(played.seconds, rel=0.01)
    assert computed.busy == pytest.approx(played.busy, rel=0.01)


@given(**JOBS, dispatch=DISPATCHES)
def test_rounds_are_those_of_the_busiest_rank(prompts, ranks, batch_size, dispatch):
    assert plan.play(prompts, ranks, batch_size, dispatch, lambda rows: 1.0).rounds == -(
        -prompts // (ranks * batch_size)
    )


@given(st.integers(0, 1000), st.integers(1, 12))
def test_shares_are_cut_like_accelerates(prompts, ranks):
    found = plan.shares(prompts, ranks)
    assert sum(found) == prompts
    assert found == sorted(found, reverse=True)
    assert found[0] - found[-1] <= 1


def test_a_million_prompts_are_planned_at_once():
    model = cost_model.given(1.0, 1)
    began = time.perf_counter()
    found = plan.predict(model, FIXED, prompts=10**6, ranks=range(1, 9), batch_sizes=[1, 16, 64])
    assert time.perf_counter() - began < 1
    assert found.rows[0].seconds == pytest.approx(10**6)


# --- rows, best, reasons --------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 8), min_size=1, max_size=4, unique=True),
    st.lists(st.integers(1, 40), min_size=1, max_size=3, unique=True),
    st.integers(1, 300),
    DISPATCHES,
)
@settings(max_examples=50)
def test_figures_of_a_row_agree_with_each_other(ranks, sizes, prompts, dispatch):
    model = cost_model.fit([point(4), point(16), point(4, ranks=2, factor=1.4), point(16, ranks=2, factor=1.4)])
    assert model is not None
    found = plan.predict(model, FIXED, prompts=prompts, ranks=ranks, batch_sizes=sizes, dispatch=dispatch)
    assert [(row.batch_size, row.ranks) for row in found.rows] == [(size, number) for size in sizes for number in ranks]
    for row in found.rows:
        assert row.tokens_per_second * row.seconds == pytest.approx(prompts * 100, rel=1e-3)
        assert row.efficiency == pytest.approx(row.speedup / row.ranks, abs=1e-5)
        assert 0 <= row.idle < 1
        assert row.extrapolated == bool(row.why)
        if row.ranks == 1:
            assert row.speedup == 1
        assert found.best.tokens_per_second >= 0.99 * row.tokens_per_second


def test_of_equally_good_settings_the_best_has_fewer_ranks_then_the_smaller_batch():
    found = plan.predict(cost_model.given(2.0, 64), FIXED, prompts=64, ranks=[2, 4], batch_sizes=[64, 32])
    assert (found.best.ranks, found.best.batch_size) == (2, 32)


def test_the_reasons_name_the_rounds_that_make_a_plateau_and_only_where_there_is_one():
    model = cost_model.given(2.74, 16, active_ranks=1)
    found = plan.predict(model, FIXED, prompts=100, ranks=[1, 2, 3, 4, 5], batch_sizes=[16], dispatch="split")
    assert found.reasons == [
        "4 -> 5 ranks brings nothing: 25 and 20 prompts per rank both take 2 rounds at batch size 16; "
        "batch size 20 would take 1"
    ]
    assert plan.predict(model, FIXED, prompts=100, ranks=[1, 2, 4], batch_sizes=[16]).reasons == []


def test_a_job_of_fewer_prompts_than_ranks_says_so():
    found = plan.predict(cost_model.given(1.0, 4), FIXED, prompts=2, ranks=[2, 3], batch_sizes=[4])
    assert found.reasons == ["2 -> 3 ranks brings nothing: the busiest rank has 1 of the prompts either way"]
    assert found.rows[1].idle == pytest.approx(1 / 3, abs=1e-3)


def test_ranks_that_slow_each_other_down_are_a_reason():
    points = [point(rows, ranks=ranks, factor=1.8 if ranks == 2 else 1) for rows in (8, 32) for ranks in (1, 2)]
    model = cost_model.fit(points)
    assert model is not None
    found = plan.predict(model, FIXED, prompts=6400, ranks=[1, 2], batch_sizes=[8, 32])
    assert (found.best.ranks, found.best.batch_size) == (2, 32)
    assert found.reasons == ["a batch of 32 takes 1.8 times as long on 2 ranks as on 1 rank: they slow each other down"]


def test_a_smaller_batch_that_is_nearly_as_good_is_named():
    model = cost_model.fit([point(rows, step=(0.0005, 0.001), prefill=(0, 0.001), rest=(0, 0)) for rows in (8, 32)])
    assert model is not None
    found = plan.predict(model, FIXED, prompts=6400, ranks=[1], batch_sizes=[8, 32])
    assert found.best.batch_size == 32
    assert found.reasons == ["batch size 8 yields 96% of the best, with less memory and sooner answers"]


def test_a_smaller_batch_is_named_only_at_the_ranks_of_the_best():
    model = cost_model.given(1.0, 64)
    # Two ranks with 16 each are as good as one with 32, but that is another number of ranks.
    found = plan.predict(model, FIXED, prompts=64, ranks=[1], batch_sizes=[32, 64])
    assert (found.best.ranks, found.best.batch_size, found.reasons) == (1, 64, [])
    wider = plan.predict(model, FIXED, prompts=64, ranks=[1, 4], batch_sizes=[16, 64])
    assert (wider.best.ranks, wider.best.batch_size) == (1, 64)
    assert not any("yields" in reason for reason in wider.reasons)


def test_a_best_setting_outside_what_was_measured_is_given_with_the_best_inside():
    model = cost_model.fit([point(4), point(16)])
    assert model is not None
    found = plan.predict(model, FIXED, prompts=640, ranks=[1, 2], batch_sizes=[16, 64])
    assert found.best.extrapolated
    assert "the best inside it is 1 rank at batch size 16" in found.reasons[-1]


def test_a_job_of_no_tokens_worth_speaking_of_has_a_best_setting_and_reasons_too():
    def found(answers, seconds):
        return plan.predict(cost_model.given(seconds, 8), answers, prompts=16, ranks=[1, 2, 3], batch_sizes=[4, 8])

    usual = found(FIXED, 1.0)
    for same in (found(FIXED, 1e9), found(Answers(max_new_tokens=100, fixed=False), 1.0)):
        assert (same.best.ranks, same.best.batch_size) == (usual.best.ranks, usual.best.batch_size) == (2, 8)
        assert same.reasons == usual.reasons != []


# --- the command --------------------------------------------------------------------------------


def test_the_articles_one_rank_run_predicts_its_other_rows():
    status, out, _ = rankdeck_plan(*ARTICLE, "--json")
    assert status == 0
    assert out.count("\n") == 1, "one JSON object"
    found = json.loads(out)
    assert [row["seconds"] for row in found["rows"]] == [pytest.approx(19.2 / 7 * rounds) for rounds in (7, 4, 3, 2, 2)]
    measured = [19.2, 11.1, 8.2, 6.0, 6.0]
    assert [row["seconds"] for row in found["rows"]] == [pytest.approx(seconds, rel=0.1) for seconds in measured]
    assert [row["rounds"] for row in found["rows"]] == [7, 4, 3, 2, 2]
    first = found["rows"][0]
    assert (first["ranks"], first["batch_size"], first["seconds"], first["speedup"]) == (1, 16, 19.2, 1.0)
    assert first["tokens_per_second"] == pytest.approx(520.8, abs=0.1)
    assert found["best"]["ranks"] == 4
    assert any("4 -> 5 ranks brings nothing: 25 and 20 prompts per rank both take 2 rounds" in reason
               for reason in found["reasons"])  # fmt: skip


def test_the_table_marks_the_best_row_and_what_was_not_measured():
    status, out, _ = rankdeck_plan(*ARTICLE)
    assert status == 0
    rows = out.splitlines()[2:8]
    assert rows[0].split() == ["ranks", "batch", "size", "rounds", "seconds", "tok/s", "speedup", "efficiency", "idle"]
    assert [row.startswith("~") for row in rows[1:]] == [False, True, True, True, True]
    assert [row.endswith("best") for row in rows[1:]] == [False, False, False, True, False]
    assert "best: 4 ranks at batch size 16: 100 prompts in 5.5 s" in out
    assert "given: 19.2 s on 1 rank in 7 batches of up to 16, 2.74 s each" in out


def test_a_cost_per_batch_is_enough_and_output_tokens_are_an_option():
    given_seconds = ["--prompts", "96", "--batch-seconds", "2", "--batch-size", "16", "--ranks", "3"]
    _, out, _ = rankdeck_plan(*given_seconds, "--max-new-tokens", "50", "--json")
    (row,) = json.loads(out)["rows"]
    assert (row["seconds"], row["speedup"]) == (4, 3)
    assert row["tokens_per_second"] == pytest.approx(96 * 50 / 4)
    assert row["extrapolated"] is False


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "rankdeck" / "runs"


def write_run(runs: Path, name: str, costs: list[CostPoint], **changes: object) -> None:
    (runs / name).mkdir(parents=True)
    values = {"prompts": "x.txt", "ranks": 2, "max_new_tokens": 50, "ignore_eos": True, **changes}
    config = msgspec.convert(values, RunConfig)
    run = RunFile(name=name, status="completed", started_at=0, config=config, prompts=128, costs=costs)
    write_run_file(runs / name, run)


def test_a_sweep_given_by_name_is_planned_from_with_its_own_settings(runs):
    costs = [point(rows, ranks=ranks, factor=ranks) for rows in (1, 4, 16) for ranks in (1, 2)]
    write_run(runs, "measured", costs, sweep=SweepPlan(batch_sizes=[1, 4, 16, 64], ranks=[1, 2]))
    status, out, _ = rankdeck_plan("measured", "--json")
    assert status == 0
    found = json.loads(out)
    assert [(row["ranks"], row["batch_size"]) for row in found["rows"]] == [
        (ranks, size) for size in (1, 4, 16) for ranks in (1, 2)
    ], "64 did not fit into memory"
    batch = point(16, batches=1).seconds
    assert found["rows"][4]["seconds"] == pytest.approx(8 * batch, rel=1e-3)
    assert found["residual"] == pytest.approx(0, abs=1e-6)
    assert not any(row["extrapolated"] for row in found["rows"])

    _, out, _ = rankdeck_plan("measured", "--batch-sizes", "8,32", "--ranks", "2-3", "--prompts", "96")
    assert "96 prompts, 50 output tokens each, fixed length, pull dispatch" in out
    assert "batches of 32 not measured (measured: 1 to 16)" in out
    assert "fitted to 18 batches of measured (active ranks: 1, 2; rows: 1 to 16; fixed length)" in out


def test_the_fit_residual_is_shown(runs):
    costs = [point(1), point(4, factor=1.2), point(8), point(16, factor=1.2)]
    write_run(runs, "noisy", costs, batch_size=16)
    _, out, _ = rankdeck_plan(str(runs / "noisy"))
    assert "the model reproduces the measured batches within " in out
    write_run(runs, "single", [point(16)], batch_size=16)
    _, out, _ = rankdeck_plan("single")
    assert "how well the model fits is not known" in out


def test_a_plan_from_first_batches_only_says_that_later_ones_are_faster(runs):
    write_run(runs, "tiny", [msgspec.structs.replace(point(16), cold=True)], batch_size=16)
    _, out, _ = rankdeck_plan("tiny")
    assert "fixed length); they are each rank's first, which are slower than later ones" in out
    write_run(runs, "longer", [point(4), msgspec.structs.replace(point(16), cold=True)], batch_size=16)
    _, out, _ = rankdeck_plan("longer")
    assert "fitted to 3 batches of longer" in out
    assert "slower than later ones" not in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], ["name a run or sweep that measured, or give what a batch takes: --batch-seconds 2.74 --batch-size 16"]),
        (
            ["--seconds", "-1", "--ranks", "5-1", "--dispatch", "push"],
            ["--seconds: must be above 0 and at most 1e+09, not -1.0",
             "--dispatch: must be one of pull, split, not 'push'",
             "--seconds needs --prompts", "--seconds needs --batch-size", "--ranks: must be numbers"],
        ),
        ([*ARTICLE, "--batch-seconds", "2"], ["--batch-seconds and --seconds exclude each other"]),
        ([*ARTICLE, "--ranks", "1,999"], ["--ranks: at most 256 are possible, not 999"]),
        ([*ARTICLE, "--batch-sizes", "1-600"], ["make more than 500 rows"]),
        ([*ARTICLE, "--max-new-tokens", "0"], ["--max-new-tokens: must be at least 1, not 0"]),
        (["absent"], ["there is no run called 'absent'"]),
        (["absent", "--seconds", "3"], ["exclude each other; leave one out"]),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_all_its_errors(runs, arguments, said):
    status, out, errors = rankdeck_plan(*arguments)
    assert (status, out) == (2, "")
    assert all(line.startswith("rankdeck: ") for line in errors.splitlines())
    assert all(words in errors for words in said), errors


def test_a_run_that_measured_nothing_is_refused_with_what_to_do(runs):
    write_run(runs, "empty", [])
    status, _, errors = rankdeck_plan("empty")
    assert status == 2
    assert "empty has no measured batches in its run.json; plan from a finished run or from a sweep" in errors


def test_a_list_of_numbers_is_sorted_and_has_each_number_once():
    assert number_list("4,1-3, 2", "--ranks") == [1, 2, 3, 4]
