"""`rankdeck doctor`: what would not work here, with the cure, and nothing about what was not examined."""

import asyncio
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import psutil
import pytest

from rankdeck.runner.inputs.demo_model import DemoModel
from rankdeck.runner.machine import examine
from rankdeck.runner.machine.check import Check
from rankdeck.runner.machine.doctor import DEMO_ROOM, RANGES, findings, worst
from rankdeck.runner.machine.facts import Facts, Machine, Terminal, TorchFound, WritablePlace
from rankdeck.runner.machine.nvml import LIB_RM_VERSION_MISMATCH, LIBRARY_NOT_FOUND, NO_PERMISSION, NvmlFailure
from rankdeck.runner.protocol import DeviceSample
from rankdeck.tui.words.doctor import WORDS, doctor_lines, verdict, worst_first
from rankdeck.tui.words.text import line_width, plain
from tests import ROOT
from tests.dashboards import GIB, TWO_GPUS
from tests.runner.machine.test_telemetry import FakeNvml

RANKDECK = str(Path(sys.executable).with_name("rankdeck"))

HEALTHY = Facts(
    machine=TWO_GPUS,
    python="3.12.1",
    packages={
        "torch": "2.13.0+cu130",
        "transformers": "5.20.0",
        "accelerate": "1.12.0",
        "nvidia-ml-py": "13.0",
        "textual": "8.2",
    },
    torch=TorchFound(available=True, cuda="12.8", devices=("H100", "H100"), uuids=("0", "1")),
    runs=WritablePlace(path="/home/me/runs", free_bytes=100 * GIB),
    cache=WritablePlace(path="/home/me/cache", free_bytes=100 * GIB),
    runtime=WritablePlace(path="/tmp/rankdeck-1", free_bytes=GIB),
    socket_bytes=40,
    shared_memory_bytes=GIB,
    open_files=65536,
    demo_cached=True,
    pip=True,
    terminal=Terminal(size=(120, 40), term="xterm-256color", colours="256 colours", encoding="UTF-8"),
)
NO_DRIVER = Machine(no_gpu="no NVIDIA driver: libnvidia-ml.so.1 cannot be loaded")


def seen(name: str, **changes: object) -> Check:
    """The finding `name` on a healthy machine with these changes."""
    (check,) = (check for check in findings(msgspec.structs.replace(HEALTHY, **changes)) if check.name == name)
    return check


def machine(**changes: object) -> Machine:
    return msgspec.structs.replace(TWO_GPUS, **changes)


def terminal(**changes: object) -> Terminal:
    return msgspec.structs.replace(HEALTHY.terminal, **changes)


def test_a_healthy_machine_has_only_ok_findings() -> None:
    checks = findings(HEALTHY)
    assert worst(checks) == "ok", [check for check in checks if check.status != "ok"]
    assert all(check.cure is None for check in checks)
    assert plain([verdict(checks)]) == "Nothing stands in the way."


def test_a_machine_without_a_gpu_is_ok() -> None:
    checks = findings(msgspec.structs.replace(HEALTHY, machine=NO_DRIVER, torch=TorchFound()))
    assert worst(checks) == "ok"
    assert "runs on the CPU" in plain(doctor_lines(checks, 100))


@pytest.mark.parametrize(
    ("code", "found", "cure"),
    [
        (LIB_RM_VERSION_MISMATCH, "have different versions", "reboot, or reload the driver"),
        (NO_PERMISSION, "no permission", "check the rights on /dev/nvidiactl"),
    ],
)
def test_a_driver_that_does_not_answer_is_bad_and_has_its_cure(code: int, found: str, cure: str) -> None:
    class Broken(FakeNvml):
        def start(self) -> None:
            raise NvmlFailure(code)

    looked = examine.machine({}, Broken({}))
    check = seen("driver", machine=looked, torch=None)
    assert check.status == "bad"
    assert found in check.found
    assert check.cure is not None
    assert cure in check.cure


def test_a_missing_nvml_library_is_no_fault() -> None:
    class Without(FakeNvml):
        def start(self) -> None:
            raise NvmlFailure(LIBRARY_NOT_FOUND)

    assert seen("driver", machine=examine.machine({}, Without({})), torch=None).status == "ok"


def test_gpus_and_their_driver_are_found_through_nvml() -> None:
    class Driven(FakeNvml):
        def driver_version(self) -> str:
            return "570.86"

        def cuda_version(self) -> int:
            return 12080

    looked = examine.machine({}, Driven({"power_milliwatts": [NvmlFailure(3)]}, gpus=2))
    assert (looked.driver, looked.cuda, looked.visible, len(looked.gpus)) == ("570.86", (12, 8), 2, 2)
    assert "power watts" in seen("GPU 0", machine=looked, torch=None).found
    hidden = examine.machine({"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, Driven({}, gpus=2))
    assert hidden.visible == 1


def test_hidden_gpus_are_reported_with_the_variable() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "9"}
    broken = Machine(no_gpu="CUDA_VISIBLE_DEVICES='9' names no GPU of this machine")
    check = seen("visible", machine=broken, environ=environ, torch=None)
    assert check.status == "bad"
    assert check.cure is not None
    assert "unset CUDA_VISIBLE_DEVICES" in check.cure
    assert seen("visible", environ={"CUDA_VISIBLE_DEVICES": "0,1"}).status == "ok"


def test_gpu_numbers_that_differ_from_nvidia_smis_are_warned_about() -> None:
    mixed = machine(gpus=(TWO_GPUS.gpus[0], msgspec.structs.replace(TWO_GPUS.gpus[1], name="NVIDIA L4")))
    check = seen("visible", machine=mixed, environ={"CUDA_VISIBLE_DEVICES": "1"})
    assert check.status == "warn"
    named = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert seen("visible", machine=mixed, environ=named).status == "ok"


def test_a_lost_gpu_and_a_full_one_are_named() -> None:
    lost = machine(gpus=(DeviceSample(index=0, uuid="", name="H100", lost=True), TWO_GPUS.gpus[1]))
    assert seen("GPU 0", machine=lost).status == "bad"
    full = msgspec.structs.replace(TWO_GPUS.gpus[0], memory_free_bytes=1 * GIB)
    assert seen("GPU 0", machine=machine(gpus=(full,))).status == "warn"


@pytest.mark.parametrize(
    ("torch", "driver", "status", "words"),
    [
        (TorchFound(), (12, 8), "bad", "built for the CPU alone, and there are GPUs"),
        (TorchFound(cuda="13.0"), (12, 8), "bad", "runs CUDA 12.8 at most"),
        (TorchFound(cuda="12.8"), (12, 8), "bad", "cannot use the GPUs"),
        (TorchFound(cuda="12.8"), (12, 4), "bad", "cannot use the GPUs"),  # of one major version any minor one runs
        (TorchFound(error="No module named 'torch'"), (12, 8), "bad", "cannot be imported: No module named 'torch'"),
        (HEALTHY.torch, (12, 8), "ok", "sees 2 GPUs"),
        (
            TorchFound(available=True, cuda="12.8", devices=("H100",), uuids=("0",)),
            (12, 8),
            "warn",
            "sees 1 GPU, but the driver shows 2 to a run",
        ),
    ],
)
def test_torch_and_the_driver_are_compared(torch: TorchFound, driver: tuple[int, int], status: str, words: str) -> None:
    check = next(
        check
        for check in findings(msgspec.structs.replace(HEALTHY, torch=torch, machine=machine(cuda=driver)))
        if check.name == "torch" and check.group == "GPUs"
    )
    assert check.status == status
    assert words in check.found


def test_a_torch_device_that_nvml_does_not_know_is_unmapped() -> None:
    torch = TorchFound(available=True, cuda="12.8", devices=("A", "B"), uuids=("0", "someone else"))
    check = seen("mapping", torch=torch)
    assert check.status == "warn"
    assert check.found.startswith("cuda:1 cannot be found")


@pytest.mark.parametrize(
    ("name", "changes", "status"),
    [
        ("shared memory", {"shared_memory_bytes": 2**20}, "warn"),
        ("open files", {"open_files": 256}, "warn"),
        ("memory", {"machine": machine(memory_free_bytes=GIB)}, "warn"),
        ("runs", {"runs": WritablePlace(path="/r", error="you cannot write to /r")}, "bad"),
        ("cache", {"cache": WritablePlace(path="/c", free_bytes=2**20)}, "warn"),
        ("demo model", {"demo_cached": False, "pip": False}, "warn"),
        (
            "sockets",
            {"runtime": WritablePlace(path="/tmp/rankdeck-1", error="it is not a directory of your own")},
            "bad",
        ),
        ("sockets", {"socket_bytes": 200}, "bad"),
        ("characters", {"terminal": terminal(encoding="ISO-8859-1")}, "warn"),
        ("size", {"terminal": terminal(size=(40, 10))}, "bad"),
        ("colours", {"terminal": terminal(term="dumb")}, "bad"),
        ("colours", {"terminal": terminal(term="xterm", colours="16 colours")}, "warn"),
        ("tmux", {"terminal": terminal(tmux_clipboard="off")}, "warn"),
        ("screen", {"environ": {"STY": "1.pts-0"}}, "warn"),
        ("transformers", {"packages": {**HEALTHY.packages, "transformers": "4.57.0"}}, "bad"),
        ("accelerate", {"packages": {**HEALTHY.packages, "accelerate": "2.0.0"}}, "bad"),
    ],
)
def test_each_fault_is_found_and_has_a_cure(name: str, changes: dict[str, object], status: str) -> None:
    check = seen(name, **changes)
    assert check.status == status
    assert check.cure


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("demo model", {"demo_cached": False}, "is fetched with pip"),
        ("ssh", {"terminal": terminal(over_ssh=True)}, "survives a dropped line"),
        ("tmux", {"terminal": terminal(tmux_clipboard="on")}, "set-clipboard is on"),
        ("colours", {"terminal": terminal(no_colour=True)}, "NO_COLOR"),
        ("size", {"terminal": terminal(size=None)}, "plain lines"),
        ("hub", {"environ": {"HF_HUB_OFFLINE": "1"}}, "only models in the cache"),
        ("own config", {"accelerate_config": "/home/me/default_config.yaml"}, "is not read"),
    ],
)
def test_a_finding_that_is_ok_has_no_cure(name: str, changes: dict[str, object], words: str) -> None:
    check = seen(name, **changes)
    assert (check.status, check.cure) == ("ok", None)
    assert words in check.found


def test_faults_come_first_if_there_is_little_room() -> None:
    checks = findings(msgspec.structs.replace(HEALTHY, open_files=10, terminal=terminal(size=(10, 10))))
    groups = list(dict.fromkeys(check.group for check in worst_first(checks)))
    assert groups == ["Terminal", "Memory", "Software", "GPUs", "Files"]


def test_a_missing_package_is_named_with_the_pip_line() -> None:
    packages = {name: version for name, version in HEALTHY.packages.items() if name != "accelerate"}
    check = seen("accelerate", packages=packages)
    assert (check.status, check.cure) == ("bad", "pip install 'accelerate>=1.10,<2'")


def test_the_required_versions_are_those_of_pyproject() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {"torch", "transformers", "accelerate"} <= set(RANGES)
    for name, (least, below) in RANGES.items():
        (line,) = (line for line in wanted if re.split(r"[<>=]", line)[0] == name)
        said = f"{name}>={'.'.join(map(str, least))}" + (f",<{'.'.join(map(str, below))}" if below else "")
        assert said == line


def test_the_room_of_the_demo_model_is_what_it_asks_for_itself() -> None:
    assert DemoModel().room_bytes == DEMO_ROOM


@pytest.mark.parametrize("width", [40, 80, 120])
def test_lines_keep_to_the_width_and_carry_no_terminal_codes(width: int) -> None:
    hostile = msgspec.structs.replace(TWO_GPUS.gpus[0], name="H100\x1b[2J\u202eevil")
    checks = findings(msgspec.structs.replace(HEALTHY, machine=machine(gpus=(hostile,))))
    lines = doctor_lines(checks, width, WORDS)
    assert "\x1b" not in plain(lines)
    assert "\u202e" not in plain(lines)
    assert width < 60 or max(map(line_width, lines)) <= width


# --- on this machine ---------------------------------------------------------------------------------


def test_torch_is_asked_in_a_separate_process_with_a_time_limit() -> None:
    async def ask(code: str, seconds: float = 20.0) -> TorchFound:
        return await examine.ask_torch(seconds, code)

    assert asyncio.run(ask('print(\'noise\'); print(\'rankdeck {"available": true, "cuda": "12.8"}\')')).cuda == "12.8"
    assert asyncio.run(ask("raise ImportError('no libcudart')")).error == "ImportError: no libcudart"
    assert asyncio.run(ask("import sys; sys.exit(3)")).error == "importing torch ended with status 3"
    assert "took longer" in str(asyncio.run(ask("import time; time.sleep(60)", 0.2)).error)


def test_whoever_asks_torch_no_longer_leaves_no_process_behind() -> None:
    stuck = "import time; time.sleep(600)"

    def children() -> set[psutil.Process]:
        return {child for child in psutil.Process().children() if stuck in child.cmdline()}

    async def ask() -> None:
        await examine.ask_torch(0.2, stuck)
        assert not children(), "after the time limit"
        asking = asyncio.create_task(examine.ask_torch(60, stuck))
        async with asyncio.timeout(30):
            while not children():
                await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert not children(), "after it was cancelled"

    asyncio.run(ask())


def test_a_directory_that_cannot_be_written_to_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").write_text("a file")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert "is not a directory" in str(examine.facts({}).runs.error)


def test_a_runtime_directory_that_is_open_to_others_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rankdeck.runner.run_directory.places.RUNTIME_ROOT", tmp_path)
    (tmp_path / f"rankdeck-{os.getuid()}").mkdir(mode=0o755)
    assert "mode 0700" in str(examine.facts({}).runtime.error)


def test_doctor_runs_here_and_says_the_same_as_json() -> None:
    said = subprocess.run([RANKDECK, "doctor"], capture_output=True, text=True, timeout=120, check=False)
    assert said.returncode in (0, 1), said.stderr
    assert "Software" in said.stdout
    assert "transformers" in said.stdout
    data = subprocess.run([RANKDECK, "doctor", "--json"], capture_output=True, text=True, timeout=120, check=False)
    found = json.loads(data.stdout)
    assert (found["status"] == "bad") == (data.returncode == 1)
    assert {"group", "name", "status", "found", "cure"} == set(found["checks"][0])
    assert any(check["group"] == "GPUs" and check["name"] == "torch" for check in found["checks"])


def test_a_release_that_no_test_runs_with_is_said_and_is_no_fault() -> None:
    newer = seen("transformers", packages={**HEALTHY.packages, "transformers": "5.99.0"})
    assert (newer.status, newer.found) == ("ok", "5.99.0; tested with 5.17 to 5.24")
    other = seen("torch", torch=None, packages={**HEALTHY.packages, "torch": "2.11.0+cu130"})
    assert (other.status, other.found) == ("ok", "2.11.0+cu130; tested with 2.13")
    assert seen("transformers").found == "5.20.0"


@pytest.mark.parametrize(("name", "version"), [("transformers", "5.24.9"), ("torch", "2.13.1+cu130")])
def test_a_later_patch_of_the_newest_release_that_tests_run_with_needs_no_remark(name: str, version: str) -> None:
    assert seen(name, torch=None, packages={**HEALTHY.packages, name: version}).found == version
