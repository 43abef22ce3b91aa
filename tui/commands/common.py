"""What rankdeck's commands share: gathering settings, refusing bad input, finding, launching and watching a run.

Knows nothing of a screen.
"""

import os
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import typer

from rankdeck.runner import run_directory, start
from rankdeck.runner.protocol import config as settings
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.tui.commands.options import GenerationOptions, PromptOptions, ViewOptions
from rankdeck.tui.session import watch
from rankdeck.tui.settings import preferences as settings_file
from rankdeck.tui.settings.preferences import PreferenceError, Preferences

EXIT_BAD_INPUT = 2


def refuse(message: str) -> typer.Exit:
    """Print what is wrong, line by line; the caller raises the returned exit."""
    for line in message.splitlines():
        typer.echo(f"rankdeck: {line}", err=True)
    return typer.Exit(EXIT_BAD_INPUT)


def no_screen() -> bool:
    """Whether there is no terminal to draw a dashboard on: then lines are printed instead."""
    return not sys.stdout.isatty() or os.environ.get("TERM") == "dumb"


_SETTINGS = {field.name for field in msgspec.structs.fields(RunConfig)}


def given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among a command's arguments, and in its groups of options, that were given."""
    values = dict(arguments)
    for group in arguments.values():
        if isinstance(group, GenerationOptions | PromptOptions):
            values.update(group._asdict())
    return {name: value for name, value in values.items() if name in _SETTINGS and value is not None}


def find_run(run: str | None) -> Path:
    try:
        return run_directory.newest_live_run() if run is None else run_directory.find_run(run)
    except run_directory.RunFileError as error:
        raise refuse(str(error)) from None


def one_view(view: ViewOptions) -> None:
    if view.plain and view.json:
        raise refuse("--plain and --json exclude each other")


def preferred(view: ViewOptions) -> Preferences | None:
    """The user's preferences for the dashboard; None if none will be shown."""
    if view.plain or view.json or no_screen():
        return None
    try:
        return load_preferences(theme=view.theme, ascii=view.ascii)
    except PreferenceError as error:
        raise refuse(str(error)) from None


def load_preferences(*, theme: str | None = None, ascii: bool | None = None) -> Preferences:
    """The user's preferences, their keys checked. Raises PreferenceError."""
    return settings_file.load(_key_problems, theme=theme, ascii=ascii)


def _key_problems(keys: Mapping[str, Any]) -> Iterable[str]:
    # This imports every screen, so only if there are keys to check.
    from rankdeck.tui.app import declared_keys

    return declared_keys.problems(keys)


def read_config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        settings.from_mapping({"prompts": "", **values})
    except OSError as error:
        raise refuse(f"--config: {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError) as error:
        raise refuse(f"--config: {path}: {error}") from None
    if "prompts" in values and values["prompts"] != "-":
        # A path in a file is relative to the file, so that it means the same in any working directory.
        values["prompts"] = str(path.absolute().parent / start.with_homes(RunConfig(prompts=values["prompts"])).prompts)
    return values


def default_ranks(values: dict[str, Any]) -> int:
    """The world size if none is given, from the settings that say how ranks share or span GPUs."""
    return start.default_ranks(
        values.get("device", "auto"), values.get("ranks_per_gpu"), values.get("gpus_per_rank") or 1
    )


def launch(
    values: dict[str, Any],
    view: ViewOptions,
    *,
    run_dir: Path | None = None,
    force: bool = False,
    ignore_memory: bool = False,
    compare: str | None = None,
) -> None:
    """Start a run with these settings, watch it, exit with its status; `compare` names a run to compare it with."""
    one_view(view)
    preferences = preferred(view)
    if compare is not None and view.json:
        raise refuse("--compare and --json exclude each other; `rankdeck report RUN --compare OTHER` writes JSON")
    other = find_run(compare) if compare is not None else None
    try:
        if "ranks" not in values:
            values["ranks"] = default_ranks(values)
        config = settings.from_mapping(values)
        asked_at = start.process_started_at()
        started = start.launch(
            config,
            run_dir=run_dir,
            force=force,
            ignore_memory=ignore_memory,
            look_into_model=True,
            stdin=sys.stdin.buffer,
            asked_at=asked_at,
        )
    except ValueError as error:
        raise refuse(str(error)) from None
    except start.InputError as error:
        raise refuse(str(error)) from None
    run = run_directory.read_run_file(started.directory)
    doubts = [started.doubt] if started.doubt is not None else []
    for warning in [*run.remarks, *start.warnings(run.config, run.prompts), *doubts]:
        typer.echo(f"rankdeck: warning: {warning}", err=True)
    status = watch.watch(started.directory, started.died, json=view.json, preferences=preferences)
    if other is not None:
        _compare(started.directory, other)
    raise typer.Exit(status)


def _compare(directory: Path, other: Path) -> None:
    """Compare a run that has ended with another; for one that is still going, say how to compare it later."""
    from rankdeck.tui.report.compare import comparison_lines

    run = run_directory.read_run_file(directory)
    if run.summary is None:
        typer.echo(f"rankdeck: compare later: rankdeck report {run.name} --compare {other.name}", err=True)
        return
    for line in comparison_lines(run, run_directory.read_run_file(other)):
        typer.echo(line)
