"""How the ranks' parent begins: what it says, what it takes out of its environment, what it hands to the ranks."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rankdeck.runner import protocol
from rankdeck.runner.protocol import StartRank
from rankdeck.runner.rank import forking, parent, worker
from rankdeck.runner.rank.options import Options

NVML_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"
ORDER = StartRank(rank=3, world_size=4)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch):
    """Begins as the parent, forks one rank; returns what happened, in order."""

    def begin(why_not: str | None = None, broken: bool = False) -> list[object]:
        did: list[object] = []
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # put back as it was when the test is over
        monkeypatch.setattr(parent.processes, "end_with_parent", lambda: did.append("ends with the launcher"))
        monkeypatch.setattr(forking, "take_channel", lambda: "the channel")
        monkeypatch.setattr(forking, "tell", lambda *told: did.append(told))
        monkeypatch.setattr(
            worker, "import_engines", lambda *, vllm: did.append({NVML_CHECK: os.environ.get(NVML_CHECK)})
        )
        monkeypatch.setattr(worker, "live", lambda *given: did.append(("live", *given)))
        monkeypatch.setattr(worker, "begin_anew", lambda *given: did.append(("begin anew", *given)))
        monkeypatch.setattr(parent, "why_no_forking", lambda: why_not)
        monkeypatch.setattr(parent, "cuda_is_broken", lambda: broken)

        def serve(channel, be_a_rank, *, named):
            did.append((channel, named))
            be_a_rank(ORDER)

        monkeypatch.setattr(forking, "serve", serve)
        monkeypatch.setattr(sys, "argv", ["parent.py", "--run-dir", "/r", "--socket", "/s", "--model", "m"])
        parent.main()
        return did

    return begin


OPTIONS = Options(Path("/r"), "/s", "m")
NAMED = ("rankdeck.runner.rank.parent", "rankdeck.runner.rank.worker")


def test_it_says_that_it_is_there_before_it_imports_and_each_rank_has_the_options_and_its_order(begun, capsys):
    assert begun() == [
        "ends with the launcher",
        ("the channel", protocol.ParentImporting(pid=os.getpid())),
        {NVML_CHECK: "1"},
        ("the channel", NAMED),
        ("live", OPTIONS, ORDER),
    ]
    assert capsys.readouterr().out == ""


def test_why_ranks_import_for_themselves_is_in_the_log(begun, capsys):
    did = begun("an import has started threads")
    assert did[-2:] == [("the channel", NAMED), ("begin anew", OPTIONS, ORDER)]
    assert capsys.readouterr().out == "each rank imports for itself: an import has started threads\n"
    assert begun(broken=True)[-1] == ("begin anew", OPTIONS, ORDER)
    assert capsys.readouterr().out == "", "that may come later than the imports"


def test_no_rank_pins_its_threads_to_the_cores_of_all_others(begun, monkeypatch):
    for name in ("KMP_AFFINITY", "KMP_BLOCKTIME"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("KMP_OTHER", "the user's")
    begun()
    assert [name for name in ("KMP_AFFINITY", "KMP_BLOCKTIME", "KMP_OTHER") if name in os.environ] == ["KMP_OTHER"]


@pytest.mark.parametrize("before", [None, "0"])
def test_nvml_is_asked_instead_of_cuda_only_while_modules_are_imported(monkeypatch, before):
    for name in (NVML_CHECK, "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "x")  # so that it is put back as it was
        monkeypatch.delenv(name)
    if before is not None:
        monkeypatch.setenv(NVML_CHECK, before)

    def fail():
        with parent._without_threads_or_cuda():
            assert (os.environ[NVML_CHECK], os.environ["OPENBLAS_NUM_THREADS"]) == ("1", "1")
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert os.environ.get(NVML_CHECK) == before
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    with parent._without_threads_or_cuda():
        assert os.environ["OPENBLAS_NUM_THREADS"] == "7", "the user's"


@pytest.mark.parametrize(
    ("opened", "why"),
    [
        ("/dev/dxg", "an import has started CUDA"),
        ("/dev/nvidia-uvm-tools", "an import has started CUDA"),
        ("/home/me/dev/nvidia-uvm", None),
        (OSError(), None),
    ],
)
def test_cuda_is_known_by_what_it_has_open(monkeypatch, opened, why):
    def readlink(_: str) -> str:
        if isinstance(opened, OSError):
            raise opened
        return opened

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(parent.os, "readlink", readlink)
    monkeypatch.setattr(parent.os, "listdir", lambda path: ["1"])
    assert parent.why_no_forking() == why


def test_where_the_kernel_lists_neither_files_nor_threads_only_torch_is_asked(monkeypatch):
    monkeypatch.setattr(parent.os.path, "isdir", lambda path: False)
    monkeypatch.setattr(parent.os, "listdir", lambda path: pytest.fail(f"{path} is not there"))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert parent.why_no_forking() is None


@pytest.mark.parametrize(
    ("cuda", "broken"),
    [
        (SimpleNamespace(_is_in_bad_fork=lambda: True), True),
        (SimpleNamespace(_is_in_bad_fork=lambda: False), False),
        (SimpleNamespace(), False),
    ],
)
def test_torch_knows_whether_cuda_was_asked_for_something_before_the_fork(monkeypatch, cuda, broken):
    monkeypatch.setattr(torch, "cuda", cuda)
    assert parent.cuda_is_broken() is broken
