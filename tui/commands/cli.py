"""The `rankdeck` command.

Knows the command line: options, exit status, what goes to stdout (the product) and to stderr (everything else). Knows
neither what a run does nor how it looks; Textual is imported only if a screen is shown.
"""

import io
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

import rankdeck
from rankdeck.runner import run_directory, start
from rankdeck.runner.protocol import config as settings
from rankdeck.tui.commands.common import (
    default_ranks,
    find_run,
    given,
    launch,
    no_screen,
    one_view,
    preferred,
    read_config,
    refuse,
)
from rankdeck.tui.commands.doctor import doctor
from rankdeck.tui.commands.options import (
    Ascii,
    BatchSize,
    Device,
    Dispatch,
    Dtype,
    Engine,
    Force,
    GenerationOptions,
    GpusPerRank,
    IgnoreMemory,
    Limit,
    Model,
    NewTokens,
    Order,
    Patience,
    PromptOptions,
    Prompts,
    Quantization,
    Ranks,
    RanksPerGpu,
    Restarts,
    Run,
    Theme,
    ViewOptions,
    grouped,
)
from rankdeck.tui.commands.plan import plan_command
from rankdeck.tui.commands.replay import replay
from rankdeck.tui.commands.report import report
from rankdeck.tui.commands.serve import serve
from rankdeck.tui.commands.sweep import sweep
from rankdeck.tui.session import watch
from rankdeck.tui.sources.runs import sample_prompts

EXIT_DIED = 3

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
            # A character that the terminal cannot show is written as its code instead of ending the view.
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except run_directory.RunFileError as error:
        # Whatever is in a run directory, it is no reason for a traceback.
        raise SystemExit(refuse(str(error)).exit_code) from None
    except BrokenPipeError:
        # The reader of our lines has closed the pipe. The run, if there is one, goes on.
        sys.stderr.close()
        raise SystemExit(0) from None


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rankdeck {rankdeck.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _rankdeck(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
    theme: Theme = None,
    ascii: Ascii = None,
) -> None:
    if context.invoked_subcommand is not None:
        if theme is not None or ascii is not None:
            raise refuse(f"--theme and --ascii go behind the command: rankdeck {context.invoked_subcommand} --ascii")
    else:
        if no_screen():
            raise refuse("the start screen needs a terminal that it can draw on; see `rankdeck run --help`")
        raise typer.Exit(watch.start_screen(preferred(ViewOptions(theme=theme, ascii=ascii))))


@app.command()
@grouped
def run(
    *,
    prompts: Prompts = None,
    model: Model = None,
    ranks: Ranks = None,
    batch_size: BatchSize = None,
    max_new_tokens: NewTokens = None,
    dispatch: Dispatch = None,
    generation: GenerationOptions,
    do_sample: Annotated[bool | None, typer.Option("--do-sample", help="Sample instead of greedy decoding.")] = None,
    temperature: Annotated[float | None, typer.Option(help="With --do-sample.")] = None,
    top_p: Annotated[float | None, typer.Option(help="With --do-sample.")] = None,
    top_k: Annotated[int | None, typer.Option(help="With --do-sample.")] = None,
    seed: Annotated[int | None, typer.Option(help="For sampling; each rank derives its own.")] = None,
    ignore_eos: Annotated[
        bool | None, typer.Option("--ignore-eos", help="Fixed length: end-of-sequence is ignored; for measuring.")
    ] = None,
    work: PromptOptions,
    output: Annotated[str | None, typer.Option(help="Where a copy of outputs.jsonl goes when the run ends.")] = None,
    force: Force = False,
    ignore_memory: IgnoreMemory = False,
    run_dir: Annotated[
        Path | None, typer.Option(help="The run's directory.  [default: a new one among your runs]")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The run's name.")] = None,
    compare: Annotated[str | None, typer.Option(help="Another run to set it beside at the end.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file of these settings; flags win.")] = None,
    view: ViewOptions,
) -> None:
    """Answer every prompt of a file, and watch it happen."""
    values = {**read_config(config), **given(locals())}
    if "prompts" not in values:
        raise refuse("name a file of prompts: rankdeck run PROMPTS")
    launch(values, view, run_dir=run_dir, force=force, ignore_memory=ignore_memory, compare=compare)


@app.command()
@grouped
def demo(
    *,
    ranks: Ranks = None,
    batch_size: BatchSize = None,
    max_new_tokens: Annotated[int, typer.Option(help="Output tokens per prompt at most.")] = 50,
    limit: Limit = None,
    view: ViewOptions,
) -> None:
    """The sample prompts on the embedded model: the whole way, on any machine."""
    values = {"prompts": str(sample_prompts()), "model": "demo", **given(locals())}
    launch(values, view)


@app.command()
@grouped
def attach(
    *,
    run: Annotated[
        str | None, typer.Argument(help="A run's name, or its directory.  [default: the newest live run]")
    ] = None,
    watch_only: Annotated[
        bool, typer.Option("--watch-only", help="The dashboard without the keys that steer or stop the run.")
    ] = False,
    view: ViewOptions,
) -> None:
    """Watch a live run, from its beginning on; leaving does not stop it."""
    one_view(view)
    preferences = preferred(view)
    directory = find_run(run)
    if not run_directory.supervisor_comes(directory):
        state = run_directory.read_run_file(directory)
        if state.status == "running":
            raise refuse(f"{state.name} has lost its supervisor; `rankdeck resume {state.name}` goes on with it")
        raise refuse(
            f"{state.name} has ended ({state.status}); its outputs are {directory / run_directory.OUTPUTS_FILE}"
        )
    raise typer.Exit(watch.watch(directory, json=view.json, preferences=preferences, steerable=not watch_only))


@app.command()
def stop(
    run: Run,
    now: Annotated[bool, typer.Option("--now", help="Abandon the batches in flight.")] = False,
) -> None:
    """Stop a live run after the batches in flight, and wait until it has."""
    directory = find_run(run)
    if not run_directory.supervisor_comes(directory):
        raise refuse(f"{directory.name} is not live; there is nothing to stop")
    raise typer.Exit(watch.stop(directory, now=now))


@app.command()
@grouped
def resume(
    *,
    run: Run,
    ranks: Ranks = None,
    batch_size: BatchSize = None,
    engine: Engine = None,
    device: Device = None,
    dtype: Dtype = None,
    order: Order = None,
    ranks_per_gpu: RanksPerGpu = None,
    gpus_per_rank: GpusPerRank = None,
    quantization: Quantization = None,
    max_restarts: Restarts = None,
    patience: Patience = None,
    view: ViewOptions,
) -> None:
    """Go on with a run that was stopped, failed or lost its supervisor: exactly the prompts that have no record yet."""
    one_view(view)
    preferences = preferred(view)
    directory = find_run(run)
    try:
        before = msgspec.to_builtins(run_directory.read_run_file(directory).config)
        changes = given({**locals(), "run": None})
        if ranks is None and (ranks_per_gpu is not None or gpus_per_rank is not None):
            changes["ranks"] = default_ranks({**before, **changes})
        config = settings.from_mapping({**before, **changes})
        started = start.resume(directory, msgspec.structs.asdict(config))
    except (ValueError, run_directory.RunFileError, start.InputError) as error:
        raise refuse(str(error)) from None
    raise typer.Exit(watch.watch(started.directory, started.died, json=view.json, preferences=preferences))


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

    # However this process is ended, its ranks end too, as with Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    if device not in ("auto", "cuda", "cpu"):
        raise refuse(f"--device: must be one of auto, cuda, cpu, not {device!r}")
    if (uncounted := start.uncounted_gpus(device)) is not None:
        typer.echo(f"rankdeck: warning: {uncounted}", err=True)
    try:
        greetings = asyncio.run(start.hello(start.default_ranks(device) if ranks is None else ranks, device))
    except start.InputError as error:
        raise refuse(str(error)) from None
    except start.HelloError as error:
        typer.echo(f"rankdeck: the ranks could not greet: {error}", err=True)
        raise typer.Exit(EXIT_DIED) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    for greeting in greetings:
        typer.echo(greeting)


app.command()(sweep)
app.command("plan")(plan_command)
app.command()(report)
app.command()(replay)
app.command()(doctor)
app.command()(serve)


@app.command("list")
def list_runs(
    json: Annotated[bool, typer.Option("--json", help="A JSON object a line.")] = False,
) -> None:
    """The runs in the usual place, newest first."""
    from rankdeck.tui.sources import runs

    for line in runs.json_lines() if json else runs.table_lines():
        typer.echo(line)
