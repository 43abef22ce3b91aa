"""What the commands share: whether there is a screen, what a file of settings says, and whose fault a problem is."""

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from rankdeck.runner.protocol.config import Problem, RunConfig
from rankdeck.tui.commands import common
from rankdeck.tui.commands.options import GenerationOptions, PromptOptions, ViewOptions, grouped
from rankdeck.tui.settings.preferences import Preferences
from tests.tui.commands.test_cli import rankdeck


class Terminal(io.StringIO):
    def __init__(self, there: bool) -> None:
        super().__init__()
        self.isatty = lambda: there  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("terminal", "term", "none"),
    [(True, "xterm", False), (True, None, False), (True, "dumb", True), (False, "xterm", True), (False, None, True)],
)
def test_a_dashboard_needs_a_terminal_that_is_not_dumb(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, term: str | None, none: bool
) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal(terminal))
    monkeypatch.delenv("TERM", raising=False)
    if term is not None:
        monkeypatch.setenv("TERM", term)
    assert common.no_screen() == none


def test_of_a_commands_arguments_the_settings_that_were_given_are_taken_out_of_their_groups_too() -> None:
    arguments = {
        "prompts": "p.txt", "ranks": None, "seed": 0, "json": True, "force": True, "name": "",
        "generation": GenerationOptions(dtype="float32", chat=False),
        "work": PromptOptions(limit=3),
        "view": ViewOptions(theme="nord"),
    }  # fmt: skip
    assert common.given(arguments) == {
        "prompts": "p.txt", "seed": 0, "name": "", "dtype": "float32", "chat": False, "limit": 3,
    }  # fmt: skip


def test_an_option_of_a_group_is_the_commands_own() -> None:
    @grouped
    def command(*, first: int = 1, work: PromptOptions, last: int = 2) -> None:
        seen.append((first, work, last))

    seen: list[Any] = []
    command(limit=5)
    command(first=3, column="x", last=4)
    assert seen == [(1, PromptOptions(limit=5), 2), (3, PromptOptions(column="x"), 4)]


@pytest.mark.parametrize(
    ("view", "problems"),
    [
        (ViewOptions(), []),
        (ViewOptions(plain=True), []),
        (ViewOptions(json=True, theme="nord"), []),
        (ViewOptions(plain=True, json=True), ["--plain and --json exclude each other"]),
    ],
)
def test_lines_and_json_exclude_each_other(view: ViewOptions, problems: list[str]) -> None:
    assert common.view_problems(view) == problems
    wrong = common.view_problems(view._replace(theme="nrd"))
    assert wrong[:-1] == problems
    assert wrong[-1].startswith("--theme: there is no theme 'nrd'; did you mean nord")


def test_preferences_are_read_only_for_a_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    made = Preferences()
    monkeypatch.setattr(common, "load_preferences", lambda **how: asked.append(how) or made)
    screen = True
    monkeypatch.setattr(common, "no_screen", lambda: not screen)
    assert common.preferred(ViewOptions(theme="nord", ascii=False)) is made
    assert asked == [{"theme": "nord", "ascii": False}]
    assert common.preferred(ViewOptions(plain=True)) is common.preferred(ViewOptions(json=True)) is None
    screen = False
    assert common.preferred(ViewOptions()) is None
    assert len(asked) == 1


def test_everything_that_is_wrong_with_the_preferences_is_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rankdeck.tui.settings import preferences

    monkeypatch.setattr(common, "no_screen", lambda: False)
    file = preferences.path()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('ascii = 1\ntheme = "nrd"\n[keys]\n"no.such" = "p"\n')
    with pytest.raises(typer.Exit) as left:
        common.preferred(ViewOptions())
    assert left.value.exit_code == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.removeprefix(f"rankdeck: {file}: ").partition(":")[0].split()[0] for line in lines] == [
        "ascii", "theme", "[keys]",
    ]  # fmt: skip


# --- a file of settings ---------------------------------------------------------------------------


def test_flags_win_over_the_file_and_a_problem_is_said_by_whichever_it_was(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('ranks = 3\nseed = 4\nprompts = "-"\n')
    settings = common.Settings({"ranks": 5, "limit": 7, "json": True}, file)
    assert settings.values == {"ranks": 5, "seed": 4, "limit": 7, "prompts": "-"}
    assert settings.in_file == {"ranks": 3, "seed": 4, "prompts": "-"}
    for setting, said in (
        ("ranks", "--ranks: is bad"),
        ("limit", "--limit: is bad"),
        ("batch_size", "--batch-size: is bad"),
        ("seed", f"{file}: seed: is bad"),
        ("prompts", f"{file}: prompts: is bad"),
    ):
        assert settings.said(Problem(setting, "is bad")) == said
    assert settings.said("as it is") == "as it is"
    assert common.Settings({"prompts": "p.txt"}, file).said(Problem("prompts", "p.txt is bad")) == "p.txt is bad"
    assert common.Settings({}).said(Problem("prompts", "p.txt is bad")) == "p.txt is bad"
    assert common.Settings({}).values == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        (b"= 3", "Invalid statement (at line 1, column 1)"),
        (b"\xff", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    ],
)
def test_a_file_of_settings_that_cannot_be_read_is_named_with_the_reason(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "s.toml"
    if content is not None:
        file.write_bytes(content)
    for command in ("run", "sweep"):
        result = rankdeck(command, "p.txt", "--config", str(file))
        assert (result.exit_code, result.stderr) == (2, f"rankdeck: --config: {file}: {said}\n")


def test_a_file_may_say_where_its_prompts_are_only_in_text(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("prompts = 3\n")
    assert common.Settings({}, tmp_path / "s.toml").values == {"prompts": 3}
    result = rankdeck("run", "--config", str(tmp_path / "s.toml"))
    assert result.exit_code == 2
    assert f"{tmp_path / 's.toml'}: prompts: " in result.stderr


def test_the_world_size_follows_the_device_and_how_gpus_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(common.checks, "default_ranks", lambda *of: asked.append(of) or 9)
    config = RunConfig(prompts="p", device="cuda", ranks_per_gpu=2, gpus_per_rank=3)
    assert common.default_ranks(config) == 9
    common.default_ranks(RunConfig(prompts="p", gpus_per_rank=0))
    assert asked == [("cuda", 2, 3), ("auto", None, 1)]


def test_what_may_be_replaced_is_no_mistake_beside_others(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("hello\n")
    (tmp_path / "old.jsonl").touch()
    words = ("run", str(tmp_path / "p.txt"), "--output", str(tmp_path / "old.jsonl"), "--ranks", "x")
    wrong = "rankdeck: --ranks: must be a whole number, not 'x'"
    first, second = rankdeck(*words).stderr.splitlines()
    assert (first, second.partition(" exists")[0]) == (wrong, f"rankdeck: --output: {tmp_path / 'old.jsonl'}")
    assert rankdeck(*words, "--force").stderr.splitlines() == [wrong]


@pytest.mark.parametrize("command", ["run", "demo", "sweep", "attach", "resume", "replay"])
def test_every_command_that_shows_a_run_shows_it_in_one_way(command: str) -> None:
    result = rankdeck(command, *([] if command == "demo" else ["nobody"]), "--plain", "--json")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == "rankdeck: --plain and --json exclude each other"
