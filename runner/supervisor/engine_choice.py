"""What `--engine auto` goes by: earlier runs are read from the usual place, and compared with the run to come.

Reads run.json of the newest runs, nothing else of them; what cannot be read does not count. Which runs are alike, and
which engine was faster in them, is `runner.forecast.engine_record`'s business.
"""

from collections.abc import Iterator

import msgspec

from rankdeck.runner import run_directory
from rankdeck.runner.forecast.engine_record import Earlier, Job, conditions, faster
from rankdeck.runner.inputs.frozen_prompts import PromptIndex
from rankdeck.runner.machine import vllm_here
from rankdeck.runner.protocol import config as settings
from rankdeck.runner.protocol.config import ENGINES, RunConfig
from rankdeck.runner.protocol.engines import EngineHint
from rankdeck.runner.run_directory.run_file import RunFile, RunFileError

MOST_RUNS = 400
"""Runs that are looked at. A run.json has some kilobytes: that many take three hundredths of a second."""


def hint(run: RunFile, prompts: PromptIndex) -> EngineHint:
    """What earlier runs say of the engine for `run`, whose model's fingerprints are known; perhaps nothing. Blocks.

    Nothing for a sweep: its trials have closed batches, which earlier runs did not.
    """
    if run.config.sweep is not None:
        return EngineHint()
    job = _job(run, mean_bytes(prompts))
    return (faster(job, list(_earlier()), engines_for(run.config)) if job is not None else None) or EngineHint()


def engines_for(config: RunConfig) -> frozenset[str]:
    """The engines that `auto` may take for a run with these settings: vLLM on GPUs, if it is installed and has them."""
    return ENGINES if why_no_vllm(config) is None else ENGINES - {"vllm"}


def why_no_vllm(config: RunConfig) -> str | None:
    """Why `auto` cannot have ranks of vLLM for a run with these settings here; None if it can."""
    if config.device != "cuda":
        return "auto takes it on GPUs only"
    by_vllm = msgspec.structs.replace(config, engine="vllm")
    problems = settings.check(by_vllm) or vllm_here.problems(by_vllm, "cuda")
    return str(problems[0]) if problems else None


def mean_bytes(prompts: PromptIndex) -> float:
    """Mean length of the prompts, in UTF-8 bytes."""
    return sum(prompts.lengths) / max(1, prompts.count)


def _earlier() -> Iterator[Earlier]:
    for path, _ in run_directory.newest_runs(MOST_RUNS):
        try:
            run = run_directory.read_run_file(path)
        except RunFileError:
            continue
        record = run.engine_record
        if record is not None and (job := _job(run, record.prompt_bytes)) is not None:
            yield Earlier(path.name, run.started_at, run.status, job, record)


def _job(run: RunFile, prompt_bytes: float) -> Job | None:
    """The run as it was known before its ranks started; None if nothing says where it ran."""
    where = run.environment
    if where is None:
        return None
    found = conditions(
        run.config,
        run.model_files,
        gpus=where.devices,
        cpu=where.cpu,
        cores=where.cores,
        versions={**where.packages, "rankdeck": where.rankdeck},
    )
    return Job(found, prompt_bytes, run.config.new_tokens, run.config.do_sample)
