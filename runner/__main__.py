"""`python -m rankdeck.runner DIRECTORY`: the supervisor of the run in DIRECTORY; `runner.start` starts it."""

import asyncio
import contextlib
import os
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

import msgspec

from rankdeck.runner import run_directory
from rankdeck.runner.inputs.frozen_prompts import PromptError
from rankdeck.runner.launching.accelerate import LaunchCommand, accelerate_command
from rankdeck.runner.machine import kernel, processes
from rankdeck.runner.run_directory.private_files import make_private
from rankdeck.runner.run_directory.run_file import RunFile
from rankdeck.runner.supervisor.run import EXIT_DIED, Supervisor


async def _supervise(directory: Path, hold: run_directory.Hold, launch_command: LaunchCommand) -> NoReturn:
    kernel.raise_descriptor_limit()
    run = msgspec.structs.replace(run_directory.read_run_file(directory), supervisor_pid=os.getpid())
    with contextlib.suppress(OSError):  # a full disk: the run waits for space, whoever looks for it finds the lock
        run_directory.write_run_file(directory, run)
        run_directory.reserve_room(directory)
    try:
        supervisor = Supervisor(directory, run, hold, launch_command)
    except (run_directory.RunFileError, PromptError, OSError) as error:
        _give_up(directory, run, str(error))
    try:
        status = await supervisor.run()
    except Exception as error:  # a bug: a run that has ended must not stand as one that goes on
        traceback.print_exc()
        _give_up(directory, run, f"supervisor: {type(error).__name__}: {error}")
    # Not an ordinary exit, which waits for threads: a driver call or a download may hang in one.
    os._exit(status)


def _give_up(directory: Path, run: RunFile, cause: str) -> NoReturn:
    """End a run whose files cannot be taken up, and say why."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{cause}\n")
        run_directory.write_last_run_file(
            directory,
            msgspec.structs.replace(run, status="failed", exit_status=EXIT_DIED, cause=cause, ended_at=time.time()),
        )
    os._exit(EXIT_DIED)


def main(launch_command: LaunchCommand = accelerate_command) -> None:
    """Hold the run's lock and supervise the run to its end."""
    directory = Path(sys.argv[1])
    make_private(sys.stderr.fileno())  # runner.log
    processes.adopt_orphans()  # no process of a run may be lost sight of
    try:
        hold = run_directory.Hold(directory)
        asyncio.run(_supervise(directory, hold, launch_command))
    except BaseException as error:
        try:
            if isinstance(error, run_directory.RunFileError | OSError):
                sys.stderr.write(f"{error}\n")
            else:
                traceback.print_exc()
        finally:
            os._exit(EXIT_DIED)


if __name__ == "__main__":
    main()
