"""Which Python `make gpu` takes, and what it says of a torch that cannot use the GPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rankdeck.runner.machine import telemetry
from rankdeck.runner.machine.facts import Facts, Machine, TorchFound
from rankdeck.runner.machine.telemetry import VisibleGpu
from rankdeck.runner.protocol import DeviceSample
from tests import ROOT
from tests.gpu import __main__ as command
from tests.gpu import machine

H100 = DeviceSample(index=0, uuid="GPU-a", name="NVIDIA H100")


def facts(torch: TorchFound, gpus: int = 1) -> Facts:
    found = Machine(gpus=(H100,) * gpus, seen=tuple(range(gpus)), driver="550.54", cuda=(12, 4))
    return Facts(machine=found, packages={"torch": "2.11.0"}, torch=torch)


def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], torch: TorchFound):
    """What the command says, and its exit status, on a machine with one GPU and this torch."""
    monkeypatch.setattr(telemetry, "count_visible_gpus", lambda environ: 1)
    monkeypatch.setattr(machine, "look", lambda device: facts(torch))
    monkeypatch.setattr(command.requirements, "use_this_checkout", lambda: None)
    monkeypatch.setattr(sys, "argv", ["make gpu", "--out", str(tmp_path / "out")])
    status = command.main()
    assert not (tmp_path / "out").exists(), "nothing has begun"
    return status, capsys.readouterr().out


def test_a_torch_built_for_the_cpu_is_refused_before_anything_slow(tmp_path, monkeypatch, capsys) -> None:
    status, said = refused(tmp_path, monkeypatch, capsys, TorchFound())
    assert status == 2
    assert said.splitlines() == [
        "torch 2.11.0: built for the CPU alone, and there are GPUs",
        "install a CUDA build: see pytorch.org",
    ]


def test_a_driver_too_old_for_torch_is_refused_with_the_cure(tmp_path, monkeypatch, capsys) -> None:
    status, said = refused(tmp_path, monkeypatch, capsys, TorchFound(cuda="13.0"))
    assert status == 2
    assert "built for CUDA 13.0, and the driver runs CUDA 12.4 at most\nupdate the driver" in said


def test_a_torch_that_cannot_be_imported_is_refused_with_its_words(tmp_path, monkeypatch, capsys) -> None:
    status, said = refused(tmp_path, monkeypatch, capsys, TorchFound(error="libcudart.so.13: not found"))
    assert status == 2
    assert "cannot be imported: libcudart.so.13: not found" in said


def test_a_torch_that_sees_its_gpus_is_taken_and_one_that_sees_fewer_is_told_of() -> None:
    one = TorchFound(available=True, cuda="12.4", devices=("NVIDIA H100",), uuids=("a",))
    assert machine.check_torch(facts(one)) is None
    told = machine.check_torch(facts(one, gpus=2))
    assert told is not None
    assert "sees 1 GPU, but the driver shows 2 to a run" in told


def test_the_first_line_has_the_driver_by_nvml_with_no_nvidia_smi_to_wait_for(monkeypatch) -> None:
    monkeypatch.setattr(telemetry, "visible_gpus", lambda environ: [VisibleGpu(0, "GPU-a", "NVIDIA H100")])
    really = subprocess.run

    def run(command, **settings):
        if "nvidia-smi" in command[0]:
            raise subprocess.TimeoutExpired(command, 20)
        return really(command, **settings)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("shutil.which", lambda name: name)
    said = machine.words(facts(TorchFound()), "cuda", 1)
    assert (said["GPU"], said["driver"]) == ("NVIDIA H100", "550.54")


# --- make -----------------------------------------------------------------------------------------


def python(path: Path, *, with_torch: bool) -> Path:
    """A Python that says which one it is when it is to run something."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\ntest "$1" = -c && exit {0 if with_torch else 1}\necho "$0 $*"\n')
    path.chmod(0o755)
    return path


def made(tmp_path: Path, python3: Path, *goals: str) -> "subprocess.CompletedProcess[str]":
    command = ["make", "--no-print-directory", *goals, f"VENV={tmp_path / 'venv'}", f"PYTHON={python3}", "OUT=results"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=environ)


def test_the_python_of_the_virtual_environment_is_taken_if_it_has_torch(tmp_path: Path) -> None:
    own = python(tmp_path / "venv/bin/python", with_torch=True)
    (tmp_path / "venv/.ready").touch()
    done = made(tmp_path, python(tmp_path / "python3", with_torch=True), "gpu", "BUDGET=99")
    assert done.stdout == f"{own} -m tests.gpu --out results --budget 99\n"


def test_a_virtual_environment_that_was_copied_from_elsewhere_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").symlink_to(tmp_path / "of-another-machine")
    (tmp_path / "venv/.ready").touch()
    other = python(tmp_path / "python3", with_torch=True)
    done = made(tmp_path, other, "gpu")
    assert (done.stdout, done.stderr) == (f"{other} -m tests.gpu --out results\n", "")


def test_a_virtual_environment_without_torch_is_not_taken_and_where_there_is_no_other_make_says_so(
    tmp_path: Path,
) -> None:
    own = python(tmp_path / "venv/bin/python", with_torch=False)
    (tmp_path / "venv/.ready").touch()
    other = python(tmp_path / "python3", with_torch=False)
    done = made(tmp_path, other, "gpu")
    assert done.returncode != 0
    assert f"neither {own} nor {other} can import torch: make clean, then make gpu" in done.stderr


def test_the_kit_is_packed_for_the_python_and_the_processor_that_are_asked_for(tmp_path: Path) -> None:
    other = python(tmp_path / "python3", with_torch=True)
    done = made(tmp_path, other, "gpu-kit", "PYTHON_VERSION=3.13", "PLATFORM=aarch64")
    assert done.stdout == f"{other} -m tests.gpu --kit --python-version 3.13 --platform aarch64\n"
