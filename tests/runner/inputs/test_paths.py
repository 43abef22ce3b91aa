"""Outputs never take the place of the prompts they answer, whatever may be replaced."""

from pathlib import Path

import pytest

from rankdeck.runner import start
from rankdeck.runner.protocol.config import RunConfig


@pytest.mark.parametrize("name", ["p.txt", "../{here}/p.txt", "link.txt"])
def test_outputs_in_the_place_of_their_prompts_are_refused_with_force_too(tmp_path: Path, name: str) -> None:
    (tmp_path / "p.txt").write_text("hello\n")
    (tmp_path / "link.txt").symlink_to("p.txt")
    output = str(tmp_path / name.format(here=tmp_path.name))
    config = RunConfig(prompts=str(tmp_path / "p.txt"), output=output, ranks=1, device="cpu")
    (problem,) = start.check(config, force=True)
    assert (
        str(problem)
        == f"--output: {output} is the file of prompts: the answers would take its place; name another file"
    )
    assert (tmp_path / "p.txt").read_text() == "hello\n"
