"""`python -m rankdeck.runner DIRECTORY`: the supervisor of the run in DIRECTORY; `runner.start` starts it."""

import asyncio
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import msgspec

from rankdeck.runner import run_directory
from rankdeck.runner.launching.accelerate import LaunchCommand, accelerate_command
from rankdeck.runner.machine import kernel, processes
from rankdeck.runner.supervisor.run import EXIT_DIED, Supervisor


async def _supervise(directory: Path, launch_command: LaunchCommand) -> NoReturn:
    kernel.raise_descriptor_limit()
    run = msgspec.structs.replace(run_directory.read_run_file(directory), supervisor_pid=os.getpid())
    run_directory.write_run_file(directory, run)
    status = await Supervisor(directory, run, launch_command).run()
    # Not an ordinary exit, which waits for threads: a driver call or a download may hang in one.
    os._exit(status)


def main(launch_command: LaunchCommand = accelerate_command) -> None:
    """Hold the run's lock and supervise the run to its end."""
    directory = Path(sys.argv[1])
    processes.adopt_orphans()  # no process of a run may be lost sight of
    try:
        run_directory.hold_lock(directory)
        asyncio.run(_supervise(directory, launch_command))
    except BaseException:
        try:
            traceback.print_exc()
        finally:
            os._exit(EXIT_DIED)


if __name__ == "__main__":
    main()
