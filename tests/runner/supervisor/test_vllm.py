"""Runs of vLLM as the supervisor sees them: which ranks it asks for, and turns and pauses within a step.

The ranks are stand-ins: the real ContinuousRank, around rows that stand still and are kept back as vLLM's are.
"""

import asyncio
import os
import signal

import msgspec
import pytest

from rankdeck.runner import protocol, run_directory, start
from rankdeck.runner.inputs import vllm_package
from rankdeck.runner.inputs.vllm_package import Build
from rankdeck.runner.launching.scratch import scratch_of
from rankdeck.runner.machine import telemetry
from rankdeck.runner.protocol.config import ENGINES, RunConfig
from rankdeck.runner.protocol.engines import EngineHint
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.supervisor import engine_choice
from tests.runner.supervisor.test_supervisor import PROMPTS, command_line, outputs, processes_of, rank_pids, watch


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """vLLM is there, built for the CPU."""
    monkeypatch.setattr(vllm_package, "installed", lambda: Build("0.32.0", "cpu"))


async def stopped_at_the_first_output(started):
    async def stop(message, source):
        if isinstance(message, protocol.Output):
            await source.send(protocol.Stop(now=True))

    await watch(started, when=stop)
    started.process.wait(20)


async def test_where_it_is_not_installed_no_run_is_made(launch, monkeypatch, tmp_path, state_home):
    monkeypatch.setattr(vllm_package, "installed", lambda: None)
    with pytest.raises(start.InputError, match="--engine: vLLM is not installed in this Python: pip install"):
        launch(PROMPTS, engine="vllm")
    assert not (state_home / "rankdeck" / "runs").exists()


async def test_the_ranks_parent_is_told_so_that_it_imports_vllm_and_no_run_of_another_engine_is(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.05")
    for engine, told in (("vllm", True), ("static", False)):
        found: list[list[str]] = []
        started = launch(PROMPTS[:4], engine=engine)

        async def look(message, _, started=started, found=found):
            if isinstance(message, protocol.RanksReady):
                found.extend(command_line(process) for process in processes_of(started.directory))

        state, _ = await watch(started, when=look)
        assert state.ended.status == "completed"
        parents = [words for words in found if "--socket" in words]
        assert parents
        assert all((words[-2:] == ["--engine", "vllm"]) == told for words in parents)


async def test_every_prompt_has_its_answer_and_padding_is_not_known(launch):
    started = launch(PROMPTS, engine="vllm", ranks=3)
    state, _ = await watch(started)
    assert [record.index for record in outputs(started.directory)] == list(range(25))
    assert {rank.ready.engine for rank in state.ranks} == {"vllm"}
    assert {rank.padding_waste for rank in state.ranks} == {None}
    started.process.wait(10)
    summary = run_directory.read_run_file(started.directory).summary
    assert summary.padding_waste is None
    assert {rank.padding_waste for rank in summary.ranks} == {None}


async def test_fewer_rows_and_a_pause_take_effect_within_a_step(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.02")
    monkeypatch.setenv("STANDIN_STEPS", "400")
    started = launch(PROMPTS, engine="vllm", ranks=1, batch_size=12, max_new_tokens=400)
    turned_at, few_at, paused = 0, 0, []
    at = "begins"

    async def turn(message, source) -> None:
        nonlocal at, turned_at, few_at
        if not isinstance(message, protocol.Tick) or not message.steps:
            return
        steps = message.steps[0]
        if at == "begins" and steps.rows == 12:
            at, turned_at = "turned", steps.step
            await source.send(protocol.SetBatchSize(batch_size=2))
        elif at == "turned" and steps.rows == 2:
            at, few_at = "paused", steps.step
            await source.send(protocol.Pause())
        elif at == "paused":
            paused.append(steps.step)
            if (len(set(paused[-4:])) == 1 and len(paused) >= 4) or len(paused) > 60:
                at = "over"
                await source.send(protocol.Stop(now=True))

    state, _ = await watch(started, when=turn)
    assert state.ended.status == "stopped"
    assert turned_at < few_at < turned_at + 300, "not as rows end, after 400 steps"
    assert len(set(paused[-4:])) == 1, "a second without a step"
    assert {rank.prefix_hits for rank in state.ranks} == {0.5}


async def test_a_rank_that_was_killed_is_launched_again_and_its_folder_is_gone(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.02")
    started = launch(PROMPTS, engine="vllm")
    scratch = scratch_of(str(run_directory.socket_path(started.directory)), 1)
    killed: list[int] = []

    async def kill(message, _):
        if isinstance(message, protocol.Output) and not killed:
            scratch.mkdir()
            (scratch / "left behind").touch()
            killed.extend(rank_pids(started.directory)[:1])
            os.kill(killed[0], signal.SIGKILL)

    state, _ = await watch(started, when=kill)
    assert started.process.wait(20) == 0
    assert (state.attempt, state.completed) == (2, 25)
    assert not scratch.exists()


def test_auto_takes_it_on_gpus_only_where_it_is_installed_and_has_what_the_run_asks_for(monkeypatch):
    monkeypatch.setattr(telemetry, "visible_gpus", lambda _: [])
    monkeypatch.setattr(telemetry, "count_visible_gpus", lambda _: 2)

    def engines(**settings) -> frozenset[str]:
        return engine_choice.engines_for(RunConfig(prompts="p", **{"device": "cuda", "ranks": 2, **settings}))

    ours = ENGINES - {"vllm"}
    assert engines() == ours, "this one is for CPUs"
    monkeypatch.setattr(vllm_package, "installed", lambda: Build("0.32.0", "cuda"))
    assert engines() == ENGINES
    assert engines(device="cpu") == ours
    for settings in ({"ranks": 3}, {"attention": "sdpa"}, {"decoding": "generate"}, {"dispatch": "split"}):
        assert engines(**settings) == ours, settings
    monkeypatch.setattr(vllm_package, "installed", lambda: None)
    assert engines() == ours


async def test_more_rows_than_the_ranks_were_loaded_for_are_refused_with_the_reason(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.02")
    monkeypatch.setenv("STANDIN_MOST_ROWS", "6")
    started = launch(PROMPTS, engine="vllm", ranks=1, batch_size=2, max_new_tokens=100)
    said: list[str] = []
    asked: list[int] = []

    async def turn(message, source):
        if isinstance(message, protocol.TurnRefused):
            said.append(message.reason)
        if isinstance(message, protocol.LogLine) and message.text.startswith("no sweep"):
            said.append(message.text)
        if isinstance(message, protocol.Output) and not asked:
            asked.append(7)
            await source.send(protocol.SetBatchSize(batch_size=7))
            plan = SweepPlan(batch_sizes=[2, 8], ranks=[1])
            await source.send(protocol.StartSweep(plan=plan))
            await source.send(protocol.SetBatchSize(batch_size=6))

    state, _ = await watch(started, when=turn)
    assert said == [
        "vLLM was started for at most 6 rows at once; for more, start the run with that --batch-size",
        "no sweep is started: the ranks were started for at most 6 rows at once; for more, start the run with that "
        "--batch-size",
    ]
    assert (state.batch_size, state.completed) == (6, 25)


async def test_a_run_that_auto_had_given_to_vllm_is_not_taken_up_without_it(launch):
    started = launch(PROMPTS, engine="auto", ranks=1)
    await stopped_at_the_first_output(started)
    run = run_directory.read_run_file(started.directory)
    hint = EngineHint(engine="vllm", why="1.60 times static's tok/s")
    run_directory.write_run_file(started.directory, msgspec.structs.replace(run, engine_hint=hint))
    again = start.resume(started.directory, {})
    state, _ = await watch(again)
    assert again.process.wait(20) == 2
    assert state.ended.cause == (
        "this run used vLLM, chosen by --engine auto, and no longer can: auto takes it on GPUs only; resume it with "
        "--engine static"
    )
    last = start.resume(started.directory, {"engine": "static"})
    state, _ = await watch(last)
    assert (last.process.wait(20), state.completed) == (0, 25)


async def test_a_batch_size_typed_while_loading_is_held_against_what_the_ranks_were_started_for(
    launch, monkeypatch, standin_model
):
    monkeypatch.setenv("STANDIN_MOST_ROWS", "6")
    (standin_model / "hold").touch()
    started = launch(PROMPTS, engine="vllm", ranks=1, batch_size=2)
    asked: list[int] = []

    async def turn(message, source):
        if isinstance(message, protocol.RankPhase) and not asked:
            asked.append(50)
            await source.send(protocol.SetBatchSize(batch_size=50))
            await asyncio.sleep(0.3)
            (standin_model / "hold").unlink()

    state, seen = await watch(started, when=turn)
    sizes = [message for message in seen if isinstance(message, protocol.BatchSizeChanged)]
    assert (sizes[0].batch_size, sizes[0].reason) == (6, "the ranks were started for at most 6 rows at once")
    assert state.completed == 25


async def test_a_run_with_a_share_of_the_gpu_can_be_taken_up_with_another_engine(launch):
    started = launch(PROMPTS, engine="auto", ranks=1)
    await stopped_at_the_first_output(started)
    run = run_directory.read_run_file(started.directory)
    shared = msgspec.structs.replace(run, config=msgspec.structs.replace(run.config, gpu_memory_share=0.5))
    run_directory.write_run_file(started.directory, shared)
    again = start.resume(started.directory, {"engine": "static"})
    state, _ = await watch(again)
    assert (again.process.wait(20), state.completed) == (0, 25)
    assert run_directory.read_run_file(started.directory).config.gpu_memory_share is None
