"""The supervisor, whole: real processes, real socket, real files; only the ranks are stand-ins without torch."""

import asyncio
import json
import os
import time
from pathlib import Path

import psutil
import pytest

from rankdeck.runner import checks, protocol, run_directory, start
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.state import RunState, Snapshot, apply
from rankdeck.tui.panels.overview.summary import outputs_path
from rankdeck.tui.sources.client import SocketSource
from tests.standin.rank import answer

PROMPTS = [f"prompt number {number}" for number in range(25)]


async def watch(started, *, when=None) -> tuple[RunState, list]:
    """Follow a run to its end; `when(message, source)` may send commands on the way."""
    source, state, seen = SocketSource(started.directory, started.died), RunState(), []
    async for message in source.events():
        seen.append(message)
        state = message.state if isinstance(message, Snapshot) else apply(state, message)
        if when is not None:
            await when(message, source)
    return state, seen


def outputs(directory: Path) -> list:
    return list(run_directory.read_outputs(directory))


def command_line(process: psutil.Process) -> list[str]:
    """A process's arguments; none once it is gone (its /proc entry may go while it is read)."""
    try:
        return [] if process.status() == psutil.STATUS_ZOMBIE else process.cmdline()
    except (psutil.Error, OSError):
        return []


def processes_of(directory: Path) -> list[psutil.Process]:
    """The processes that have the run's directory, or a file in it, among their arguments."""
    inside = f"{directory}/"
    return [
        process
        for process in psutil.process_iter()
        if any(word == str(directory) or word.startswith(inside) for word in command_line(process))
    ]


def rank_pids(directory: Path) -> list[int]:
    """The stand-in ranks of a run."""
    return [process.pid for process in processes_of(directory) if "rank" in command_line(process)]


@pytest.mark.parametrize("dispatch", ["pull", "split"])
@pytest.mark.parametrize("ranks", [1, 3])
async def test_every_prompt_has_its_answer_in_input_order(launch, dispatch, ranks):
    started = launch(PROMPTS, dispatch=dispatch, ranks=ranks)
    state, _ = await watch(started)
    assert started.process.wait(10) == 0
    records = outputs(started.directory)
    assert [record.index for record in records] == list(range(25))
    prompts = [protocol.Prompt(index=index, id=str(index), text=text) for index, text in enumerate(PROMPTS)]
    assert [record.text for record in records] == [answer(prompt) for prompt in prompts]
    assert state.ended.status == "completed"
    assert (state.gather is not None) == (dispatch == "split")


async def test_more_ranks_than_prompts_and_a_single_prompt(launch):
    for dispatch in ("pull", "split"):
        started = launch(["only one"], ranks=3, dispatch=dispatch)
        state, _ = await watch(started)
        assert (state.ended.exit_status, state.completed) == (0, 1)


async def test_run_json_holds_config_environment_and_the_summary_the_screen_showed(launch):
    started = launch(PROMPTS)
    state, _ = await watch(started)
    started.process.wait(10)
    run = run_directory.read_run_file(started.directory)
    assert run.summary == state.ended.summary
    assert run.status == "completed"
    assert run.config.batch_size == 4
    assert run.environment.packages["torch"]
    assert run.summary.output_tokens == sum(record.output_tokens for record in outputs(started.directory))
    assert sum(rank.prompts for rank in run.summary.ranks) == 25
    assert run.summary.seconds > 0


async def test_the_journal_alone_tells_the_same_story(launch):
    started = launch(PROMPTS)
    state, _ = await watch(started)
    started.process.wait(10)
    replayed = RunState()
    for event in run_directory.read_events(started.directory):
        replayed = apply(replayed, event)
    assert replayed.ended == state.ended
    assert [rank.prompts for rank in replayed.ranks] == [rank.prompts for rank in state.ranks]


async def test_a_copy_of_the_outputs_goes_where_it_was_asked_for(launch, tmp_path):
    target = tmp_path / "out.jsonl"
    started = launch(PROMPTS, output=str(target))
    await watch(started)
    started.process.wait(10)
    assert target.read_bytes() == (started.directory / run_directory.OUTPUTS_FILE).read_bytes()


@pytest.mark.parametrize("force", [False, True])
async def test_a_file_that_came_where_the_copy_was_to_go_is_replaced_only_by_force(launch, tmp_path, force):
    target = tmp_path / "out.jsonl"
    started = launch(PROMPTS, output=str(target), force=force)
    target.write_text("another run's")
    state, _ = await watch(started)
    assert started.process.wait(10) == (0 if force else 3)
    whole = started.directory / run_directory.OUTPUTS_FILE
    assert target.read_text() == (whole.read_text() if force else "another run's")
    run = run_directory.read_run_file(started.directory)
    assert (run.status, run.output_stamp) == ("completed", run_directory.stamp_of(target) if force else None)
    assert outputs_path(state) == str(target if force else whole)
    assert force or f"{target} exists and is not this run's copy" in (run.cause or "")


async def test_one_prompt_that_makes_its_batch_raise_costs_that_one_prompt(launch):
    started = launch([*PROMPTS[:10], "!raise", *PROMPTS[10:]])
    state, _ = await watch(started)
    assert started.process.wait(10) == 1
    records = outputs(started.directory)
    assert len(records) == 26
    assert [record.index for record in records if record.finish_reason == "error"] == [10]
    assert records[10].error == "ValueError: no such word"
    assert records[10].prompt == "!raise"
    assert state.ended.exit_status == 1


async def test_run_json_has_the_seconds_before_the_first_batch_by_phase(launch):
    started = launch(PROMPTS)
    state, _ = await watch(started)
    started.process.wait(10)
    run = run_directory.read_run_file(started.directory)
    assert run.loading == state.loading.phases
    assert {"starting", "model", "launching", "first batch"} <= run.loading.keys()
    assert state.loading.batch_at - run.started_at == pytest.approx(sum(run.loading.values()), abs=0.01)
    assert any("all ranks are ready after" in line.text for line in state.log)


async def test_in_a_split_run_too_a_prompt_that_raises_costs_that_one_prompt(launch):
    started = launch([*PROMPTS[:10], "!raise", *PROMPTS[10:]], dispatch="split")
    state, _ = await watch(started)
    assert started.process.wait(10) == 1
    assert state.gather.differing == []
    assert (state.gather.records, len(outputs(started.directory))) == (25, 26)


async def test_a_run_elsewhere_is_found_by_its_name(launch, tmp_path):
    started = start.launch(
        RunConfig(prompts=write_prompts(tmp_path), model=str(tmp_path / "standin-model"), device="cpu", name="far"),
        run_dir=tmp_path / "elsewhere",
    )
    assert run_directory.find_run("far") == started.directory
    assert [directory for directory, _ in run_directory.list_runs()] == [started.directory]
    await watch(started)
    started.process.wait(10)


def write_prompts(tmp_path: Path) -> str:
    path = tmp_path / "these.txt"
    path.write_text("one\ntwo\n")
    return str(path)


async def test_the_journal_has_telemetry_about_once_a_second(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.25")
    started = launch(PROMPTS)
    await watch(started)
    started.process.wait(10)
    ticks = [event for event in run_directory.read_events(started.directory) if isinstance(event, protocol.Tick)]
    measured = [tick for tick in ticks if tick.processes]
    assert len(measured) >= 2
    assert len(ticks) <= 2 * len(measured) + 2, "no more than the ticks that a replay needs"


async def test_a_rank_that_cannot_load_ends_the_run_with_its_own_words(launch, standin_model):
    (standin_model / "fail-load").touch()
    started = launch(PROMPTS)
    state, _ = await watch(started)
    assert started.process.wait(20) == 3
    assert state.ended.cause in [f"rank {rank}: OSError: weights.bin is damaged" for rank in (0, 1)]
    assert not processes_of(started.directory)


async def test_no_model_means_no_ranks_and_says_what_was_tried(launch, standin_model):
    started = launch(PROMPTS, model="nobody/nothing-here")
    state, _ = await watch(started)
    assert started.process.wait(30) == 2
    assert "nobody/nothing-here" in state.ended.cause
    assert state.attempt == 0, "no rank was started"


async def test_stopping_cleanly_keeps_the_batches_in_flight_and_hands_out_no_more(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.05")
    started = launch(PROMPTS)

    async def stop(message, source):
        if isinstance(message, protocol.BatchStarted) and message.batch == 2:
            await source.send(protocol.Stop())

    state, seen = await watch(started, when=stop)
    assert started.process.wait(20) == 130
    assert state.ended.status == "stopped"
    handed_out = sum(message.rows for message in seen if isinstance(message, protocol.BatchStarted))
    assert len(outputs(started.directory)) == handed_out >= 4
    assert not processes_of(started.directory)


async def test_stopping_now_ends_at_once_and_records_nothing_by_half(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "5")
    started = launch(PROMPTS)
    begun = time.monotonic()

    async def stop(message, source):
        if isinstance(message, protocol.BatchStarted) and message.batch == 1:
            await source.send(protocol.Stop(now=True))

    state, _ = await watch(started, when=stop)
    assert started.process.wait(20) == 130
    assert time.monotonic() - begun < 15
    assert outputs(started.directory) == []
    assert state.ended.summary.completed == 0
    assert not processes_of(started.directory)


async def test_ranks_notice_that_their_supervisor_was_killed_and_leave(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.2")
    started = launch(PROMPTS)
    source = SocketSource(started.directory, started.died)
    async for message in source.events():
        if isinstance(message, protocol.BatchStarted):
            break
    started.process.kill()
    started.process.wait()
    async with asyncio.timeout(10):
        while processes_of(started.directory):
            await asyncio.sleep(0.05)
    assert run_directory.read_run_file(started.directory).status == "running"
    assert not run_directory.supervisor_alive(started.directory), "so that `list` can tell that it is lost"


async def test_who_comes_late_gets_the_whole_state_first(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.2")
    started = launch(PROMPTS)
    first = SocketSource(started.directory, started.died).events()
    async for message in first:
        if isinstance(message, protocol.BatchFinished):
            break
    state, seen = await watch(started)
    assert isinstance(seen[0], Snapshot)
    assert seen[0].state.done >= 3, "the smaller of the two batches in flight"
    assert seen[0].state.config.ranks == 2
    assert state.ended.summary.completed == 25


async def test_who_comes_after_the_end_gets_the_whole_story_from_the_journal(launch):
    started = launch(PROMPTS)
    await asyncio.to_thread(started.process.wait, 20)
    state, seen = await watch(started)
    assert isinstance(seen[0], protocol.RunStarted)
    assert (state.completed, state.ended.exit_status) == (25, 0)


async def test_nobody_but_a_peer_that_speaks_the_protocol_is_listened_to(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.05")
    started = launch(PROMPTS)
    source = SocketSource(started.directory, started.died)
    events = source.events()
    await anext(events)
    path = str(run_directory.socket_path(started.directory))
    assert os.stat(path).st_mode & 0o777 == 0o600
    for said in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\xff\n",
        b'{"type":"rank_hello"}\n',
        b'{"type":"viewer_hello"}\n{]\n',
        b"",
    ):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(said)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 10)
        writer.close()
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b'{"type":"viewer_hello","version":999}\n')
    refused = json.loads(await reader.readline())
    assert refused["type"] == "refused"
    assert "999" in refused["reason"]
    writer.close()
    async for _ in events:
        pass
    assert started.process.wait(20) == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ranks": 0}, "--ranks: must be at least 1, not 0"),
        ({"batch_size": -3}, "--batch-size: must be at least 1, not -3"),
        ({"prompts": "/nowhere/at/all.txt"}, "there is no such file"),
        ({"output": "/nowhere/out.jsonl"}, "there is no directory /nowhere"),
        ({"device": "cuda"}, "no NVIDIA GPU can be seen here"),
        ({"temperature": 0.5}, "has no effect without --do-sample"),
        ({"model": "./not-here"}, "there is no such folder"),
        ({"prompts": "table.csv"}, "there is no such file"),
        ({"prompts": "caf\udce9.txt"}, "--prompts: caf\udce9.txt: the name is not valid UTF-8"),
        ({"output": "caf\udce9.jsonl"}, "caf\udce9.jsonl: the name is not valid UTF-8"),
        ({"model": "./caf\udce9"}, "--model: ./caf\udce9: "),
    ],
)
def test_bad_input_is_refused_before_anything_is_started(tmp_path, state_home, settings, said):
    prompts = tmp_path / "p.txt"
    prompts.write_text("hello\n")
    with pytest.raises(start.InputError) as refusal:
        start.launch(RunConfig(**{"prompts": str(prompts), **settings}))
    assert said in str(refusal.value)
    assert not list(state_home.glob("**/run.json")), "nothing is left behind"


def test_a_run_directory_whose_name_is_no_utf8_is_not_made(tmp_path):
    prompts, directory = tmp_path / "p.txt", tmp_path / "caf\udce9"
    prompts.write_text("hello\n")
    with pytest.raises(start.InputError, match="the name is not valid UTF-8"):
        start.launch(RunConfig(prompts=str(prompts)), run_dir=directory)
    assert not directory.exists()


def test_an_output_is_judged_by_what_its_links_lead_to(tmp_path, state_home):
    prompts, link, loop = tmp_path / "p.txt", tmp_path / "good.jsonl", tmp_path / "loop.jsonl"
    prompts.write_text("hello\n")
    link.symlink_to(tmp_path / "caf\udce9.jsonl")
    loop.symlink_to(loop)
    for output, said in ((link, "--output: .*caf.*: the name is not valid UTF-8"), (loop, "leads back to itself")):
        with pytest.raises(start.InputError, match=said):
            start.launch(RunConfig(prompts=str(prompts), output=str(output)))
    assert not list(state_home.glob("**/prompts.jsonl")), "nothing is left behind"


def test_an_output_file_that_exists_is_replaced_only_by_force(tmp_path):
    prompts, output = tmp_path / "p.txt", tmp_path / "out.jsonl"
    prompts.write_text("hello\n")
    output.write_text("precious")
    config = RunConfig(prompts=str(prompts), output=str(output))
    assert "--force" in str(checks.check(config)[0])
    assert checks.check(config, force=True) == []


def test_a_broken_prompt_file_leaves_no_run_behind(tmp_path, state_home):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt":"fine"}\n{broken\n{"text":1}\n')
    with pytest.raises(start.InputError) as refusal:
        start.launch(RunConfig(prompts=str(prompts)))
    assert "p.jsonl:2" in str(refusal.value)
    assert "p.jsonl:3" in str(refusal.value)
    assert list(run_directory.runs_directory().iterdir()) == []


def test_more_ranks_than_make_sense_is_a_warning(tmp_path):
    config = RunConfig(prompts="p", ranks=8, device="cpu")
    assert checks.warnings(config, 3)[0] == "3 prompts for 8 ranks: 5 will have no work"
    assert checks.warnings(RunConfig(prompts="p", ranks=1, device="cpu"), 3) == []
