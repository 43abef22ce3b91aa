"""`make gpu` itself, for real and as small as it can be: a sweep and a run whose knobs are turned, on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rankdeck.tui.sources.journal import Journal
from tests import ROOT
from tests.gpu.recording import MOST_BYTES

CASES = [
    *(f"tiny static, batch size {rows}" for rows in (1, 16, 64, 256)),
    "tiny static, batch size 64, 2 ranks",
]


def gpu(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.gpu", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_sweep_and_a_steered_run_give_cases_a_summary_and_two_recordings(tmp_path: Path) -> None:
    out = tmp_path / "results"
    done = gpu("--device", "cpu", "--steps", "static,two ranks", "--budget", "240", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert lines[0]["machine"]["cores"] > 0
    cases = {line["case"]: line for line in lines if "case" in line}
    assert sorted(cases) == sorted(CASES)
    assert all(case["tokens_per_second"] > 0 and case["mbu"] > 0 for case in cases.values())
    assert (out / "summary.md").read_text() in done.stdout
    for name, kinds in (("run", {"ActiveRanksChanged", "BatchSizeChanged", "RunEnded"}), ("sweep", {"TrialFinished"})):
        path = out / f"recording-{name}" / "events.jsonl"
        assert path.stat().st_size < MOST_BYTES
        assert kinds <= {type(event).__name__ for event in Journal(path).events()}
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) <= 8
    assert all(len(path.relative_to(out).parts) <= 2 for path in files)


def test_an_unknown_step_is_refused_at_once() -> None:
    done = gpu("--steps", "nothing")
    assert (done.returncode, done.stdout.splitlines()[0].split(";")[0]) == (2, "no step is called 'nothing'")
