"""Outputs never take the place of the prompts they answer, whatever may be replaced."""

from pathlib import Path

import pytest

from rankdeck.runner import checks
from rankdeck.runner.inputs import paths
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory import OUTPUTS_FILE
from rankdeck.runner.run_directory.lock import LOCK_FILE
from rankdeck.runner.run_directory.run_file import RUN_FILE


@pytest.mark.parametrize("name", ["p.txt", "../{here}/p.txt", "link.txt"])
def test_outputs_in_the_place_of_their_prompts_are_refused_with_force_too(tmp_path: Path, name: str) -> None:
    (tmp_path / "p.txt").write_text("hello\n")
    (tmp_path / "link.txt").symlink_to("p.txt")
    output = str(tmp_path / name.format(here=tmp_path.name))
    config = RunConfig(prompts=str(tmp_path / "p.txt"), output=output, ranks=1, device="cpu")
    (problem,) = checks.check(config, force=True)
    assert (
        str(problem)
        == f"--output: {output} is the file of prompts: the answers would take its place; name another file"
    )
    assert (tmp_path / "p.txt").read_text() == "hello\n"


def test_outputs_named_by_a_hyphen_or_like_a_file_of_another_run_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("hello\n")
    other = tmp_path / "other"
    other.mkdir()
    for name in (RUN_FILE, LOCK_FILE):
        (other / name).touch()
    (tmp_path / "link").symlink_to(other / OUTPUTS_FILE)

    def said(output: str) -> list[str]:
        config = RunConfig(prompts=str(tmp_path / "p.txt"), output=output, ranks=1, device="cpu")
        return [str(problem) for problem in checks.check(config, force=True)]

    assert said("-") == [
        "--output: `-` is not a file; outputs.jsonl in the run's directory has the outputs in any case"
    ]
    assert said(f"{other}/answers/") == [f"--output: {other}/answers/ is a directory; name a file"]
    for name in ("answers.csv", "answers.TSV", "answers.parquet", "answers.jsonl.gz"):
        (complaint,) = said(f"{other}/{name}")
        assert complaint.startswith(f"--output: {other}/{name}: outputs are written as JSON Lines whatever")
    for path in (other / RUN_FILE, other / OUTPUTS_FILE, other / "rank-0.log", tmp_path / "link"):
        assert said(str(path)) == [f"--output: {path} is a file of another run; name another file"]
    assert said(str(other / "answers.jsonl")) == []
    (other / LOCK_FILE).unlink()
    assert said(str(other / OUTPUTS_FILE)) == [], "somebody's own folder"


@pytest.mark.parametrize(("name", "why"), [("x" * 300, "File name too long"), ("a\0b", "embedded null")])
def test_a_name_that_no_file_can_have_is_refused_in_words(tmp_path: Path, name: str, why: str) -> None:
    output = str(tmp_path / name)
    assert why in (paths.why_unwritable(Path(output), force=False) or "")
    (tmp_path / "p.txt").write_text("hello\n")
    config = RunConfig(prompts=str(tmp_path / "p.txt"), output=output, ranks=1, device="cpu")
    (problem,) = checks.check(config)
    assert why in str(problem)
