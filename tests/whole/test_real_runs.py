"""The main job for real: the `rankdeck` command, accelerate's ranks, the demo model, real files."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rankdeck.runner import protocol, run_directory, start
from rankdeck.runner.inputs import models
from rankdeck.runner.protocol.config import EngineName, RunConfig
from tests import ROOT, checkpoints
from tests.chaos.flight import Flight
from tests.chaos.verdict import judge

pytestmark = pytest.mark.slow

NEW_TOKENS = 12
STORIES = (ROOT / "sample_prompts" / "stories.txt").read_text().splitlines()[:9]
RANKDECK = Path(sys.executable).with_name("rankdeck")


@pytest.fixture(scope="session")
def demo_model() -> str:
    """The demo model's folder; fetched and converted if this machine does not have it yet."""
    return models.resolve("demo", lambda *_: None).path_or_id


@pytest.fixture(scope="session")
def alone(demo_model: str) -> list[dict]:
    """Each prompt's answer from plain transformers, unbatched."""
    asked = {"model": demo_model, "max_new_tokens": NEW_TOKENS, "prompts": STORIES}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "real.py")],
        input=json.dumps(asked), capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    return json.loads(done.stdout)


def rankdeck(*arguments: str, timeout: float = 300) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(RANKDECK), *arguments], capture_output=True, text=True, timeout=timeout)


def run(tmp_path: Path, prompts: list[str], *arguments: str) -> list[dict]:
    """A whole run through the command line; returns the records of its output file."""
    source, output = tmp_path / "p.txt", tmp_path / "out.jsonl"
    source.write_text("".join(f"{prompt}\n" for prompt in prompts))
    done = rankdeck(
        *("run", str(source), "--model", "demo", "--device", "cpu", "--plain", "--output", str(output)),
        *("--max-new-tokens", str(NEW_TOKENS), *arguments),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in output.read_text().splitlines()]


def assert_same(records: list[dict], alone: list[dict], prompts: list[str]) -> None:
    assert [record["index"] for record in records] == list(range(len(prompts)))
    assert [record["prompt"] for record in records] == prompts
    assert [record["text"] for record in records] == [answer["text"] for answer in alone]
    assert [record["output_tokens"] for record in records] == [answer["output_tokens"] for answer in alone]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--ranks", "2", "--batch-size", "4"),
        ("--ranks", "2", "--batch-size", "4", "--dispatch", "split", "--order", "input"),
        ("--ranks", "1", "--batch-size", "1"),
        ("--ranks", "2", "--batch-size", "3", "--engine", "continuous"),
    ],
    ids=["pull", "split", "one by one", "continuous"],
)
def test_batched_answers_equal_those_of_each_prompt_alone(tmp_path, alone, arguments):
    assert_same(run(tmp_path, STORIES, *arguments), alone, STORIES)


def test_more_ranks_than_prompts(tmp_path, alone):
    assert_same(run(tmp_path, STORIES[:1], "--ranks", "3", "--dispatch", "split"), alone[:1], STORIES[:1])


def test_a_thousand_short_prompts(tmp_path, alone):
    prompts = [*STORIES, *(f"{number}." for number in range(1000 - len(STORIES)))]
    records = run(tmp_path, prompts, "--ranks", "2", "--batch-size", "128", "--order", "input")
    assert len(records) == 1000
    assert_same(records[: len(STORIES)], alone, STORIES)
    assert {record["finish_reason"] for record in records} <= {"stop", "length"}


@pytest.mark.parametrize("ranks", [1, 3])
def test_every_rank_greets(ranks):
    done = rankdeck("hello", "--ranks", str(ranks), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == ranks
    assert all(line.startswith(f"rank {rank} of {ranks} on cpu") for rank, line in enumerate(lines))


def test_a_model_that_cannot_be_loaded_ends_with_its_cause_and_status_3(tmp_path):
    folder = checkpoints.whole(tmp_path / "broken", num_attention_heads=3)  # of 4 values, as only its class sees
    (tmp_path / "p.txt").write_text("hello\n")
    done = rankdeck(
        "run", str(tmp_path / "p.txt"), "--model", str(folder), "--device", "cpu", "--ranks", "2", "--plain"
    )
    assert done.returncode == 3
    failed = next(line for line in done.stdout.splitlines() if " failed: " in line)
    assert "rank " in failed
    assert "CalledProcessError" not in failed, "the cause, not what the launcher says of it"


@pytest.fixture(scope="session")
def tiny_model(demo_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model of random weights with the demo model's tokenizer: loads fast, and answers as surely as any."""
    folder = tmp_path_factory.mktemp("tiny")
    code = (
        "import sys, torch, transformers as t; torch.manual_seed(0)\n"
        "c = t.AutoConfig.from_pretrained(sys.argv[1])\n"
        "c.hidden_size, c.intermediate_size, c.num_hidden_layers = 48, 96, 2\n"
        "c.num_attention_heads, c.num_key_value_heads, c.head_dim, c.initializer_range = 4, 2, 12, 0.5\n"
        "t.LlamaForCausalLM(c).save_pretrained(sys.argv[2])\n"
        "t.AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", code, demo_model, str(folder)], check=True, capture_output=True, timeout=120)
    return str(folder)


def test_ranks_of_vllm_answer_as_those_of_the_static_engine(tiny_model, tmp_path, monkeypatch):
    """vLLM is a stand-in with its surface here, which computes with transformers; `make test-vllm` has itself."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "standin" / "packages"))
    source = tmp_path / "p.txt"
    source.write_text("".join(f"{story}\n" for story in STORIES))
    found = []
    for engine in ("static", "vllm"):
        output = tmp_path / f"{engine}.jsonl"
        command = ["run", str(source), "--model", tiny_model, "--device", "cpu", "--engine", engine, "--plain"]
        command += ["--ranks", "2", "--batch-size", "3", "--max-new-tokens", "8", "--output", str(output)]
        done = rankdeck(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        found.append([json.loads(line) for line in output.read_text().splitlines()])
    assert "ready on cpu" in done.stdout
    assert "vllm engine" in done.stdout
    assert "padding waste n/a" in done.stdout
    apart = ("rank", "batch")
    ours, theirs = ([{name: one[name] for name in one if name not in apart} for one in records] for records in found)
    assert ours == theirs


async def test_chaos_with_accelerates_own_ranks_ends_like_an_undisturbed_run(tiny_model, tmp_path):
    prompts = [f"{story} {number}" for number in range(100) for story in STORIES[:3]]
    source = tmp_path / "p.txt"
    source.write_text("".join(f"{prompt}\n" for prompt in prompts))

    def launch(name: str, engine: EngineName = "static") -> start.Started:
        config = RunConfig(
            engine=engine,
            prompts=str(source),
            model=tiny_model,
            device="cpu",
            ranks=2,
            batch_size=2,
            max_new_tokens=48,
            max_restarts=9,
        )
        return start.launch(config, run_dir=tmp_path / name)

    calm = launch("calm")
    actions = ("kill rank", "kill supervisor", "batch size")
    engines: tuple[EngineName, ...] = ("static", "continuous", "static")
    flights = [
        Flight(
            seed,
            f"{tmp_path}/{seed}",
            lambda seed=seed, engine=engine: launch(f"seed-{seed}", engine),
            acts=2,
            calm=(10.0, 25.0),
            actions=actions,
        )
        for seed, engine in enumerate(engines)
    ]
    await asyncio.gather(*(flight.run_through(400) for flight in flights))
    left = [await flight.clear_up() for flight in flights]
    assert calm.process.wait(200) == 0
    undisturbed = [record.text for record in run_directory.read_outputs(tmp_path / "calm")]
    assert len(set(undisturbed)) > 3, "the answers tell the prompts apart"
    assert sum(action.startswith("kill") for flight in flights for action in flight.did) >= 2, "chaos came too late"
    assert not any(left), left
    for flight in flights:
        verdict = judge(flight.directory, prompts, lambda index, _: undisturbed[index])
        assert verdict, f"{verdict}; after {flight.did}"


def test_a_sweep_loads_once_measures_and_tells_the_same_in_plan_report_and_replay(tmp_path: Path) -> None:
    source, sweep = tmp_path / "p.txt", tmp_path / "sweep"
    source.write_text("".join(f"{prompt}\n" for prompt in STORIES))
    command = ["sweep", str(source), "--model", "demo", "--device", "cpu", "--plain", "--run-dir", str(sweep)]
    command += ["--batch-sizes", "1,3", "--ranks", "1,2", "--repeats", "1", "--seconds", "0", "--max-new-tokens", "8"]
    done = rankdeck(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    events = list(run_directory.read_events(sweep))
    ready = {event.rank: event for event in events if isinstance(event, protocol.RankReady)}
    assert sum(isinstance(event, protocol.RankReady) for event in events) == 2, "the model is loaded once per rank"
    assert 1e8 < (ready[0].bandwidth_bytes_per_second or 0) < 1e13
    assert 1e8 < (ready[0].matrix_flops_per_second or 0) < 1e14
    assert (ready[1].bandwidth_bytes_per_second, ready[1].matrix_flops_per_second) == (None, None)
    run = run_directory.read_run_file(sweep)
    assert run.sweep is not None
    assert run.sweep.measured == run.sweep.trials == 4
    for record in run.sweep.records:
        assert record.result is not None
        # Fixed length: every row has all its tokens, padding and warm-up are not among them.
        assert record.result.output_tokens == 8 * 2 * record.trial.active_ranks * record.trial.batch_size
        assert record.result.step_ms is not None
        assert record.result.mbu is not None
        assert 0 < record.result.mbu < 3
    assert run.sweep.bandwidth_source is not None
    assert run.sweep.bandwidth_source.startswith("measured by a copy")

    best = run.sweep.best
    assert best is not None
    assert best.tokens_per_second is not None
    said = f"{best.tokens_per_second.mean:,.1f} tok/s"
    assert said in done.stdout
    assert said in rankdeck("replay", str(sweep), "--plain").stdout
    planned = rankdeck("plan", str(sweep), "--ranks", "1-2", "--batch-sizes", "1-3", "--json")
    assert len(json.loads(planned.stdout)["rows"]) == 6
    report = rankdeck("report", str(sweep), "--output", str(tmp_path / "report"))
    assert report.returncode == 0, report.stderr
    told = json.loads((tmp_path / "report" / "report.json").read_text())
    assert told["run"]["sweep"] == json.loads((sweep / "run.json").read_text())["sweep"]
