"""Mistakes on the command line: all told at once, each by the flag that was typed or the key of the file."""

from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from rankdeck.runner.protocol import config
from rankdeck.tui.commands import cli
from tests.tui.commands.test_cli import rankdeck

COMMANDS: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
CHOICES = {name: get_args(kind) for name, kind in config._LITERALS.items()}
LISTS = {("sweep", "ranks"), ("sweep", "batch_sizes"), ("plan", "ranks"), ("plan", "batch_sizes")}


def options(command: str) -> list[Any]:
    return [param for param in COMMANDS[command].params if param.param_type_name == "option"]


def kind(command: str, option: Any) -> str:
    if option.name in CHOICES:
        return "choice"
    if (command, option.name) in LISTS:
        return "list"
    if option.is_flag:
        return "flag"
    hint = str(option.type_descriptor.annotation)
    return next((name for name in ("int", "float") if name in hint), "text")


def flag(option: Any) -> str:
    return str(max(option.opts, key=len))


def given(command: str, wrong: dict[str, str]) -> dict[str, str]:
    """The options of a command with a wrong value for their kind, by flag."""
    return {flag(option): wrong[found] for option in options(command) if (found := kind(command, option)) in wrong}


def refused(*arguments: str) -> list[str]:
    result = rankdeck(*arguments)
    assert result.exit_code == 2, (arguments, result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    lines: list[str] = result.stderr.splitlines()
    assert all(line.startswith("rankdeck: ") for line in lines)
    return lines


def told(lines: list[str], name: str) -> list[str]:
    return [line for line in lines if line.startswith(f"rankdeck: {name}: ")]


ARGUMENT = {"run": "nowhere.txt", "sweep": "nowhere.txt", "stop": "nobody", "resume": "RUN", "report": "nobody"}
NOT_ANYTHING = {"int": "many", "float": "some", "choice": "bogus", "list": "1,,2"}
NOT_POSSIBLE = {"int": "-9", "float": "nan", "choice": "", "list": "0"}
ABSURD = {"int": str(10**40), "float": "-inf", "choice": "AUTO", "list": "1-9999999"}


@pytest.mark.parametrize("wrong", [NOT_ANYTHING, NOT_POSSIBLE, ABSURD], ids=["no such thing", "impossible", "absurd"])
@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_wrong_option_of_a_command_is_told_at_once(command, wrong, tmp_path):
    flags = given(command, wrong)
    if not flags:
        assert command in ("attach", "stop", "report", "doctor", "list")
        return
    argument = ARGUMENT.get(command)
    if argument == "RUN":
        from tests.reports import write_run

        argument = str(tmp_path / "run")
        write_run(Path(argument), status="stopped")
    words = [word for name, value in flags.items() for word in (name, value)]
    lines = refused(command, *([argument] if argument is not None else []), *words)
    for name in flags:
        assert told(lines, name), (name, lines)
    for line in lines:
        assert "_" not in line.split(":")[1], "the flag is named as it is typed"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_unknown_options_empty_values_and_values_of_switches_are_told_together(command):
    empty = {flag(option): "" for option in options(command) if not option.is_flag}
    switches = [flag(option) for option in options(command) if option.is_flag]
    words = ["--no-such-thing", *(f"{name}=3" for name in switches)]
    lines = refused(command, *words, *(word for pair in empty.items() for word in pair))
    for name in ("--no-such-thing", *switches, *empty):
        assert told(lines, name), (name, lines)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--dtype fp16", "must be one of auto, float32, bfloat16, float16, not 'fp16'; did you mean float16?"),
        ("--dtype bf16", "did you mean bfloat16?"),
        ("--device gpu", "must be one of auto, cuda, cpu, not 'gpu'; did you mean cuda?"),
        ("--engine continous", "did you mean continuous?"),
        ("--quantization 4bit", "did you mean bnb-4bit?"),
        ("--attention flash", "did you mean flash_attention_2?"),
        ("--order len", "did you mean length?"),
    ],
)
def test_a_wrong_choice_lists_the_choices_and_names_the_likely_one(typed, meant):
    (line,) = told(refused("run", "nowhere.txt", *typed.split()), typed.split()[0])
    assert meant in line


@pytest.mark.parametrize(
    "typed",
    [
        "--temperature inf", "--temperature nan", "--temperature -1", "--temperature 0", "--temperature 1e-9",
        "--top-p 1.1", "--top-p 0", "--top-p nan", "--top-k 0", "--seed -1", "--seed 18446744073709551616",
        f"--seed {2**32}", "--limit 0", "--max-new-tokens 0", "--max-restarts -1", "--ranks 257", "--batch-size 65537",
        "--name ../up", "--name -", "--name a/b", "--gpus-per-rank 65", "--ranks-per-gpu 0", "--top-k 1e3",
    ],
)  # fmt: skip
def test_a_value_that_no_run_can_have_is_refused(typed):
    name = typed.split()[0]
    lines = refused("run", "nowhere.txt", "--do-sample", *typed.split())
    assert told(lines, name), lines
    assert any("there is no such file" in line for line in lines), "with what else is wrong"


@pytest.mark.parametrize("typed", ["--temperature 0.7", "--top-p 1", "--top-p 0.1", f"--seed {config.MAX_SEED}"])
def test_values_at_the_edge_of_what_is_possible_are_taken(typed):
    lines = refused("run", "nowhere.txt", "--do-sample", *typed.split())
    assert not told(lines, typed.split()[0])


@pytest.mark.parametrize("typed", ["1,,2", "1,2,", ",1", "1;2", "0", "2-1", "1-", "1,many", "99999999999999999999"])
@pytest.mark.parametrize("option", ["--batch-sizes", "--ranks"])
def test_a_list_of_numbers_has_a_number_between_every_two_commas(typed, option):
    assert len(told(refused("sweep", "nowhere.txt", option, typed), option)) == 1


def test_a_key_of_a_file_is_named_with_the_file_and_a_flag_over_it_as_a_flag(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("max_new_tokens = 0\ndtype = 'half'\nranks = 1.5\nsede = 3\nseed = 99999999999999999999999\n")
    lines = refused("run", "nowhere.txt", "--config", str(file), "--ranks", "0", "--top-p", "2")
    for key in ("max_new_tokens", "dtype", "sede", "seed"):
        assert len(told(lines, f"{file}: {key}")) == 1, key
    assert "did you mean seed" in told(lines, f"{file}: sede")[0]
    assert told(lines, "--ranks") == ["rankdeck: --ranks: must be at least 1, not 0"]
    assert told(lines, "--top-p")


def test_a_flag_or_a_command_that_is_nearly_one_is_pointed_out():
    assert told(refused("run", "nowhere.txt", "--max-new-token", "3"), "--max-new-token")[0].endswith(
        "did you mean --max-new-tokens?"
    )
    (line,) = refused("swep", "p.txt")
    assert "did you mean sweep" in line
    assert "doctor" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--theme", "nord", "run", "p.txt"), "options go after the command: rankdeck run --theme nord"),
        (("--ascii", "list"), "--ascii: not for `rankdeck list`, only for the start screen and run, "),
        (("--theme", "nord", "doctor"), "--theme nord: not for `rankdeck doctor`"),
        (("--theme", "nrd", "list"), "--theme: there is no theme 'nrd'; did you mean nord"),
        (("--theme", "nrd"), "--theme: there is no theme 'nrd'; did you mean nord"),
        (("--plain", "run", "p.txt"), "--plain: there is no such option"),
    ],
)
def test_options_before_the_command_are_refused_with_where_they_belong(words, said):
    assert any(said in line for line in refused(*words))


def test_a_theme_is_checked_even_where_no_screen_is_drawn():
    assert told(refused("run", "nowhere.txt", "--plain", "--theme", "nrd"), "--theme")


def test_what_is_missing_is_named_with_how_to_give_it():
    assert refused("stop") == ["rankdeck: RUN is missing: rankdeck stop RUN"]
    assert "rankdeck: --ranks: needs a value" in refused("run", "--ranks")
    assert "rankdeck: name a file of prompts, or - for standard input" in refused("run", "--ranks", "0")


def test_an_argument_of_any_length_makes_a_line_that_can_be_read():
    assert max(map(len, refused("run", "nowhere.txt", "--dtype", "x" * 100_000, "--ranks", "9" * 5000))) < 2100
