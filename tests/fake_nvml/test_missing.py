"""NVML is missing and CUDA's part of the driver is there: `--device cuda` leaves it to the ranks, and says so once."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rankdeck.runner import checks, start
from rankdeck.runner.machine import examine, nvml
from rankdeck.runner.machine.facts import Facts, TorchFound
from rankdeck.runner.machine.gpu_checks import gpu_checks
from rankdeck.runner.machine.telemetry import rank_variables
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.tui.commands import cli

UNCOUNTED = "NVML is missing (libnvidia-ml.so.1 cannot be loaded): GPUs are not counted, and have no figures"


@pytest.fixture
def only_cuda(tmp_path: Path, use_libraries_in: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "cuda_driver_loads", lambda: True)
    use_libraries_in(tmp_path)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """The number of ranks that were to greet, and whether on the CPU."""
    asked: list[tuple[int, bool]] = []

    async def greetings_of(ranks: int, on_cpu: bool) -> list[str]:
        asked.append((ranks, on_cpu))
        return ["hello"]

    monkeypatch.setattr(start, "greetings_of", greetings_of)
    return asked


def config(tmp_path: Path, **settings: object) -> RunConfig:
    (tmp_path / "p.txt").write_text("hello\n")
    return RunConfig(prompts=str(tmp_path / "p.txt"), **settings)  # type: ignore[arg-type]


@pytest.mark.usefixtures("only_cuda")
def test_ranks_on_cuda_decide_for_themselves_and_the_user_is_warned(tmp_path: Path) -> None:
    assert checks.default_ranks("cuda") == 1
    assert checks.default_ranks("cuda", ranks_per_gpu=2) == 2
    asked = config(tmp_path, device="cuda", ranks=4)
    assert checks.check(asked) == []
    assert checks.warnings(asked, 100) == [UNCOUNTED]
    assert rank_variables({"CUDA_VISIBLE_DEVICES": "1,0"}) == {}, "CUDA reads what the user has set"


@pytest.mark.usefixtures("only_cuda")
def test_auto_stays_on_the_cpu(tmp_path: Path) -> None:
    assert checks.default_device() == "cpu"
    assert checks.uncounted_gpus("auto") is None
    assert checks.warnings(config(tmp_path, device="auto", ranks=1), 100) == []


@pytest.mark.usefixtures("only_cuda")
def test_hello_on_cuda_greets_from_one_rank_and_warns(launched: list[tuple[int, bool]]) -> None:
    said = CliRunner().invoke(cli.app, ["hello", "--device", "cuda"])
    assert (said.exit_code, said.stdout.strip()) == (0, "hello")
    assert said.stderr.strip() == f"rankdeck: warning: {UNCOUNTED}"
    CliRunner().invoke(cli.app, ["hello", "--ranks", "2"])
    assert launched == [(1, False), (2, True)]


def test_without_cudas_library_too_there_is_no_gpu(tmp_path: Path, use_libraries_in: Callable[[Path], None]) -> None:
    use_libraries_in(tmp_path)
    (problem,) = checks.check(config(tmp_path, device="cuda", ranks=1))
    assert "no NVIDIA GPU can be seen here (no NVIDIA driver:" in str(problem)


@pytest.mark.usefixtures("only_cuda")
def test_doctor_says_in_one_line_that_torch_sees_gpus_and_nvml_does_not() -> None:
    machine = examine.machine({})
    (check,) = gpu_checks(
        Facts(machine=machine, torch=TorchFound(available=True, cuda="12.6", devices=("Orin",), uuids=("1",)))
    )
    assert check.found == "torch sees 1 GPU, NVML is missing: --device cuda uses it, without figures"
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in str(check.cure)
    (before,) = gpu_checks(Facts(machine=machine))
    assert before.found == "NVML is missing; runs on the CPU, unless --device cuda is asked for"
    assert [check.name for check in gpu_checks(Facts(machine=machine, torch=TorchFound(cuda="12.6")))] == [
        "driver",
        "torch",
    ]
