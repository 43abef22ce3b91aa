"""One `make gpu` as a whole, with steps that are simulated: what goes wrong stops nothing, and is not forgotten."""

import json
from pathlib import Path

import pytest

from rankdeck.runner import protocol
from tests.gpu import __main__ as command
from tests.gpu import launches, measure, plan
from tests.gpu.__main__ import Run
from tests.gpu.bench import Bench, Model, StepError
from tests.gpu.plan import Step

PASSES = "def test_that_passes():\n    pass\n"
FAILS = "def test_that_fails():\n    assert 1 == 2\n"
HANGS = "import time\ndef test_that_hangs():\n    time.sleep(60)\n"


def failing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *wrong: str,
    error: Exception | None = None,
    seconds: float = 0.0,
    model_seconds: float = 0.0,
    budget: float = 1000.0,
) -> Run:
    """A run in which a step takes `seconds`: those called `wrong` go wrong then, the others have measured one case."""
    now = [0.0]

    def do(bench: Bench, step: Step, model: Model, allowed: float, write: measure.Write) -> None:
        now[0] += seconds
        if step.name in wrong:
            raise error or StepError("")
        write(measure.case(step, step.batch_sizes[0], 1) | {"tokens_per_second": 1.0, "allowed": allowed})

    def make_model(bench: Bench, size: str, allowed: float) -> tuple[Model, dict]:
        now[0] += model_seconds
        return Model(tmp_path, size, 1e9, None), {}

    monkeypatch.setattr(measure, "KINDS", dict.fromkeys(measure.KINDS, do))
    monkeypatch.setattr("tests.gpu.bench.make_model", make_model)
    return Run(tmp_path, budget, "cpu", 0, lambda: now[0])


def results(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> Run:
    """A run whose tests marked gpu are these."""
    folder = tmp_path / "marked"
    folder.mkdir()
    head = "import pytest\npytestmark = pytest.mark.gpu\n"
    (folder / "test_it.py").write_text(head + code)
    monkeypatch.setattr(command, "MARKED", str(folder))
    return Run(tmp_path, 1000, "cpu", 0)


@pytest.mark.parametrize(
    ("error", "told"), [(StepError("it hung"), "it hung"), (KeyError("no_field"), "KeyError: 'no_field'")]
)
def test_a_step_that_goes_wrong_is_told_and_the_next_ones_have_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    run = failing(tmp_path, monkeypatch, "static", error=error)
    run.go(plan.select(["static", "continuous"], gpus=0), tmp_path, tmp_path)
    assert run.went_wrong
    assert {"step": "static", "error": told} in results(tmp_path)
    (case,) = (line for line in results(tmp_path) if "case" in line)
    assert (case["case"], case["tokens_per_second"]) == ("7B continuous, batch size 64", 1.0)
    assert f"static: error: {told}" in (tmp_path / "summary.md").read_text()
    assert "Traceback" in (tmp_path / "log.txt").read_text()


def test_a_step_that_goes_wrong_at_once_makes_the_next_of_its_kind_neither_hasty_nor_bold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = failing(tmp_path, monkeypatch, "static", seconds=2.0)
    steps = plan.select(["static", "continuous"], gpus=0)
    run.go(steps, tmp_path, tmp_path)
    (case,) = (line for line in results(tmp_path) if "case" in line)
    assert case["allowed"] == plan.allowed(steps[1], 1000, [])
    just_enough = plan.MODEL_SECONDS["7B"] + steps[1].seconds + plan.RESERVE + 1
    run = failing(tmp_path, monkeypatch, "continuous", seconds=2.0, budget=just_enough)
    run.go(steps[::-1], tmp_path, tmp_path)
    assert results(tmp_path)[-1] == {
        "step": "static",
        "skipped": "takes some 75 s, and 86 s of the budget are left",
    }


def test_a_step_that_has_no_time_left_because_its_model_took_so_long_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = failing(tmp_path, monkeypatch, model_seconds=960.0)
    run.go(plan.select(["continuous"], gpus=0), tmp_path, tmp_path)
    assert results(tmp_path)[-1]["skipped"] == "takes some 40 s, and 40 s of the budget are left"


def test_the_logs_of_a_run_that_went_wrong_are_kept_as_its_folder_is_not(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "runner.log").write_text("early\n" * 10_000 + "the supervisor's last words\n")
    (run / "rank-0.log").write_text("CUDA error\n")
    launches.keep_logs(tmp_path, Step("static", "sweep", 1), run)
    kept = (tmp_path / "log.txt").read_text()
    assert "=== static: rank-0.log ===\nCUDA error" in kept
    assert "the supervisor's last words" in kept
    assert len(kept) < 1.1 * launches.KEPT_CHARACTERS


def test_a_model_that_cannot_be_made_is_tried_once_and_its_steps_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def make_model(bench: Bench, size: str, seconds: float) -> None:
        tried.append(size)
        raise StepError("no room")

    monkeypatch.setattr("tests.gpu.bench.make_model", make_model)
    run = Run(tmp_path, 1000, "cpu", 0)
    run.go(plan.select(["static", "continuous"], gpus=0), tmp_path, tmp_path)
    assert tried == ["7B"]
    assert results(tmp_path) == [
        {"step": "static", "error": "no room"},
        {"step": "continuous", "skipped": "there is no 7B model"},
    ]


def test_results_are_written_down_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = failing(tmp_path, monkeypatch)
    for number, step in enumerate(plan.select(["static", "continuous"], gpus=0), 1):
        run.go([step], tmp_path, tmp_path)
        assert len([line for line in results(tmp_path) if "case" in line]) == number
        assert f"| 7B {step.name}, batch size" in (tmp_path / "summary.md").read_text()
    assert not run.went_wrong


def test_a_test_that_fails_is_named_in_the_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = marked(tmp_path, monkeypatch, PASSES + FAILS)
    run.go([Step("tests", "tests", 60)], tmp_path, tmp_path)
    assert run.went_wrong
    tests = results(tmp_path)[0]["tests"]
    assert tests["outcome"].startswith("1 failed, 1 passed")
    (failure,) = tests["failures"]
    assert "test_that_fails" in failure
    assert failure in (tmp_path / "summary.md").read_text()
    assert "assert 1 == 2" in (tmp_path / "tests.txt").read_text()


def test_tests_that_pass_are_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = marked(tmp_path, monkeypatch, PASSES)
    run.go([Step("tests", "tests", 60)], tmp_path, tmp_path)
    assert not run.went_wrong


def test_a_test_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = marked(tmp_path, monkeypatch, PASSES + HANGS)
    monkeypatch.setattr(plan, "allowed", lambda *_: 4.0)
    run.go([Step("tests", "tests", 60)], tmp_path, tmp_path)
    assert run.went_wrong
    assert results(tmp_path)[0]["tests"]["outcome"] == "timed out after 4 s: see tests.txt"


def test_a_line_of_a_journal_that_is_half_written_is_read_once_it_is_whole(tmp_path: Path) -> None:
    tail = launches.Tail(tmp_path)
    tail.read()
    line = protocol.encode_line(protocol.RanksReady(at=7))
    with (tmp_path / "events.jsonl").open("wb", buffering=0) as file:
        file.write(line + line[:10])
        tail.read()
        assert [event.at for event in tail.events] == [7]
        file.write(line[10:])
        tail.read()
    assert [event.at for event in tail.events] == [7, 7]
