"""Arguments as they are typed: what is wrong with each is said in one way, whatever the command."""

from typing import Any

import pytest

from rankdeck.tui.commands.parsing import EXIT_BAD_INPUT, LONGEST, refuse
from tests.tui.commands.test_cli import rankdeck
from tests.tui.commands.test_mistakes import refused


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (("run", "p.txt", "--ranks", "many"), ["--ranks: must be a whole number, not 'many'"]),
        (("run", "p.txt", "--ranks", "1.5"), ["--ranks: must be a whole number, not '1.5'"]),
        (("run", "p.txt", "--ranks", ""), ["--ranks: is empty; give a value, or leave it out"]),
        (("run", "p.txt", "--name", " \t"), ["--name: is empty; give a value, or leave it out"]),
        (("run", " "), ["PROMPTS: is empty; give a value, or leave it out"]),
        (("run", "p.txt", "--patience", "long"), ["--patience: must be a number, not 'long'"]),
        (("run", "p.txt", "--name", "caf\udce9"), ["--name: must be UTF-8, not 'caf⟨U+DCE9⟩'"]),
        (("run", "p.txt", "--ranks"), ["--ranks: needs a value"]),
        (("run", "p.txt", "--force=1"), ["--force: takes no value"]),
        (("run", "p.txt", "--no-force"), ["--no-force: there is no such option; did you mean --force?"]),
        (("run", "p.txt", "-z"), ["-z: there is no such option"]),
        (("run", "p.txt", "q.txt", "r.txt"), ["q.txt r.txt: unexpected argument; see `rankdeck run --help`"]),
        (("list", "x"), ["x: unexpected argument; see `rankdeck list --help`"]),
        (("stop",), ["RUN is missing: rankdeck stop RUN"]),
        (
            ("resume", "--ranks", "x"),
            ["--ranks: must be a whole number, not 'x'", "RUN is missing: rankdeck resume RUN"],
        ),
        (("attach", "--watch-only=2", "--theme"), ["--watch-only: takes no value", "--theme: needs a value"]),
        (("--theme",), ["--theme: needs a value"]),
        (("--theme", "x", "--version=1"), ["--version: takes no value"]),
    ],
    ids=lambda value: " ".join(value[:4]) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_said_by_the_flag_as_it_was_typed(words: tuple[str, ...], lines: list[str]) -> None:
    found = refused(*words)
    said = [line.removeprefix("rankdeck: ") for line in found]
    assert sorted(
        line for line in said if line.partition(":")[0] in {each.partition(":")[0] for each in lines}
    ) == sorted(lines), found


def test_the_value_of_an_option_that_is_none_is_not_called_an_argument() -> None:
    assert refused("list", "--no-such", "value") == ["rankdeck: --no-such: there is no such option"]
    assert refused("list", "--jso") == ["rankdeck: --jso: there is no such option; did you mean --json?"]


def test_a_command_that_does_not_look_at_the_rest_is_refused_before_it_does_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rankdeck.tui.commands import cli

    monkeypatch.setattr(cli, "find_run", lambda *_: pytest.fail("it went on"))
    for command in ("attach", "stop"):
        assert refused(command, "x", "--quickly") == ["rankdeck: --quickly: there is no such option"]


def test_every_mistake_comes_before_what_else_is_wrong(tmp_path: Any) -> None:
    (first, second) = refused("resume", str(tmp_path / "nobody"), "--ranks", "x")
    assert first == "rankdeck: --ranks: must be a whole number, not 'x'"
    assert "nobody" in second


def test_there_is_no_such_command_and_these_are_those_there_are() -> None:
    (line,) = refused("plann", "--no-such")
    assert line.startswith(
        "rankdeck: there is no command 'plann'; did you mean plan or replay?; the commands are run, "
    )
    assert rankdeck("plan", "--help").exit_code == 0


@pytest.mark.parametrize(("length", "whole"), [(LONGEST - 10, True), (LONGEST - 9, False)])
def test_a_problem_is_a_harmless_line_of_two_thousand_characters_at_most(
    capsys: pytest.CaptureFixture[str], length: int, whole: bool
) -> None:
    assert LONGEST == 2000
    assert refuse("x" * length, "a\x1b[2J\nb").exit_code == EXIT_BAD_INPUT == 2
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert out == ""
    assert (first == "rankdeck: " + "x" * length) == whole
    assert len(first) <= LONGEST
    assert "\x1b" not in second
    assert second.startswith("rankdeck: a")


def test_what_becomes_longer_as_it_is_made_harmless_is_cut_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    refuse("\udce9" * 1900)
    assert len(capsys.readouterr().err.rstrip("\n")) <= LONGEST


@pytest.mark.parametrize("words", [("run", "--ranks", "x"), ("stop",), ("serve", "--port", "x"), ("list", "x")])
def test_help_is_given_whatever_else_is_wrong(words: tuple[str, ...]) -> None:
    result = rankdeck(*words, "--help")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.lstrip().startswith("Usage: ")
