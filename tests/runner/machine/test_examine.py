"""How the machine is examined: terminal, places, packages, the user's own config; what cannot be found out is None."""

import asyncio
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import platformdirs
import pytest

from rankdeck.runner import run_directory
from rankdeck.runner.inputs import model_shape
from rankdeck.runner.inputs.flash_attention import FlashFound
from rankdeck.runner.inputs.vllm_package import Build
from rankdeck.runner.machine import examine, processes, telemetry
from rankdeck.runner.machine.facts import Machine, Terminal, TorchFound, WritablePlace
from rankdeck.runner.machine.nvml import NvmlFailure
from rankdeck.runner.run_directory import places
from tests.runner.machine.test_machine import Box
from tests.runner.machine.test_telemetry import FakeNvml

# --- the terminal ---


@pytest.mark.parametrize(
    ("environ", "colours"),
    [
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, "16 million colours"),
        ({"TERM": "xterm", "COLORTERM": "24bit"}, "16 million colours"),
        ({"TERM": "xterm-direct"}, "16 million colours"),
        ({"TERM": "xterm-256color", "COLORTERM": "yes"}, "256 colours"),
        ({"TERM": "xterm"}, "16 colours"),
        ({"TERM": "dumb"}, "no colours"),
        ({"TERM": "unknown"}, "no colours"),
        ({"TERM": ""}, "no colours"),
        ({}, "no colours"),
    ],
)
def test_how_many_colours_a_terminal_has_is_what_its_variables_say(environ: dict[str, str], colours: str) -> None:
    assert examine.look_at_terminal(environ).colours == colours


@pytest.fixture
def sized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine.os, "get_terminal_size", lambda descriptor: os.terminal_size((100, 30)))
    monkeypatch.setattr(examine.locale, "getencoding", lambda: "UTF-8")


@pytest.mark.usefixtures("sized")
def test_a_terminal_is_what_its_size_and_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "_tmux_clipboard", lambda: "external")
    bare = Terminal(size=(100, 30), term="", colours="no colours", encoding="UTF-8")
    assert examine.look_at_terminal({"NO_COLOR": "", "TMUX": ""}) == bare
    full = {"TERM": "tmux-256color", "NO_COLOR": "1", "TMUX": "/tmp/tmux-0/default", "SSH_TTY": "/dev/pts/0"}
    assert examine.look_at_terminal(full) == Terminal(
        size=(100, 30),
        term="tmux-256color",
        colours="256 colours",
        encoding="UTF-8",
        no_colour=True,
        over_ssh=True,
        tmux_clipboard="external",
    )
    assert examine.look_at_terminal({"SSH_CONNECTION": "x"}).over_ssh


@pytest.mark.parametrize("error", [OSError, ValueError])
def test_without_a_terminal_there_is_no_size(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def fail(_: int) -> None:
        raise error

    monkeypatch.setattr(examine.os, "get_terminal_size", fail)
    assert examine.look_at_terminal({}).size is None


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b"on\n", "on"),
        (b" external \n", "external"),
        (b"", "unknown"),
        (OSError(), "unknown"),
        (subprocess.TimeoutExpired("tmux", 2), "unknown"),
        (subprocess.CalledProcessError(1, "tmux"), "unknown"),
    ],
)
def test_tmux_is_asked_for_what_it_does_with_copied_text_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, answer: bytes | Exception, found: str
) -> None:
    asked: list[tuple[list[str], dict[str, object]]] = []

    def run(command: list[str], **how: object) -> SimpleNamespace:
        asked.append((command, how))
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(stdout=answer)

    monkeypatch.setattr(examine.subprocess, "run", run)
    assert examine._tmux_clipboard() == found
    ((command, how),) = asked
    assert command == ["tmux", "show-options", "-gv", "set-clipboard"]
    assert how == {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 2, "check": True}


# --- places ---


def test_a_place_is_judged_by_the_nearest_folder_above_it_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def access(path: Path, mode: int) -> bool:
        asked.append((path, mode))
        return path != tmp_path / "closed"

    def usage(path: Path) -> SimpleNamespace:
        asked.append((path,))
        return SimpleNamespace(free=7, total=9)

    monkeypatch.setattr(examine.os, "access", access)
    monkeypatch.setattr(examine.shutil, "disk_usage", usage)
    (tmp_path / "there").mkdir()
    for path, above in ((tmp_path / "there", tmp_path / "there"), (tmp_path / "a" / "b", tmp_path)):
        asked.clear()
        assert examine._place(path) == WritablePlace(path=str(path), free_bytes=7)
        assert asked == [(above, os.W_OK | os.X_OK), (above,)]
    (tmp_path / "closed").mkdir()
    closed = tmp_path / "closed" / "x"
    assert examine._place(closed) == WritablePlace(path=str(closed), error=f"you cannot write to {tmp_path / 'closed'}")
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "x"
    assert examine._place(below) == WritablePlace(path=str(below), error=f"{tmp_path / 'file'} is not a directory")

    def away(_: Path) -> None:
        raise OSError("the disk is away")

    monkeypatch.setattr(examine.shutil, "disk_usage", away)
    assert examine._place(tmp_path) == WritablePlace(path=str(tmp_path), error="the disk is away")


@pytest.mark.parametrize("is_", ["missing", "private", "open to others", "a file", "a link", "another user's"])
def test_the_folder_of_sockets_is_private_or_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_: str
) -> None:
    monkeypatch.setattr(places, "RUNTIME_ROOT", tmp_path)
    monkeypatch.setattr(examine, "_place", lambda path: WritablePlace(path=str(path), free_bytes=5))
    path = tmp_path / f"rankdeck-{os.getuid()}"
    match is_:
        case "private":
            path.mkdir(mode=0o700)
        case "open to others":
            path.mkdir(mode=0o700)
            path.chmod(0o710)
        case "a file":
            path.touch(mode=0o600)
        case "a link":
            (tmp_path / "own").mkdir(mode=0o700)
            path.symlink_to("own")
        case "another user's":
            uid = os.getuid()
            monkeypatch.setattr(examine.os, "getuid", lambda: uid + 1)
            path = tmp_path / f"rankdeck-{uid + 1}"
            path.mkdir(mode=0o700)
    found = examine._runtime()
    if is_ in ("missing", "private"):
        assert found == WritablePlace(path=str(path), free_bytes=5)
    else:
        assert found == WritablePlace(path=str(path), error="it is not a directory of your own with mode 0700")


def test_a_folder_of_sockets_that_cannot_be_looked_at_is_told_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: Path) -> None:
        raise OSError("the disk is away")

    monkeypatch.setattr(places, "RUNTIME_ROOT", tmp_path)
    monkeypatch.setattr(Path, "lstat", away)
    assert examine._runtime().error == "the disk is away"


def test_shared_memory_is_what_is_free_of_it_and_unknown_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def usage(path: str) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(free=3, total=9)

    def none(_: str) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(examine.shutil, "disk_usage", usage)
    assert (examine._shared_memory(), asked) == (3, ["/dev/shm"])
    monkeypatch.setattr(examine.shutil, "disk_usage", none)
    assert examine._shared_memory() is None


# --- the rest ---


def test_the_users_own_config_of_accelerate_is_found_where_accelerate_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    home, elsewhere = tmp_path / ".cache" / "huggingface" / "accelerate", tmp_path / "hf" / "accelerate"
    assert examine._accelerate_config({}) is None
    for folder in (home, elsewhere):
        folder.mkdir(parents=True)
        (folder / "default_config.json").touch()
    assert examine._accelerate_config({}) == examine._accelerate_config({"HF_HOME": ""})
    assert examine._accelerate_config({}) == str(home / "default_config.json")
    assert examine._accelerate_config({"HF_HOME": str(tmp_path / "hf")}) == str(elsewhere / "default_config.json")
    (home / "default_config.yaml").touch()
    assert examine._accelerate_config({}) == str(home / "default_config.yaml")


def test_packages_that_are_there_have_their_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package == "pyarrow":
            raise examine.metadata.PackageNotFoundError
        return f"of {package}"

    monkeypatch.setattr(examine.metadata, "version", version)
    names = ("torch", "transformers", "accelerate", "nvidia-ml-py", "textual", "bitsandbytes", "torchao")
    assert examine._versions() == {name: f"of {name}" for name in names}


def test_the_facts_are_what_each_look_has_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Machine(host="deck", cores=3)
    environ = {name: f"value of {name}" for name in examine.ENVIRONMENT} | {"SECRET": "x"}
    looks: list[object] = []
    monkeypatch.setattr(examine, "machine", lambda given: looks.append(given) or found)
    monkeypatch.setattr(examine, "_place", lambda path: WritablePlace(path=str(path), free_bytes=1))
    monkeypatch.setattr(examine, "_runtime", lambda: WritablePlace(path="runtime"))
    monkeypatch.setattr(examine, "_versions", lambda: {"torch": "9"})
    monkeypatch.setattr(examine, "_shared_memory", lambda: 11)
    monkeypatch.setattr(examine.flash_packages, "look", lambda: FlashFound(flash_attn="2.9"))
    monkeypatch.setattr(examine.vllm_package, "installed", lambda: Build("0.32", "cpu"))
    monkeypatch.setattr(examine, "_accelerate_config", lambda given: looks.append(given) or "/config")
    monkeypatch.setattr(examine, "look_at_terminal", lambda given: looks.append(given) or Terminal(term="own"))
    monkeypatch.setattr(examine.importlib.util, "find_spec", lambda name: None if name == "pip" else pytest.fail(name))
    monkeypatch.setattr(examine.platform, "python_version", lambda: "3.99")
    monkeypatch.setattr(model_shape, "demo_folder", lambda: tmp_path)
    monkeypatch.setattr(places, "RUNTIME_ROOT", Path("/a/root"))

    def limits(which: int) -> tuple[int, int]:
        assert which == resource.RLIMIT_NOFILE
        return 256, 4096

    monkeypatch.setattr(examine.resource, "getrlimit", limits)
    facts = examine.facts(environ)
    assert looks == [environ] * 3
    assert facts.environ == {
        name: f"value of {name}"
        for name in (
            "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "HF_HUB_OFFLINE", "TERM", "LANG", "LC_ALL", "TMUX", "STY",
            "ACCELERATE_CONFIG_FILE",
        )
    }  # fmt: skip
    assert (facts.machine, facts.python, facts.packages, facts.torch) == (found, "3.99", {"torch": "9"}, None)
    assert facts.runs.path == str(run_directory.runs_directory())
    assert facts.cache.path == str(platformdirs.user_cache_path("rankdeck"))
    assert (facts.runtime.path, facts.terminal.term) == ("runtime", "own")
    assert facts.socket_bytes == len(f"/a/root/rankdeck-{os.getuid()}/0123456789abcdef.sock")
    assert (facts.shared_memory_bytes, facts.open_files, facts.accelerate_config) == (11, 4096, "/config")
    assert (facts.demo_cached, facts.pip, facts.flash.flash_attn) == (False, False, "2.9")
    (tmp_path / "model.safetensors").touch()
    monkeypatch.setattr(examine.importlib.util, "find_spec", lambda name: name)
    again = examine.facts({}, Terminal(term="of another process"))
    assert (again.demo_cached, again.pip, again.environ) == (True, True, {})
    assert again.terminal == Terminal(term="of another process")


def test_a_machine_is_its_host_its_cores_and_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(available=5, total=9, free=1, used=4)
    monkeypatch.setattr(examine.psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(examine.platform, "node", lambda: "deck")
    monkeypatch.setattr(processes, "usable_cores", lambda: 3)
    found = examine.machine({}, Box(alike=True))
    assert (found.host, found.cores, found.memory_free_bytes, found.memory_total_bytes) == ("deck", 3, 5, 9)
    assert (found.driver, found.cuda, found.no_gpu, found.uncounted) == ("570.86", (12, 8), None, False)
    assert (found.not_ours, found.left_out, found.by_number) == (0, 0, True)
    assert (found.free.host, found.whole.host) == (5, 9)


@pytest.mark.parametrize(("number", "cuda"), [(13010, (13, 1)), (12000, (12, 0)), (11080, (11, 8))])
def test_the_newest_cuda_of_a_driver_is_read_from_its_number(number: int, cuda: tuple[int, int]) -> None:
    box = Box(alike=True)
    box.cuda_version = lambda: number  # type: ignore[method-assign]
    assert examine._driver(box) == ("570.86", cuda)


def test_what_a_driver_does_not_say_is_unknown_and_the_rest_is_told() -> None:
    def fail() -> None:
        raise NvmlFailure(3)

    for broken in ("driver_version", "cuda_version"):
        box = Box(alike=True)
        setattr(box, broken, fail)
        assert examine._driver(box) == ((None, (12, 8)) if broken == "driver_version" else ("570.86", None))


def test_nvml_is_let_go_even_if_a_look_at_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []

    def fail() -> None:
        raise RuntimeError("no figures")

    opened = SimpleNamespace(reason=None, sample_devices=fail, close=lambda: closed.append(True))
    monkeypatch.setattr(telemetry.Telemetry, "open", lambda environ, api: opened)
    with pytest.raises(RuntimeError, match="no figures"):
        examine.machine({}, FakeNvml({}))
    assert closed == [True]


# --- torch ---


def test_torch_is_asked_without_the_current_folder_and_its_last_answer_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("raise ImportError('of the current folder')")
    code = """\
import json, os, sys
print("rankdeck nonsense")
print("rankdeck " + json.dumps({"devices": [str(os.getsid(0) == os.getpid()), sys.stdin.read()]}))
print("rankdeck nonsense")
print("said at exit")
"""
    assert asyncio.run(examine.ask_torch(20, code)) == TorchFound(devices=("True", ""))


def test_the_last_line_of_what_torch_complains_of_is_told() -> None:
    code = "import sys; sys.stderr.write('a warning\\n  the reason  \\n\\n')"
    assert asyncio.run(examine.ask_torch(20, code)) == TorchFound(error="the reason")
    late = asyncio.run(examine.ask_torch(0.05, "import time; time.sleep(60)"))
    assert late.error == "importing torch took longer than 0 seconds"


def test_a_process_that_cannot_be_started_is_told_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine.sys, "executable", "/does/not/exist")
    found = asyncio.run(examine.ask_torch(20, "pass"))
    assert found.error == "a process to import torch in cannot be started: No such file or directory"


@pytest.mark.parametrize("available", [True, False])
def test_torch_tells_of_the_gpus_that_cuda_has_opened_and_only_where_it_has_some(
    available: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bool] = []
    cuda = SimpleNamespace(
        is_available=lambda: available,
        init=lambda: opened.append(True),
        device_count=lambda: 2 if opened else 8,
        get_device_properties=lambda index: SimpleNamespace(
            name=f"GPU {index}", major=9, minor=index, **({"uuid": f"u{index}"} if index else {})
        ),
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda="13.0")))
    exec(examine.ASK_TORCH, {})
    line = capsys.readouterr().out
    found = examine.msgspec.json.decode(line.removeprefix("rankdeck ").encode(), type=TorchFound)
    devices, uuids = (("GPU 0", "GPU 1"), ("", "u1")) if available else ((), ())
    able = ((9, 0), (9, 1)) if available else ()
    assert found == TorchFound(available=available, cuda="13.0", devices=devices, uuids=uuids, capabilities=able)
