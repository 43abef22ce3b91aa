"""vLLM itself behind a run, on a CPU, with the demo model: `make test-vllm` has it in an environment of its own.

The yardstick is the static engine in the same environment, which answers as each prompt alone is answered.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from rankdeck.runner import protocol, run_directory, start
from rankdeck.runner.inputs import models
from rankdeck.runner.protocol import OutputRecord
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.start import Started
from rankdeck.runner.state import RunState
from tests import ROOT
from tests.chaos.flight import Flight
from tests.chaos.verdict import judge
from tests.runner.supervisor.test_supervisor import watch
from tests.whole.test_nobody_listens import family, listening

pytestmark = pytest.mark.vllm

STORIES = (ROOT / "sample_prompts" / "stories.txt").read_text().splitlines()
MIXED = ROOT / "sample_prompts" / "mixed.jsonl"
NEW_TOKENS = 40
FIELDS = ("index", "id", "prompt", "text", "prompt_tokens", "output_tokens", "finish_reason", "error")


@pytest.fixture(scope="session")
def demo_model() -> str:
    """The demo model's folder; fetched and converted if this machine does not have it yet."""
    return models.resolve("demo", lambda *_: None).path_or_id


@pytest.fixture
def launch(tmp_path, demo_model):
    """Starts a run of vLLM over some prompts; its supervisor is gone when the test is."""
    begun: list[Started] = []

    def go(prompts: list[str] | Path, **settings) -> Started:
        path = prompts
        if isinstance(prompts, list):
            path = tmp_path / f"prompts-{len(begun)}.txt"
            path.write_text("".join(f"{prompt}\n" for prompt in prompts))
        values = {"engine": "vllm", "ranks": 1, "batch_size": 8, "max_new_tokens": NEW_TOKENS, "model": demo_model}
        config = RunConfig(prompts=str(path), device="cpu", dtype="float32", **{**values, **settings})
        begun.append(start.launch(config, run_dir=tmp_path / f"run-{len(begun)}"))
        return begun[-1]

    yield go
    for started in begun:
        if started.process.poll() is None:
            started.process.terminate()
        started.process.wait(60)


def answers(started: Started) -> list[dict]:
    """What a run answered, without which rank did it."""
    records: list[OutputRecord] = list(run_directory.read_outputs(started.directory))
    return [{name: getattr(record, name) for name in FIELDS} for record in records]


async def both(launch, prompts, **settings) -> tuple[list[dict], list[dict], RunState]:
    """The answers by vLLM and by the static engine, and vLLM's state at the end."""
    found, state = [], RunState()
    for engine in ("static", "vllm"):
        started = launch(prompts, engine=engine, **settings)
        state, _ = await watch(started)
        assert state.ended is not None
        assert state.ended.exit_status in (0, 1)
        found.append(answers(started))
    return found[1], found[0], state


async def test_texts_counts_and_finish_reasons_are_those_of_the_static_engine(launch):
    ours, theirs, state = await both(launch, [*STORIES[:24], STORIES[0] * 900], ranks=2, batch_size=5)
    assert ours == theirs
    assert {one["finish_reason"] for one in ours} == {"stop", "length", "error"}
    assert "do not fit the model's context" in ours[-1]["error"]
    assert (state.completed, state.failed) == (24, 1)
    assert state.ended.summary.padding_waste is None
    assert [rank.ready.engine for rank in state.ranks] == ["vllm", "vllm"]
    assert all(rank.prefix_hits is not None for rank in state.ranks)


async def test_chats_of_unlike_length_and_answers_of_fixed_length_too(launch):
    ours, theirs, _ = await both(launch, MIXED, chat=True, limit=24, ignore_eos=True, batch_size=12)
    assert ours == theirs
    assert {one["output_tokens"] for one in ours} == {NEW_TOKENS}


async def test_a_sample_is_the_same_again_whatever_the_batch_size(launch):
    settings = {"do_sample": True, "temperature": 1.2, "seed": 11}
    found = []
    for batch_size in (2, 7):
        started = launch(STORIES[:10], batch_size=batch_size, **settings)
        await watch(started)
        found.append([one["text"] for one in answers(started)])
    same = sum(one == other for one, other in zip(*found, strict=True))
    assert same >= 9, "products round otherwise with other rows beside them, which may tip a draw"


async def test_a_turn_of_the_batch_size_and_a_pause_act_within_a_step(launch):
    started = launch([f"{story} {number}" for number in range(9) for story in STORIES[:20]], batch_size=12)
    turned_at, few_at, paused, resumed = 0, 0, [], []
    at = "begins"

    async def turn(message, source) -> None:
        nonlocal at, turned_at, few_at
        if not isinstance(message, protocol.Tick) or not message.steps:
            return
        steps = message.steps[0]
        if at == "begins" and steps.rows == 12 and steps.step > 5:
            at, turned_at = "turned", steps.step
            await source.send(protocol.SetBatchSize(batch_size=3))
        elif at == "turned" and steps.rows == 3:
            at, few_at = "paused", steps.step
            await source.send(protocol.Pause())
        elif at == "paused":
            paused.append(steps.step)
            if (len(paused) >= 5 and len(set(paused[-5:])) == 1) or len(paused) > 60:
                at = "resumed"
                await source.send(protocol.SetBatchSize(batch_size=20))
                await source.send(protocol.Resume())
        elif at == "resumed":
            resumed.append(steps.rows)

    state, _ = await watch(started, when=turn)
    assert state.ended is not None
    assert state.ended.status == "completed"
    assert turned_at < few_at < turned_at + NEW_TOKENS, "not as rows end, which takes as many steps"
    assert len(set(paused[-5:])) == 1, "more than a second without a step"
    assert max(resumed) == 20
    records = answers(started)
    assert [one["index"] for one in records] == list(range(180))
    # Rows that were kept back went on where they were.
    calm = launch([f"{story} {number}" for number in range(9) for story in STORIES[:20]], batch_size=12)
    await watch(calm)
    assert records == answers(calm)


async def test_stopping_now_ends_at_once_and_the_run_is_taken_up_where_it_was(launch):
    prompts = [f"{story} {number}" for number in range(4) for story in STORIES[:20]]
    started = launch(prompts, batch_size=6)

    asked: list[str] = []

    async def stop(message, source) -> None:
        if isinstance(message, protocol.Output) and not asked:
            asked.append("now")
            await source.send(protocol.Stop(now=True))

    state, _ = await watch(started, when=stop)
    assert state.ended is not None
    assert state.ended.status == "stopped"
    started.process.wait(30)
    had = {one["index"]: one for one in answers(started)}
    assert 0 < len(had) < len(prompts)
    again = start.resume(started.directory, {})
    state, _ = await watch(again)
    assert again.process.wait(30) == 0
    records = answers(again)
    assert [one["index"] for one in records] == list(range(len(prompts)))
    assert all(records[index] == one for index, one in had.items())


async def test_after_kill_9_of_a_rank_nothing_is_lost_and_nothing_doubled(launch):
    prompts = [f"{story} {number}" for number in range(4) for story in STORIES[:20]]
    started = launch(prompts, ranks=2, batch_size=4)
    killed: list[int] = []

    async def kill(message, source) -> None:
        if isinstance(message, protocol.Output) and not killed:
            ranks = [one for one in family(started) if "rankdeck.runner.rank.worker" in one.cmdline()]
            killed.append(ranks[-1].pid)
            os.kill(ranks[-1].pid, signal.SIGKILL)

    state, _ = await watch(started, when=kill)
    assert killed
    assert state.ended is not None
    assert (state.ended.status, state.attempt) == ("completed", 2)
    calm = launch(prompts, ranks=1, batch_size=8)
    await watch(calm)
    assert answers(started) == answers(calm)
    socket = run_directory.socket_path(started.directory)
    assert list(socket.parent.glob(f"{socket.stem}*")) == [], "no folder of a rank is left behind"


async def test_a_checkpoint_quantised_to_eight_bits_goes_through(launch, demo_model, tmp_path):
    """Weights and activations in int8, as compressed-tensors stores them; made here from the demo model's weights."""
    folder = tmp_path / "w8a8"
    shutil.copytree(demo_model, folder)
    tensors = {}
    for name, tensor in load_file(f"{demo_model}/model.safetensors").items():
        if name.endswith("_proj.weight"):
            scale = (tensor.abs().amax(1, keepdim=True) / 127).clamp_min(1e-8)
            tensors[name] = (tensor / scale).round().clamp(-127, 127).to(torch.int8)
            tensors[f"{name}_scale"] = scale
        else:
            tensors[name] = tensor
    save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})
    eight_bits = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**eight_bits, "strategy": "channel", "dynamic": False},
        "input_activations": {**eight_bits, "strategy": "token", "dynamic": True},
    }
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": group}, "ignore": ["lm_head"],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    started = launch(STORIES[:10], model=str(folder))
    state, _ = await watch(started)
    assert state.ended is not None
    assert (state.ended.exit_status, state.completed) == (0, 10)
    ready = state.ranks[0].ready
    assert ready is not None
    assert ready.dtype == "float32 compressed-tensors"
    assert ready.parameter_bytes == (folder / "model.safetensors").stat().st_size
    texts = [one["text"] for one in answers(started)]
    assert len(set(texts)) == 10
    plain = launch(STORIES[:10])
    await watch(plain)
    same = sum(one[:8] == other["text"][:8] for one, other in zip(texts, answers(plain), strict=True))
    assert same >= 5, "it is the same model, rounded"


async def test_a_sweep_measures_its_settings_and_says_nothing_of_padding(launch):
    plan = SweepPlan(batch_sizes=[2, 8], ranks=[1], repeats=1, least_seconds=0, trial_tokens=8)
    started = launch(STORIES[:40], batch_size=2, max_new_tokens=16, sweep=plan, ignore_eos=True)
    state, _ = await watch(started)
    assert state.sweep is not None
    results = [record.result for record in state.sweep.records]
    assert len(results) == 2
    assert all(result is not None and result.tokens_per_second > 0 for result in results)
    assert {result.padding_waste for result in results if result is not None} == {None}
    assert all(result.step_ms is not None for result in results if result is not None)


async def test_ranks_listen_on_the_loopback_alone_and_say_nothing_to_anybody(launch):
    found: list[tuple[str, str]] = []
    started = launch(STORIES[:8], ranks=2)

    async def look(message, source) -> None:
        if isinstance(message, protocol.RanksReady):
            found.extend(listening(family(started)))

    await watch(started, when=look)
    assert found
    assert {address for address, _ in found} == {"127.0.0.1"}


def test_a_model_spread_over_three_workers_answers_the_same(demo_model, tmp_path):
    """Tensor parallel: the demo model's 9 heads in three processes; a run has them with --gpus-per-rank."""
    code = f"""
import json, sys
from pathlib import Path
if __name__ == "__main__":
    import torch
    from rankdeck.runner.engine.vllm.engine import VllmEngine
    from rankdeck.runner.engine.vllm.outline import outline
    from rankdeck.runner.protocol import Prompt
    from rankdeck.runner.protocol.config import RunConfig
    found = []
    for workers in (1, 3):
        config = RunConfig(prompts="p", engine="vllm", device="cpu", gpus_per_rank=workers, max_new_tokens=12)
        folder = {demo_model!r}
        loaded = outline(config, folder, torch.device("cpu"))
        engine = VllmEngine(loaded, config, folder, Path({str(tmp_path)!r}) / str(workers), lambda phase: None)
        engine.warm_up()
        asked = [Prompt(index=at, id=str(at), text=text) for at, text in enumerate({STORIES[:4]!r})]
        found.append([record.text for record in engine.generate(asked).records])
        engine.leave()
    print(json.dumps(found))
"""
    from rankdeck.runner.launching.environment import rank_environment

    script = tmp_path / "spread.py"
    script.write_text(code)
    environment = rank_environment(os.environ, 1, True, 2, expandable_segments=False, engine="vllm")
    environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=600, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, three = json.loads(done.stdout.splitlines()[-1])
    assert one == three
    assert all(one)
    assert not [process for process in psutil.process_iter() if "VLLM::Worker" in process.name()]


async def test_chaos_ends_like_an_undisturbed_run(launch, tmp_path):
    prompts = [f"{story} {number}" for number in range(60) for story in STORIES[:3]]
    settings = {"ranks": 2, "batch_size": 4, "max_restarts": 9}
    calm = launch(prompts, **settings)
    await watch(calm)
    undisturbed = [one["text"] for one in answers(calm)]
    assert len(set(undisturbed)) > 3, "the answers tell the prompts apart"
    actions = ("kill rank", "kill supervisor", "batch size", "pause")
    flight = Flight(
        2, f"{tmp_path}/chaos", lambda: launch(prompts, **settings), acts=4, calm=(6.0, 14.0), actions=actions
    )
    await flight.run_through(900)
    left = await flight.clear_up()
    assert any(action.startswith("kill") for action in flight.did), flight.did
    assert not left
    verdict = judge(flight.directory, prompts, lambda index, _: undisturbed[index])
    assert verdict, f"{verdict}; after {flight.did}"
