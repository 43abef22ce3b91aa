"""What `make gpu` needs on a bare machine: which packages, which of them the kit brings, and how it is packed.

Uses nothing but the standard library and pip: it runs before anything else can be imported.
"""

import importlib
import importlib.util
import os
import platform
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KIT = ROOT / ".gpu-kit"
MOST_BYTES = 10_000_000

PLATFORMS = {
    processor: tuple(f"{oldest}_{processor}" for oldest in ("manylinux2014", "manylinux_2_17", "manylinux_2_28"))
    for processor in ("x86_64", "aarch64")
}
"""The wheels that run on Linux, by processor, as `uname -m` calls it: GH200 and DGX Spark are aarch64."""

PACKED = {
    "msgspec": "msgspec",
    "textual": "textual",
    "rich": "rich",
    "markdown-it-py": "markdown_it",
    "mdit-py-plugins": "mdit_py_plugins",
    "linkify-it-py": "linkify_it",
    "platformdirs": "platformdirs",
    "pytest-asyncio": "pytest_asyncio",
}
"""The kit: distributions, with the module that each brings. rich and markdown-it-py may be there already, but older
than textual takes. The demo model's gguf and the screens' pyte are not needed: no step uses the demo model, and the
terminal of the watched run is only drained."""

PRESENT = {
    "torch": "torch",
    "transformers": "transformers",
    "accelerate": "accelerate",
    "tokenizers": "tokenizers",
    "safetensors": "safetensors",
    "huggingface-hub": "huggingface_hub",
    "numpy": "numpy",
    "nvidia-ml-py": "pynvml",
    "psutil": "psutil",
    "filelock": "filelock",
    "jinja2": "jinja2",
    "markupsafe": "markupsafe",
    "pyyaml": "yaml",
    "pygments": "pygments",
    "typer": "typer",
    "typing-extensions": "typing_extensions",
    "pytest": "pytest",
    "hypothesis": "hypothesis",
}
"""What a machine for inference has, and the kit does not bring."""


class RequirementError(Exception):
    """This machine cannot run it; the text says what is missing, a line each, and what to do."""


def use_this_checkout() -> None:
    """Import from this folder, here and in every process that is started."""
    put_first(ROOT / "src", ROOT)


def put_first(*folders: Path) -> None:
    """Look for modules in `folders` first, here and in every process that is started."""
    paths = [str(folder) for folder in folders]
    sys.path[:0] = paths
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *([inherited] if inherited else [])])
    importlib.invalidate_caches()


def is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def missing(packages: Mapping[str, str]) -> list[str]:
    """The distributions of `packages` whose module cannot be found. Imports none of them."""
    return [name for name, module in packages.items() if not is_there(module)]


def install_kit(target: Path, kit: Path = KIT) -> None:
    """Put the kit's wheels into the empty folder `target`, and look for modules there.

    Raises:
        RequirementError: they are not for this Python, or there is no pip.
    """
    wheels = sorted(str(wheel) for wheel in kit.glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    done = subprocess.run([*pip, "--target", str(target), *wheels], capture_output=True, text=True)
    if done.returncode != 0:
        version, processor = f"{sys.version_info.major}.{sys.version_info.minor}", platform.machine()
        if processor in PLATFORMS:
            cure = f"make gpu-kit PYTHON_VERSION={version} PLATFORM={processor}"
            cure = f"pack it anew where there is a network: {cure}"
        else:
            cure = f"there is none for {processor}: python3 -m pip install {' '.join(PACKED)}"
        why = (done.stderr.strip().splitlines() or [f"pip ended with status {done.returncode}"])[-1]
        raise RequirementError(f"{kit} cannot be installed for Python {version} on {processor}: {why}\n{cure}")
    put_first(target)


def check(kit: Path = KIT) -> None:
    """Raise RequirementError with a line for everything that is missing."""
    lines = [f"{name} is missing: python3 -m pip install {name}" for name in missing(PRESENT)]
    how = "the kit in .gpu-kit lacks it" if kit.is_dir() else "pack it on a machine with a network: make gpu-kit"
    lines += [f"{name} is missing: {how}" for name in missing(PACKED)]
    if lines:
        raise RequirementError("\n".join(lines))


def pinned(constraints: str, names: Sequence[str]) -> list[str]:
    """Each name with the version that `constraints` (the text of constraints.txt) has for it."""
    pins = dict(line.strip().lower().split("==") for line in constraints.splitlines() if "==" in line)
    return [f"{name}=={pins[name]}" if name in pins else name for name in names]


def pack(python_version: str, processor: str, kit: Path = KIT) -> int:
    """Fetch the kit's wheels for this Python on Linux and this processor, in the place of what is there; their bytes.

    Raises:
        RequirementError: they cannot be downloaded, or are too large to carry.
    """
    kit.mkdir(exist_ok=True)
    for old in kit.glob("*.whl"):
        old.unlink()
    wanted = pinned((ROOT / "constraints.txt").read_text(encoding="utf-8"), list(PACKED))
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python_version]
    command += [word for wheels in PLATFORMS[processor] for word in ("--platform", wheels)]
    done = subprocess.run([*command, "--dest", str(kit), *wanted], capture_output=True, text=True)
    if done.returncode != 0:
        raise RequirementError(f"the kit cannot be packed: {done.stderr.strip().splitlines()[-1]}")
    wheels = sorted(kit.glob("*.whl"))
    for wheel in wheels:
        zipfile.ZipFile(wheel).close()
    size = sum(wheel.stat().st_size for wheel in wheels)
    if size > MOST_BYTES:
        raise RequirementError(f"{kit} has {size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:.0f} MB")
    return size
