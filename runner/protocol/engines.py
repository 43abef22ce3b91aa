"""How fast an engine was in a run, and which engine a run was told to take: values in run.json and in orders to ranks.

Shapes only. What is measured and how runs are compared, `runner.forecast.engine_record` says.
"""

import msgspec


class EngineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a run measured of its engine: at the batch size that was fastest, with all its ranks at work.

    `tokens_per_second` are output tokens of one rank (the mean over ranks) per second of generating, in `batches` whole
    batches, or accounts of a continuous rank, of all ranks. A rank generated for `seconds` of these, on average.
    `prompt_tokens`, `prompt_bytes` (UTF-8) and `output_tokens` are means over the run's prompts.
    """

    engine: str
    batch_size: int
    tokens_per_second: float
    batches: int
    seconds: float
    prompt_tokens: float
    prompt_bytes: float
    output_tokens: float


class EngineHint(msgspec.Struct, frozen=True, kw_only=True):
    """What `--engine auto` takes in a run, decided once for all its ranks, and `why`.

    Without an `engine` no earlier runs tell, and the choice is by the kind of device. Else it had `lead` times the
    tokens/s of the engine `over`.
    """

    engine: str | None = None
    why: str = ""
    lead: float | None = None
    over: str = ""
