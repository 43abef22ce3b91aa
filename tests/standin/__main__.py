"""`python -m tests.standin DIRECTORY`: the real supervisor, with stand-in ranks instead of accelerate's."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rankdeck.runner import __main__ as supervisor_main
from rankdeck.runner.inputs.checkpoint.examine import Findings
from rankdeck.runner.supervisor import model


def launch_command(config_file: Path, module: str, arguments: Sequence[str]) -> list[str]:
    """In place of `accelerate launch`."""
    return [sys.executable, str(Path(__file__).parent / "rank.py"), "launch", *arguments]


if __name__ == "__main__":
    model.examine = lambda *_, **__: Findings()  # stand-in ranks load nothing: any folder will do
    supervisor_main.main(launch_command)
