"""What `--engine auto` goes by: runs in the usual place, looked at once in a run and kept for all its ranks."""

import os
import signal

import msgspec
import pytest

from rankdeck.runner import protocol, run_directory, start
from rankdeck.runner.inputs.checkpoint import fingerprint
from rankdeck.runner.inputs.frozen_prompts import PromptIndex
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.engines import EngineHint, EngineRecord
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.run_directory.run_file import RunFile
from rankdeck.runner.supervisor import engine_choice, run
from tests.runner.supervisor.test_course import DIED, all_done, begun, left, lost, scripted, through
from tests.runner.supervisor.test_supervisor import PROMPTS, rank_pids, watch

__all__ = ["begun", "scripted"]  # fixtures


@pytest.fixture
def ran(standin_model):
    """Leaves run.json of a run that was made earlier, as the job of `begun` is."""

    def go(name: str, engine: str, rate: float, at: float = 1.0, prompt_bytes: float = 8.0, **changes) -> None:
        directory = run_directory.runs_directory() / name
        directory.mkdir(parents=True)
        settings = {"prompts": "p", "model": str(standin_model), "device": "cpu", "ranks": 2}
        settings |= changes.pop("settings", {})
        record = EngineRecord(
            engine=engine, batch_size=3, tokens_per_second=rate, batches=9, seconds=99.0,
            prompt_tokens=2.0, prompt_bytes=prompt_bytes, output_tokens=3.0,
        )  # fmt: skip
        values = {"status": "completed", "prompts": 3, "environment": start.environment(), "engine_record": record}
        values |= {"model_files": fingerprint.fingerprints(standin_model)}
        made = RunFile(name=name, started_at=at, config=RunConfig(**settings), **{**values, **changes})
        run_directory.write_run_file(directory, made)

    return go


@pytest.fixture
def found(scripted, monkeypatch, standin_model):
    """The run's model is the folder of the earlier runs'."""

    async def find(*_):
        return str(standin_model)

    monkeypatch.setattr(run, "find_model", find)
    return scripted


CONTINUOUS = EngineHint(
    engine="continuous",
    why="1.31 times static's tok/s in earlier runs here with this model (other: 412, one: 314 tok/s a rank)",
    lead=1.31,
    over="static",
)


async def test_the_ranks_are_told_what_earlier_runs_measured_and_run_json_keeps_it(begun, found, ran):
    ran("one", "static", 314.0)
    ran("other", "continuous", 412.0)
    supervisor = begun()
    found.acts = [lost(DIED), all_done(supervisor)]
    assert await through(supervisor) == 0
    assert [launch.engine_hint for launch in found.launches] == [CONTINUOUS, CONTINUOUS]
    assert left(supervisor).engine_hint == CONTINUOUS


async def test_what_is_damaged_or_of_another_model_or_says_nothing_of_where_it_ran_does_not_count(begun, found, ran):
    ran("one", "static", 314.0)
    ran("b", "continuous", 999.0, model_files={"config.json": "another"})
    ran("c", "continuous", 999.0, environment=None)
    ran("d", "continuous", 999.0, engine_record=None)
    ran("e", "continuous", 999.0)
    (run_directory.runs_directory() / "e" / "run.json").write_text("{")
    (run_directory.runs_directory() / "no run").mkdir()
    supervisor = begun()
    found.acts = [all_done(supervisor)]
    assert await through(supervisor) == 0
    assert [launch.engine_hint for launch in found.launches] == [EngineHint()]
    assert left(supervisor).engine_hint == EngineHint(), "looked for once, and nothing found"


async def test_whoever_asks_for_an_engine_has_no_runs_looked_at(begun, found, ran, monkeypatch):
    monkeypatch.setattr(engine_choice, "hint", None)
    supervisor = begun(engine="static")
    found.acts = [all_done(supervisor)]
    assert await through(supervisor) == 0
    assert [launch.engine_hint for launch in found.launches] == [None]
    assert left(supervisor).engine_hint is None


async def test_a_sweep_has_closed_batches_which_earlier_runs_do_not_speak_of(begun, found, ran):
    ran("one", "static", 314.0)
    ran("other", "continuous", 412.0)
    job = run_directory.read_run_file(run_directory.runs_directory() / "one")
    prompts = PromptIndex(run_directory.runs_directory() / "prompts.jsonl")
    prompts.lengths.append(8)
    assert engine_choice.hint(job, prompts) == CONTINUOUS
    sweep = SweepPlan(batch_sizes=[1, 2], ranks=[1, 2])
    job = msgspec.structs.replace(job, config=msgspec.structs.replace(job.config, sweep=sweep))
    assert engine_choice.hint(job, prompts) == EngineHint()


async def test_a_run_leaves_what_it_measured_of_its_engine(begun, found, monkeypatch):
    measured = EngineRecord(
        engine="static", batch_size=3, tokens_per_second=1.5, batches=9, seconds=99.0,
        prompt_tokens=2.0, prompt_bytes=8.0, output_tokens=3.0,
    )  # fmt: skip
    given = []
    monkeypatch.setattr(run, "engine_record", lambda *facts: given.append(facts) or measured)
    supervisor = begun()
    found.acts = [all_done(supervisor)]
    assert await through(supervisor) == 0
    assert left(supervisor).engine_record == measured
    ((state, prompt_bytes),) = given
    assert (state.completed, prompt_bytes) == (3, len("prompt 0"))


def test_no_more_than_the_newest_runs_are_read(ran, tmp_path, monkeypatch):
    for number in range(5):
        ran(f"run-{number}", "static", 100.0)
        os.utime(run_directory.runs_directory() / f"run-{number}" / "run.json", (number, number))
    read = []
    real = run_directory.read_run_file
    monkeypatch.setattr(run_directory, "read_run_file", lambda path: read.append(path.name) or real(path))
    monkeypatch.setattr(engine_choice, "MOST_RUNS", 3)
    job = real(run_directory.runs_directory() / "run-0")
    assert engine_choice.hint(job, PromptIndex(tmp_path / "prompts.jsonl")) == EngineHint()
    assert read == ["run-4", "run-3", "run-2"]


# --- with stand-in ranks --------------------------------------------------------------------------


@pytest.fixture
def faster(ran, monkeypatch):
    """Earlier runs of the stand-ins' job say that this engine is the faster one."""
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.03")

    def go(engine: str, names: tuple[str, str], at: float = 1.0) -> None:
        for name, measured in zip(names, ("static", "continuous"), strict=True):
            ran(name, measured, 200.0 if measured == engine else 100.0, at, 17.0, settings={"batch_size": 4})

    return go


def engines(seen: list) -> set[str]:
    return {message.engine for message in seen if isinstance(message, protocol.RankReady)}


async def stopped(started) -> list:
    """What was seen of a run until it was stopped after its first answers."""

    async def stop(message, source):
        if isinstance(message, protocol.Output) and message.record.index == 0:
            await source.send(protocol.Stop(now=True))

    _, seen = await watch(started, when=stop)
    started.process.wait(20)
    assert run_directory.read_run_file(started.directory).status == "stopped"
    return seen


async def test_ranks_take_the_engine_they_are_told_and_launched_again_the_same(launch, faster):
    faster("continuous", ("one", "[bold]other"))
    started = launch(PROMPTS)
    killed: list[int] = []

    async def kill(message, _):
        if isinstance(message, protocol.Output) and not killed:
            killed.extend(rank_pids(started.directory)[:1])
            os.kill(killed[0], signal.SIGKILL)

    state, seen = await watch(started, when=kill)
    assert started.process.wait(20) == 0
    assert (state.attempt, engines(seen)) == (2, {"continuous"})
    hint = run_directory.read_run_file(started.directory).engine_hint
    assert hint.why.endswith("with this model ([bold]other: 200, one: 100 tok/s a rank)")


async def test_a_run_that_is_taken_up_again_goes_on_with_its_engine_whatever_was_measured_since(launch, faster):
    faster("continuous", ("a", "b"))
    started = launch(PROMPTS)
    assert engines(await stopped(started)) == {"continuous"}
    faster("static", ("c", "d"), at=2.0)
    again = start.resume(started.directory, {})
    _, seen = await watch(again)
    assert again.process.wait(20) == 0
    assert engines(seen) == {"continuous"}


async def test_a_run_with_answers_does_not_change_its_engine_where_nothing_says_why_it_had_it(launch, faster):
    started = launch(PROMPTS)
    assert engines(await stopped(started)) == {"static"}
    run_file = run_directory.read_run_file(started.directory)
    assert run_file.engine_hint == EngineHint()
    run_directory.write_run_file(started.directory, msgspec.structs.replace(run_file, engine_hint=None))
    faster("continuous", ("one", "other"))
    again = start.resume(started.directory, {})
    _, seen = await watch(again)
    assert again.process.wait(20) == 0
    assert engines(seen) == {"static"}
