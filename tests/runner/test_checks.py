"""What the machine has decides how many ranks there are by default, and what a run is warned about or refused for."""

import json
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from rankdeck.runner import checks
from rankdeck.runner.inputs import memory_estimate
from rankdeck.runner.machine import examine, processes, telemetry
from rankdeck.runner.machine.facts import Machine
from rankdeck.runner.protocol.config import MAX_RANKS, RunConfig

UNCOUNTED = "NVML is missing (libnvidia-ml.so.1 cannot be loaded): GPUs are not counted, and have no figures"


class Hardware:
    """A machine as a test wants it."""

    gpus = 0
    cores = 8
    uncounted = False
    mig = False
    looks = 0

    def count(self, environ: object) -> int:
        self.looks += 1
        return self.gpus


@pytest.fixture
def hardware(monkeypatch: pytest.MonkeyPatch) -> Hardware:
    here = Hardware()
    monkeypatch.setattr(telemetry, "count_visible_gpus", here.count)
    monkeypatch.setattr(telemetry, "gpus_are_uncounted", lambda: here.uncounted)
    monkeypatch.setattr(telemetry, "why_no_gpu", lambda environ: None)
    monkeypatch.setattr(telemetry, "visible_gpus", lambda environ: [SimpleNamespace(is_mig=here.mig)] * here.gpus)
    monkeypatch.setattr(processes, "usable_cores", lambda: here.cores)
    return here


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    (tmp_path / "p.txt").write_text("hello\n")
    return str(tmp_path / "p.txt")


@pytest.mark.parametrize(
    ("gpus", "cores", "uncounted", "device", "ranks"),
    [
        (0, 8, False, "auto", 2),
        (0, 1, False, "auto", 1),
        (0, 8, False, "cpu", 2),
        (4, 8, False, "cpu", 2),
        (4, 1, False, "cpu", 1),
        (4, 8, False, "auto", 4),
        (4, 1, False, "cuda", 4),
        (1000, 8, False, "cuda", MAX_RANKS),
        (0, 8, True, "cuda", 1),
        (0, 8, True, "auto", 2),
        (4, 8, True, "cuda", 4),
        (0, 8, False, "cuda", 2),
    ],
)
def test_there_are_as_many_ranks_as_gpus_and_without_gpus_two_if_two_cores_are_there(
    hardware, gpus, cores, uncounted, device, ranks
):
    hardware.gpus, hardware.cores, hardware.uncounted = gpus, cores, uncounted
    assert checks.default_ranks(device) == ranks


def test_ranks_that_share_or_span_gpus_are_counted_so_and_one_there_is_always(hardware):
    hardware.gpus = 3
    assert checks.default_ranks(ranks_per_gpu=2) == 6
    assert checks.default_ranks(gpus_per_rank=2) == 1
    assert checks.default_ranks(gpus_per_rank=5) == 1
    assert checks.default_ranks("cpu", ranks_per_gpu=2) == 2


def test_auto_is_a_gpu_where_there_is_one(hardware):
    assert checks.default_device() == "cpu"
    hardware.gpus = 1
    assert checks.default_device() == "cuda"


def test_gpus_that_nothing_can_count_are_spoken_of_only_where_they_are_asked_for(hardware):
    assert checks.uncounted_gpus("cuda") is None
    hardware.uncounted = True
    assert checks.uncounted_gpus("cuda") == UNCOUNTED
    assert [checks.uncounted_gpus(device) for device in ("auto", "cpu")] == [None, None]


def warned(prompt_count: int = 1000, **settings: object) -> list[str]:
    return checks.warnings(RunConfig(prompts="p", **settings), prompt_count)  # type: ignore[arg-type]


def test_ranks_without_work_are_warned_about(hardware):
    assert warned(5, ranks=8, device="cpu") == ["5 prompts for 8 ranks: 3 will have no work"]
    assert warned(8, ranks=8, device="cpu") == []


def test_ranks_that_share_cores_are_warned_about_where_they_run_on_them(hardware):
    hardware.cores = 3
    assert warned(ranks=4, device="cpu") == ["4 ranks on 3 cores: ranks share cores, which is slower"]
    assert warned(ranks=3, device="cpu") == []
    hardware.gpus = 4
    assert warned(ranks=4, device="cuda") == []


def test_ranks_that_share_gpus_unasked_are_warned_about(hardware):
    hardware.gpus = 2
    assert warned(ranks=3, device="cuda") == ["3 ranks on 2 GPUs: several ranks share a GPU and its memory"]
    assert warned(ranks=2, device="cuda") == []
    assert warned(ranks=4, ranks_per_gpu=2, device="cuda") == []
    hardware.uncounted = True
    assert warned(ranks=2, device="cuda") == [], "they are counted after all"
    hardware.gpus = 0
    assert warned(ranks=2, device="cuda") == [UNCOUNTED]


def refused(prompts: str, **settings: object) -> list[str]:
    return [str(problem) for problem in checks.check_gpus(RunConfig(prompts=prompts, **settings))]  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_gpus_are_not_counted_where_they_do_not_matter(hardware, device):
    assert refused("p", device=device, ranks=99) == []
    assert hardware.looks == 0


def test_a_gpu_that_is_not_there_is_refused_with_the_reason_and_the_way_out(hardware, monkeypatch):
    assert refused("p", device="cuda") == ["--device: no NVIDIA GPU can be seen here; use --device cpu"]
    monkeypatch.setattr(telemetry, "why_no_gpu", lambda environ: "no driver")
    assert refused("p", device="cuda") == ["--device: no NVIDIA GPU can be seen here (no driver); use --device cpu"]
    hardware.uncounted = True
    assert refused("p", device="cuda") == []
    hardware.gpus, hardware.uncounted = 1, False
    assert refused("p", device="cuda") == []


def test_ranks_that_share_or_span_gpus_need_gpus_whatever_the_device(hardware):
    for settings in ({"ranks_per_gpu": 2}, {"gpus_per_rank": 2}):
        (said,) = refused("p", device="auto", ranks=1, **settings)
        assert "needs NVIDIA GPUs, and none can be seen here" in said
    hardware.gpus = 2
    assert refused("p", device="auto", ranks=4, ranks_per_gpu=2) == []
    assert len(refused("p", device="auto", ranks=5, ranks_per_gpu=2)) == 1
    assert refused("p", device="auto", ranks=1, gpus_per_rank=2) == []
    hardware.mig = True
    (said,) = refused("p", device="auto", ranks=1, gpus_per_rank=2)
    assert "a process cannot have more than one MIG device" in said
    assert refused("p", device="auto", ranks=4, ranks_per_gpu=2) == [], "only a spread rank needs two"


def test_everything_that_is_wrong_is_told_at_once(hardware, tmp_path):
    config = RunConfig(
        prompts=str(tmp_path / "nowhere.txt"), output=str(tmp_path), ranks=0, device="cuda", model="./nowhere"
    )
    assert [problem.setting for problem in checks.check(config)] == ["ranks", "model", "device", "output", "prompts"]


def test_a_model_is_looked_into_unless_that_was_left_to_later_and_its_name_refused_in_any_case(
    hardware, prompts, monkeypatch
):
    looked_into: list[str] = []

    def why_unusable(config: RunConfig) -> list[str]:
        looked_into.append(config.model)
        return ["broken", "torn"]

    monkeypatch.setattr(checks.models, "why_unusable", why_unusable)
    config = RunConfig(prompts=prompts, device="cpu", ranks=1)
    assert [str(problem) for problem in checks.check(config)] == ["--model: broken", "--model: torn"]
    assert checks.check_but_files_of_model(config, force=False) == []
    for model in ("./nowhere", "caf\udce9"):
        named = msgspec.structs.replace(config, model=model)
        for check in (checks.check(named), checks.check_but_files_of_model(named, force=False)):
            assert [problem.setting for problem in check] == ["model"]
    assert looked_into == [config.model], "what has no such name has no files either"


def test_paths_that_begin_with_the_users_home_are_expanded_and_others_are_not(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = RunConfig(prompts="~/p.txt", output="~/out.jsonl", model="~/model", ranks=1)
    assert checks.with_whole_paths(config) == msgspec.structs.replace(
        config, prompts=str(tmp_path / "p.txt"), output=str(tmp_path / "out.jsonl"), model=str(tmp_path / "model")
    )
    for path in ("a/~/p.txt", "~nobody-of-that-name/p.txt", "./p//q.txt", "-"):
        config = RunConfig(prompts=path, output=path, ranks=1)
        assert checks.with_whole_paths(config) == config
    assert checks.with_whole_paths(RunConfig(prompts="p")).output is None


@pytest.mark.parametrize("typed", ["model", "./model", "org/model", "org/model/"])
def test_a_model_in_a_folder_has_its_whole_path_and_one_of_the_hub_its_name(tmp_path, monkeypatch, typed):
    """A run may be resumed from another folder, where its relative path would be another model."""
    monkeypatch.chdir(tmp_path)

    def model() -> str:
        return checks.with_whole_paths(RunConfig(prompts="p", model=typed)).model

    assert model() == typed
    (tmp_path / typed).mkdir(parents=True)
    assert model() == str(tmp_path / typed)
    (tmp_path / "demo").mkdir()
    assert checks.with_whole_paths(RunConfig(prompts="p", model="demo")).model == "demo"
    for odd in ("", " ", "a\0b", "x" * 5000):
        assert checks.with_whole_paths(RunConfig(prompts="p", model=odd)).model == odd


def test_a_run_is_checked_with_its_paths_expanded(hardware, prompts, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(checks.models, "why_unusable", lambda config: [])
    config = RunConfig(prompts="~/p.txt", output="~/new.jsonl", device="cpu", ranks=1)
    assert checks.check(config) == []
    (tmp_path / "new.jsonl").touch()
    assert [problem.setting for problem in checks.check(config)] == ["output"]
    assert checks.check(config, force=True) == []


@pytest.mark.parametrize(
    ("change", "matters"),
    [
        ({"ranks": 3}, True),
        ({"device": "cpu"}, True),
        ({"dtype": "float16"}, True),
        ({"quantization": "int8"}, True),
        ({"ranks_per_gpu": 3}, True),
        ({"gpus_per_rank": 3}, True),
        ({"batch_size": 3}, False),
        ({"max_new_tokens": 3}, False),
    ],
)
def test_whether_ranks_and_models_fit_depends_on_their_number_place_and_precision(change, matters):
    before = RunConfig(prompts="p", ranks=2)
    assert (
        checks.memory_settings(before) != checks.memory_settings(msgspec.structs.replace(before, **change))
    ) == matters


def test_a_run_is_measured_against_this_machine(hardware, prompts, monkeypatch):
    """The doubt and the refusal are of one estimate; of a model of any size, only the processes are counted."""
    machine = Machine(memory_free_bytes=7, memory_total_bytes=9)
    monkeypatch.setattr(examine, "machine", lambda: machine)
    monkeypatch.setattr(memory_estimate, "refusal_of_ranks", lambda *asked: asked)
    config = RunConfig(prompts=prompts, model="nobody/nowhere", ranks=5)
    assert checks.memory(config) == (None, (5, machine.free, machine.whole))
    refusal = SimpleNamespace(refusal="no")
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(memory_estimate, "estimate", lambda *of: (asked.append(of), refusal)[1])
    monkeypatch.setattr(memory_estimate, "doubt", lambda found: f"doubt of {found.refusal}")
    monkeypatch.setattr(checks.model_shape, "shape_of", lambda model: f"shape of {model}")
    assert checks.memory(config) == ("doubt of no", "no")
    (shape, of, sizes, free, whole) = asked[0]
    assert (shape, of, free, whole) == ("shape of nobody/nowhere", config, machine.free, machine.whole)
    assert sizes == checks.model_shape.sizes_of(prompts, None)
    Path(prompts).write_text("one\ntwo\nthree\n")
    checks.memory(msgspec.structs.replace(config, limit=2))
    assert asked[1][2] == checks.model_shape.sizes_of(prompts, 2) != checks.model_shape.sizes_of(prompts, None)


def test_a_model_whose_size_is_not_known_is_said_to_be_so(hardware, prompts, monkeypatch):
    def unknown(model: str) -> None:
        raise checks.model_shape.Unknown(f"nobody knows {model}")

    monkeypatch.setattr(checks.model_shape, "shape_of", unknown)
    config = RunConfig(prompts=prompts, model="nobody/nowhere")
    assert checks.estimate_memory(config, Machine()) == "nobody knows nobody/nowhere"


def test_a_supervisor_that_could_not_listen_is_an_error_of_the_input(monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "runtime_directory", lambda: tmp_path)
    checks.check_sockets()

    def taken() -> None:
        raise checks.run_directory.RunFileError("something is there")

    monkeypatch.setattr(checks, "runtime_directory", taken)
    with pytest.raises(checks.InputError, match=r"^something is there$") as caught:
        checks.check_sockets()
    assert caught.value.problems == ["something is there"]


def test_packages_of_the_model_in_a_folder_and_of_the_settings_are_asked_for_and_demo_is_never_a_folder(
    hardware, prompts, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checks.quantization, "installed", lambda package: None)
    for name in ("demo", "model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')

    def asked(**settings: object) -> list[str]:
        config = RunConfig(prompts=prompts, device="cpu", ranks=1, **settings)  # type: ignore[arg-type]
        found = checks.check_quantization(config)
        assert set(map(str, found)) <= set(map(str, checks.check(config)))
        return [problem.setting for problem in found]

    assert asked(model="demo") == []
    assert asked(model="model") == ["model"]
    assert asked(model="demo", quantization="int8", attention="flash_attention_2") == ["quantization", "attention"]


def test_outputs_must_not_be_what_the_run_reads_or_cannot_write(hardware, prompts, tmp_path, monkeypatch):
    monkeypatch.setattr(checks.models, "why_unusable", lambda config: [])
    (tmp_path / "there").touch()

    def said(output: str, force: bool = False) -> list[str]:
        config = RunConfig(prompts=prompts, output=output, device="cpu", ranks=1)
        return [str(problem) for problem in checks.check(config, force=force)]

    assert said(str(tmp_path / "new")) == said(str(tmp_path / "there"), force=True) == []
    assert said(str(tmp_path / "there")) == [
        f"--output: {tmp_path / 'there'} exists; name another file, or replace it with --force"
    ]
    assert len(said(prompts)) == len(said(prompts, force=True)) == 1


def test_all_problems_are_the_lines_of_an_error():
    assert str(checks.InputError([checks.Problem("batch_size", "is bad"), "and more"])) == (
        "--batch-size: is bad\nand more"
    )


def test_ranks_that_nobody_placed_are_warned_about_by_the_device_they_run_on(hardware):
    hardware.cores, hardware.gpus = 1, 0
    assert warned(1, ranks=2, device="auto") == [
        "1 prompt for 2 ranks: 1 will have no work",
        "2 ranks on 1 core: ranks share cores, which is slower",
    ]
    assert warned(ranks=2, device="cuda") == ["2 ranks on 0 GPUs: several ranks share a GPU and its memory"]
    assert warned(ranks=2, device="cuda", ranks_per_gpu=2) == []
    hardware.gpus = 1
    assert warned(ranks=2, device="cuda") == ["2 ranks on 1 GPU: several ranks share a GPU and its memory"]


@pytest.mark.parametrize(
    ("values", "new_tokens", "refused"),
    [
        ({"max_position_embeddings": 64}, 63, False),
        ({"max_position_embeddings": 64}, 64, True),
        ({"n_positions": 64}, 100_000, True),
        ({"text_config": {"max_position_embeddings": 64}, "max_position_embeddings": 9_999}, 64, True),
        ({"model_type": "mamba", "max_position_embeddings": 64}, 100_000, False),
        ({"max_position_embeddings": "64"}, 100_000, False),
        ({}, 100_000, False),
    ],
)
def test_answers_that_leave_no_room_for_any_prompt_are_refused_before_anything_is_loaded(
    tmp_path, values, new_tokens, refused
):
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = RunConfig(prompts="p", model=str(tmp_path), max_new_tokens=new_tokens, device="cpu")
    found = [str(problem) for problem in checks.check_length(config)]
    said = f"--max-new-tokens: {new_tokens:,} leaves no room for a prompt: the model has positions for 64 tokens"
    assert found == ([said] if refused else [])
    problems = checks.check_but_files_of_model(config, force=False)
    assert (said in map(str, problems)) is refused


def test_the_demo_model_is_not_looked_for_in_a_folder_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "config.json").write_text('{"max_position_embeddings": 8}')
    assert checks.check_length(RunConfig(prompts="p", max_new_tokens=100)) == []
