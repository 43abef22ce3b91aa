"""Ranks and GPUs: several ranks on one GPU, one rank over several, and what is refused before anything starts."""

import os
import subprocess
import sys
from types import SimpleNamespace

import msgspec
import pytest
import torch
import transformers
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import get_balanced_memory
from typer.testing import CliRunner

from rankdeck.runner import checks, protocol, start
from rankdeck.runner.engine import loading, memory, weights
from rankdeck.runner.engine.static import StaticEngine
from rankdeck.runner.machine import placement, telemetry
from rankdeck.runner.protocol import DeviceSample, Prompt, RankReady, StartRank
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.config import check as check_settings
from rankdeck.runner.rank.device import take_device
from rankdeck.runner.rank.options import Options
from rankdeck.runner.rank.worker import _Rank
from rankdeck.runner.state.rank_gpus import match_rank_to_gpus
from rankdeck.runner.supervisor.knobs import _free_bytes
from rankdeck.tui.commands import cli
from rankdeck.tui.panels.overview.devices import device_lines
from tests import scripted
from tests.runner.engine.tiny import ByteTokenizer
from tests.runner.state.test_state import play

FOUR = {"CUDA_VISIBLE_DEVICES": "GPU-aaaa, GPU-bbbb,GPU-cccc,3"}


def refused(config: RunConfig, gpus: int = 4) -> list[str]:
    return [str(problem) for problem in [*check_settings(config), *placement.check(config, gpus)]]


@pytest.fixture
def four_gpus(monkeypatch):
    monkeypatch.setattr(telemetry, "count_visible_gpus", lambda environ: 4)


def ready(rank: int, **facts) -> RankReady:
    return RankReady(
        rank=rank, device_name="GPU", dtype="bfloat16", engine="static", seconds=1.0, parameters=1, **facts
    )


# --- how many ranks, and where ---


def test_without_a_given_number_ranks_fill_the_gpus(four_gpus):
    assert checks.default_ranks() == 4
    assert checks.default_ranks(ranks_per_gpu=3) == 12
    assert checks.default_ranks(gpus_per_rank=2) == 2
    assert checks.default_ranks(gpus_per_rank=3) == 1, "a GPU is left over"
    assert checks.default_ranks("cpu", gpus_per_rank=2) <= 2


def test_the_command_starts_as_many_ranks_as_the_gpus_take(four_gpus, monkeypatch, tmp_path):
    (tmp_path / "p.txt").write_text("hello\n")
    (tmp_path / "run.toml").write_text('prompts = "p.txt"\nranks_per_gpu = 2\n')
    asked = []

    def launch(config, **_):
        asked.append(config)
        raise start.InputError(["far enough"])

    monkeypatch.setattr(start, "launch", launch)
    for arguments in (("--config", "run.toml"), ("p.txt", "--gpus-per-rank", "2"), ("p.txt", "--ranks", "3")):
        CliRunner().invoke(cli.app, ["run", *(str(tmp_path / one) if "." in one else one for one in arguments)])
    assert [(config.ranks, config.ranks_per_gpu, config.gpus_per_rank) for config in asked] == [
        (8, 2, 1),
        (2, None, 2),
        (3, None, 1),
    ]


def test_ranks_that_share_gpus_are_assigned_round_robin():
    assert [placement.device_index(rank, 2, 1) for rank in range(4)] == [0, 1, 0, 1]
    assert placement.own_environment({}, 3, 1) == {}, "they see all GPUs"


def test_a_rank_that_is_to_see_its_gpu_alone_sees_no_other():
    assert [placement.own_environment({}, rank, 1, alone=True) for rank in range(2)] == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "1"},
    ]
    assert placement.own_environment(FOUR, 2, 1, alone=True) == {"CUDA_VISIBLE_DEVICES": "GPU-cccc"}
    assert placement.own_environment(FOUR, 1, 2, alone=True) == placement.own_environment(FOUR, 1, 2)


def test_a_rank_with_several_gpus_sees_only_its_own_however_they_are_named():
    assert [placement.own_environment({}, rank, 2) for rank in range(2)] == [
        {"CUDA_VISIBLE_DEVICES": "0,1"},
        {"CUDA_VISIBLE_DEVICES": "2,3"},
    ]
    assert placement.own_environment(FOUR, 0, 2) == {"CUDA_VISIBLE_DEVICES": "GPU-aaaa,GPU-bbbb"}
    assert placement.own_environment(FOUR, 1, 2) == {"CUDA_VISIBLE_DEVICES": "GPU-cccc,3"}
    assert placement.own_environment({"CUDA_VISIBLE_DEVICES": "7,5,6"}, 0, 3) == {"CUDA_VISIBLE_DEVICES": "7,5,6"}


def test_the_inputs_of_a_spread_rank_go_to_the_first_of_its_gpus():
    assert [placement.device_index(rank, 2, 2) for rank in range(3)] == [0, 0, 0], "not local rank modulo 2"
    assert placement.device_text("cuda:0", 1, 2) == "cuda:2,3"
    assert placement.device_text("cuda:1", 1, 1) == "cuda:1"


# --- what is refused ---


@pytest.mark.parametrize(
    ("settings", "gpus", "said"),
    [
        (
            {"ranks": 4, "gpus_per_rank": 2},
            4,
            "--ranks: 4 ranks of 2 GPUs each need 8 GPUs, and 4 can be seen here; at",
        ),
        ({"ranks": 1, "gpus_per_rank": 8}, 4, "--gpus-per-rank: 8 GPUs per rank, and 4 can be seen here"),
        ({"ranks": 9, "ranks_per_gpu": 2}, 4, "--ranks: 9 ranks are too many for 4 GPUs at 2 per GPU: at most 8"),
        ({"ranks": 5, "ranks_per_gpu": 1}, 4, "--ranks: 5 ranks are too many for 4 GPUs at 1 per GPU: at most 4"),
        ({"ranks_per_gpu": 2, "gpus_per_rank": 2}, 4, "--gpus-per-rank: ranks share a GPU (--ranks-per-gpu) or have"),
        ({"ranks_per_gpu": 2, "device": "cpu"}, 4, "--ranks-per-gpu: is for NVIDIA GPUs"),
        ({"gpus_per_rank": 2, "device": "cpu"}, 0, "--gpus-per-rank: is for NVIDIA GPUs"),
        ({"gpus_per_rank": 2}, 0, "--gpus-per-rank: needs NVIDIA GPUs, and none can be seen here; leave it out"),
        ({"ranks_per_gpu": 0}, 4, "--ranks-per-gpu: must be at least 1, not 0"),
        ({"gpus_per_rank": 65, "ranks": 1}, 65, "--gpus-per-rank: must be at most 64, not 65"),
    ],
)
def test_too_many_ranks_or_gpus_per_rank_are_refused_with_the_numbers(settings, gpus, said):
    (found,) = refused(RunConfig(prompts="p", **settings), gpus)
    assert found.startswith(said)


@pytest.mark.parametrize(
    "settings",
    [{"ranks": 8, "ranks_per_gpu": 2}, {"ranks": 3, "ranks_per_gpu": 2}, {"ranks": 2, "gpus_per_rank": 2},
     {"ranks": 1, "gpus_per_rank": 3}, {"ranks": 9}, {"ranks_per_gpu": 1, "device": "cpu"}],
)  # fmt: skip
def test_ranks_that_fit_the_gpus_are_not_refused(settings):
    assert refused(RunConfig(prompts="p", **settings)) == []


def test_more_ranks_than_gpus_are_warned_about_unless_sharing_is_asked_for(four_gpus):
    config = RunConfig(prompts="p", ranks=8, device="cuda")
    assert checks.warnings(config, 100) == ["8 ranks on 4 GPUs: several ranks share a GPU and its memory"]
    assert checks.warnings(RunConfig(prompts="p", ranks=8, ranks_per_gpu=2, device="cuda"), 100) == []


def test_the_check_before_a_run_counts_the_gpus(four_gpus, tmp_path):
    (tmp_path / "p.txt").write_text("hello\n")
    for device in ("auto", "cuda"):
        config = RunConfig(prompts=str(tmp_path / "p.txt"), device=device, ranks=3, gpus_per_rank=2)
        assert [problem.setting for problem in checks.check(config)] == ["ranks"]
        assert checks.check(msgspec.structs.replace(config, ranks=2)) == []


# --- who stands where, and with how much memory ---


def test_a_spread_rank_is_listed_at_each_of_its_gpus_and_a_shared_gpu_lists_all_its_ranks():
    samples = [DeviceSample(index=index, uuid=f"GPU-{letter * 4}", name="GPU") for index, letter in enumerate("abcd")]
    spread = ready(0, device="cuda:0,1", device_uuid="bbbb", device_uuids=["bbbb", "dddd"])
    assert match_rank_to_gpus(spread, samples) == [1, 3]
    shared = [ready(rank, device="cuda:0", device_uuid="cccc") for rank in (1, 2)]
    state = play(protocol.RanksLaunched(attempt=1, world_size=3), spread, *shared, protocol.Tick(devices=samples))
    assert [device.ranks for device in state.devices] == [(), (0,), (1, 2), (0,)]


def test_the_row_of_a_shared_gpu_names_all_its_ranks():
    samples = [DeviceSample(index=index, uuid=scripted.ready(index, 2).device_uuid, name="GPU") for index in range(2)]
    state = play(
        protocol.RanksLaunched(attempt=1, world_size=8),
        *(scripted.ready(rank, 2) for rank in range(8)),
        protocol.Tick(devices=samples),
    )
    for width in (80, 120):
        text = "\n".join("".join(piece for piece, _ in line) for line in device_lines(state, width))
        assert "0,2,4,6" in text
        assert "1,3,5,7" in text


def test_ranks_share_the_free_memory_of_one_gpu_but_not_of_two_gpus_with_one_name():
    shared = [ready(rank, device="cuda:0", device_uuid="aaaa", memory_free_bytes=100) for rank in range(2)]
    assert [_free_bytes(one, shared) for one in shared] == [50, 50]
    # Each sees only its own GPUs, and calls the first of them cuda:0.
    apart = [ready(rank, device="cuda:0", device_uuid=f"{rank}", memory_free_bytes=100) for rank in range(2)]
    assert [_free_bytes(one, apart) for one in apart] == [100, 100]


# --- loading ---


def test_a_model_goes_onto_one_gpu_or_evenly_onto_several_and_nowhere_else():
    gpu = torch.device("cuda", 0)
    assert loading.placed(torch.device("cpu"), []) == {}
    assert loading.placed(gpu, []) == {"device_map": {"": gpu}}
    spread = loading.placed(gpu, [1000, 2000])
    assert spread == {"device_map": "balanced", "max_memory": {0: 900, 1: 1800}}


def test_a_model_that_does_not_fit_the_gpus_is_refused_with_the_cure():
    loading.refuse_offloading({"model.layers.0": 0, "lm_head": 1}, 2)
    with pytest.raises(RuntimeError, match=r"does not fit 2 GPUs \(1 of its parts.*lm_head first.*--gpus-per-rank"):
        loading.refuse_offloading({"model.layers.0": 0, "lm_head": "disk"}, 2)


def test_the_device_map_spreads_whole_layers_and_marks_what_is_left_over():
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=8, num_attention_heads=4
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    size = sum(weights.stored_bytes(parameter) for parameter in model.parameters())

    def mapped(share: float) -> dict:
        asked = loading.placed(torch.device("cuda", 0), [int(share * size)] * 2)["max_memory"]
        whole = ["LlamaDecoderLayer"]
        room = get_balanced_memory(model, dict(asked), no_split_module_classes=whole)
        return infer_auto_device_map(model, room, no_split_module_classes=whole)

    fits = mapped(2)
    assert set(fits.values()) == {0, 1}
    loading.refuse_offloading(fits, 2)
    with pytest.raises(RuntimeError, match="does not fit 2 GPUs"):
        loading.refuse_offloading(mapped(0.3), 2)


def test_a_model_on_the_cpu_has_one_device_and_no_peak():
    devices = loading.devices_of(torch.nn.Linear(2, 2), torch.device("cpu"))
    memory.reset_peaks(devices)
    memory.synchronise(devices)
    assert devices == [torch.device("cpu")]
    assert memory.peak_bytes(devices) is memory.peak_reserved_bytes(devices) is None


def tiny_model() -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, eos_token_id=1, pad_token_id=0, bos_token_id=2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def test_a_model_in_parts_gives_the_same_answers_as_in_one_piece(tmp_path):
    # There are no GPUs here; parts on disk are moved by the same hooks of accelerate.
    cpu, config = torch.device("cpu"), RunConfig(prompts="p", max_new_tokens=6, ignore_eos=True)
    parts = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu",
             "model.layers.1": "disk", "model.norm": "cpu", "lm_head": "disk"}  # fmt: skip
    split = dispatch_model(tiny_model(), parts, main_device="cpu", offload_dir=str(tmp_path))
    engines = [StaticEngine(model, ByteTokenizer(), config, cpu) for model in (tiny_model(), split)]
    prompts = [Prompt(index=0, id="0", text="ab"), Prompt(index=1, id="1", text="a longer one")]
    one, other = (engine.generate(prompts).records for engine in engines)
    assert one == other
    assert engines[0].describe()["parameter_bytes"] == engines[1].describe()["parameter_bytes"]


# --- the rank itself ---


@pytest.fixture
def cuda(monkeypatch):
    """Stands in for torch.cuda: of eight devices those that the environment lets through, and the one made current."""
    current = []

    def seen():
        value = os.environ.get("CUDA_VISIBLE_DEVICES")
        return 8 if value is None else len([entry for entry in value.split(",") if entry])

    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen() > 0)
    monkeypatch.setattr(torch.cuda, "device_count", seen)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(memory, "_allocate", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"{index}"))
    monkeypatch.delenv(placement.COUNTED, raising=False)
    monkeypatch.setenv(placement.OWN_DEVICE, "unset")
    return current


def rank_of(tmp_path, monkeypatch, local_rank: int, **settings) -> _Rank:
    run = SimpleNamespace(config=RunConfig(prompts="p", device="cuda", ranks=4, **settings), prompts=1)
    monkeypatch.setattr("rankdeck.runner.run_directory.read_run_file", lambda _: run)
    return _Rank(Options(run_dir=tmp_path, socket="", model=""), StartRank(rank=local_rank, world_size=4), None)


def test_a_rank_takes_its_gpu_and_has_accelerate_take_it_too(tmp_path, monkeypatch, cuda):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    rank = rank_of(tmp_path, monkeypatch, 3, ranks_per_gpu=2)
    take_device(rank.config, rank.rank)
    assert cuda == [1]
    assert os.environ[placement.OWN_DEVICE] == "cuda:1"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5,6"


def test_a_spread_rank_hides_the_gpus_of_others_and_takes_the_first_of_its_own(tmp_path, monkeypatch, cuda):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,GPU-c,GPU-d")
    rank = rank_of(tmp_path, monkeypatch, 1, gpus_per_rank=2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-c,GPU-d", "set before CUDA starts"
    take_device(rank.config, rank.rank)
    assert cuda == [0]
    assert os.environ[placement.OWN_DEVICE] == "cuda:0"


def test_a_rank_that_sees_too_few_gpus_says_so(tmp_path, monkeypatch, cuda):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    rank = rank_of(tmp_path, monkeypatch, 1, gpus_per_rank=2)
    with pytest.raises(RuntimeError, match=r"torch sees 1 of the 2 GPUs of this rank \(CUDA_VISIBLE_DEVICES=2\)"):
        take_device(rank.config, rank.rank)


def test_accelerate_takes_the_device_it_is_given():
    code = "from accelerate import PartialState; import sys; sys.stdout.write(str(PartialState().device))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, placement.OWN_DEVICE: "meta:3"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "meta:3"


def test_a_rank_sends_all_its_gpus_on_the_wire():
    said = ready(0, device="cuda:0,1", device_uuid="a", device_uuids=["a", "b"])
    assert msgspec.json.decode(protocol.encode_line(said), type=RankReady).device_uuids == ["a", "b"]
