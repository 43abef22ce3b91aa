"""`rankdeck report`: writes the report of a run or a sweep to files. What it says is in rankdeck.tui.report."""

from pathlib import Path
from typing import Annotated

import typer

from rankdeck.runner import run_directory
from rankdeck.tui.commands.options import from_home
from rankdeck.tui.commands.parsing import refuse
from rankdeck.tui.terminal.inert import say


def report(
    run: Annotated[str, typer.Argument(help="A run's or a sweep's name, or its directory.")],
    output: Annotated[
        Path | None,
        typer.Option(help="The directory the files go to.  [default: the run's own]", callback=from_home),
    ] = None,
    compare: Annotated[str | None, typer.Option(help="Another run to set beside it.")] = None,
) -> None:
    """Write what a run or a sweep found as report.html, report.md, report.csv and report.json; print their paths."""
    from rankdeck.tui.report import write  # the template engine is needed here alone

    try:
        directory = run_directory.find_run(run)
        other = run_directory.find_run(compare) if compare is not None else None
        if other == directory:
            raise run_directory.RunFileError(f"--compare: {compare!r} is the same run; name another")
        paths = write.put(write.make(directory, other), output if output is not None else directory)
    except (run_directory.RunFileError, write.WriteError) as error:
        raise refuse(str(error)) from None
    for path in paths:
        say(str(path))
