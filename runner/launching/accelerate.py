"""The command line of `accelerate launch`, and its config file.

The config file is written here, so that the user's own accelerate config cannot change a run. One process is launched,
the parent of the ranks: a launch of several starts torchrun, which listens on every interface for as long as it lives.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rankdeck.runner import run_directory

ACCELERATE_CONFIG = """\
compute_environment: LOCAL_MACHINE
debug: false
distributed_type: 'NO'
downcast_bf16: 'no'
machine_rank: 0
main_training_function: main
mixed_precision: 'no'
num_machines: 1
num_processes: 1
use_cpu: {use_cpu}
"""

LaunchCommand = Callable[[Path, str, Sequence[str]], list[str]]
"""From config file, module and its arguments to a command line."""


def accelerate_command(config_file: Path, module: str, arguments: Sequence[str]) -> list[str]:
    """The command line that launches `module`."""
    return [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(config_file)),
        *("--num_machines", "1", "--num_processes", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
        *("-m", module, *arguments),
    ]


def write_accelerate_config(path: Path, on_cpu: bool) -> None:
    """Write the config file for `accelerate_command`.

    Raises:
        OSError: it cannot be written.
    """
    run_directory.replace_file(path, ACCELERATE_CONFIG.format(use_cpu="true" if on_cpu else "false").encode())
