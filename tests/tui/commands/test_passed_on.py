"""What each command passes on: every flag reaches what it is for, and what was not typed is left to its default."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import typer

from rankdeck.runner import checks, run_directory, start
from rankdeck.runner.protocol.config import MAX_RANKS, Problem, RunConfig
from rankdeck.tui.commands import cli, common
from rankdeck.tui.settings.preferences import Preferences
from rankdeck.tui.sources.runs import demo_prompts
from tests.reports import summary, write_run
from tests.tui.commands.test_cli import rankdeck
from tests.tui.commands.test_mistakes import CHOICES, flag

COMMANDS: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


class Passed(dict[str, Any]):
    """What `start` and `watch` were given."""


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Passed:
    """A launch that makes a run directory and no run, and a view that ends at once with status 7."""
    got = Passed(doubt=None, remarks=[])

    def launch(config: RunConfig, **how: Any) -> Any:
        got.update(config=config, how=how)
        directory = Path(how["run_dir"] or tmp_path / "made")
        got["run"] = write_run(
            directory, config=config, prompts=100, remarks=got["remarks"], summary=got.get("figures")
        )
        return SimpleNamespace(directory=directory, died="died", doubt=got["doubt"])

    def resume(directory: Path, settings: dict[str, Any], **how: Any) -> Any:
        got.update(resumed=directory, settings=settings, how=how)
        return SimpleNamespace(directory=directory, died="died", doubt=got.get("doubt"))

    def watch(directory: Path, died: Any = None, **how: Any) -> int:
        got.update(watched=directory, died=died, view=how)
        return int(got.get("status", 7))

    monkeypatch.setattr(start, "launch", launch)
    monkeypatch.setattr(start, "resume", resume)
    monkeypatch.setattr(common.watch, "watch", watch)
    return got


SETTINGS = {
    "--model": ("model", "org/model", "org/model"),
    "--ranks": ("ranks", "3", 3),
    "--batch-size": ("batch_size", "24", 24),
    "--max-new-tokens": ("max_new_tokens", "41", 41),
    "--dispatch": ("dispatch", "split", "split"),
    "--order": ("order", "input", "input"),
    "--device": ("device", "cpu", "cpu"),
    "--dtype": ("dtype", "bfloat16", "bfloat16"),
    "--engine": ("engine", "continuous", "continuous"),
    "--decoding": ("decoding", "generate", "generate"),
    "--attention": ("attention", "eager", "eager"),
    "--ranks-per-gpu": ("ranks_per_gpu", "2", 2),
    "--gpus-per-rank": ("gpus_per_rank", "2", 2),
    "--gpu-memory-share": ("gpu_memory_share", "0.5", 0.5),
    "--quantization": ("quantization", "int8", "int8"),
    "--chat": ("chat", None, True),
    "--trust-remote-code": ("trust_remote_code", None, True),
    "--do-sample": ("do_sample", None, True),
    "--temperature": ("temperature", "0.5", 0.5),
    "--top-p": ("top_p", "0.25", 0.25),
    "--top-k": ("top_k", "17", 17),
    "--seed": ("seed", "5", 5),
    "--ignore-eos": ("ignore_eos", None, True),
    "--max-restarts": ("max_restarts", "6", 6),
    "--patience": ("patience", "90", 90.0),
    "--limit": ("limit", "12", 12),
    "--column": ("column", "text", "text"),
    "--output": ("output", "copy.jsonl", "copy.jsonl"),
    "--name": ("name", "mine", "mine"),
}
OTHERS = {
    "--force",
    "--ignore-memory",
    "--run-dir",
    "--compare",
    "--config",
    "--plain",
    "--json",
    "--theme",
    "--ascii",
    "--tour",
}
SWEEPS = {"--batch-sizes", "--repeats", "--rounds", "--seconds", "--fixed-length", "--outputs", "--trial-tokens"}


@pytest.mark.parametrize(("command", "whole"), [("run", True), ("sweep", True), ("demo", True), ("resume", False)])
def test_lines_tell_every_answer_of_a_new_run_and_the_new_ones_of_one_that_goes_on(
    passed: Passed, tmp_path: Path, command: str, whole: bool
) -> None:
    directory = tmp_path / "old"
    write_run(directory, status="stopped", config=RunConfig(prompts="p.txt", ranks=1))
    words = {"run": ["p.txt"], "sweep": ["p.txt"], "demo": [], "resume": [str(directory)]}[command]
    assert rankdeck(command, *words, "--json").exit_code == 7
    assert passed["view"].get("whole", False) is whole


@pytest.mark.parametrize("command", ["run", "sweep", "demo", "resume"])
def test_the_settings_of_each_command_are_all_among_those_that_are_tried_here(command: str) -> None:
    theirs = {flag(param) for param in COMMANDS[command].params if param.param_type_name == "option"}
    assert theirs <= SETTINGS.keys() | OTHERS | SWEEPS | {"--help"}


def typed(name: str) -> list[str]:
    value = SETTINGS[name][1]
    return [name] if value is None else [name, value]


@pytest.mark.parametrize("name", sorted(SETTINGS))
@pytest.mark.parametrize("command", ["run", "sweep", "demo", "resume"])
def test_a_setting_that_is_typed_is_that_of_the_run_and_no_other_changes(
    passed: Passed, tmp_path: Path, command: str, name: str
) -> None:
    takes = {flag(param) for param in COMMANDS[command].params if param.param_type_name == "option"}
    if name not in takes or (command, name) in (("sweep", "--ranks"), ("sweep", "--output")):
        return
    directory = tmp_path / "old"
    write_run(directory, status="stopped", config=RunConfig(prompts="p.txt", ranks=1))
    words = {"run": ["p.txt"], "sweep": ["p.txt"], "demo": [], "resume": [str(directory)]}[command]
    seen = []
    for more in ([], typed(name)):
        passed.clear()
        passed.update(doubt=None, remarks=[])
        assert rankdeck(command, *words, *more).exit_code == 7
        seen.append(passed["settings"] if command == "resume" else msgspec.structs.asdict(passed["config"]))
    before, after = seen
    field, _, value = SETTINGS[name]
    assert after[field] == value != before[field]
    moved = {key for key in after if after[key] != before[key]} - {field}
    if (command, name) == ("demo", "--ranks"):
        assert (moved, after["limit"]) == ({"limit"}, 720), "more ranks answer more prompts in the same time"
    else:
        assert not moved or (name in ("--ranks-per-gpu", "--gpus-per-rank") and moved == {"ranks"})


FREE: dict[str, Any] = {"run_dir": None, "force": False, "ignore_memory": False, "look_into_model": True}


@pytest.mark.parametrize("command", ["run", "sweep"])
@pytest.mark.parametrize(
    ("words", "how"),
    [
        ([], {}),
        (["--force"], {"force": True}),
        (["--ignore-memory"], {"ignore_memory": True}),
        (["--run-dir", "DIR"], {"run_dir": "DIR"}),
    ],
    ids=["nothing", "force", "ignore memory", "run dir"],
)
def test_what_may_be_replaced_risked_and_where_it_lives_is_as_typed_and_else_forbidden(
    passed: Passed, tmp_path: Path, command: str, words: list[str], how: dict[str, Any]
) -> None:
    place = tmp_path / "there"
    assert rankdeck(command, "p.txt", *(str(place) if word == "DIR" else word for word in words)).exit_code == 7
    asked_at = passed["how"].pop("asked_at")
    assert asked_at == pytest.approx(start.process_started_at(), abs=1), "counted from the command's beginning"
    assert hasattr(passed["how"].pop("stdin"), "read")
    assert passed["how"] == {**FREE, **how, **({"run_dir": place} if "run_dir" in how else {})}
    assert (passed["watched"], passed["died"]) == (place if "run_dir" in how else tmp_path / "made", "died")


@pytest.mark.parametrize("command", ["run", "sweep", "demo", "resume"])
def test_a_run_is_shown_as_asked(passed: Passed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    directory = tmp_path / "old"
    write_run(directory, status="stopped")
    words = {"run": ["p.txt"], "sweep": ["p.txt"], "demo": [], "resume": [str(directory)]}[command]
    monkeypatch.setattr(common, "no_screen", lambda: False)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    for more, json, looks in (
        ([], False, (None, False)),
        (["--theme", "nord", "--ascii"], False, ("nord", True)),
        (["--json"], True, None),
        (["--plain"], False, None),
    ):
        assert rankdeck(command, *words, *more).exit_code == 7
        assert passed["view"]["json"] is json
        shown = passed["view"]["preferences"]
        assert (None if shown is None else (shown.theme, shown.ascii)) == looks
        assert passed["view"].get("steerable", True)


def test_the_demo_is_many_rounds_of_small_batches_on_the_embedded_model_with_50_tokens(passed: Passed) -> None:
    assert rankdeck("demo").exit_code == 7
    config = passed["config"]
    assert (config.prompts, config.model, config.max_new_tokens) == (str(demo_prompts()), "demo", 50)
    assert (config.batch_size, config.limit) == (2, max(480, 240 * config.ranks))
    assert demo_prompts().is_file()
    assert passed["view"]["tour"] is False


def test_a_tour_begins_at_batch_size_2_unless_another_is_asked_for(passed: Passed, tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text("batch_size = 6\n")
    for words, size in (
        (["demo"], 2),
        (["demo", "--batch-size", "8"], 8),
        (["run", "p.txt"], 2),
        (["run", "p.txt", "--batch-size", "5"], 5),
        (["run", "p.txt", "--config", str(file)], 6),
    ):
        assert rankdeck(*words, "--tour").exit_code == 7
        assert (passed["config"].batch_size, passed["view"]["tour"]) == (size, True)
    assert rankdeck("run", "p.txt").exit_code == 7
    assert (passed["config"].batch_size, passed["view"]["tour"]) == (None, False)


@pytest.mark.parametrize("command", [["run", "p.txt"], ["demo"]])
def test_a_tour_goes_neither_with_json_nor_with_auto(passed: Passed, command: list[str]) -> None:
    result = rankdeck(*command, "--tour", "--json", "--batch-size", "auto")
    assert result.exit_code == 2
    assert "--tour and --json exclude each other" in result.stderr
    assert "--tour finds the batch size by itself" in result.stderr


def test_the_world_size_is_the_machines_unless_it_is_typed_or_in_the_file(
    passed: Passed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common.checks, "default_ranks", lambda device, per_gpu, span: 10 * (per_gpu or 0) + span)
    file = tmp_path / "s.toml"
    file.write_text("ranks = 4\n")
    for words, ranks in (
        ([], 1),
        (["--ranks", "5"], 5),
        (["--config", str(file)], 4),
        (["--ranks-per-gpu", "2"], 21),
        (["--gpus-per-rank", "3"], 3),
    ):
        assert rankdeck("run", "p.txt", *words).exit_code == 7
        assert passed["config"].ranks == ranks, words


def test_a_run_is_warned_of_as_it_was_recorded_not_as_it_was_asked_for(
    passed: Passed, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = SimpleNamespace(config=RunConfig(prompts="p.txt", device="cuda"), prompts=5, remarks=[])
    warned: list[Any] = []
    monkeypatch.setattr(run_directory, "read_run_file", lambda directory: recorded)
    monkeypatch.setattr(common.checks, "warnings", lambda *of: warned.append(of) or [])
    assert rankdeck("run", "p.txt", "--device", "auto").exit_code == 7
    assert warned == [(recorded.config, 5)]


def test_warnings_and_doubts_are_each_a_line_on_stderr(passed: Passed, monkeypatch: pytest.MonkeyPatch) -> None:
    passed.update(doubt="it will hardly fit", remarks=["a key was left out"])
    monkeypatch.setattr(common.checks, "warnings", lambda config, prompts: [f"{prompts} prompts are few"])
    result = rankdeck("run", "p.txt")
    assert result.stderr.splitlines() == [
        f"rankdeck: warning: {said}" for said in ("a key was left out", "100 prompts are few", "it will hardly fit")
    ]


@pytest.mark.parametrize("doubt", [None, "this is a copy"])
def test_what_a_resume_does_not_do_as_it_was_asked_for_is_said(
    passed: Passed, tmp_path: Path, doubt: str | None
) -> None:
    write_run(tmp_path / "old", status="stopped")
    passed["doubt"] = doubt
    result = rankdeck("resume", str(tmp_path / "old"))
    assert (result.exit_code, result.stderr) == (7, f"rankdeck: warning: {doubt}\n" if doubt else "")


@pytest.mark.parametrize("command", ["run", "resume"])
def test_what_the_launch_refuses_is_told_by_flag_with_status_2(
    passed: Passed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise checks.InputError([Problem("batch_size", "is bad"), "and so is the rest"])

    monkeypatch.setattr(start, "launch", refuse)
    monkeypatch.setattr(start, "resume", refuse)
    write_run(tmp_path / "old", status="stopped")
    result = rankdeck(command, "p.txt" if command == "run" else str(tmp_path / "old"))
    assert result.exit_code == 2
    assert result.stderr.splitlines() == ["rankdeck: --batch-size: is bad", "rankdeck: and so is the rest"]
    assert "watched" not in passed


def test_prompts_or_standard_input_must_be_named(passed: Passed) -> None:
    result = rankdeck("run")
    assert result.exit_code == 2
    assert result.stderr == "rankdeck: name a file of prompts, or - for standard input\n"
    assert "config" not in passed


def test_a_run_that_still_goes_is_compared_later_and_one_that_ended_at_once(passed: Passed, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_run(other)
    later = rankdeck("run", "p.txt", "--compare", str(other), "--plain")
    assert later.exit_code == 7
    assert "rankdeck: compare later: rankdeck report made --compare other" in later.stderr
    passed["figures"] = summary(rate=200.0)
    now = rankdeck("run", "p.txt", "--compare", str(other), "--plain")
    assert now.exit_code == 7
    assert "compare later" not in now.stderr
    assert "other" in now.stdout
    passed["status"] = 141
    gone = rankdeck("run", "p.txt", "--compare", str(other), "--plain")
    assert (gone.exit_code, gone.stdout) == (141, ""), "nobody reads"


def test_a_run_to_compare_with_is_looked_for_before_anything_starts(passed: Passed, tmp_path: Path) -> None:
    write_run(tmp_path / "other")
    for words, said in (
        (["--compare", "nobody"], "nobody"),
        (["--compare", str(tmp_path / "other"), "--json"], "--compare and --json exclude each other"),
    ):
        result = rankdeck("run", "p.txt", *words)
        assert result.exit_code == 2
        assert said in result.stderr
    assert "config" not in passed


class TestSweep:
    """What becomes of a sweep's own flags."""

    @pytest.fixture(autouse=True)
    def two_ranks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(common.checks, "default_ranks", lambda *_: 6)

    def plan(self, passed: Passed, *words: str) -> Any:
        assert rankdeck("sweep", "p.txt", *words).exit_code == 7
        return passed["config"].sweep

    def test_nothing_typed_is_the_documented_plan(self, passed: Passed) -> None:
        plan = self.plan(passed)
        assert (plan.batch_sizes, plan.ranks, plan.repeats) == ([1, 2, 4, 8, 16, 32], [1, 2, 4, 6], 3)
        assert (plan.least_rounds, plan.least_seconds, plan.outputs, plan.trial_tokens) == (2, 5.0, False, None)
        config = passed["config"]
        assert (config.ranks, config.ignore_eos, config.batch_size) == (6, True, None)

    def test_each_flag_has_its_place_in_the_plan(self, passed: Passed) -> None:
        words = ("--batch-sizes", "3,5-6", "--ranks", "2,3", "--repeats", "4", "--rounds", "7", "--seconds", "1.5")
        plan = self.plan(passed, *words, "--trial-tokens", "9")
        assert (plan.batch_sizes, plan.ranks, plan.repeats) == ([3, 5, 6], [2, 3], 4)
        assert (plan.least_rounds, plan.least_seconds, plan.trial_tokens) == (7, 1.5, 9)
        assert passed["config"].ranks == 3, "as many ranks are launched as the largest number needs"

    @pytest.mark.parametrize(
        ("words", "written", "fixed"),
        [
            ((), "", True),
            (("--natural",), "", False),
            (("--outputs",), "", False),
            (("--outputs", "--fixed-length"), "", True),
            ((), "ignore_eos = false", False),
            (("--fixed-length",), "ignore_eos = false", True),
            (("--outputs",), "ignore_eos = true", True),
        ],
    )
    def test_answers_have_a_fixed_length_unless_they_are_kept_and_as_is_asked(
        self, passed: Passed, tmp_path: Path, words: tuple[str, ...], written: str, fixed: bool
    ) -> None:
        (tmp_path / "s.toml").write_text(f"{written}\n")
        plan = self.plan(passed, "--config", str(tmp_path / "s.toml"), *words)
        assert passed["config"].ignore_eos is fixed
        assert plan.outputs is ("--outputs" in words)

    @pytest.mark.parametrize(
        ("written", "ranks"), [("ranks = 5", [1, 2, 4, 5]), ("ranks = 1", [1]), ("", [1, 2, 4, 6])]
    )
    def test_ranks_double_up_to_those_of_the_file_else_of_the_machine(
        self, passed: Passed, tmp_path: Path, written: str, ranks: list[int]
    ) -> None:
        (tmp_path / "s.toml").write_text(f"{written}\n")
        assert self.plan(passed, "--config", str(tmp_path / "s.toml")).ranks == ranks

    def test_the_one_batch_size_of_a_file_is_no_matter_to_a_sweep(self, passed: Passed, tmp_path: Path) -> None:
        (tmp_path / "s.toml").write_text("batch_size = 4\nseed = 5\n")
        assert self.plan(passed, "--config", str(tmp_path / "s.toml")).batch_sizes == [1, 2, 4, 8, 16, 32]
        assert (passed["config"].batch_size, passed["config"].seed) == (None, 5)

    @pytest.mark.parametrize(
        ("ranks", "said"), [("0", "0"), ("257", "257"), ("true", "True"), ("'two'", "'two'"), ("1.5", "1.5")]
    )
    def test_ranks_of_a_file_that_are_none_are_told_unless_others_are_typed(
        self, passed: Passed, tmp_path: Path, ranks: str, said: str
    ) -> None:
        file = tmp_path / "s.toml"
        file.write_text(f"ranks = {ranks}\n")
        result = rankdeck("sweep", "p.txt", "--config", str(file))
        assert result.exit_code == 2
        wrong = f"rankdeck: {file}: ranks: must be a whole number from 1 to {MAX_RANKS}, not {said}"
        assert wrong in result.stderr.splitlines()
        assert self.plan(passed, "--config", str(file), "--ranks", "2").ranks == [2]

    def test_a_copy_of_the_answers_needs_answers(self, passed: Passed) -> None:
        assert rankdeck("sweep", "p.txt", "--output", "copy.jsonl").exit_code == 2
        self.plan(passed, "--output", "copy.jsonl", "--outputs")
        assert passed["config"].output == "copy.jsonl"


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    directory = tmp_path / "live"
    write_run(directory, status="running")
    monkeypatch.setattr(run_directory, "supervisor_comes", lambda _: True)
    return directory


@pytest.mark.parametrize(
    ("words", "steerable", "json"),
    [((), True, False), (("--watch-only",), False, False), (("--json",), True, True)],
)
def test_a_live_run_is_watched_with_commands_unless_it_is_only_to_be_watched(
    passed: Passed, live: Path, words: tuple[str, ...], steerable: bool, json: bool
) -> None:
    assert rankdeck("attach", str(live), *words).exit_code == 7
    assert passed["watched"] == live
    assert passed["died"] is None, "the supervisor is not a child of this process"
    assert passed["view"] == {"json": json, "preferences": None, "steerable": steerable}


def test_without_a_name_the_newest_live_run_is_watched(
    passed: Passed, live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_directory, "newest_live_run", lambda: live)
    assert rankdeck("attach").exit_code == 7
    assert passed["watched"] == live


@pytest.mark.parametrize(("words", "now"), [((), False), (("--now",), True)])
def test_a_live_run_is_stopped_after_its_batches_unless_at_once(
    live: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], now: bool
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(cli.watch, "stop", lambda directory, *, now: asked.append((directory, now)) or 5)
    assert rankdeck("stop", str(live), *words).exit_code == 5
    assert asked == [(live, now)]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("running", "/old has lost its supervisor; `rankdeck resume /"),
        ("completed", "old has ended (completed); its outputs are "),
        ("stopped", "old has ended (stopped); its outputs are "),
    ],
)
def test_a_run_without_a_supervisor_is_neither_watched_nor_stopped(
    passed: Passed, tmp_path: Path, status: str, said: str
) -> None:
    write_run(tmp_path / "old", status=status)
    result = rankdeck("attach", str(tmp_path / "old"))
    assert result.exit_code == 2
    assert said in result.stderr
    assert status != "running" or f"`rankdeck resume {tmp_path / 'old'}`" in result.stderr, "a copy has another's name"
    assert result.stderr.endswith("outputs.jsonl\n") or status == "running"
    result = rankdeck("stop", str(tmp_path / "old"))
    assert (result.exit_code, result.stderr) == (2, "rankdeck: old is not live; there is nothing to stop\n")
    assert "watched" not in passed


def test_a_resumed_run_has_its_old_settings_but_for_those_that_are_typed(passed: Passed, tmp_path: Path) -> None:
    old = RunConfig(prompts="p.txt", ranks=5, batch_size=4, max_new_tokens=33, dispatch="split", seed=8)
    write_run(tmp_path / "old", status="stopped", config=old)
    assert rankdeck("resume", str(tmp_path / "old"), "--batch-size", "9", "--ignore-memory").exit_code == 7
    assert passed["settings"] == msgspec.structs.asdict(msgspec.structs.replace(old, batch_size=9))
    assert (passed["resumed"], passed["watched"], passed["died"]) == (tmp_path / "old", tmp_path / "old", "died")
    assert passed["how"] == {"ignore_memory": True, "trust_remote_code": False}
    assert rankdeck("resume", str(tmp_path / "old"), "--trust-remote-code").exit_code == 7
    assert passed["how"] == {"ignore_memory": False, "trust_remote_code": True}
    trusting = msgspec.structs.replace(old, trust_remote_code=True)
    write_run(tmp_path / "trusting", status="stopped", config=trusting)
    assert rankdeck("resume", str(tmp_path / "trusting")).exit_code == 7
    assert passed["how"]["trust_remote_code"] is False, "run.json may be somebody else's"


def test_hello_greets_with_the_ranks_and_the_device_that_were_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str]] = []

    async def hello(ranks: int, device: str) -> list[str]:
        asked.append((ranks, device))
        if ranks == 4:
            raise start.HelloError("rank 2 is silent")
        if ranks == 5:
            raise checks.InputError([Problem("ranks", "are too many")])
        return ["rank 0 greets", "rank 1 greets"]

    monkeypatch.setattr(start, "hello", hello)
    monkeypatch.setattr(cli, "default_ranks", lambda config: 6)
    monkeypatch.setattr(checks, "uncounted_gpus", lambda device: "GPUs cannot be counted" if device == "auto" else None)
    result = rankdeck("hello", "--ranks", "2", "--device", "cpu")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "rank 0 greets\nrank 1 greets\n", "")
    assert rankdeck("hello").stderr == "rankdeck: warning: GPUs cannot be counted\n"
    assert asked == [(2, "cpu"), (6, "auto")]
    silent = rankdeck("hello", "--ranks", "4", "--device", "cpu")
    assert (silent.exit_code, silent.stderr) == (3, "rankdeck: the ranks could not greet: rank 2 is silent\n")
    refused = rankdeck("hello", "--ranks", "5", "--device", "cpu")
    assert (refused.exit_code, refused.stderr) == (2, "rankdeck: --ranks: are too many\n")


def test_the_start_screen_has_the_theme_that_was_typed_and_needs_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Preferences | None] = []
    monkeypatch.setattr(cli.watch, "start_screen", lambda preferences: shown.append(preferences) or 4)
    assert rankdeck("--theme", "nord").exit_code == 2
    monkeypatch.setattr(common, "no_screen", lambda: False)
    monkeypatch.setattr(cli, "no_screen", lambda: False)
    assert rankdeck("--theme", "nord", "--ascii").exit_code == 4
    (preferences,) = shown
    assert preferences is not None
    assert (preferences.theme, preferences.ascii) == ("nord", True)


def test_the_version_is_said_and_nothing_else_is_done() -> None:
    import rankdeck as package

    result = rankdeck("--version")
    assert (result.exit_code, result.stdout) == (0, f"rankdeck {package.__version__}\n")


def test_these_are_the_commands() -> None:
    assert set(COMMANDS) == {
        "run", "demo", "attach", "stop", "resume", "hello", "sweep", "plan", "report", "replay", "doctor", "serve",
        "list",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["table", "json"])
def test_the_list_is_a_table_unless_json_is_asked_for(kind: str) -> None:
    write_run_among_mine()
    result = rankdeck("list", *(["--json"] if kind == "json" else []))
    assert result.exit_code == 0
    assert result.stdout.startswith("NAME " if kind == "table" else '{"directory":"')


def write_run_among_mine() -> None:
    directory = run_directory.runs_directory() / "mine"
    directory.mkdir(parents=True)
    write_run(directory)


# --- what the help says -----------------------------------------------------------------------------

DEFAULT = re.compile(r"\[default: ([^\]]+)\]")


@pytest.mark.parametrize("command", ["run", "sweep", "demo", "resume"])
def test_the_defaults_that_the_help_names_are_those_of_a_run(command: str) -> None:
    fields = {field.name: field for field in msgspec.structs.fields(RunConfig)}
    named = {
        param.name: found[1]
        for param in COMMANDS[command].params
        if param.name in fields and param.default is None and (found := DEFAULT.search(param.help or ""))
    }
    for name, said in named.items():
        if name in ("ranks", "patience", "ranks_per_gpu", "gpu_memory_share"):
            continue  # they depend on the machine
        if (command, name) == ("demo", "limit"):
            continue  # on the ranks
        assert said == ("auto" if name == "batch_size" else str(fields[name].default)), name
    assert command not in ("run", "sweep") or {"model", "max_new_tokens", "dtype"} <= named.keys()


@pytest.mark.parametrize("command", ["run", "sweep", "resume"])
def test_the_choices_that_the_help_names_are_those_there_are(command: str) -> None:
    for param in COMMANDS[command].params:
        for choice in CHOICES.get(param.name, ()):
            assert re.search(rf"\b{re.escape(choice)}\b", param.help), (param.name, choice)
