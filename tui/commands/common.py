"""What rankdeck's commands share: gathering settings, refusing bad input, finding, launching and watching a run.

Knows nothing of a screen.
"""

import contextlib
import os
import signal
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import typer

from rankdeck.runner import checks, run_directory, start
from rankdeck.runner.protocol import config as settings
from rankdeck.runner.protocol.config import Problem, RunConfig
from rankdeck.runner.run_directory.run_file import RunFile
from rankdeck.tui.commands.options import GenerationOptions, PromptOptions, ViewOptions
from rankdeck.tui.commands.parsing import refuse
from rankdeck.tui.session import watch
from rankdeck.tui.settings import preferences as settings_file
from rankdeck.tui.settings.preferences import PreferenceError, Preferences
from rankdeck.tui.terminal.inert import say, tell


def no_screen() -> bool:
    """Whether there is no terminal to draw a dashboard on: then lines are printed instead."""
    return not sys.stdout.isatty() or os.environ.get("TERM") == "dumb"


TOUR_BATCH_SIZE = 2
"""Where a tour starts unless told otherwise."""

_SETTINGS = {field.name for field in msgspec.structs.fields(RunConfig)}


def given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among a command's arguments, and in its groups of options, that were given."""
    values = dict(arguments)
    for group in arguments.values():
        if isinstance(group, GenerationOptions | PromptOptions):
            values.update(group._asdict())
    return {name: value for name, value in values.items() if name in _SETTINGS and value is not None}


@contextlib.contextmanager
def ended_as_interrupted() -> Iterator[None]:
    """Whoever ends this process meanwhile, its terminal too, it takes back what it began, as at Ctrl-C."""
    defaults = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL]
    for number in defaults:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in defaults:
            signal.signal(number, signal.SIG_DFL)


def find_run(run: str | None, mistakes: Sequence[str] = ()) -> Path:
    """The directory of a run, by default the newest live one's; refused, with the `mistakes`, if there is none."""
    try:
        return run_directory.newest_live_run() if run is None else run_directory.find_run(run)
    except run_directory.RunFileError as error:
        raise refuse(*mistakes, str(error)) from None


def read_run(directory: Path) -> RunFile:
    """The run.json of a run; refused if it cannot be read."""
    try:
        return run_directory.read_run_file(directory)
    except run_directory.RunFileError as error:
        raise refuse(str(error)) from None


def view_problems(view: ViewOptions) -> list[str]:
    """What is wrong with the options that say how a run is shown."""
    problems = ["--plain and --json exclude each other"] if view.plain and view.json else []
    if view.theme is not None and (said := settings_file.theme_problem(view.theme)):
        problems.append(f"--theme: {said}")
    return problems


def preferred(view: ViewOptions) -> Preferences | None:
    """The user's preferences for the dashboard; None if none will be shown."""
    if view.plain or view.json or no_screen():
        return None
    try:
        return load_preferences(theme=view.theme, ascii=view.ascii)
    except PreferenceError as error:
        raise refuse(*str(error).split("\n")) from None


def load_preferences(*, theme: str | None = None, ascii: bool | None = None) -> Preferences:
    """The user's preferences, their keys checked. Raises PreferenceError."""
    return settings_file.load(_key_problems, theme=theme, ascii=ascii)


def _key_problems(keys: Mapping[str, Any]) -> Iterable[str]:
    # This imports every screen, so only if there are keys to check.
    from rankdeck.tui.app import declared_keys

    return declared_keys.problems(keys)


class Settings:
    """The settings of a run as flags and perhaps a TOML file give them: flags win."""

    def __init__(self, arguments: Mapping[str, Any], file: Path | None = None) -> None:
        """`arguments` are a command's; refused if the file cannot be read."""
        self._file = file
        self._flags = given(arguments)
        self.in_file = _read_file(file) if file is not None else {}
        self.values = {**self.in_file, **self._flags}

    def said(self, problem: Problem | str) -> str:
        """A problem with a setting, by the flag that was typed or the file's key."""
        if isinstance(problem, str) or problem.setting in self._flags or problem.setting not in self.in_file:
            # Prompts are an argument, and the message begins with it.
            return problem.message if isinstance(problem, Problem) and problem.setting == "prompts" else str(problem)
        return f"{self._file}: {problem.setting}: {problem.message}"


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # not TOML, not UTF-8, or a NUL in the path
        raise refuse(f"--config: {path}: {getattr(error, 'strerror', None) or error}") from None
    for name in ("prompts", "output"):
        if isinstance(named := values.get(name), str) and named not in ("", "-"):
            # A path in a file is relative to the file, so that it means the same in any working directory.
            values[name] = str(path.absolute().parent / checks.with_whole_paths(RunConfig(prompts=named)).prompts)
            values[name] += "/" * named.endswith("/")  # which says that a folder is meant
    return values


def default_ranks(config: RunConfig) -> int:
    """The world size if none is given, from the settings that say how ranks share or span GPUs."""
    return checks.default_ranks(config.device, config.ranks_per_gpu, max(1, config.gpus_per_rank))


def launch(
    asked: Settings,
    view: ViewOptions,
    mistakes: Sequence[str] = (),
    *,
    run_dir: Path | None = None,
    force: bool = False,
    ignore_memory: bool = False,
    compare: str | None = None,
    tour: bool = False,
) -> None:
    """Start a run with these settings, watch it, exit with its status; `compare` names a run to compare it with.
    With `tour` it begins with a tour, from a small batch size unless another is asked for.

    Refused with everything that is wrong, `mistakes` in the arguments first.
    """
    wrong = [*mistakes, *view_problems(view)]
    if "prompts" not in asked.values and not any(mistake.startswith("PROMPTS") for mistake in mistakes):
        wrong.append("name a file of prompts, or - for standard input")
    if compare is not None and view.json:
        wrong.append("--compare and --json exclude each other; `rankdeck report RUN --compare OTHER` writes JSON")
    if tour:
        wrong += _tour_problems(asked, view)
        asked.values.setdefault("batch_size", TOUR_BATCH_SIZE)
    config, unread = settings.read(asked.values)
    if "ranks" not in asked.values:
        config = msgspec.structs.replace(config, ranks=default_ranks(config))
    wrong += map(asked.said, unread)
    if wrong:
        known = {problem.setting for problem in unread} | ({"prompts"} - asked.values.keys())
        found = checks.check(config, force=force)
        raise refuse(*wrong, *(asked.said(problem) for problem in found if problem.setting not in known))
    preferences = preferred(view)
    other = find_run(compare) if compare is not None else None
    try:
        with ended_as_interrupted():
            started = start.launch(
                config,
                run_dir=run_dir,
                force=force,
                ignore_memory=ignore_memory,
                look_into_model=True,
                stdin=sys.stdin.buffer,
                asked_at=start.process_started_at(),
            )
    except start.InputError as error:
        raise refuse(*map(asked.said, error.problems)) from None
    run = run_directory.read_run_file(started.directory)
    doubts = [started.doubt] if started.doubt is not None else []
    for warning in [*run.remarks, *checks.warnings(run.config, run.prompts), *doubts]:
        tell(f"rankdeck: warning: {warning}")
    status = watch.watch(
        started.directory, started.died, json=view.json, preferences=preferences, whole=True, tour=tour
    )
    if other is not None and status != watch.EXIT_NOBODY_READS:
        _compare(started.directory, other)
    raise typer.Exit(status)


def _tour_problems(asked: Settings, view: ViewOptions) -> list[str]:
    problems = ["--tour and --json exclude each other; --plain prints what the tour says"] if view.json else []
    if asked.values.get("batch_size") == "auto":
        problems.append("--tour finds the batch size by itself; leave out --batch-size auto, or give a number")
    return problems


def _compare(directory: Path, other: Path) -> None:
    """Compare a run that has ended with another; for one that is still going, say how to compare it later."""
    from rankdeck.tui.report.compare import comparison_lines

    run = run_directory.read_run_file(directory)
    if run.summary is None:
        tell(f"rankdeck: compare later: rankdeck report {run.name} --compare {other.name}")
        return
    for line in comparison_lines(run, run_directory.read_run_file(other)):
        say(line)
