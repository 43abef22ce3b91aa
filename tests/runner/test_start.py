"""Starting and resuming runs, as far as the terminal's process does it."""

import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import pytest

import rankdeck
from rankdeck.runner import checks, run_directory, start
from rankdeck.runner.inputs.frozen_prompts import PromptIndex, freeze
from rankdeck.runner.machine import processes, telemetry
from rankdeck.runner.protocol import OutputRecord, encode_line
from rankdeck.runner.protocol.config import MAX_RANKS, MAX_SEED, RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.run_directory.run_file import RunFile
from rankdeck.runner.sweep.verdict import summarise_sweep
from tests import checkpoints, reports
from tests.runner.forecast.test_cost_model import point


@pytest.fixture
def supervisors(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The directories that a supervisor was started for; none is."""
    started: list[Path] = []
    monkeypatch.setattr(start, "start_supervisor", lambda directory: started.append(directory))
    return started


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """Settings that nothing is wrong with, on a machine without GPUs."""
    monkeypatch.setattr(telemetry, "count_visible_gpus", lambda environ: 0)
    monkeypatch.setattr(telemetry, "visible_gpus", lambda environ: [])
    model = checkpoints.whole(tmp_path / "model", hidden_size=None)
    (model / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "p.txt").write_text("one\ntwo\nthree\n")
    return RunConfig(prompts=str(tmp_path / "p.txt"), model=str(model), ranks=1, device="cpu")


def changed(config: RunConfig, **settings: Any) -> RunConfig:
    return msgspec.structs.replace(config, **settings)


# --- launch ---------------------------------------------------------------------------------------


def test_prompts_are_recorded_by_their_whole_path_and_named_in_complaints_as_they_were(
    tmp_path, asked, supervisors, monkeypatch
):
    """Whoever begins the run again from another folder must not get the file of that name there."""
    monkeypatch.chdir(tmp_path)
    started = start.launch(changed(asked, prompts="p.txt"))
    assert run_directory.read_run_file(started.directory).config.prompts == str(tmp_path / "p.txt")
    (tmp_path / "p.txt").write_text("one\n\ntwo\n")
    with pytest.raises(start.InputError, match=r"^p\.txt:2: "):
        start.launch(changed(asked, prompts="p.txt"))


def test_a_run_is_recorded_as_it_was_asked_for_before_its_supervisor_starts(tmp_path, asked, monkeypatch):
    processes: list[object] = []

    def supervise(directory: Path) -> object:
        assert run_directory.read_run_file(directory).status == "running"
        assert (directory / run_directory.PROMPTS_FILE).exists()
        processes.append(object())
        return processes[-1]

    monkeypatch.setattr(start, "start_supervisor", supervise)
    config = changed(asked, name="mine", limit=2, batch_size=3)
    started = start.launch(config, asked_at=12.5)
    directory = run_directory.runs_directory() / "mine"
    content = (directory / run_directory.PROMPTS_FILE).read_bytes()
    assert (started.directory, started.process) == (directory, processes[0])
    assert run_directory.read_run_file(directory) == RunFile(
        name="mine",
        started_at=12.5,
        config=config,
        prompts=2,
        prompts_digest=hashlib.sha256(content).hexdigest(),
        environment=start.environment(),
        inode=directory.stat().st_ino,
    )
    assert [prompt.text for prompt in PromptIndex.open(directory / "prompts.jsonl").read([0, 1])] == ["one", "two"]


def test_a_run_without_a_name_is_called_after_its_directory_and_begins_now(tmp_path, asked, supervisors):
    before = time.time()
    run = run_directory.read_run_file(start.launch(asked).directory)
    assert run.name == supervisors[0].name
    assert run.name.startswith("p-")
    assert before <= run.started_at <= time.time()


def test_a_run_elsewhere_is_found_by_its_name_and_one_in_the_usual_place_has_no_second(tmp_path, asked, supervisors):
    elsewhere = start.launch(asked, run_dir=tmp_path / "elsewhere").directory
    assert run_directory.find_run("elsewhere") == elsewhere
    usual = start.launch(asked).directory
    assert sorted(path.name for path in run_directory.runs_directory().iterdir()) == sorted(["elsewhere", usual.name])


def test_auto_is_settled_when_a_run_begins(asked, supervisors, monkeypatch):
    for gpus, device in ((0, "cpu"), (1, "cuda")):
        monkeypatch.setattr(telemetry, "count_visible_gpus", lambda environ, gpus=gpus: gpus)
        started = start.launch(changed(asked, device="auto"))
        assert run_directory.read_run_file(started.directory).config.device == device


def test_a_run_that_samples_has_a_seed_from_its_launch_on_and_keeps_it_when_it_is_resumed(asked, supervisors):
    def seed(directory):
        return run_directory.read_run_file(directory).config.seed

    runs = [start.launch(changed(asked, do_sample=True)).directory for _ in range(3)]
    chosen = [seed(run) for run in runs]
    assert len(set(chosen)) == 3, "each run is another sample"
    assert all(0 <= one <= MAX_SEED for one in chosen)
    start.resume(runs[0], {"batch_size": 3})
    assert seed(runs[0]) == chosen[0]
    assert seed(start.launch(changed(asked, do_sample=True, seed=0)).directory) == 0
    assert seed(start.launch(asked).directory) is None, "greedy answers need none"


def test_a_run_that_sampled_without_a_seed_before_there_was_one_gets_one_as_it_is_resumed(stopped, supervisors):
    run = run_directory.read_run_file(stopped)
    run_directory.write_run_file(stopped, msgspec.structs.replace(run, config=changed(run.config, do_sample=True)))
    start.resume(stopped, {})
    assert run_directory.read_run_file(stopped).config.seed is not None


@pytest.mark.parametrize("force", [True, False])
def test_what_lies_where_the_outputs_go_is_remembered_if_it_may_be_replaced(tmp_path, asked, supervisors, force):
    (tmp_path / "real.jsonl").write_text("old")
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    output = tmp_path / ("link.jsonl" if force else "new.jsonl")
    run = run_directory.read_run_file(start.launch(changed(asked, output=str(output)), force=force).directory)
    assert run.config.output == str(output.resolve()), "a link stays, and what it leads to is replaced"
    assert run.output_force == force
    assert run.output_stamp == (run_directory.stamp_of(tmp_path / "real.jsonl") if force else None)


def test_outputs_relative_to_the_working_directory_are_recorded_by_their_whole_path(
    tmp_path, asked, supervisors, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run = run_directory.read_run_file(start.launch(changed(asked, output="out.jsonl")).directory)
    assert run.config.output == str(tmp_path / "out.jsonl")


@pytest.mark.parametrize("by_a_link", [True, False])
def test_outputs_in_the_runs_own_directory_are_refused(tmp_path, asked, supervisors, by_a_link):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    named, place = (tmp_path / "link", tmp_path / "run") if by_a_link else (tmp_path / "run", tmp_path / "run")
    with pytest.raises(start.InputError, match=f"--output: {place}/out.jsonl is in the run's own directory"):
        start.launch(changed(asked, output=str(place / "out.jsonl")), run_dir=named)
    assert not list((tmp_path / "run").iterdir())
    start.launch(changed(asked, output=str(tmp_path / "run.jsonl")), run_dir=named)


def test_prompts_come_from_standard_input_too(asked, supervisors):
    started = start.launch(changed(asked, prompts="-", chat=True), stdin=io.BytesIO(b"one\n"))
    assert started.directory.name.startswith("stdin-")
    (prompt,) = PromptIndex.open(started.directory / "prompts.jsonl").read([0])
    assert prompt.messages == [{"role": "user", "content": "one"}]


def test_the_column_that_was_asked_for_is_taken_and_what_was_left_out_is_remarked(tmp_path, asked, supervisors):
    (tmp_path / "t.csv").write_text("a,b\n1,one\n")
    started = start.launch(changed(asked, prompts=str(tmp_path / "t.csv"), column="b"))
    assert PromptIndex.open(started.directory / "prompts.jsonl").read([0])[0].text == "one"
    (tmp_path / "p.jsonl").write_text('{"prompt": "one", "temperature": 2}\n{"prompt": "two", "id": 1}\n')
    index = freeze(str(tmp_path / "p.jsonl"), tmp_path / "q", column=None, limit=None, chat=False)
    run = run_directory.read_run_file(start.launch(changed(asked, prompts=str(tmp_path / "p.jsonl"))).directory)
    assert index.remarks
    assert run.remarks == index.remarks


@pytest.mark.parametrize("elsewhere", [True, False])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "run.* cannot be written: No space left on device"),
        (KeyboardInterrupt(), None),
    ],
)
def test_a_run_that_does_not_start_leaves_nothing_behind(tmp_path, asked, monkeypatch, elsewhere, error, said):
    def fail(_: Path) -> None:
        raise error

    monkeypatch.setattr(start, "start_supervisor", fail)
    raised = start.InputError if said else KeyboardInterrupt
    with pytest.raises(raised, match=said):
        start.launch(asked, run_dir=tmp_path / "new" if elsewhere else None)
    assert not (tmp_path / "new").exists()
    assert not list(run_directory.runs_directory().iterdir())


def test_every_bad_line_of_the_prompts_is_a_problem_of_its_own_and_nothing_is_left(tmp_path, asked, supervisors):
    (tmp_path / "bad.jsonl").write_text('{"prompt": 1}\n{}\n')
    with pytest.raises(start.InputError) as raised:
        start.launch(changed(asked, prompts=str(tmp_path / "bad.jsonl")))
    assert len(raised.value.problems) == 2
    assert str(raised.value).splitlines() == [str(problem) for problem in raised.value.problems]
    assert not list(run_directory.runs_directory().iterdir())
    assert supervisors == []


def test_messages_for_a_model_without_a_chat_template_are_refused(tmp_path, asked, supervisors):
    (tmp_path / "model" / "chat_template.jinja").unlink()
    (tmp_path / "chat.jsonl").write_text('{"messages": [{"role": "user", "content": "hello"}]}\n')
    with pytest.raises(start.InputError, match=r"chat\.jsonl: holds prompts with messages: "):
        start.launch(changed(asked, prompts=str(tmp_path / "chat.jsonl")))
    assert not list(run_directory.runs_directory().iterdir())
    assert start.launch(asked).directory.exists(), "other prompts need none"


def test_a_name_or_directory_in_use_is_refused_and_stays(tmp_path, asked, supervisors):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").touch()
    with pytest.raises(start.InputError, match="exists and is not empty"):
        start.launch(asked, run_dir=tmp_path / "mine")
    assert (tmp_path / "mine" / "x").exists()


def test_a_model_is_looked_into_here_only_for_callers_that_have_not(tmp_path, asked, supervisors):
    (tmp_path / "model" / "config.json").write_text("{")
    with pytest.raises(start.InputError, match="--model: "):
        start.launch(asked, look_into_model=True)
    assert supervisors == []


def test_a_run_that_could_not_be_listened_to_is_refused_before_anything_is_made(asked, supervisors, monkeypatch):
    def no_sockets() -> None:
        raise start.InputError(["no sockets"])

    monkeypatch.setattr(checks, "check_sockets", no_sockets)
    with pytest.raises(start.InputError, match="no sockets"):
        start.launch(asked)
    assert not run_directory.runs_directory().exists() or not list(run_directory.runs_directory().iterdir())
    assert supervisors == []


def test_what_is_doubtful_is_told_of_a_run_that_starts_and_what_cannot_be_is_refused(asked, supervisors, monkeypatch):
    measured: list[RunConfig] = []

    def memory(config: RunConfig) -> tuple[str, object]:
        measured.append(config)
        return "hardly", refusal

    monkeypatch.setattr(checks, "memory", memory)
    refusal: object = None
    assert start.launch(changed(asked, device="auto")).doubt == "hardly"
    assert measured[0].device == "cpu", "as it is settled"
    refusal = checks.Problem("ranks", "too many")
    with pytest.raises(start.InputError, match=r"^--ranks: too many$"):
        start.launch(asked)
    assert start.launch(asked, ignore_memory=True).doubt == "hardly"
    assert len(supervisors) == 2


def test_paths_in_the_users_home_are_recorded_whole(tmp_path, asked, supervisors, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    started = start.launch(changed(asked, prompts="~/p.txt", output="~/out.jsonl"))
    config = run_directory.read_run_file(started.directory).config
    assert (config.prompts, config.output) == (str(tmp_path / "p.txt"), str(tmp_path / "out.jsonl"))


def test_an_output_that_exists_is_refused_unless_it_may_be_replaced(tmp_path, asked, supervisors):
    (tmp_path / "old.jsonl").touch()
    config = changed(asked, output=str(tmp_path / "old.jsonl"))
    for look in (True, False):
        with pytest.raises(start.InputError, match=r"^--output: .*old\.jsonl exists"):
            start.launch(config, look_into_model=look)
        start.launch(config, force=True, look_into_model=look)
    assert len(supervisors) == 2


def test_a_name_that_is_taken_is_refused_and_the_run_of_that_name_stays(asked, supervisors):
    first = start.launch(changed(asked, name="mine")).directory
    with pytest.raises(start.InputError, match=r"^--name: a run called mine exists already"):
        start.launch(changed(asked, name="mine"))
    assert run_directory.read_run_file(first).name == "mine"


# --- the supervisor's process ---------------------------------------------------------------------


def test_the_supervisor_is_a_process_of_its_own_session_that_writes_to_the_log(tmp_path, monkeypatch):
    asked: list[tuple[list[str], dict[str, Any]]] = []

    def popen(command: list[str], **options: Any) -> str:
        options["stdout"].write(b"later\n")
        asked.append((command, options))
        return "process"

    monkeypatch.setattr(start.subprocess, "Popen", popen)
    (tmp_path / run_directory.LOG_FILE).write_text("earlier\n")
    assert start.start_supervisor(tmp_path) == "process"
    ((command, options),) = asked
    assert command == [sys.executable, "-P", "-m", "rankdeck.runner", str(tmp_path)]
    assert options["stdout"] is options["stderr"]
    assert (options["stdin"], options["start_new_session"]) == (subprocess.DEVNULL, True)
    assert options["stdout"].closed, "the child has its own"
    assert (tmp_path / run_directory.LOG_FILE).read_text() == "earlier\nlater\n"


def test_the_log_is_its_owners_alone_whatever_the_umask(tmp_path, monkeypatch):
    monkeypatch.setattr(start.subprocess, "Popen", lambda command, **options: "process")
    before = os.umask(0)
    try:
        start.start_supervisor(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / run_directory.LOG_FILE).stat().st_mode & 0o777 == 0o600


def test_a_supervisor_has_died_once_its_process_has_ended(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    started = start.Started(tmp_path, process)
    assert not started.died()
    process.communicate()
    assert started.died()


def test_a_process_knows_when_it_was_started_not_when_it_got_round_to_looking():
    code = "import time; time.sleep(0.3); from rankdeck.runner import start; print(start.process_started_at())"
    before = time.time()
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    after = time.time()
    assert before - 0.05 <= float(process.communicate()[0]) <= after + 0.05


def test_without_proc_a_process_began_now(monkeypatch):
    def unreadable(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(start.Path, "read_text", unreadable)
    monkeypatch.setattr(start.time, "time", lambda: 7.0)
    assert start.process_started_at() == 7.0
    monkeypatch.setattr(start.Path, "read_text", lambda *_, **__: "1 (x) S")
    assert start.process_started_at() == 7.0


def test_where_a_run_runs_is_recorded(monkeypatch):
    gpus = [telemetry.DeviceSample(index=number, uuid=str(number), name=f"L{number}") for number in (4, 40)]
    monkeypatch.setattr(telemetry, "visible_gpus", lambda environ: gpus if environ == {"A": "B"} else [])
    monkeypatch.setattr(processes, "usable_cores", lambda: 77)
    monkeypatch.setattr(processes, "cpu_name", lambda: "EPYC")
    found = start.environment({"A": "B"})
    assert (found.devices, found.cores, found.cpu) == (["L4", "L40"], 77, "EPYC")
    assert found.host == platform.node()
    assert (found.rankdeck, found.python) == (rankdeck.__version__, platform.python_version())
    assert found.platform == platform.platform()
    for package in ("torch", "transformers", "accelerate", "textual", "msgspec"):
        assert found.packages[package] == metadata.version(package)

    def missing(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(start.metadata, "version", missing)
    assert start.environment({}).packages == {}


# --- hello ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "device", "on_cpu"),
    [(0, "auto", True), (0, "cpu", True), (2, "cpu", True), (2, "auto", False), (2, "cuda", False)],
)
async def test_ranks_greet_from_gpus_where_there_are_any_unless_told_otherwise(monkeypatch, gpus, device, on_cpu):
    async def greetings_of(ranks: int, on_cpu: bool) -> list[str]:
        return [f"{ranks} {on_cpu}"]

    monkeypatch.setattr(start, "greetings_of", greetings_of)
    monkeypatch.setattr(telemetry, "count_visible_gpus", lambda environ: gpus)
    for ranks in (1, MAX_RANKS):
        assert await start.hello(ranks, device) == [f"{ranks} {on_cpu}"]
    for ranks in (0, MAX_RANKS + 1):
        with pytest.raises(start.InputError, match=f"--ranks: must be from 1 to {MAX_RANKS}, not {ranks}"):
            await start.hello(ranks, device)


async def test_ranks_greet_from_no_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(telemetry, "count_visible_gpus", lambda environ: 0)
    monkeypatch.setattr(telemetry, "gpus_are_uncounted", lambda: False)
    with pytest.raises(start.InputError, match="--device: no NVIDIA GPU can be seen here"):
        await start.hello(1, "cuda")


# --- resume ---------------------------------------------------------------------------------------


@pytest.fixture
def stopped(tmp_path: Path, asked: RunConfig, supervisors: list[Path]) -> Path:
    """A run that was stopped, with everything that can be said of one in run.json."""
    directory = start.launch(changed(asked, name="r"), asked_at=1.0).directory
    supervisors.clear()
    run = run_directory.read_run_file(directory)
    run_directory.write_run_file(
        directory,
        msgspec.structs.replace(
            run,
            status="stopped",
            exit_status=130,
            ended_at=2.0,
            cause="asked for",
            summary=reports.summary(),
            sweep=summarise_sweep(reports.sweep_state()),
            costs=[point(4)],
            supervisor_pid=7,
            output_force=True,
            output_stamp=(1, 2, 3),
            loading={"load": 1.0},
            lengths=[1, 2],
        ),
    )
    return directory


def test_a_resumed_run_is_the_same_run_with_the_new_settings_and_without_its_end(stopped, supervisors):
    before = run_directory.read_run_file(stopped)
    started = start.resume(stopped, {"batch_size": 7, "ranks": 2})
    assert (started.directory, supervisors) == (stopped, [stopped])
    assert run_directory.read_run_file(stopped) == msgspec.structs.replace(
        before,
        config=changed(before.config, batch_size=7, ranks=2),
        status="running",
        exit_status=None,
        ended_at=None,
        cause=None,
        summary=None,
        sweep=None,
        output_force=False,
    )
    assert before.summary is not None
    assert before.sweep is not None


def test_trust_that_run_json_records_is_taken_back_by_whoever_resumes_without_it(stopped, supervisors):
    run = run_directory.read_run_file(stopped)
    trusting = msgspec.structs.replace(run, config=changed(run.config, trust_remote_code=True))
    run_directory.write_run_file(stopped, trusting)
    start.resume(stopped, {"trust_remote_code": True})
    assert not run_directory.read_run_file(stopped).config.trust_remote_code, "only the caller's own word counts"


def test_a_run_of_before_there_were_digests_is_resumed_with_the_prompts_that_are_there(stopped, supervisors):
    run = run_directory.read_run_file(stopped)
    run_directory.write_run_file(stopped, msgspec.structs.replace(run, prompts_digest=None))
    start.resume(stopped, {})
    assert supervisors == [stopped]


def test_a_complete_run_whose_prompts_are_damaged_is_refused_in_words(stopped, supervisors):
    run = run_directory.read_run_file(stopped)
    run_directory.write_run_file(stopped, msgspec.structs.replace(run, status="completed", prompts_digest=None))
    (stopped / run_directory.PROMPTS_FILE).write_text("{}\n")
    refused(stopped, r"prompts\.jsonl:1: the line is no prompt")
    assert supervisors == []


def refused(directory: Path, words: str, **changes: object) -> None:
    before = (directory / "run.json").read_bytes()
    with pytest.raises(start.InputError, match=words):
        start.resume(directory, changes)
    assert (directory / "run.json").read_bytes() == before


def test_only_where_a_run_began_does_a_resume_write_to_the_output_that_run_json_names(stopped, tmp_path, supervisors):
    """A copy may be a stranger's, who would have his prompts written into a file of this user's."""
    run = run_directory.read_run_file(stopped)
    target = str(tmp_path / "answers.jsonl")
    run_directory.write_run_file(stopped, msgspec.structs.replace(run, config=changed(run.config, output=target)))
    shutil.copytree(stopped, tmp_path / "copy")
    moved = stopped.rename(tmp_path / "moved")
    started = start.resume(moved, {})
    assert (started.doubt, run_directory.read_run_file(moved).config.output) == (None, target)
    copy = tmp_path / "copy"
    started = start.resume(copy, {})
    assert run_directory.read_run_file(copy).config.output is None
    assert started.doubt == (
        f"this is a copy of a run, so its outputs stay in {copy / 'outputs.jsonl'}: {target} is left alone"
    )
    unknown = msgspec.structs.replace(run_directory.read_run_file(moved), inode=None, status="stopped")
    run_directory.write_run_file(moved, unknown)
    start.resume(moved, {})
    assert run_directory.read_run_file(moved).config.output is None, "one that does not say where it began"


def test_a_run_that_is_live_is_not_resumed(stopped, supervisors):
    lock = run_directory.hold_lock(stopped)
    refused(stopped, "already has a live supervisor; `rankdeck attach r` watches it")
    os.close(lock)
    start.resume(stopped, {})
    assert supervisors == [stopped]


def test_a_run_in_another_users_directory_is_not_resumed(stopped, supervisors, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: stopped.stat().st_uid + 1)
    before = len(supervisors)
    refused(stopped, "belongs to another user, who could read and change the run; resume a copy")
    assert len(supervisors) == before


def test_what_a_model_brings_of_python_is_trusted_by_whoever_resumes_not_by_run_json(stopped, tmp_path, supervisors):
    run = run_directory.read_run_file(stopped)
    model = tmp_path / "custom"
    model.mkdir()
    (model / "config.json").write_text(
        '{"model_type": "mine", "architectures": ["MineForCausalLM"],'
        ' "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Mine"}}'
    )
    config = changed(run.config, model=str(model), trust_remote_code=True)
    run_directory.write_run_file(stopped, msgspec.structs.replace(run, config=config))
    refused(stopped, "add --trust-remote-code")
    start.resume(stopped, msgspec.structs.asdict(config), trust_remote_code=True)
    assert run_directory.read_run_file(stopped).config.trust_remote_code


def test_a_run_whose_prompts_have_changed_is_not_resumed(stopped, supervisors):
    path = stopped / run_directory.PROMPTS_FILE
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"two", b"TWO"))
    refused(stopped, r"prompts\.jsonl has changed since the run began")
    path.unlink()
    refused(stopped, r"prompts\.jsonl: there is no such file")
    path.write_bytes(whole)
    start.resume(stopped, {})
    assert supervisors == [stopped]


@pytest.mark.parametrize("name", [run_directory.PROMPTS_FILE, run_directory.LOG_FILE])
def test_a_run_with_a_pipe_among_its_files_is_refused_and_waits_for_nobody(stopped, supervisors, name):
    (stopped / name).unlink(missing_ok=True)
    os.mkfifo(stopped / name)
    refused(stopped, rf"{name} is a pipe, not a file; remove it")
    assert supervisors == []


def test_a_run_that_would_write_to_what_a_link_leads_to_is_not_resumed(stopped, tmp_path, supervisors):
    (stopped / run_directory.OUTPUTS_FILE).symlink_to(tmp_path / "somebody's")
    refused(stopped, r"outputs\.jsonl is a link, not a file: the run would write what it leads to; remove it")
    assert supervisors == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 0}, "--batch-size: must be at least 1"),
        ({"device": "cuda"}, "--device: no NVIDIA GPU can be seen here"),
        ({"attention": "flash_attention_2"}, "--attention: "),
    ],
)
def test_settings_that_are_wrong_are_refused_at_a_resume_too(stopped, supervisors, changes, words, monkeypatch):
    monkeypatch.setattr(telemetry, "gpus_are_uncounted", lambda: False)
    refused(stopped, words, **changes)
    assert supervisors == []


@pytest.mark.parametrize("sweep", [None, "with outputs", "without outputs"])
def test_a_complete_run_is_resumed_only_if_records_have_been_lost(stopped, supervisors, sweep):
    plan = SweepPlan(batch_sizes=[1], ranks=[1], outputs=sweep == "with outputs") if sweep else None
    run = run_directory.read_run_file(stopped)
    complete = msgspec.structs.replace(run, status="completed", config=changed(run.config, sweep=plan))
    run_directory.write_run_file(stopped, complete)
    prompts = PromptIndex.open(stopped / run_directory.PROMPTS_FILE)
    lines = [
        encode_line(
            OutputRecord(
                index=prompt.index, id=prompt.id, prompt=prompt.text, text="t", prompt_tokens=1, output_tokens=1,
                finish_reason="stop",
            )
        )
        for prompt in prompts.read(range(prompts.count))
    ]  # fmt: skip
    words = "r is complete: each of its 3 prompts has a record"
    (stopped / run_directory.OUTPUTS_FILE).write_bytes(b"".join(lines))
    refused(stopped, words)
    (stopped / run_directory.OUTPUTS_FILE).write_bytes(b"".join(lines[:2]))
    if sweep == "without outputs":
        refused(stopped, words)
    else:
        start.resume(stopped, {})
        assert supervisors == [stopped]


def test_new_settings_are_measured_against_memory_with_the_frozen_prompts(stopped, supervisors, monkeypatch):
    measured: list[RunConfig] = []

    def memory(config: RunConfig) -> tuple[None, str]:
        measured.append(config)
        return None, "too much"

    monkeypatch.setattr(checks, "memory", memory)
    refused(stopped, "too much", ranks=2, column="x", limit=1)
    frozen = str(stopped / run_directory.PROMPTS_FILE)
    assert [(config.prompts, config.column, config.limit, config.ranks) for config in measured] == [
        (frozen, None, None, 2)
    ]
    start.resume(stopped, {"batch_size": 3})
    start.resume(stopped, {"ranks": 2}, ignore_memory=True)
    assert len(measured) == 1
    assert supervisors == [stopped, stopped]


def test_a_resume_that_cannot_be_written_says_that_nothing_was_changed(stopped, supervisors, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_directory, "write_run_file", full)
    refused(stopped, "r cannot be written: No space left on device; nothing was changed")
    assert supervisors == []


def test_no_run_is_resumed_where_there_is_none_or_where_it_could_not_listen(
    stopped, tmp_path, supervisors, monkeypatch
):
    with pytest.raises(start.InputError, match="is not a run directory"):
        start.resume(tmp_path, {})

    def no_sockets() -> None:
        raise start.InputError(["no sockets"])

    monkeypatch.setattr(checks, "check_sockets", no_sockets)
    refused(stopped, "no sockets")
    assert supervisors == []


def test_a_run_whose_supervisor_cannot_be_started_again_is_as_it_was(tmp_path, monkeypatch):
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    run = tmp_path / "run"
    run.mkdir()
    freeze(str(tmp_path / "p.txt"), run / run_directory.PROMPTS_FILE, column=None, limit=None, chat=False)
    config = RunConfig(prompts=str(tmp_path / "p.txt"), ranks=1, device="cpu")
    stopped = RunFile(
        name="r", status="stopped", exit_status=130, started_at=1.0, ended_at=2.0, config=config, prompts=2
    )
    run_directory.write_run_file(run, stopped)

    def without_processes(_):
        assert run_directory.read_run_file(run).status == "running"
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(start, "start_supervisor", without_processes)
    with pytest.raises(start.InputError, match=r"supervisor cannot be started: .*Resource temporarily unavailable"):
        start.resume(run, {"batch_size": 7})
    assert run_directory.read_run_file(run) == stopped


async def test_gpus_that_cannot_be_counted_are_left_to_the_ranks_that_greet(monkeypatch):
    async def greetings_of(ranks: int, on_cpu: bool) -> list[str]:
        return [f"{ranks} {on_cpu}"]

    monkeypatch.setattr(start, "greetings_of", greetings_of)
    monkeypatch.setattr(telemetry, "count_visible_gpus", lambda environ: 0)
    monkeypatch.setattr(telemetry, "gpus_are_uncounted", lambda: True)
    assert await start.hello(2, "cuda") == ["2 False"]
    assert await start.hello(2, "auto") == ["2 True"]
