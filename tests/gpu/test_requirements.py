"""What a bare machine has, lacks, and is brought."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests import ROOT
from tests.gpu import requirements
from tests.gpu.requirements import PACKED, PRESENT, RequirementError

NOT_NEEDED = {"gguf", "pip"}
"""gguf is for the demo model, which no step uses; pip installs the kit, where there is one."""

BROUGHT_BY_NOBODY = (
    "pyte",
    "wcwidth",
    "gguf",
    "syrupy",
    "grimp",
    "pyarrow",
    "textual_serve",
    "aiohttp",
    "mypy",
    "ruff",
)


def test_every_dependency_of_rankdeck_is_either_there_or_in_the_kit() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {re.split(r"[<>=,]", line)[0] for line in project["dependencies"]}
    assert named - NOT_NEEDED <= PRESENT.keys() | PACKED.keys()


def test_the_command_and_the_tests_marked_gpu_import_nothing_that_a_bare_machine_lacks() -> None:
    modules = [
        "tests.conftest",
        "tests.gpu.__main__",
        "tests.gpu.machine",
        "tests.gpu.measure",
        "tests.gpu.recording",
        "tests.gpu.marked.conftest",
    ]
    modules += [f"tests.gpu.marked.{path.stem}" for path in (ROOT / "tests/gpu/marked").glob("test_*.py")]
    code = f"import sys, importlib\nsys.modules.update(dict.fromkeys({BROUGHT_BY_NOBODY!r}))\n"
    code += f"for name in {modules!r}: importlib.import_module(name)\n"
    code += "import rankdeck.tui.commands.cli, rankdeck.runner.rank.parent\n"
    code += "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_test_marked_gpu_is_where_the_command_looks_for_it() -> None:
    marked = re.compile(r"\bmark\.gpu\b")
    elsewhere = [path for path in (ROOT / "tests").rglob("*.py") if ROOT / "tests/gpu" not in path.parents]
    assert not [path for path in elsewhere if marked.search(path.read_text(encoding="utf-8"))]


def test_what_is_missing_is_said_in_a_line_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "PRESENT", {"torch": "no_such_torch", "psutil": "psutil"})
    monkeypatch.setattr(requirements, "PACKED", {"msgspec": "no_such_msgspec", "rich": "rich"})
    with pytest.raises(RequirementError) as raised:
        requirements.check(tmp_path / "no-kit")
    assert str(raised.value).splitlines() == [
        "torch is missing: python3 -m pip install torch",
        "msgspec is missing: pack it on a machine with a network: make gpu-kit",
    ]


def test_a_kit_for_another_python_says_how_to_pack_the_right_one(tmp_path: Path) -> None:
    wheel = tmp_path / "msgspec-0.1-cp26-cp26-win32.whl"
    wheel.write_bytes(b"")
    with pytest.raises(RequirementError, match=r"make gpu-kit PYTHON_VERSION=3\.\d+"):
        requirements.install_kit(tmp_path / "target", tmp_path)


def test_a_kit_for_another_processor_says_how_to_pack_the_right_one_and_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = f"{sys.version_info.major}{sys.version_info.minor}"
    (tmp_path / f"msgspec-0.1-cp{version}-cp{version}-manylinux2014_s390x.whl").write_bytes(b"")
    for processor, cure in (("aarch64", " PLATFORM=aarch64"), ("ppc64le", "none for ppc64le: python3 -m pip install")):
        monkeypatch.setattr(requirements.platform, "machine", lambda processor=processor: processor)
        with pytest.raises(RequirementError, match=cure):
            requirements.install_kit(tmp_path / "target", tmp_path)


def test_the_kit_has_the_versions_of_the_constraints() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert all("==" in wanted for wanted in requirements.pinned(text, list(PACKED)))
    assert requirements.pinned("Other==1\nmsgspec==0.22.0\n", ["msgspec", "unknown"]) == ["msgspec==0.22.0", "unknown"]
