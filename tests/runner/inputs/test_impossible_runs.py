"""A run that cannot fit is refused before anything starts, with the numbers and the ways out; a doubtful one is not."""

import json
import re
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from rankdeck.runner import checks, start
from rankdeck.runner.inputs.memory_estimate import PromptSizes, doubt, estimate
from rankdeck.runner.inputs.memory_room import Room
from rankdeck.runner.inputs.model_config import DEMO, ModelShape
from rankdeck.runner.machine import examine
from rankdeck.runner.machine.facts import Machine
from rankdeck.runner.protocol import DeviceSample
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.tui.commands import cli

GIB = 2**30
LLAMA_8B = ModelShape(8_030_261_248, 32, 8, 128, 4096, 14336, 128256, 131072, "bfloat16")
LLAMA_70B = ModelShape(70_553_706_496, 80, 8, 128, 8192, 28672, 128256, 131072, "bfloat16")


def refused(shape: ModelShape, free: int, total: int, gpus: int = 1, **settings: object) -> str | None:
    config = RunConfig(prompts="p", device="cuda" if gpus else "cpu", **settings)  # type: ignore[arg-type]
    rooms = [Room((size * GIB,) * gpus, size * GIB) for size in (free, total)]
    problem = estimate(shape, config, PromptSizes(1000, 100), *rooms).refusal
    return None if problem is None else str(problem)


def test_more_ranks_than_fit_are_refused_with_how_many_would() -> None:
    assert refused(LLAMA_8B, 38, 40, gpus=2, ranks=6) == (
        "--ranks: 3 ranks on a GPU need 44.9 GiB for the weights alone, and the fullest GPU has 38.0 of 40.0 GiB free; "
        "4 ranks in all would fit (--ranks); make the weights smaller (--quantization, --dtype), or choose a smaller "
        "model. This is an estimate: --ignore-memory starts it anyway"
    )
    assert refused(LLAMA_8B, 38, 40, gpus=2, ranks=4) is None


def test_a_model_too_large_for_a_gpu_is_refused_with_how_many_gpus_would_do() -> None:
    said = refused(LLAMA_70B, 79, 80, gpus=8, ranks=8)
    assert said is not None
    assert said.startswith(
        "--model: a rank needs 131.4 GiB for the weights alone, and the fullest GPU has 79.0 of 80.0 GiB free"
    )
    assert "spread a rank over 2 GPUs (--gpus-per-rank 2 --ranks 4)" in said, "eight ranks would need 16 GPUs"
    assert "(--gpus-per-rank 2)" in str(refused(LLAMA_70B, 79, 80, gpus=8, ranks=4))
    assert refused(LLAMA_70B, 79, 80, gpus=8, ranks=4, gpus_per_rank=2) is None
    alone = refused(LLAMA_70B, 79, 80, ranks=1)
    assert alone is not None
    assert "--gpus-per-rank" not in alone, "there is no second GPU"


@pytest.mark.parametrize(
    ("free", "total", "impossible"),
    [
        (15, 80, False),  # bytes that somebody may give back before the weights are there
        (13, 80, True),
        (14, 14, True),
        (16, 16, False),  # the weights fit, and hardly a prompt: a doubt
    ],
)
def test_only_what_is_clearly_impossible_is_refused(free: int, total: int, impossible: bool) -> None:
    assert (refused(LLAMA_8B, free, total, ranks=1) is not None) == impossible


def test_parameters_that_were_only_calculated_are_given_the_benefit_of_the_doubt() -> None:
    assert refused(LLAMA_8B, 12, 80, ranks=1) is not None
    assert refused(LLAMA_8B._replace(counted=False), 12, 80, ranks=1) is None
    assert refused(LLAMA_8B._replace(counted=False), 9, 80, ranks=1) is not None


def test_a_quantised_checkpoint_of_which_only_the_config_is_here_may_be_any_size() -> None:
    quantised = LLAMA_70B._replace(quantised=True, counted=False)
    assert refused(quantised, 23, 24, ranks=1) is None
    assert refused(quantised._replace(stored_bytes=40 * GIB, counted=True), 23, 24, ranks=1) is not None


def test_on_a_cpu_only_memory_that_the_machine_does_not_have_at_all_counts() -> None:
    assert refused(LLAMA_8B, 1, 64, gpus=0, ranks=1) is None, "what is free there changes with every file that is read"
    said = refused(LLAMA_8B, 60, 64, gpus=0, ranks=4)
    assert said is not None
    assert said.startswith("--ranks: 4 ranks need")
    assert "this machine has 60.0 of 64.0 GiB free" in said
    half = {"gpus": 0, "ranks": 5, "dtype": "float16"}
    assert refused(LLAMA_8B, 60, 64, **half) is not None, "each converts the weights for itself"
    assert refused(LLAMA_8B._replace(dtype="float16"), 60, 64, **half) is None, "mapped once for all"


def test_memory_that_is_not_known_refuses_nothing() -> None:
    config = RunConfig(prompts="p", device="cuda", ranks=64)
    assert estimate(LLAMA_70B, config, PromptSizes(1000, 100), Room((None,), None)).refusal is None


def test_a_batch_size_that_does_not_fit_is_a_doubt_and_auto_finds_its_own() -> None:
    def said(**settings: object) -> str | None:
        config = RunConfig(prompts="p", device="cuda", max_new_tokens=4000, **settings)  # type: ignore[arg-type]
        return doubt(estimate(LLAMA_8B, config, PromptSizes(1000, 100), Room((24 * GIB,), None)))

    assert said(batch_size=512) == "batch size 512 would not fit in memory, by estimate: 8 would"
    assert said(batch_size=8) is None
    assert said() is None, "the search starts from what is free"
    tight = estimate(LLAMA_8B, RunConfig(prompts="p", device="cuda"), PromptSizes(9, 9), Room((15 * GIB,), None))
    assert str(doubt(tight)).startswith("the run would not fit in memory, by estimate, even at batch size 1")


def test_a_run_that_starts_all_the_same_says_the_doubt_that_there_was_before_it(
    large: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "start_supervisor", lambda _: None)
    asked = msgspec.structs.replace(large, ranks=1, batch_size=4096)
    doubt = start.launch(asked, ignore_memory=True).doubt
    assert doubt is not None
    assert doubt.startswith("the run would not fit in memory, by estimate, even at batch size 1")


# --- before a run --------------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """Two ranks of a model of 15 GiB on a machine with one GPU of 24 GiB."""
    gpu = DeviceSample(
        index=0, uuid="GPU-0", name="L4", memory_free_bytes=23 * GIB, memory_total_bytes=24 * GIB, memory_used_bytes=GIB
    )
    monkeypatch.setattr(examine, "machine", lambda: Machine(gpus=(gpu,), seen=(0,)))
    monkeypatch.setattr("rankdeck.runner.machine.telemetry.count_visible_gpus", lambda environ: 1)
    shape = {
        "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_hidden_layers": 64,
        "num_key_value_heads": 8, "vocab_size": 128256, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(shape))
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    (tmp_path / "p.txt").write_text("hello\n")
    return RunConfig(prompts=str(tmp_path / "p.txt"), model=str(tmp_path / "model"), device="cuda", ranks=2)


@pytest.mark.parametrize("sweep", [None, SweepPlan(batch_sizes=[1], ranks=[1, 2])])
def test_run_and_sweep_refuse_it_and_leave_nothing_behind(
    large: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sweep: SweepPlan | None
) -> None:
    monkeypatch.setattr(start, "start_supervisor", lambda directory: pytest.fail("a supervisor was started"))
    with pytest.raises(start.InputError, match=r"2 ranks on a GPU need .* GiB for the weights alone"):
        start.launch(msgspec.structs.replace(large, sweep=sweep), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_whoever_ignores_the_estimate_does_not_lose_an_old_result(
    large: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Path] = []
    monkeypatch.setattr(start, "start_supervisor", started.append)
    (tmp_path / "old.jsonl").touch()
    kept = msgspec.structs.replace(large, output=str(tmp_path / "old.jsonl"))
    with pytest.raises(start.InputError, match=r"old\.jsonl exists"):
        start.launch(kept, run_dir=tmp_path / "run", ignore_memory=True)
    with pytest.raises(start.InputError, match="for the weights alone"):
        start.launch(kept, run_dir=tmp_path / "run", force=True)
    assert started == []
    start.launch(large, run_dir=tmp_path / "run", ignore_memory=True)
    assert started == [tmp_path / "run"]


def test_a_resume_with_more_ranks_than_fit_is_refused_and_changes_nothing(
    large: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Path] = []
    monkeypatch.setattr(start, "start_supervisor", started.append)
    run = tmp_path / "run"
    start.launch(msgspec.structs.replace(large, ranks=1), run_dir=run)
    before = (run / "run.json").read_bytes()
    with pytest.raises(start.InputError, match=r"2 ranks on a GPU need .* GiB for the weights alone"):
        start.resume(run, {"ranks": 2})
    assert (run / "run.json").read_bytes() == before
    start.resume(run, {"batch_size": 4})
    start.resume(run, {"ranks": 2}, ignore_memory=True)
    assert started == [run] * 3
    start.resume(run, {"ranks": 2})
    assert len(started) == 4, "two have run already"


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_run_and_sweep_have_a_flag_for_each(
    command: str, large: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[bool, bool]] = []

    def launch(config: RunConfig, *, force: bool, ignore_memory: bool, **_: object) -> None:
        asked.append((force, ignore_memory))
        raise start.InputError(["far enough"])

    monkeypatch.setattr(start, "launch", launch)
    for flag in ("--force", "--ignore-memory"):
        CliRunner().invoke(cli.app, [command, str(tmp_path / "p.txt"), "--device", "cpu", flag])
    assert asked == [(True, False), (False, True)]


def test_a_hub_model_that_is_not_here_yet_may_be_any_size(large: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = msgspec.structs.replace(large, model="nobody/nowhere", ranks=64)
    assert isinstance(checks.estimate_memory(asked, examine.machine()), str)


TINY = ModelShape(3_000_000, 2, 4, 16, 64, 128, 1000, 1024, "float32", tied=True)


@pytest.mark.parametrize(("ranks", "impossible"), [(3, False), (24, False), (48, True), (256, True)])
def test_ranks_whose_processes_alone_are_more_than_the_machine_has_are_refused(ranks: int, impossible: bool) -> None:
    said = refused(TINY, 1.9, 2, gpus=0, ranks=ranks)
    assert (said is not None) == impossible
    if said is not None:
        assert said.startswith(f"--ranks: {ranks} ranks need at least ")
        assert "for processes, and this machine has 1.9 of 2.0 GiB free; " in said
        assert re.search(r"; [12]\d ranks in all would fit \(--ranks\)\.", said)
        assert "make the weights smaller" not in said, "they are not what is too much"
        assert said.endswith("--ignore-memory starts it anyway")


def test_each_rank_has_a_laid_out_copy_of_the_weights_and_a_process() -> None:
    def said(ranks: int) -> str | None:
        return refused(DEMO, 23, 24, gpus=0, ranks=ranks)

    assert said(23) is None
    assert said(28) is None, "by estimate it does not fit, but it may"
    assert "99 ranks need at least " in str(said(99))


def test_as_many_ranks_as_are_said_to_fit_are_not_refused() -> None:
    for shape, free, whole in ((TINY, 5, 6), (DEMO, 60, 64), (LLAMA_8B, 60, 64)):
        said = refused(shape, free, whole, gpus=0, ranks=256)
        found = re.search(r"(\d+) ranks? in all would fit", str(said))
        assert found is not None
        assert refused(shape, free, whole, gpus=0, ranks=int(found[1])) is None


def test_on_gpus_the_host_must_have_room_for_the_processes() -> None:
    def said(ranks: int) -> str:
        config = RunConfig(prompts="p", device="cuda", ranks=ranks)
        rooms = [Room((size * GIB,) * 8, 4 * GIB) for size in (79, 80)]
        return str(estimate(TINY, config, PromptSizes(1000, 100), *rooms).refusal)

    assert said(64) == "None"
    assert "--ranks: 99 ranks need at least 4.9 GiB for their processes, without any model" in said(99)


def test_so_many_ranks_of_a_model_that_is_not_known_are_refused_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "start_supervisor", lambda _: None)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    host = Machine(memory_free_bytes=3 * GIB, memory_total_bytes=4 * GIB)
    monkeypatch.setattr(examine, "machine", lambda: host)
    (tmp_path / "p.txt").write_text("hello\n")
    asked = RunConfig(prompts=str(tmp_path / "p.txt"), model="nobody/nowhere", device="cpu", ranks=99)
    with pytest.raises(start.InputError, match=r"--ranks: 99 ranks need at least 4\.9 GiB .*; 60 ranks in all would"):
        start.launch(asked, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    start.launch(asked, run_dir=tmp_path / "run", ignore_memory=True)
    start.launch(msgspec.structs.replace(asked, ranks=64), run_dir=tmp_path / "fewer")
