"""The options that several commands share, single and in groups, each declared once."""

import contextlib
import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

import typer

from rankdeck.runner.protocol.config import MAX_BATCH_SIZE
from rankdeck.tui.words.numbers import read_numbers


def from_home(path: Path | None) -> Path | None:
    """The path with `~` and `~user` expanded: after `=` the shell leaves them. An unknown user's stays as it is."""
    with contextlib.suppress(RuntimeError):
        return path.expanduser() if path is not None else None
    return path


Ranks = Annotated[int | None, typer.Option(help="World size.  [default: the GPUs seen, or min(2, cores) on a CPU]")]
BatchSize = Annotated[str | None, typer.Option(help="Prompts per batch and rank, or auto.  [default: auto]")]
NewTokens = Annotated[int | None, typer.Option(help="Output tokens per prompt at most.  [default: 100]")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many prompts.")]
Dispatch = Annotated[
    str | None, typer.Option(help="pull (ranks ask for batches) or split (each has its share).  [default: pull]")
]
Order = Annotated[str | None, typer.Option(help="length (longest first, little padding) or input.  [default: length]")]
Device = Annotated[str | None, typer.Option(help="auto, cuda or cpu.  [default: auto]")]
Dtype = Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.  [default: auto]")]
Engine = Annotated[str | None, typer.Option(help="auto, static, continuous or vllm (if installed).  [default: auto]")]
Restarts = Annotated[int | None, typer.Option(help="How often ranks are launched afresh after one died.  [default: 3]")]
Patience = Annotated[
    float | None,
    typer.Option(
        help="End a rank that makes no step for this many seconds, and do its batch again; 20 times as many while it "
        "loads and in its first batch; 0: never.  "
        "[default: set by its own pace, at least 60]"
    ),
]
RanksPerGpu = Annotated[
    int | None, typer.Option(help="Ranks that share a GPU at most.  [default: 1, or what --ranks asks for]")
]
GpusPerRank = Annotated[
    int | None, typer.Option(help="GPUs over which each rank spreads its model, one too large for one.  [default: 1]")
]
GpuMemoryShare = Annotated[
    float | None,
    typer.Option(
        help="vLLM: share of its GPU's memory that a rank reserves, above 0 to 1.  [default: 0.9, or what is free]"
    ),
]
Quantization = Annotated[
    str | None,
    typer.Option(
        help="Of weights, on loading: none, bnb-8bit or bnb-4bit (bitsandbytes), int8 (torchao).  [default: none]"
    ),
]
Plain = Annotated[bool, typer.Option("--plain", help="Lines instead of the dashboard.")]
Json = Annotated[bool, typer.Option("--json", help="The event stream as JSON, an object a line.")]
Run = Annotated[str, typer.Argument(help="A run's name, or its directory.")]
Prompts = Annotated[
    str | None,
    typer.Argument(help="A file of prompts (.txt, .jsonl, .json, .csv, .tsv, .parquet), or - for standard input."),
]
Model = Annotated[str | None, typer.Option(help="demo, a local folder, or a hub id.  [default: demo]")]
Force = Annotated[bool, typer.Option("--force", help="Replace --output if it exists.")]
RunDirectory = Annotated[
    Path | None,
    typer.Option(help="The run's directory.  [default: a new one among your runs]", callback=from_home),
]
ConfigFile = Annotated[Path | None, typer.Option(help="A TOML file of these settings; flags win.", callback=from_home)]
TrustRemoteCode = Annotated[
    bool | None,
    typer.Option("--trust-remote-code", help="Run the Python code a model brings, with all your permissions."),
]
IgnoreMemory = Annotated[
    bool, typer.Option("--ignore-memory", help="Start even if by estimate it cannot fit in memory.")
]
Tour = Annotated[
    bool,
    typer.Option(
        "--tour",
        help="Tune on autopilot: active ranks 1, 2, 4 …, then batch sizes up, on the real work, to the best setting. "
        "Starts at batch size 2 unless another is given.",
    ),
]
Theme = Annotated[
    str | None, typer.Option(help="The dashboard's colours: rankdeck-dark, rankdeck-light, ansi-dark, nord …")
]
Ascii = Annotated[
    bool | None,
    typer.Option("--ascii/--no-ascii", help="Draw with 7-bit characters.  [default: as the locale says]"),
]


class GenerationOptions(NamedTuple):
    """How the answers are generated, of a run and of a sweep alike."""

    order: Order = None
    device: Device = None
    dtype: Dtype = None
    engine: Engine = None
    decoding: Annotated[
        str | None,
        typer.Option(
            help="Static engine: auto (its own decode loop where the model allows it) or generate (transformers').  "
            "[default: auto]"
        ),
    ] = None
    attention: Annotated[
        str | None,
        typer.Option(
            help="auto (as transformers chooses; the continuous engine: flash attention where it is), sdpa, eager, "
            "flash_attention_2 or flash_attention_3.  [default: auto]"
        ),
    ] = None
    ranks_per_gpu: RanksPerGpu = None
    gpus_per_rank: GpusPerRank = None
    gpu_memory_share: GpuMemoryShare = None
    quantization: Quantization = None
    chat: Annotated[
        bool | None, typer.Option("--chat", help="Put plain prompts through the model's chat template.")
    ] = None
    trust_remote_code: TrustRemoteCode = None


class PromptOptions(NamedTuple):
    """Which prompts of a file are answered, and how often ranks may be launched."""

    max_restarts: Restarts = None
    patience: Patience = None
    limit: Limit = None
    column: Annotated[str | None, typer.Option(help="The column of a .csv or .parquet that holds the prompts.")] = None


class ViewOptions(NamedTuple):
    """How a run is shown: the two other views, or the looks of the dashboard."""

    plain: Plain = False
    json: Json = False
    theme: Theme = None
    ascii: Ascii = None


GROUPS = (GenerationOptions, PromptOptions, ViewOptions)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command with each parameter that is a group replaced by the options of the group: Typer knows no groups."""
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        group = parameter.annotation
        if group in GROUPS:
            groups[parameter.name] = group
            parameters.extend(
                inspect.Parameter(name, parameter.kind, default=group._field_defaults[name], annotation=option)
                for name, option in get_type_hints(group, include_extras=True).items()
            )
        else:
            parameters.append(parameter)
    signature = inspect.Signature(parameters)

    @wraps(command)
    def read(**options: Any) -> None:
        given = signature.bind(**options)
        given.apply_defaults()
        arguments = dict(given.arguments)
        for name, group in groups.items():
            arguments[name] = group(*(arguments.pop(option) for option in group._fields))
        command(**arguments)

    read.__signature__ = signature  # type: ignore[attr-defined]
    return read


def number_list(text: str, option: str) -> list[int]:
    """The numbers in `text`, ascending, each once.

    Raises:
        ValueError: it is not a list of numbers; the message, for people, names the option.
    """
    try:
        return read_numbers(text, most=MAX_BATCH_SIZE)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None
