"""What is wrong with a path of prompts or outputs: one sentence for each, and none for a path that will do."""

import os
from pathlib import Path

import pytest

from rankdeck.runner.inputs.paths import why_same, why_unreadable, why_unrecordable, why_unwritable
from rankdeck.runner.inputs.prompts.kinds import NAME_ONE


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, int]]:
    """Names of files, and modes, that the user has no permission for; root has every permission."""
    names: set[tuple[str, int]] = set()
    access = os.access

    def may(path: str | Path, mode: int) -> bool:
        return not any(Path(path).name == name and mode & kind for name, kind in names) and access(path, mode)

    monkeypatch.setattr(os, "access", may)
    return names


def test_only_a_name_that_is_no_utf_8_cannot_be_recorded():
    assert why_unrecordable("fine/é.txt") is None
    assert why_unrecordable(Path("fine")) is None
    assert "the name is not valid UTF-8" in (why_unrecordable("caf\udce9") or "")


UNREADABLE = {
    "nowhere.txt": "nowhere.txt: there is no such file",
    "folder": "folder is a directory, not a file of prompts",
    "pipe": "pipe is a pipe or a device, not a file; give it as standard input: -",
    "/dev/zero": "/dev/zero is a pipe or a device, not a file; give it as standard input: -",
    "empty.txt": "empty.txt is empty",
    "closed.txt": "closed.txt: you have no permission to read it",
    "": NAME_ONE,
    " \t": NAME_ONE,
    "caf\udce9.txt": "caf\udce9.txt: the name is not valid UTF-8, so it cannot be recorded; rename it",
    "table.csv": "table.csv: say which column holds the prompts with --column NAME",
    "table.tsv": "table.tsv: say which column holds the prompts with --column NAME",
}


@pytest.mark.parametrize("prompts", UNREADABLE)
def test_a_prompt_file_that_cannot_be_read_is_refused_in_a_sentence(here, forbidden, prompts):
    (here / "folder").mkdir()
    os.mkfifo(here / "pipe")
    (here / "empty.txt").touch()
    for name in ("closed.txt", "table.csv", "table.tsv"):
        (here / name).write_text("a,b\n")
    forbidden.add(("closed.txt", os.R_OK))
    assert why_unreadable(prompts, None) == UNREADABLE[prompts]


@pytest.mark.parametrize("prompts", ["x" * 5000, "nul\0.txt"])
def test_a_name_that_the_system_refuses_is_refused_in_its_words(here, prompts):
    said = why_unreadable(prompts, None)
    assert said is not None
    assert said.startswith(f"{prompts}: ")


@pytest.mark.parametrize(
    ("prompts", "column"),
    [("p.txt", None), ("p.jsonl", None), ("p.txt", "a"), ("t.csv", "a"), ("./t.csv", "b"), ("-", None), ("-", "a")],
)
def test_a_prompt_file_that_can_be_read_is_not_refused(here, forbidden, prompts, column):
    for name in ("p.txt", "p.jsonl", "t.csv"):
        (here / name).write_text("a")
        forbidden.add((name, os.W_OK))
    assert why_unreadable(prompts, column) is None
    assert why_unreadable(str(here / prompts) if prompts != "-" else "-", column) is None


def test_standard_input_is_the_same_as_no_file_whatever_lies_under_its_name(here):
    (here / "-").touch()
    assert why_same("-", "-") is None
    assert why_same("./-", "./-") is not None
    assert why_same("other", "./-") is None
    assert why_same("nul\0", "./-") is None


@pytest.fixture
def outputs(here: Path, forbidden: set[tuple[str, int]]) -> Path:
    (here / "folder").mkdir()
    (here / "closed").mkdir()
    forbidden.add(("closed", os.W_OK))
    for name in ("there", "mine"):
        (here / name).touch()
    forbidden.add(("mine", os.W_OK))
    os.mkfifo(here / "pipe")
    (here / "loop").symlink_to("loop")
    (here / "to nowhere").symlink_to("folder/new")
    return here


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("folder", "folder is a directory; name a file"),
        ("pipe", "pipe is not a regular file; name one"),
        ("loop", "loop is a link that leads back to itself; name another file"),
        ("nowhere/x", "there is no directory {here}/nowhere; create it first"),
        ("there/x", "there is no directory {here}/there; create it first"),
        ("closed/x", "you have no permission to write closed/x"),
        ("caf\udce9", "{here}/caf\udce9: the name is not valid UTF-8, so it cannot be recorded; rename it"),
    ],
)
def test_outputs_that_cannot_be_written_are_refused_in_a_sentence_with_force_too(outputs, output, said, force):
    assert why_unwritable(Path(output), force=force) == said.format(here=outputs)


def test_outputs_that_are_there_need_force_and_the_permission_to_be_written(outputs):
    assert why_unwritable(Path("there"), force=False) == "there exists; name another file, or replace it with --force"
    assert why_unwritable(Path("there"), force=True) is None
    assert why_unwritable(Path("mine"), force=True) == "you have no permission to write mine"
    for new in ("new", "folder/new", "to nowhere"):
        assert why_unwritable(Path(new), force=False) is None
        assert why_unwritable(outputs / new, force=True) is None
