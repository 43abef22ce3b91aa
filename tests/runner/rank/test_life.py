"""A rank's life: what it reports from its greeting to its last word, what it shares, and how it gathers. What it calls
is made of stand-ins."""

import contextlib
import os
import sys
from types import MappingProxyType, SimpleNamespace
from unittest.mock import ANY

import msgspec
import pytest
import torch

from rankdeck.runner import protocol
from rankdeck.runner.engine import choose, loading, memory, private_names
from rankdeck.runner.engine.trials import findings, limits
from rankdeck.runner.engine.trials.limits import Limits
from rankdeck.runner.engine.vllm import engine as vllm_engine
from rankdeck.runner.engine.vllm import names, outline
from rankdeck.runner.protocol import StartRank
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.engines import EngineHint
from rankdeck.runner.rank import options as options_module
from rankdeck.runner.rank import worker
from rankdeck.runner.rank.options import Options, read_options
from rankdeck.runner.rank.work import RankWork


class Left(BaseException):
    """In the place of an exit on the spot."""


@pytest.fixture
def life(monkeypatch, tmp_path):
    """Lives as a rank; returns what it sent and did, and its exit status."""

    def go(live, rank: int = 1):
        did: list = []

        def leave(status: int) -> None:
            did.append(status)
            raise Left

        class Link:
            def __init__(self, path):
                did.append(path)

            def send(self, *messages):
                did.extend(messages)

            def close(self):
                did.append("closed")

        monkeypatch.setattr(worker, "log_to", did.append)
        monkeypatch.setattr(worker, "Link", Link)
        monkeypatch.setattr(worker, "_Rank", lambda *given: SimpleNamespace(live=live))
        monkeypatch.setattr(worker.os, "_exit", leave)
        with contextlib.suppress(Left):
            worker.live(Options(tmp_path, "/the/socket", "demo"), StartRank(rank=rank, world_size=3, attempt=2))
        return did

    return go


def test_a_rank_greets_lives_and_leaves_with_0(life, tmp_path):
    assert life(lambda: None) == [
        tmp_path / "rank-1.log",
        "/the/socket",
        protocol.RankHello(rank=1, world_size=3, attempt=2),
        "closed",
        0,
    ]


@pytest.mark.parametrize(
    ("error", "said"),
    [(ValueError("no such word"), "ValueError: no such word"), (KeyboardInterrupt(), "KeyboardInterrupt")],
)
def test_a_rank_that_gives_up_says_why_closes_and_leaves_with_1(life, capsys, error, said):
    def fail():
        raise error

    *_, failed, closed, status = life(fail)
    assert (failed.rank, failed.error, closed, status) == (1, said, "closed", 1)
    assert failed.traceback.startswith("Traceback (most recent call last):")
    assert failed.traceback.rstrip().endswith(said)
    assert said in capsys.readouterr().err, "in its log, too"


def test_the_command_line_of_a_rank_is_read_as_it_was_written(tmp_path):
    options = Options(tmp_path / "a run", "/s", "org/model")
    assert read_options(["before", *options.arguments(), "--order", "{}"]) == options
    for name in ("--run-dir", "--socket", "--model"):
        at = options.arguments().index(name)
        with pytest.raises(SystemExit):
            options_module.read_options([*options.arguments()[:at], *options.arguments()[at + 2 :]])


class Accelerator:
    def __init__(self, share=()) -> None:
        self.device, self.share, self.ended = torch.device("cpu"), share, 0

    @contextlib.contextmanager
    def split_between_processes(self, numbers):
        self.given = numbers
        yield self.share

    def end_training(self) -> None:
        self.ended += 1


@pytest.fixture
def rank_of(monkeypatch, tmp_path):
    """Makes a rank whose model, engine and devices are stand-ins."""

    def make(
        rank: int = 0, prompts: int = 10, gathers: bool = False, why: str = "", room: int | None = None, **settings
    ):
        sent: list = []
        config = RunConfig(prompts="p", **{"device": "cpu", **settings})
        monkeypatch.setattr(
            "rankdeck.runner.run_directory.read_run_file", lambda _: SimpleNamespace(config=config, prompts=prompts)
        )
        engine = SimpleNamespace(
            name="static", devices=[torch.device("cpu")], describe=lambda: {"parameters": 7, "dtype": "float32"}
        )
        monkeypatch.setattr(limits, "measured", lambda *_: Limits(5e9, 6e12))
        model = SimpleNamespace(model=torch.nn.Linear(1, 1), tokenizer=None, device=torch.device("cpu"))
        model.model.dtype = torch.float32
        monkeypatch.setattr(loading, "load", lambda *_: model)
        monkeypatch.setattr(choose, "choose", lambda *_: (engine, why))
        monkeypatch.setattr(memory, "free_and_total", lambda devices: (3, 4))
        monkeypatch.setattr(memory, "left_of", lambda share, device: share)
        monkeypatch.setattr(worker, "hold_to_share", lambda *_: room)
        monkeypatch.setattr(worker, "model_folder", lambda model, run_dir: f"{model} in {run_dir}")
        accelerator = Accelerator(share=[2, 3, 4])
        monkeypatch.setattr(worker._Rank, "_join", lambda self: accelerator)
        monkeypatch.setattr(RankWork, "run", lambda self: self.digests.append((1, "d")) or gathers)
        link = SimpleNamespace(
            send=lambda *messages: sent.extend(messages), meet=lambda *_: None, arrive=lambda *_: None
        )
        order = StartRank(rank=rank, world_size=2)
        made = worker._Rank(Options(run_dir=tmp_path, socket="", model="demo"), order, link)
        return SimpleNamespace(rank=made, sent=sent, accelerator=accelerator)

    return make


def test_what_a_rank_says_of_itself_is_what_its_parts_say(rank_of):
    one = rank_of(rank=1, why="it is the only one")
    one.rank.live()
    (ready,) = [message for message in one.sent if isinstance(message, protocol.RankReady)]
    assert (ready.rank, ready.engine, ready.engine_reason, ready.parameters) == (1, "static", "it is the only one", 7)
    assert (ready.memory_free_bytes, ready.memory_total_bytes, ready.memory_left_bytes) == (3, 4, None)
    assert (ready.device, ready.threads) == ("cpu", torch.get_num_threads())
    assert 0 <= ready.seconds < 60
    assert ready.bandwidth_bytes_per_second is None
    assert one.accelerator.ended == 1


def test_each_phase_of_getting_ready_is_told_as_it_begins(rank_of, monkeypatch):
    monkeypatch.setattr(worker, "import_engines", lambda begin, vllm: begin())
    one = rank_of(rank=1)
    one.rank.live()
    phases = [message for message in one.sent if isinstance(message, protocol.RankPhase)]
    assert phases == [
        protocol.RankPhase(rank=1, phase=phase) for phase in ("importing", "joining", "loading", "warming up")
    ]


def test_a_rank_that_is_held_to_a_share_says_what_is_left_of_it(rank_of):
    one = rank_of(room=2)
    one.rank.live()
    (ready,) = [message for message in one.sent if isinstance(message, protocol.RankReady)]
    assert ready.memory_left_bytes == 2


@pytest.mark.parametrize(
    ("rank", "asked", "why", "told"),
    [
        (0, "auto", "no paged attention", True),
        (1, "auto", "no paged attention", False),
        (1, "continuous", "no paged attention", True),
        (1, "static", "as asked", False),
        (0, "auto", "", False),
    ],
)
def test_why_the_engine_is_this_one_is_in_the_log_once_unless_another_was_asked_for(rank_of, rank, asked, why, told):
    one = rank_of(rank=rank, engine=asked, why=why)
    one.rank.live()
    lines = [message for message in one.sent if isinstance(message, protocol.LogLine)]
    assert lines == ([protocol.LogLine(source=f"rank {rank}", text=f"static engine: {why}")] if told else [])


@pytest.mark.parametrize("dispatch", ["split", "pull"])
def test_only_ranks_that_have_a_share_of_their_own_announce_it(rank_of, dispatch):
    one = rank_of(dispatch=dispatch)
    one.rank.live()
    shares = [message for message in one.sent if isinstance(message, protocol.Share)]
    assert shares == ([protocol.Share(rank=0, start=2, stop=5)] if dispatch == "split" else [])


@pytest.mark.parametrize(
    ("rank", "prompts", "share", "bounds"),
    [(0, 3, [0, 1], (0, 2)), (1, 3, [2], (2, 3)), (1, 1, [0], (0, 0)), (1, 2, [], (0, 0)), (1, 2, [1], (1, 2))],
)
def test_a_rank_beyond_the_last_prompt_has_none_even_where_it_is_given_the_last_again(
    rank_of, rank, prompts, share, bounds
):
    one = rank_of(rank=rank, prompts=prompts)
    one.accelerator.share = share
    one.rank._announce_share(one.accelerator)
    assert one.sent == [protocol.Share(rank=rank, start=bounds[0], stop=bounds[1])]
    assert one.accelerator.given == list(range(prompts))


@pytest.mark.parametrize("gathers", [True, False])
def test_ranks_gather_what_they_sent_only_if_they_are_told_to(rank_of, monkeypatch, gathers):
    gathered = []
    monkeypatch.setattr("accelerate.utils.gather_object", lambda digests: gathered.append(digests) or digests)
    one = rank_of(gathers=gathers)
    one.rank.live()
    assert gathered == ([[(1, "d")]] if gathers else [])


@pytest.mark.parametrize(
    ("rank", "count", "parts"), [(0, 2500, [1000, 1000, 500, 0]), (0, 1000, [1000, 0]), (0, 0, [0]), (1, 2500, [])]
)
def test_rank_0_tells_what_was_gathered_in_parts_that_fit_a_line_the_last_of_them_empty(
    rank_of, monkeypatch, rank, count, parts
):
    everything = [(index, f"digest {index}") for index in range(count)]
    monkeypatch.setattr("accelerate.utils.gather_object", lambda own: everything)
    one = rank_of(rank=rank)
    one.rank._gather(one.accelerator, [])
    assert [len(part.records) for part in one.sent] == parts
    assert [part.last for part in one.sent] == [False] * (len(parts) - 1) + [True] * bool(parts)
    assert [record for part in one.sent for record in part.records] == (everything if rank == 0 else [])


@pytest.mark.parametrize(("cores", "threads"), [("8", [4]), ("1", [1]), ("", [])])
def test_a_rank_that_loads_on_a_cpu_has_its_share_of_the_cores(monkeypatch, tmp_path, cores, threads):
    config, set_to, joined, seeded = RunConfig(prompts="p", device="cpu", seed=9), [], [], []
    monkeypatch.setattr(
        "rankdeck.runner.run_directory.read_run_file", lambda _: SimpleNamespace(config=config, prompts=1)
    )
    monkeypatch.setenv("RANKDECK_CORES", cores)
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(worker.group, "join", lambda *given: joined.append(given) or "accelerator")
    monkeypatch.setattr(worker, "seed_rank", lambda *given: seeded.append(given))
    order = StartRank(rank=1, world_size=2, store="/store", attempt=4)
    rank = worker._Rank(Options(run_dir=tmp_path, socket="", model=""), order, SimpleNamespace(send=lambda *_: None))
    assert rank._join() == "accelerator"
    assert set_to == threads
    assert joined == [(1, 2, "/store", worker.GROUP_TIMEOUT)]
    assert seeded == [(9, 1, 4)]


def test_engines_are_imported_once_and_whoever_waits_for_it_is_told_before(monkeypatch):
    begun = []
    worker.import_engines()
    worker.import_engines(lambda: begun.append("again"))
    assert begun == []
    monkeypatch.delitem(sys.modules, "rankdeck.runner.rank.work")
    monkeypatch.setattr(worker.gc, "freeze", lambda: begun.append("frozen"))
    worker.import_engines(lambda: begun.append("begins"))
    assert begun == ["begins", "frozen"]
    assert worker.gc.isenabled()


def test_a_new_program_has_the_order_among_its_arguments(monkeypatch, tmp_path):
    begun = []
    monkeypatch.setattr(worker.os, "execv", lambda *given: begun.append(given))
    order = StartRank(rank=1, world_size=2)
    worker.begin_anew(Options(tmp_path, "/s", "m"), order)
    ((path, arguments),) = begun
    assert path == arguments[0] == sys.executable
    assert msgspec.json.decode(arguments[arguments.index("--order") + 1], type=StartRank) == order
    assert os.environ.get("RANKDECK_ORDER") is None


HINT = EngineHint(engine="static", why="it was faster")


@pytest.fixture
def in_order(monkeypatch, tmp_path):
    """A rank whose every part takes note of what it is given; `at` is what stands in the place of each call."""

    def go(options=MappingProxyType({}), engine_made=None, **settings):
        did: list = []
        config = RunConfig(prompts="p", **{"device": "cuda", "ranks": 4, **settings})
        device, holding = torch.device("cuda", 1), [torch.device("cuda", 1), torch.device("cuda", 2)]

        def note(name, result=None):
            def call(*given, **named):
                did.append((name, *given, *([named] if named else [])))
                return result

            return call

        loaded = SimpleNamespace(model="model", tokenizer=None, device="where it lies")
        engine = SimpleNamespace(name="static", devices=holding, describe=lambda: {"parameters": 7, "dtype": "float32"})
        engine = engine if engine_made is None else engine_made
        accelerator = SimpleNamespace(device=device, end_training=note("left the group"))

        @contextlib.contextmanager
        def explained(*given, **named):
            did.append(("explained", *given, named))
            yield
            did.append("over")

        monkeypatch.setattr(
            "rankdeck.runner.run_directory.read_run_file",
            lambda directory: did.append(("read", directory)) or SimpleNamespace(config=config, prompts=5),
        )
        monkeypatch.setattr(private_names, "require_static", note("names"))
        monkeypatch.setattr(worker, "hide_other_gpus", note("hidden"))
        monkeypatch.setattr(worker, "hold_to_share", note("held", "the share"))
        monkeypatch.setattr(worker, "model_folder", note("folder", "the folder"))
        monkeypatch.setattr(worker, "gpus_of_run", note("counted", 6))
        monkeypatch.setattr(worker, "device_facts", lambda *given, alone: did.append(("facts", *given)) or FACTS)
        monkeypatch.setattr(worker._Rank, "_join", lambda self: did.append("joined") or accelerator)
        monkeypatch.setattr(loading, "devices_for", note("for", "the devices"))
        monkeypatch.setattr(loading, "load", note("loaded", loaded))
        monkeypatch.setattr(loading, "devices_of", note("of", holding))
        monkeypatch.setattr(choose, "choose", note("chosen", (engine, "")))
        monkeypatch.setattr(memory, "explained", explained)
        monkeypatch.setattr(memory, "free_and_total", note("free", (3, 4)))
        monkeypatch.setattr(memory, "left_of", note("left", 2))
        monkeypatch.setattr(RankWork, "run", lambda self: did.append("worked"))
        link = SimpleNamespace(
            send=lambda message: did.append(getattr(message, "phase", type(message).__name__)),
            meet="meet",
            arrive=note("arrived"),
        )
        rank = worker._Rank(
            Options(**{"run_dir": tmp_path, "socket": "", "model": "demo", **options}),
            StartRank(rank=3, world_size=4, engine_hint=HINT),
            link,
        )
        rank.live()
        return did, config, device, holding, loaded

    return go


FACTS = {"device": "cuda:1", "device_name": "GPU"}


def test_each_part_of_a_rank_gets_what_is_its_own_in_the_order_that_memory_wants(in_order, tmp_path):
    did, config, device, holding, loaded = in_order()
    there = {"ranks": 4, "gpus": 6}
    assert did == [
        ("read", tmp_path),
        ("hidden", config, 3, {"alone": False}),  # before CUDA starts
        ("names",),
        "joining",
        "joined",
        ("held", config, 3, device, "meet"),
        "loading",
        ("folder", "demo", tmp_path),
        ("counted", config),
        ("for", config, device),
        ("explained", "loading the model", "the devices", "the share", there),
        ("loaded", config, "the folder", device, findings.usual_folder()),
        "over",
        "warming up",
        ("of", "model", "where it lies"),
        ("free", holding),  # before an engine takes its cache
        ("left", "the share", holding[0]),
        ("explained", "warming up", holding, "the share", there),
        ("chosen", config, loaded, 5, HINT),
        "over",
        ("facts", device, holding, config, 3),
        ("arrived", 3, "limits"),  # with nothing to do from here on, so that rank 0 measures undisturbed
        "RankReady",
        "worked",
        ("left the group",),
    ]


def test_ranks_wait_for_each_other_for_days_not_for_seconds():
    assert worker.GROUP_TIMEOUT.total_seconds() == 7 * 24 * 3600


@pytest.mark.parametrize("rank", [0, 1])
def test_what_a_rank_remarks_of_its_device_is_in_the_log_once_under_its_name(monkeypatch, tmp_path, rank):
    sent, taken = [], []
    config = RunConfig(prompts="p", device="cpu")
    monkeypatch.setattr(
        "rankdeck.runner.run_directory.read_run_file", lambda _: SimpleNamespace(config=config, prompts=1)
    )
    monkeypatch.delenv("RANKDECK_CORES", raising=False)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: pytest.fail("nobody said how many cores there are"))
    monkeypatch.setattr(worker, "take_device", lambda *given, alone: taken.append(given) or "a remark")
    monkeypatch.setattr(worker.group, "join", lambda *_: "accelerator")
    monkeypatch.setattr(worker, "seed_rank", lambda *_: None)
    order = StartRank(rank=rank, world_size=2)
    worker._Rank(Options(run_dir=tmp_path, socket="", model=""), order, SimpleNamespace(send=sent.append))._join()
    assert taken == [(config, rank)]
    assert sent == ([protocol.LogLine(source="rank 0", text="a remark")] if rank == 0 else [])


def test_a_rank_without_a_seed_has_four_bytes_of_chance(monkeypatch):
    seeds = []
    monkeypatch.setattr("accelerate.utils.set_seed", seeds.append)
    monkeypatch.setattr(worker.os, "urandom", lambda count: bytes([1] * count))
    worker.seed_rank(None, 0)
    worker.seed_rank(3, 0)
    assert seeds == [0x01010101, 3]


def test_modules_are_not_collected_while_they_come_in_and_again_afterwards_whatever_happens(monkeypatch):
    did = []
    monkeypatch.delitem(sys.modules, "rankdeck.runner.rank.work")
    monkeypatch.setattr(
        worker,
        "gc",
        SimpleNamespace(**{name: lambda name=name: did.append(name) for name in ("disable", "freeze", "enable")}),
    )
    monkeypatch.setitem(sys.modules, "transformers.modeling_layers", None)
    with pytest.raises(ImportError):
        worker.import_engines(lambda: did.append("begins"))
    assert did == ["begins", "disable", "freeze", "enable"]


def test_a_share_of_the_gpu_that_the_engine_does_not_heed_is_told(in_order, monkeypatch):
    notes: list[str] = []
    engine = SimpleNamespace(
        name="static", devices=[torch.device("cuda", 0)], add_notes=notes.extend,
        describe=lambda: {"parameters": 7, "dtype": "float32"},
    )  # fmt: skip
    in_order(gpu_memory_share=0.5, engine_made=engine)
    assert notes == ["--gpu-memory-share has no effect on the static engine, only on vLLM"]


def test_a_rank_of_vllm_has_its_gpu_alone_loads_no_weights_of_its_own_and_ends_vllm_as_it_leaves(
    in_order, monkeypatch, tmp_path
):
    did: list = []
    engine = SimpleNamespace(
        name="vllm", devices=[torch.device("cuda", 0)], describe=lambda: {"parameters": 7, "dtype": "bfloat16"},
        warm_up=lambda: did.append("warmed up"), leave=lambda: did.append("left"),
    )  # fmt: skip
    monkeypatch.setattr(names, "require", lambda: did.append("names"))
    monkeypatch.setattr(worker, "import_engines", lambda begin, vllm: did.append(("imports", vllm)))
    monkeypatch.setattr(outline, "outline", lambda config, path, device: did.append(("outline", path)) or "loaded")

    def make(loaded, config, path, scratch, on_phase):
        did.append(("engine", loaded, path, scratch.name))
        on_phase("compiling")
        return engine

    monkeypatch.setattr(vllm_engine, "VllmEngine", make)
    told, *_ = in_order(engine="auto", options={"engine": "vllm", "socket": "/run/me/abc.sock"})
    assert did == [
        ("imports", True), "names", ("outline", "the folder"), ("engine", "loaded", "the folder", "abc.3"), "warmed up",
        "left",
    ]  # fmt: skip
    names_told = [one if isinstance(one, str) else one[0] for one in told]
    assert {"loaded", "chosen", "held", "left the group"}.isdisjoint(names_told)
    assert [name for name in names_told if name in ("joining", "loading", "compiling")] == [
        "joining", "loading", "compiling"
    ]  # fmt: skip
    assert ("hidden", ANY, 3, {"alone": True}) in told
