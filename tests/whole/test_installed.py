"""The wheel, installed beside other people's packages: its names are its own, and everything it needs is in it."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import ROOT

FOREIGN = ("runner", "tui", "sample_prompts")
"""Names that are anybody's: what stands there in site-packages is not ours to touch, nor to import."""


class Built(NamedTuple):
    wheel: Path
    sdist: Path


class Installed(NamedTuple):
    """A virtual environment with the wheel in it, and a folder that is nobody's."""

    bin: Path
    site: Path
    elsewhere: Path

    def run(self, *command: str, timeout: float = 120) -> "subprocess.CompletedProcess[str]":
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=self.elsewhere, env=environ, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An sdist of the tree, and the wheel that is made from that sdist."""
    place = tmp_path_factory.mktemp("built")
    tree = place / "tree"
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "runner", "tui", "sample_prompts", "src", "pyproject.toml",
         "README.md", "LICENSE"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in tracked.stdout.splitlines():
        if (ROOT / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    make = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    _quietly([sys.executable, "-c", make, str(place)], cwd=tree)
    (sdist,) = place.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        # Python 3.11 has filters from 3.11.4 on.
        archive.extractall(place / "unpacked", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (unpacked,) = (place / "unpacked").iterdir()
    make = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    _quietly([sys.executable, "-c", make, str(place)], cwd=unpacked)
    (wheel,) = place.glob("*.whl")
    return Built(wheel, sdist)


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel alone, with pip --no-deps; the dependencies are seen by a .pth file, after packages of others."""
    place = tmp_path_factory.mktemp("installed")
    venv.create(place / "venv", symlinks=True)
    bin_ = place / "venv" / "bin"
    found = subprocess.run(
        [str(bin_ / "python"), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    site = Path(found.stdout.strip())
    for name in FOREIGN:
        (site / name).mkdir()
        (site / name / "__init__.py").write_text(f"raise ImportError('this {name} is somebody else\\'s')\n")
    dependencies = Path(pytest.__file__).parent.parent
    (site / "dependencies.pth").write_text(f"{dependencies}\n")
    pip = [sys.executable, "-m", "pip", "--python", str(bin_ / "python"), "install", "--quiet", "--no-deps"]
    _quietly([*pip, "--no-index", str(built.wheel)], cwd=place)
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    return Installed(bin_, site, elsewhere)


def _quietly(command: list[str], *, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_takes_one_name_in_site_packages(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = wheel.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"rankdeck"}
    for needed in (
        "rankdeck/tui/app/app.tcss",
        "rankdeck/tui/sources/recorded/stories.jsonl",
        "rankdeck/tui/report/report.html.jinja",
        "rankdeck/tui/web/page/app_index.html",
        "rankdeck/sample_prompts/stories.txt",
    ):
        assert needed in names


def test_every_module_of_the_tree_is_in_it(built: Built) -> None:
    modules = {str(path.relative_to(ROOT)) for wing in ("runner", "tui") for path in (ROOT / wing).rglob("*.py")}
    with zipfile.ZipFile(built.wheel) as wheel:
        found = {name.removeprefix("rankdeck/") for name in wheel.namelist() if name.endswith(".py")}
    assert found - {"__init__.py"} == modules


def test_it_runs_beside_packages_of_the_same_names(installed: Installed) -> None:
    said = installed.run("rankdeck", "--version")
    assert (said.returncode, said.stdout.split()[0]) == (0, "rankdeck"), said.stderr
    where = installed.run("python", "-c", "import rankdeck.tui.commands.cli as cli; print(cli.__file__)").stdout
    assert Path(where.strip()).is_relative_to(installed.site), "what runs is what was installed"
    for name in FOREIGN:
        assert (installed.site / name / "__init__.py").read_text().startswith("raise ImportError")


def test_its_sample_its_prompts_and_its_looks_are_there(installed: Installed) -> None:
    replayed = installed.run("rankdeck", "replay", "--sample", "--plain")
    assert replayed.returncode == 0, replayed.stderr
    assert "100 of 100 prompts" in replayed.stdout
    code = (
        "import asyncio; from rankdeck.tui.app.app import RankdeckApp\n"
        "from rankdeck.tui.sources.runs import sample_prompts\n"
        "from rankdeck.tui.start.machine_launcher import MachineLauncher\n"
        "assert sample_prompts().is_file()\n"
        "async def look():\n"
        "    app = RankdeckApp(None, launcher=MachineLauncher())\n"
        "    async with app.run_test() as pilot:\n"
        "        await pilot.pause()\n"
        "asyncio.run(look())\n"
    )
    looked = installed.run("python", "-c", code)
    assert looked.returncode == 0, looked.stderr


@pytest.mark.slow
def test_it_generates_with_ranks_of_its_own(installed: Installed) -> None:
    output = installed.elsewhere / "out.jsonl"
    done = installed.run(
        *("rankdeck", "run", str(installed.site / "rankdeck/sample_prompts/stories.txt"), "--model", "demo"),
        *("--device", "cpu", "--ranks", "2", "--limit", "4", "--max-new-tokens", "4", "--plain"),
        *("--output", str(output)),
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["index"] for record in records] == [0, 1, 2, 3]
