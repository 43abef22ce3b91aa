"""What a forked rank has of its parent: nothing open, no input, its own random numbers; and what must not be forked."""

import json
import os
import random
import socket
import subprocess
import sys

import msgspec
import numpy
import pytest
import torch
from accelerate.utils import set_seed

from rankdeck.runner import protocol
from rankdeck.runner.protocol import StartRank
from rankdeck.runner.protocol.config import MAX_RANKS, MAX_SEED, RunConfig, check
from rankdeck.runner.rank import parent, worker

LOOKS_AROUND = """
import json, os, signal, sys
from rankdeck.runner.rank import forking

def look(order):
    open_files = {int(name): os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")
                  if os.path.exists(f"/proc/self/fd/{name}")}
    wakes = signal.set_wakeup_fd(-1)
    print(json.dumps([open_files, sys.stdin.read(), wakes, signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL]))

forking.serve(forking.take_channel(), look, named=("", ""))
"""


def test_a_rank_inherits_no_descriptor_but_its_output_and_reads_nothing():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", LOOKS_AROUND], stdin=theirs.fileno(), stdout=subprocess.PIPE, text=True
        )
        theirs.close()
        ours.sendall(protocol.encode_line(StartRank(rank=0, world_size=1)))
        assert process.stdout is not None
        open_files, read, wakes, default = json.loads(process.stdout.readline())
        ours.close()
        assert process.wait(30) == 0
        process.stdout.close()
    assert set(open_files) == {"0", "1", "2"}
    assert open_files["0"] == os.devnull
    assert (read, wakes, default) == ("", -1, True)


def test_an_order_that_arrives_in_two_parts_is_one_order():
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("rb") as reports:
        process = subprocess.Popen(
            [sys.executable, "-c", LOOKS_AROUND], stdin=theirs.fileno(), stdout=subprocess.DEVNULL
        )
        theirs.close()

        def forked() -> int:
            """The next rank of which the parent tells that it has forked it."""
            for line in reports:
                report = msgspec.json.decode(line, type=protocol.FromParent)
                if isinstance(report, protocol.RankForked):
                    return report.rank
            pytest.fail("the parent is gone")

        first, second = (protocol.encode_line(StartRank(rank=rank, world_size=2)) for rank in (0, 1))
        ours.sendall(first + second[:10])
        assert forked() == 0
        ours.sendall(second[10:])
        assert forked() == 1
        ours.shutdown(socket.SHUT_WR)
        assert process.wait(30) == 0


def drawn() -> tuple[float, ...]:
    return random.random(), float(numpy.random.rand()), float(torch.rand(1))


@pytest.fixture
def restore_random():
    states = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    numpy.random.set_state(states[1])
    torch.set_rng_state(states[2])


@pytest.mark.usefixtures("restore_random")
def test_the_first_rank_draws_what_a_script_with_this_seed_does_and_no_two_ranks_or_seeds_share_a_number():
    def first(seed: int, rank: int) -> tuple[float, ...]:
        worker.seed_rank(seed, rank)
        return drawn()

    assert first(7, 1) == first(7, 1)
    here = first(7, 0)
    set_seed(7)
    assert here == drawn()
    seen = [number for seed in (7, 8, 9) for rank in (0, 1, 2) for number in first(seed, rank)]
    assert len(set(seen)) == 27


@pytest.mark.usefixtures("restore_random")
def test_a_rank_that_is_launched_again_does_not_draw_what_is_in_answers_already():
    seen: list[float] = []
    for attempt in (1, 2, 3):
        for rank in (0, 1):
            worker.seed_rank(7, rank, attempt)
            seen += drawn()
    assert len(set(seen)) == 18
    worker.seed_rank(7, 1, 3)
    assert list(drawn()) == seen[-3:], "the same run, stopped at the same points, is the same again"
    worker.seed_rank(MAX_SEED, MAX_RANKS - 1, 2)


@pytest.mark.usefixtures("restore_random")
def test_without_a_seed_no_two_ranks_draw_the_same_though_they_are_copies_of_one_process():
    worker.seed_rank(1, 0)
    states = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    seen: list[float] = []
    for rank in range(3):
        random.setstate(states[0])
        numpy.random.set_state(states[1])
        torch.set_rng_state(states[2])
        worker.seed_rank(None, rank)
        seen += drawn()
    assert len(set(seen)) == 9


@pytest.mark.usefixtures("restore_random")
def test_the_largest_seed_is_one_for_every_rank_that_a_run_may_have():
    settings = RunConfig(prompts="p", seed=MAX_SEED)
    assert check(settings) == []
    worker.seed_rank(settings.seed, MAX_RANKS - 1)
    assert [problem.setting for problem in check(RunConfig(prompts="p", seed=MAX_SEED + 1))] == ["seed"]


@pytest.mark.usefixtures("restore_random")
def test_without_a_seed_no_two_runs_draw_the_same():
    seen: list[float] = []
    for _ in range(3):
        worker.seed_rank(None, 0)
        seen += drawn()
    assert len(set(seen)) == 9


# --- what must not be forked ---


IMPORTS = """
import json, os, sys
from rankdeck.runner.rank import parent, worker
with parent._without_threads_or_cuda():
    worker.import_engines()
import torch
print(json.dumps([len(os.listdir("/proc/self/task")), torch.cuda.is_initialized(), parent.why_no_forking(),
                  "accelerate" in sys.modules, "rankdeck.runner.rank.work" in sys.modules,
                  "PYTORCH_NVML_BASED_CUDA_CHECK" in os.environ]))
"""


def test_all_that_ranks_need_is_imported_without_starting_a_thread_or_cuda():
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    environment.pop("OPENBLAS_NUM_THREADS", None)
    done = subprocess.run([sys.executable, "-c", IMPORTS], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [1, False, None, True, True, False]


def test_a_process_with_threads_or_cuda_is_not_forked_for_ranks(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(parent.os, "listdir", lambda path: ["1"] if path == parent.THREADS else [])
    assert parent.why_no_forking() is None
    monkeypatch.setattr(parent.os, "listdir", lambda path: ["1", "2"] if path == parent.THREADS else [])
    assert parent.why_no_forking() == "an import has started threads"
    monkeypatch.setattr(parent.os, "listdir", lambda path: ["7"])
    monkeypatch.setattr(parent.os, "readlink", lambda path: "/dev/nvidia-uvm")
    assert parent.why_no_forking() == "an import has started CUDA"
    monkeypatch.setattr(parent.os, "readlink", lambda path: "/dev/nvidiactl")  # NVML has that open, too
    assert parent.why_no_forking() is None
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert parent.why_no_forking() == "an import has started CUDA"


def test_where_a_rank_cannot_be_forked_it_begins_as_a_new_program_with_the_same_order(monkeypatch, tmp_path):
    begun, lived = [], []
    options = worker.read_options(["--run-dir", str(tmp_path), "--socket", "/s", "--model", "demo"])
    order = StartRank(rank=3, world_size=4, attempt=2, store="/store", environment={"X": "1"})
    monkeypatch.setattr(worker.os, "execv", lambda path, arguments: begun.append(arguments))
    worker.begin_anew(options, order)
    ((python, dash_m, module, *arguments),) = begun
    assert (python, dash_m, module) == (sys.executable, "-m", "rankdeck.runner.rank.worker")
    monkeypatch.setattr(worker, "live", lambda *given: lived.append(given))
    monkeypatch.setattr(sys, "argv", ["worker.py", *arguments])
    worker.main()
    assert lived == [(options, order)]


@pytest.mark.parametrize(
    ("why_not", "broken", "how"),
    [(None, False, "lives"), (None, True, "begins anew"), ("an import has started threads", False, "begins anew")],
)
def test_a_forked_rank_lives_as_it_is_unless_something_does_not_work_in_a_copy(
    monkeypatch, why_not, broken, capsys, how
):
    did = []
    monkeypatch.setattr(parent.processes, "end_with_parent", lambda: did.append("ends with the launcher"))
    monkeypatch.setattr(parent.forking, "take_channel", lambda: "channel")
    order, lived = StartRank(rank=2, world_size=3), []

    def serve(channel, be_a_rank, named):
        assert (channel, named) == ("channel", ("rankdeck.runner.rank.parent", "rankdeck.runner.rank.worker"))
        be_a_rank(order)

    def tell(channel, report):
        assert (channel, report.pid) == ("channel", os.getpid())
        did.append(type(report).__name__)

    monkeypatch.setattr(parent.forking, "tell", tell)
    monkeypatch.setattr(parent.forking, "serve", serve)
    monkeypatch.setattr(worker, "import_engines", lambda *, vllm: did.append("imports"))
    monkeypatch.setattr(worker, "live", lambda *given: (did.append("lives"), lived.append(given)))
    monkeypatch.setattr(worker, "begin_anew", lambda *given: (did.append("begins anew"), lived.append(given)))
    monkeypatch.setattr(parent, "why_no_forking", lambda: why_not)
    monkeypatch.setattr(parent, "cuda_is_broken", lambda: broken)
    monkeypatch.setattr(sys, "argv", ["parent.py", "--run-dir", "/r", "--socket", "/s", "--model", "m"])
    monkeypatch.setenv("KMP_AFFINITY", "granularity=fine,compact,1,0")
    monkeypatch.setenv("KMP_BLOCKTIME", "1")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    parent.main()
    assert did == ["ends with the launcher", "ParentImporting", "imports", how]
    assert not {"KMP_AFFINITY", "KMP_BLOCKTIME"} & set(os.environ)
    assert lived == [(worker.read_options(sys.argv[1:]), order)]
    assert capsys.readouterr().out == (f"each rank imports for itself: {why_not}\n" if why_not else "")


def test_an_order_is_the_same_after_its_way_over_the_wire():
    order = StartRank(rank=1, world_size=2, attempt=4, store="/x", environment={"A": "b"})
    assert msgspec.json.decode(protocol.encode_line(order), type=StartRank) == order


@pytest.mark.parametrize("before", [None, "0"])
@pytest.mark.parametrize("threads", [None, "3"])
def test_while_modules_come_in_no_threads_are_started_and_nvml_is_asked_instead_of_cuda(monkeypatch, before, threads):
    for name, value in (("PYTORCH_NVML_BASED_CUDA_CHECK", before), ("OPENBLAS_NUM_THREADS", threads)):
        monkeypatch.setenv(name, "x")  # so that it is put back
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)

    def fail():
        assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1"
        assert os.environ["OPENBLAS_NUM_THREADS"] == (threads or "1")
        raise ImportError

    with pytest.raises(ImportError), parent._without_threads_or_cuda():
        fail()
    assert os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK") == before


def test_cuda_is_broken_in_a_copy_only_where_torch_says_so(monkeypatch):
    for asked in (True, False):
        monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda asked=asked: asked)
        assert parent.cuda_is_broken() is asked
    monkeypatch.delattr(torch.cuda, "_is_in_bad_fork")
    assert parent.cuda_is_broken() is False


def test_cuda_under_wsl_is_open_too_and_a_file_that_is_closed_meanwhile_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(parent.os, "listdir", lambda path: ["1"] if path == parent.THREADS else ["3", "4"])

    def readlink(path):
        if path == "/proc/self/fd/3":
            raise OSError("it is closed")
        return opened[0]

    monkeypatch.setattr(parent.os, "readlink", readlink)
    opened = [""]
    for path, why in (("/dev/dxg", "an import has started CUDA"), ("/dev/nvidia0", None), ("/tmp/dev/dxg", None)):
        opened[0] = path
        assert parent.why_no_forking() == why
