"""The command line of the ranks' parent: what is the same for all ranks of a run."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Options(NamedTuple):
    """What is the same for all ranks of a run."""

    run_dir: Path
    socket: str
    model: str
    engine: str = ""
    """`vllm` if that is the engine of all ranks, whoever chose it; else each chooses between the others."""

    @property
    def by_vllm(self) -> bool:
        return self.engine == "vllm"

    def arguments(self) -> list[str]:
        """As a command line, which `read_options` reads."""
        engine = ["--engine", self.engine] if self.engine else []
        return ["--run-dir", str(self.run_dir), "--socket", self.socket, "--model", self.model, *engine]


def read_options(arguments: Sequence[str]) -> Options:
    """The options of a command line; what else it says is for others."""
    parser = argparse.ArgumentParser(prog="rankdeck.runner.rank.worker")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--engine", default="")
    return Options(**vars(parser.parse_known_args(arguments)[0]))
