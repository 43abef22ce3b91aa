"""The `rankdeck` command.

Knows the command line: options, exit status, what goes to stdout (the product) and to stderr (the
talk). What a run does, and how it looks, is elsewhere; Textual is imported only where a screen is shown.
"""

import io
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

import runner
from runner import config as settings
from runner import rundir, start
from runner.config import RunConfig
from tui import watch

EXIT_BAD_INPUT, EXIT_DIED = 2, 3

app = typer.Typer(
    name="rankdeck",
    help="A flight deck for LLM batch inference on several GPUs.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character shows its code; it does not end the view.
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except BrokenPipeError:
        # Whoever read our lines has enough of them. The run, if there is one, goes on.
        sys.stderr.close()
        raise SystemExit(0) from None


def _refuse(message: str) -> typer.Exit:
    for line in message.splitlines():
        typer.echo(f"rankdeck: {line}", err=True)
    return typer.Exit(EXIT_BAD_INPUT)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rankdeck {runner.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _rankdeck(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        if not sys.stdout.isatty():
            raise _refuse("the start screen needs a terminal; see `rankdeck run --help`")
        raise typer.Exit(watch.start_screen())


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
Engine = Annotated[str | None, typer.Option(help="auto or static.  [default: auto]")]
Restarts = Annotated[int | None, typer.Option(help="How often ranks are launched afresh after one died.  [default: 3]")]
Plain = Annotated[bool, typer.Option("--plain", help="Lines instead of the dashboard.")]
Json = Annotated[bool, typer.Option("--json", help="The event stream as JSON, an object a line.")]
Run = Annotated[str, typer.Argument(help="A run's name, or its directory.")]


@app.command()
def run(
    prompts: Annotated[
        str | None,
        typer.Argument(help="A file of prompts (.txt, .jsonl, .json, .csv, .parquet), or - for standard input."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="demo, a local folder, or a hub id.  [default: demo]")] = None,
    ranks: Ranks = None,
    batch_size: BatchSize = None,
    max_new_tokens: NewTokens = None,
    dispatch: Dispatch = None,
    order: Order = None,
    device: Device = None,
    dtype: Dtype = None,
    engine: Engine = None,
    chat: Annotated[
        bool | None, typer.Option("--chat", help="Put plain prompts through the model's chat template.")
    ] = None,
    do_sample: Annotated[bool | None, typer.Option("--do-sample", help="Sample instead of greedy decoding.")] = None,
    temperature: Annotated[float | None, typer.Option(help="With --do-sample.")] = None,
    top_p: Annotated[float | None, typer.Option(help="With --do-sample.")] = None,
    top_k: Annotated[int | None, typer.Option(help="With --do-sample.")] = None,
    seed: Annotated[int | None, typer.Option(help="For sampling; each rank derives its own.")] = None,
    ignore_eos: Annotated[
        bool | None, typer.Option("--ignore-eos", help="Fixed length: end-of-sequence is ignored; for measuring.")
    ] = None,
    max_restarts: Restarts = None,
    limit: Limit = None,
    column: Annotated[str | None, typer.Option(help="The column of a .csv or .parquet that holds the prompts.")] = None,
    output: Annotated[str | None, typer.Option(help="Where a copy of outputs.jsonl goes when the run ends.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace --output if it exists.")] = False,
    run_dir: Annotated[
        Path | None, typer.Option(help="The run's directory.  [default: a new one among your runs]")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The run's name.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file of these settings; flags win.")] = None,
    plain: Plain = False,
    json: Json = False,
) -> None:
    """Answer every prompt of a file, and watch it happen."""
    values = {**_read_config(config), **_given(locals())}
    if "prompts" not in values:
        raise _refuse("name a file of prompts: rankdeck run PROMPTS")
    _launch(values, run_dir=run_dir, force=force, plain=plain, json=json)


@app.command()
def demo(
    ranks: Ranks = None,
    batch_size: BatchSize = None,
    max_new_tokens: Annotated[int, typer.Option(help="Output tokens per prompt at most.")] = 50,
    limit: Limit = None,
    plain: Plain = False,
    json: Json = False,
) -> None:
    """The sample prompts on the embedded model: the whole way, on any machine."""
    values = {"prompts": str(_sample_prompts()), "model": "demo", **_given(locals())}
    _launch(values, run_dir=None, force=False, plain=plain, json=json)


@app.command()
def attach(
    run: Annotated[
        str | None, typer.Argument(help="A run's name, or its directory.  [default: the newest live run]")
    ] = None,
    plain: Plain = False,
    json: Json = False,
) -> None:
    """Watch a live run, from its beginning on; leaving does not stop it."""
    _one_view(plain, json)
    directory = _find(run)
    if not rundir.supervisor_alive(directory):
        state = rundir.read_run_file(directory)
        if state.status == "running":
            raise _refuse(f"{state.name} has lost its supervisor; `rankdeck resume {state.name}` goes on with it")
        raise _refuse(f"{state.name} has ended ({state.status}); its outputs are {directory / rundir.OUTPUTS_FILE}")
    raise typer.Exit(watch.watch(directory, plain=plain or not sys.stdout.isatty(), json=json))


@app.command()
def stop(
    run: Run,
    now: Annotated[bool, typer.Option("--now", help="Abandon the batches in flight.")] = False,
) -> None:
    """Stop a live run after the batches in flight, and wait until it has."""
    directory = _find(run)
    if not rundir.supervisor_alive(directory):
        raise _refuse(f"{directory.name} is not live; there is nothing to stop")
    raise typer.Exit(watch.stop(directory, now=now))


@app.command()
def resume(
    run: Run,
    ranks: Ranks = None,
    batch_size: BatchSize = None,
    engine: Engine = None,
    device: Device = None,
    dtype: Dtype = None,
    order: Order = None,
    max_restarts: Restarts = None,
    plain: Plain = False,
    json: Json = False,
) -> None:
    """Go on with a run that was stopped, failed or lost its supervisor: exactly the prompts that have no record yet."""
    _one_view(plain, json)
    directory = _find(run)
    try:
        before = msgspec.to_builtins(rundir.read_run_file(directory).config)
        config = settings.from_mapping({**before, **_given({**locals(), "run": None})})
        started = start.resume(directory, msgspec.structs.asdict(config))
    except (ValueError, rundir.RunFileError, start.InputError) as error:
        raise _refuse(str(error)) from None
    raise typer.Exit(watch.watch(started.directory, started.died, plain=plain or not sys.stdout.isatty(), json=json))


@app.command()
def hello(
    ranks: Annotated[
        int | None, typer.Option(help="World size.  [default: the GPUs seen, or min(2, cores) on a CPU]")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
) -> None:
    """Every rank greets; the gathered greetings are printed. The quickest check that a machine works."""
    import asyncio
    import signal

    # However it is ended, the ranks are ended with it: as by Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    if device not in ("auto", "cuda", "cpu"):
        raise _refuse(f"--device: must be one of auto, cuda, cpu, not {device!r}")
    try:
        greetings = asyncio.run(start.hello(start.default_ranks(device) if ranks is None else ranks, device))
    except start.InputError as error:
        raise _refuse(str(error)) from None
    except start.HelloError as error:
        typer.echo(f"rankdeck: the ranks could not greet: {error}", err=True)
        raise typer.Exit(EXIT_DIED) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    for greeting in greetings:
        typer.echo(greeting)


@app.command("list")
def list_runs(
    json: Annotated[bool, typer.Option("--json", help="A JSON object a line.")] = False,
) -> None:
    """The runs in the usual place, newest first."""
    from tui import runs

    for line in runs.json_lines() if json else runs.table_lines():
        typer.echo(line)


_SETTINGS = {field.name for field in msgspec.structs.fields(RunConfig)}


def _given(arguments: dict[str, Any]) -> dict[str, Any]:
    """The settings among a command's arguments that were given."""
    return {name: value for name, value in arguments.items() if name in _SETTINGS and value is not None}


def _find(run: str | None) -> Path:
    try:
        return rundir.newest_live_run() if run is None else rundir.find_run(run)
    except rundir.RunFileError as error:
        raise _refuse(str(error)) from None


def _one_view(plain: bool, json: bool) -> None:
    if plain and json:
        raise _refuse("--plain and --json exclude each other")


def _read_config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        settings.from_mapping({"prompts": "", **values})
    except OSError as error:
        raise _refuse(f"--config: {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError) as error:
        raise _refuse(f"--config: {path}: {error}") from None
    if "prompts" in values and values["prompts"] != "-":
        # A path in a file is relative to the file: it means the same wherever the command is given.
        values["prompts"] = str(path.absolute().parent / start.with_homes(RunConfig(prompts=values["prompts"])).prompts)
    return values


def _sample_prompts() -> Path:
    return Path(__file__).resolve().parent.parent / "sample_prompts" / "stories.txt"


def _launch(values: dict[str, Any], *, run_dir: Path | None, force: bool, plain: bool, json: bool) -> None:
    _one_view(plain, json)
    try:
        values.setdefault("ranks", start.default_ranks(values.get("device", "auto")))
        config = settings.from_mapping(values)
        started = start.launch(config, run_dir=run_dir, force=force, stdin=sys.stdin.buffer)
    except ValueError as error:
        raise _refuse(str(error)) from None
    except start.InputError as error:
        raise _refuse(str(error)) from None
    run = rundir.read_run_file(started.directory)
    for warning in start.warnings(run.config, run.prompts):
        typer.echo(f"rankdeck: warning: {warning}", err=True)
    raise typer.Exit(watch.watch(started.directory, started.died, plain=plain or not sys.stdout.isatty(), json=json))
