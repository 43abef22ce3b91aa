"""`python -m tests.chaos`: a thousand runs with stand-in ranks under chaos, and their figures.

Where this user may have namespaces, each run gets a small disk of its own, which really fills up, and no process can be
left on the machine. Elsewhere a full disk is a limit on the size of files.
"""

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from rankdeck.runner import start
from rankdeck.runner.machine.processes import usable_cores
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory import places
from rankdeck.runner.start import Started
from tests.chaos import fleet
from tests.chaos.disk_acts import SizeLimit, TinyDisk
from tests.chaos.fleet import Figures
from tests.chaos.flight import ACTS
from tests.conftest import start_standin_supervisor

NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
AT_ONCE_A_CORE = 5
"""Runs mostly wait."""

PROGRESS_SEEDS = 100


class Folder:
    """Runs side by side in a folder, each on a disk of its own if that can be `mounted`."""

    def __init__(self, home: Path, *, mounted: bool, keep: Path | None) -> None:
        self._home, self._mounted, self._keep = home, mounted, keep
        self._disks: dict[str, TinyDisk] = {}
        self._prompts, self._model = home / "prompts.txt", home / "model"
        self._prompts.write_text("".join(f"{prompt}\n" for prompt in fleet.PROMPTS))
        self._model.mkdir()
        (self._model / "config.json").write_text("{}")

    def disk(self, name: str) -> TinyDisk | SizeLimit:
        if not self._mounted:
            return SizeLimit()
        self._disks[name] = TinyDisk(self._home / name)
        return self._disks[name]

    def launch(self, name: str, settings: dict[str, Any]) -> Started:
        config = RunConfig(prompts=str(self._prompts), model=str(self._model), device="cpu", name=name, **settings)
        return start.launch(config, run_dir=self._home / name / "run")

    def clear(self, name: str, *, failed: bool) -> None:
        if failed and self._keep is not None:
            shutil.copytree(self._home / name / "run", self._keep / name, dirs_exist_ok=True)
        if (disk := self._disks.pop(name, None)) is not None:
            disk.close()
        shutil.rmtree(self._home / name)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=1000, help="how many runs")
    parser.add_argument("--seed", type=int, help="this run alone")
    parser.add_argument("--acts", type=_acts, default=ACTS, help=f"some of: {'; '.join(ACTS)}")
    parser.add_argument("--at-once", type=int, default=AT_ONCE_A_CORE * usable_cores(), help="runs at the same time")
    parser.add_argument("--keep", type=Path, help="a folder for the run directories of those that fail")
    parser.add_argument("--here", choices=["mounted", "plain"], help="take no new namespace (`mounted`: this is one)")
    return parser.parse_args()


def _acts(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(";"))
    if unknown := [name for name in names if name not in ACTS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of: {'; '.join(ACTS)}")
    return names


def _in_a_namespace() -> int | None:
    """Do it all in namespaces of its own, and return the status; None if this user may not have them."""
    with suppress(OSError, subprocess.CalledProcessError):
        subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=True, capture_output=True)
        # The shell is the namespace's first process, and reaps those whose parent was killed.
        command = 'python=$1; shift; "$python" -m tests.chaos "$@" --here mounted; exit $?'
        return subprocess.run([*NAMESPACE, "sh", "-c", command, "sh", sys.executable, *sys.argv[1:]]).returncode
    _say("no namespaces for this user: a limit on the size of files stands in for a full disk")
    return None


def _have_a_runtime_folder() -> None:
    """Sockets of runs in a namespace get a folder that nobody else has a socket in."""
    folder = places.RUNTIME_ROOT / f"rankdeck-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", str(folder)], check=True)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _tell(figures: Figures, seed: int) -> None:
    if seed in figures.failures:
        _say(f"seed {seed}: {figures.failures[seed]}\n  again: make chaos SEED={seed}")
    if figures.seeds % PROGRESS_SEEDS == 0:
        _say(_summary(figures))


def _summary(figures: Figures) -> str:
    return f"{figures.seeds:,} seeds in {figures.seconds:,.0f} s, {len(figures.failures)} failed"


def _print(figures: Figures) -> None:
    _say(_summary(figures))
    for name, counts in (("acts", figures.acts), ("resumed after", figures.resumes), ("found", figures.found)):
        _say(f"{name}: {counts.total():,}")
        for what, count in counts.most_common():
            _say(f"  {count:6,}  {what}")


def main() -> int:
    options = _options()
    if not options.here and (status := _in_a_namespace()) is not None:
        return status
    mounted = options.here == "mounted"
    if mounted:
        _have_a_runtime_folder()
    with tempfile.TemporaryDirectory(prefix="rankdeck-chaos-") as home:
        os.environ |= {
            "XDG_STATE_HOME": f"{home}/state",
            "XDG_CONFIG_HOME": f"{home}/config",
            "STANDIN_STEP_SECONDS": fleet.STEP_SECONDS,
        }
        start.start_supervisor = start_standin_supervisor
        figures = asyncio.run(
            fleet.fly(
                range(options.seeds) if options.seed is None else [options.seed],
                Folder(Path(home), mounted=mounted, keep=options.keep),
                at_once=options.at_once,
                actions=options.acts,
                tell=_tell,
            )
        )
    _print(figures)
    return 1 if figures.failures else 0


if __name__ == "__main__":
    sys.exit(main())
