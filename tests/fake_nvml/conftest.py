"""The fake libnvidia-ml.so.1, compiled once, and installed with a script for one test at a time."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

TWO_GPUS = """\
count 2
0.name NVIDIA H100 80GB HBM3
0.uuid GPU-11111111-aaaa-0000-0000-000000000000
0.pci 0:65:0
0.samples 1000:90,2000:90 3000:10,4000:50,5000:90 - 6000:33
0.busy 97 97 12
0.memory 85899345920,25769803776,536870912
0.memory_v1 85899345920,25769803776,536870912
0.power 412345 99999
0.limit 700000
0.energy 1234567890123 1234567999999
0.clock 1755
0.clock_max 1980
0.temperature 61
0.slowdown 87
0.reasons 0x4 0x1 0x0 0x8A8
0.mig 0
0.gpm 1
0.gpm.2 81.5 82.5
0.gpm.3 40.25
0.gpm.5 E21 33.5
0.gpm.10 nan 71.125
1.name NVIDIA GeForce GTX 1080
1.uuid GPU-22222222-bbbb-0000-0000-000000000000
1.pci 0:B3:0
1.busy 42
1.memory_v1 8589934592,1073741824,0
1.power 101500
1.temperature 70
"""


@pytest.fixture
def two_gpus() -> str:
    """The script of a Hopper GPU that has everything, and an old one that has little."""
    return TWO_GPUS


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, ...]], Path]:
    """The fake library without the given symbols, compiled once for each set of them."""
    built: dict[tuple[str, ...], Path] = {}
    source = Path(__file__).parent / "nvml.c"

    def compile_without(hidden: tuple[str, ...]) -> Path:
        if hidden not in built:
            folder = tmp_path_factory.mktemp("nvml")
            exports = folder / "exports"
            local = " ".join(f"{name};" for name in ("none", *hidden))
            exports.write_text("{ global: *; local: " + local + " };")
            built[hidden] = folder / "libnvidia-ml.so.1"
            command = ["gcc", "-shared", "-fPIC", "-o", str(built[hidden]), str(source)]
            subprocess.run([*command, f"-Wl,--version-script={exports}"], check=True)
        return built[hidden]

    return compile_without


@pytest.fixture
def driver(
    build: Callable[[tuple[str, ...]], Path],
    use_libraries_in: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Path]:
    """Install the fake library with a script, for the bindings to find by its name; gives its log of calls."""

    def install(script: str, hidden: tuple[str, ...] = ()) -> Path:
        # A copy for each test: the loader knows a library by its file, and state lives in the library.
        library = Path(shutil.copy(build(hidden), tmp_path / "libnvidia-ml.so.1"))
        (tmp_path / "script").write_text(script)
        log = tmp_path / "log"
        log.touch()
        monkeypatch.setenv("FAKE_NVML_SCRIPT", str(tmp_path / "script"))
        monkeypatch.setenv("FAKE_NVML_LOG", str(log))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        use_libraries_in(library.parent)
        return log

    return install


@pytest.fixture
def use_libraries_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let the bindings look for libnvidia-ml.so.1, afresh, in a folder of ours."""

    def use(folder: Path) -> None:
        monkeypatch.setattr(pynvml, "nvmlLib", None)
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        monkeypatch.setattr(pynvml, "CDLL", lambda name: ctypes.CDLL(str(folder / name)))

    return use
