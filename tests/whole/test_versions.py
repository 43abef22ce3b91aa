"""The engines with the oldest and the newest transformers that are supported, each in a virtual environment of its own.

`make versions` runs this, by hand and before a release: it needs the package index. An environment holds its
transformers and what that one asks for; everything else comes from the environment that runs the tests.
"""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from rankdeck.runner.engine.private_names import NEWEST, OLDEST
from tests import ROOT

pytestmark = pytest.mark.versions

TESTS = ("tests/runner/engine", "tests/runner/rank")


@pytest.fixture
def python(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The interpreter of an environment with this release of transformers."""
    folder = tmp_path / "venv"
    venv.create(folder)
    python = folder / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # Last in its folder, so that what is installed here comes before it.
    (packages / "zz-the-others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    wanted = f"transformers=={request.param}.*"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", wanted],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return python


@pytest.mark.parametrize("python", [OLDEST, NEWEST], indirect=True)
def test_the_engines_work_with(python: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))}
    code = "import transformers; print(transformers.__version__, transformers.__file__)"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, env=environ).stdout
    sys.stdout.write(found)
    assert str(python.parents[1]) in found, "not the transformers of this environment"
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, f"with transformers {found}\n{done.stdout[-8000:]}{done.stderr[-2000:]}"
    sys.stdout.write(done.stdout.splitlines()[-1] + "\n")
