"""`rankdeck sweep`, and `rankdeck run --compare`, from the command line: what is refused, planned and printed."""

import json
import re
from pathlib import Path

import pytest

from rankdeck.runner import protocol, run_directory
from tests.runner.supervisor.test_supervisor import PROMPTS
from tests.tui.commands.test_cli import rankdeck


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "p.txt"
    path.write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    return path


@pytest.fixture
def with_stand_ins(launch, standin_model):
    """Runs a rankdeck command with stand-in ranks, which the fixture `launch` puts in place."""

    def command(*arguments: str):
        return rankdeck(*arguments, "--model", str(standin_model), "--device", "cpu")

    return command


def test_a_sweep_prints_its_table_and_names_the_best_setting_as_a_command(with_stand_ins, prompts, tmp_path):
    sweep = tmp_path / "sweep"
    result = with_stand_ins(
        *("sweep", str(prompts), "--batch-sizes", "1,4", "--ranks", "1-2", "--repeats", "2", "--seconds", "0"),
        *("--plain", "--run-dir", str(sweep)),
    )
    assert result.exit_code == 0, result.stderr
    run = run_directory.read_run_file(sweep)
    assert (run.config.ranks, run.config.ignore_eos, run.sweep.trials) == (2, True, 8)
    best, chosen = run.sweep.best, run.sweep.chosen
    assert f"best: {best.active_ranks} rank" in result.stdout
    assert f"--batch-size {chosen.batch_size} --ranks {chosen.active_ranks}" in result.stdout
    assert run.sweep.verdict.sentence in result.stdout
    assert result.stdout.count("trial ") >= 8


def test_natural_length_is_as_asked_and_ranks_double_up_to_those_of_the_machine(with_stand_ins, prompts, tmp_path):
    sweep = tmp_path / "sweep"
    result = with_stand_ins(
        *("sweep", str(prompts), "--batch-sizes", "2", "--repeats", "1", "--seconds", "0", "--natural"),
        *("--json", "--run-dir", str(sweep)),
    )
    assert result.exit_code == 0, result.stderr
    run = run_directory.read_run_file(sweep)
    assert not run.config.ignore_eos
    assert run.config.sweep.ranks[0] == 1
    assert json.loads(result.stdout.splitlines()[-1])["type"] == "run_ended"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--batch-sizes", "1,many"], "--batch-sizes"),
        (["--batch-sizes", "0"], "--batch-sizes"),
        (["--ranks", "2-1"], "--ranks"),
        (["--ranks", "999"], "--ranks: must be at most 256, not 999"),
        (["--repeats", "0"], "--repeats: must be at least 1, not 0"),
        (["--repeats", "999"], "trials are planned"),
        (["--rounds", "0"], "--rounds"),
        (["--output", "x.jsonl"], "--outputs"),
        (["--trial-tokens", "0"], "--trial-tokens: must be at least 1, not 0"),
        (["--trial-tokens", "101"], "--trial-tokens: must be at most the 100 of --max-new-tokens, not 101"),
        (
            ["--trial-tokens", "8", "--outputs"],
            "--trial-tokens: answers that are kept are not cut shorter; leave it out",
        ),
        (["--plain", "--json"], "exclude each other"),
    ],
)
def test_invalid_options_are_refused_before_anything_starts(with_stand_ins, prompts, state_home, arguments, said):
    result = with_stand_ins("sweep", str(prompts), *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not list(state_home.glob("**/run.json"))


@pytest.mark.parametrize(("repeats", "said"), [("1", "a first look"), ("2", "± 9.0 standard deviations"), ("3", "")])
def test_too_few_repeats_cause_a_warning_on_stderr_and_are_run_anyway(with_stand_ins, prompts, tmp_path, repeats, said):
    result = with_stand_ins(
        *("sweep", str(prompts), "--batch-sizes", "2", "--ranks", "1", "--repeats", repeats, "--seconds", "0"),
        *("--plain", "--run-dir", str(tmp_path / "sweep")),
    )
    assert result.exit_code == 0, result.stderr
    warnings = [line for line in result.stderr.splitlines() if "--repeats" in line]
    assert len(warnings) == bool(said)
    assert said in "".join(warnings)
    assert run_directory.read_run_file(tmp_path / "sweep").sweep.measured == int(repeats)


@pytest.fixture
def cut(with_stand_ins, prompts, tmp_path):
    """A sweep whose trials cut their answers at 3 of 40 tokens: what it printed, and its directory."""
    sweep = tmp_path / "cut"
    result = with_stand_ins(
        *("sweep", str(prompts), "--batch-sizes", "2,4", "--ranks", "1", "--repeats", "2", "--seconds", "0"),
        *("--max-new-tokens", "40", "--trial-tokens", "3", "--plain", "--run-dir", str(sweep)),
    )
    assert result.exit_code == 0, result.stderr
    return result.stdout, sweep


def test_trials_cut_their_answers_at_the_given_tokens_and_warm_up_for_fewer(cut):
    said, sweep = cut
    finished = [event for event in run_directory.read_events(sweep) if isinstance(event, protocol.BatchFinished)]
    assert len(finished) == 4 * (1 + 2), "a warm-up and two rounds of each trial"
    lengths = [event.result.output_tokens / event.result.rows for event in finished]
    assert sorted(lengths) == [1] * 4 + [3] * 8
    assert "fixed length, answers cut at 3 tokens; " in said


def test_the_run_at_the_chosen_setting_has_whole_answers(cut):
    said, sweep = cut
    chosen = run_directory.read_run_file(sweep).sweep.chosen
    command = next(line for line in said.splitlines() if "run it: " in line)
    assert f"--max-new-tokens 40 --device cpu --batch-size {chosen.batch_size} --ranks 1" in command
    assert "trial-tokens" not in command
    assert "predicted for the 25 prompts of the file at fixed length, 40 tokens each: " in said


def test_a_plan_from_it_is_for_whole_answers_and_says_that_those_were_not_measured(cut):
    _, sweep = cut
    planned = rankdeck("plan", str(sweep), "--batch-sizes", "4").stdout
    assert planned.startswith("25 prompts, 40 output tokens each, fixed length, ")
    assert "answers of up to 40 tokens not measured (measured: 3)" in planned
    whole, cut_short = (
        json.loads(rankdeck("plan", str(sweep), "--batch-sizes", "4", "--json", *tokens).stdout)["rows"][0]["seconds"]
        for tokens in ((), ("--max-new-tokens", "3"))
    )
    assert whole > cut_short
    shorter = rankdeck("plan", str(sweep), "--batch-sizes", "4", "--max-new-tokens", "3").stdout
    assert "not measured" not in shorter


def test_every_bad_list_is_named_at_once(with_stand_ins, prompts):
    said = with_stand_ins("sweep", str(prompts), "--batch-sizes", "x", "--ranks", "y").stderr
    assert "--batch-sizes" in said
    assert "--ranks" in said


def test_a_run_is_compared_with_another_when_it_ends(with_stand_ins, prompts, tmp_path):
    common = ("run", str(prompts), "--ranks", "1", "--plain")
    assert with_stand_ins(*common, "--batch-size", "2", "--run-dir", str(tmp_path / "one")).exit_code == 0
    result = with_stand_ins(
        *common, "--batch-size", "5", "--run-dir", str(tmp_path / "two"), "--compare", str(tmp_path / "one")
    )
    assert result.exit_code == 0, result.stderr
    one, two = (run_directory.read_run_file(tmp_path / name).summary for name in ("one", "two"))
    assert re.search(rf"^seconds +{two.seconds:,.3f} +{one.seconds:,.3f} ", result.stdout, re.MULTILINE), result.stdout
    assert "batch size" in result.stdout


def test_the_run_to_compare_with_must_exist_before_the_other_starts(with_stand_ins, prompts, state_home):
    result = with_stand_ins("run", str(prompts), "--plain", "--compare", "nowhere")
    assert result.exit_code == 2
    assert "nowhere" in result.stderr
    assert not list(state_home.glob("**/run.json"))
