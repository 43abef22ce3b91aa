"""A rank from joining to leaving, with stand-ins for accelerate, the model, the GPU and the connection."""

from types import SimpleNamespace

import pytest
import torch

from rankdeck.runner import protocol
from rankdeck.runner.engine import choose, loading
from rankdeck.runner.engine.trials import limits
from rankdeck.runner.engine.trials.limits import Limits
from rankdeck.runner.machine import placement
from rankdeck.runner.protocol import StartRank
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.rank import device, group, model_files, worker
from rankdeck.runner.rank.options import Options
from rankdeck.runner.rank.work import RankWork
from rankdeck.runner.supervisor.knobs import _free_bytes
from tests.fake_cuda import GIB, FakeCuda


class Accelerator:
    """Like accelerate's, without its barriers, and without what it takes for this rank's number: always 0."""

    def __init__(self, name: str) -> None:
        self.device = torch.device(name)

    def wait_for_everyone(self) -> None:
        raise AssertionError("accelerate's barrier names a device")

    local_main_process_first = main_process_first = wait_for_everyone

    def end_training(self) -> None:
        pass


class Model(torch.nn.Linear):
    """A model of one parameter, in a dtype that nothing else here is in."""

    dtype = torch.float16

    def __init__(self) -> None:
        super().__init__(1, 1)


MEASURES = "measures (device(type='cpu'), torch.float16)"


@pytest.fixture
def rank_of(tmp_path, monkeypatch):
    """Makes a rank of stand-ins, and a list of what it tells the supervisor, with where it waits among it."""

    def go(local_rank: int = 0, model: str = "some/hub-model", **settings):
        told: list = []
        config = RunConfig(prompts="p", **settings)
        run = SimpleNamespace(config=config, prompts=1)
        monkeypatch.setattr("rankdeck.runner.run_directory.read_run_file", lambda _: run)
        on_cpu = config.device == "cpu"
        monkeypatch.setattr(group, "join", lambda *_: Accelerator("cpu" if on_cpu else f"cuda:{local_rank % 2}"))
        monkeypatch.setattr(model_files, "_hub_folder", lambda model, revision: f"folder of {model}")
        at = torch.device("cpu") if on_cpu else torch.device("cuda", local_rank % 2)

        def load(config, folder, found, trials):
            told.append(folder)
            return SimpleNamespace(model=Model(), tokenizer=None, device=at)

        described = {"parameters": 1, "dtype": "float32"}
        engine = SimpleNamespace(name="static", devices=[at], describe=lambda: described, device=at)
        monkeypatch.setattr(limits, "measured", lambda *of: told.append(f"measures {of}") or Limits(1e9, 2e12))
        monkeypatch.setattr(loading, "load", load)
        monkeypatch.setattr(choose, "choose", lambda config, loaded, prompts, hint: (engine, ""))
        facts = {"device": str(at), "device_name": "GPU"}
        monkeypatch.setattr(worker, "device_facts", lambda *_, **__: facts)
        monkeypatch.setattr(RankWork, "run", lambda self: False)
        link = SimpleNamespace(
            send=lambda *messages: told.extend(messages),
            meet=lambda rank, at: told.append(f"rank {rank}: {at}"),
            arrive=lambda rank, at: told.append(f"rank {rank} at {at}"),
        )
        order = StartRank(rank=local_rank, world_size=config.ranks)
        made = worker._Rank(Options(run_dir=tmp_path, socket="", model=model), order, link)
        return made, told

    return go


@pytest.fixture
def cuda(monkeypatch) -> FakeCuda:
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "unset")
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    return FakeCuda(gpus=2).install(monkeypatch)


def told_in_order(told: list) -> list[str]:
    names = (getattr(one, "phase", type(one).__name__) if not isinstance(one, str) else one for one in told)
    return [name for name in names if name not in ("LogLine",)]


def test_a_rank_never_calls_a_barrier_of_accelerate(rank_of):
    plan = SweepPlan(batch_sizes=[1], ranks=[1])
    rank, told = rank_of(device="cpu", ranks=1, sweep=plan)
    rank.live()
    folder = "folder of some/hub-model"
    assert told_in_order(told) == ["joining", "loading", folder, "warming up", "rank 0: limits", MEASURES, "RankReady"]


def test_ranks_that_share_gpus_all_look_at_the_free_memory_before_any_of_them_loads(
    rank_of, cuda, monkeypatch, tmp_path
):
    cuda.free, cuda.reserved = 79 * GIB, 9 * GIB
    rank, told = rank_of(local_rank=2, device="cuda", ranks=3, model=str(tmp_path))
    meet = rank.link.meet
    rank.link.meet = lambda rank, at: (meet(rank, at), cuda.calls.append(at))
    rank.live()
    assert told_in_order(told) == [
        "joining",
        "rank 2: memory taken",
        "rank 2: memory seen",
        "loading",
        str(tmp_path),
        "warming up",
        "rank 2 at limits",
        "RankReady",
    ]
    assert cuda.fractions == {"cuda:0": pytest.approx(39.25 / 80)}
    assert cuda.calls[:4] == [
        "synchronize cuda:0",
        "memory taken",
        "mem_get_info cuda:0",
        "memory seen",
    ], "contexts take memory, too"
    ready = next(one for one in told if isinstance(one, protocol.RankReady))
    assert (ready.memory_free_bytes, ready.memory_total_bytes) == (79 * GIB, 80 * GIB)
    assert _free_bytes(ready, [ready, ready]) == ready.memory_left_bytes == int(30.25 * GIB), "not shared a second time"


def test_a_rank_alone_on_its_gpu_waits_with_those_that_share_theirs_and_has_all_of_it(rank_of, cuda, tmp_path):
    rank, told = rank_of(local_rank=1, device="cuda", ranks=3, model=str(tmp_path))
    rank.live()
    assert told_in_order(told)[:3] == ["joining", "rank 1: memory taken", "rank 1: memory seen"]
    assert cuda.fractions == {}


def nobody(rank, at):
    pytest.fail("nothing to wait for")


@pytest.mark.parametrize("settings", [{"ranks": 2}, {"ranks": 4, "gpus_per_rank": 2}, {"ranks": 4, "device": "cpu"}])
def test_ranks_that_share_no_gpu_have_all_of_theirs(cuda, monkeypatch, settings):
    config = RunConfig(prompts="p", **{"device": "cuda", **settings})
    own = [torch.device("cpu" if config.device == "cpu" else f"cuda:{rank}") for rank in range(2)]
    assert [device.hold_to_share(config, rank, own[rank], nobody) for rank in range(2)] == [None, None]
    assert cuda.fractions == {}


@pytest.mark.parametrize(("ranks", "fractions"), [(2, {}), (4, {"cuda:0": pytest.approx(39.75 / 80)})])
def test_of_mig_devices_each_process_sees_its_own_alone_and_shares_it_only_where_there_are_too_few(
    cuda, monkeypatch, ranks, fractions
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a")
    monkeypatch.setenv(placement.COUNTED, "MIG-a,MIG-b")
    device.hold_to_share(RunConfig(prompts="p", device="cuda", ranks=ranks), 0, torch.device("cuda:0"), lambda *_: None)
    assert cuda.fractions == fractions


@pytest.mark.parametrize("phase", ["loading the model", "warming up"])
def test_a_rank_that_runs_out_of_memory_before_it_is_ready_says_what_there_is_and_what_to_do(
    rank_of, cuda, monkeypatch, phase, tmp_path
):
    rank, _ = rank_of(local_rank=1, device="cuda", ranks=4, model=str(tmp_path))
    cuda.reserved = 39 * GIB

    def run_out(*_):
        raise RuntimeError("CUDA driver error: out of memory")

    place = (loading, "load") if phase == "loading the model" else (choose, "choose")
    monkeypatch.setattr(*place, run_out)
    with pytest.raises(
        RuntimeError, match=rf"not enough memory for {phase}: cuda:1 has 80.0 GiB.* one of 2 ranks there\. Run fewer"
    ):
        rank.live()


def test_without_a_cuda_build_of_torch_a_rank_says_so_before_accelerate_is_asked(rank_of, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rank, _ = rank_of(device="cuda", ranks=2)
    monkeypatch.setattr(group, "join", lambda *_: pytest.fail("it would speak of backends"))
    with pytest.raises(RuntimeError, match="sees no CUDA device; install a CUDA build of it, or use --device cpu"):
        rank.live()


def test_rank_0_measures_what_its_device_can_do_once_all_have_come_and_the_others_are_ready_without_waiting(rank_of):
    rank, told = rank_of(local_rank=0, device="cpu", ranks=2)
    rank.live()
    assert told[-3:-1] == ["rank 0: limits", MEASURES]
    assert (told[-1].bandwidth_bytes_per_second, told[-1].matrix_flops_per_second) == (1e9, 2e12)
    rank, told = rank_of(local_rank=1, device="cpu", ranks=2)
    rank.live()
    assert told[-2] == "rank 1 at limits"
    assert (told[-1].bandwidth_bytes_per_second, told[-1].matrix_flops_per_second) == (None, None)
