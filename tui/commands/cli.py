"""The `rankdeck` command.

Knows the command line: options, exit status, what goes to stdout (the product) and to stderr (everything else). Knows
neither what a run does nor how it looks; Textual is imported only if a screen is shown.
"""

import sys
from typing import Annotated, Any

import msgspec
import typer

import rankdeck
from rankdeck.runner import checks, run_directory, start
from rankdeck.runner.protocol import config as settings
from rankdeck.tui.commands.common import (
    Settings,
    default_ranks,
    ended_as_interrupted,
    find_run,
    given,
    launch,
    no_screen,
    preferred,
    read_run,
    view_problems,
)
from rankdeck.tui.commands.doctor import doctor
from rankdeck.tui.commands.options import (
    Ascii,
    BatchSize,
    ConfigFile,
    Device,
    Dispatch,
    Dtype,
    Engine,
    Force,
    GenerationOptions,
    GpuMemoryShare,
    GpusPerRank,
    IgnoreMemory,
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
    RunDirectory,
    Theme,
    Tour,
    TrustRemoteCode,
    ViewOptions,
    grouped,
)
from rankdeck.tui.commands.parsing import Command, GatheringCommand, Group, mistakes, refuse
from rankdeck.tui.commands.plan import plan_command
from rankdeck.tui.commands.replay import replay
from rankdeck.tui.commands.report import report
from rankdeck.tui.commands.serve import serve
from rankdeck.tui.commands.sweep import sweep
from rankdeck.tui.session import watch
from rankdeck.tui.sources.runs import demo_prompts
from rankdeck.tui.terminal.inert import OutputError, guard_streams, say, say_json, tell

EXIT_DIED = 3

DEMO_BATCH_SIZE = 2
DEMO_PROMPTS, DEMO_PROMPTS_A_RANK = 480, 240
"""The demo starts small and has many rounds: a job to tune, of about two minutes on two CPU cores."""

app = typer.Typer(
    name="rankdeck",
    cls=Group,
    help="A flight deck for LLM batch inference on several GPUs.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line."""
    guard_streams()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here what cannot be written is said; Python itself would only end with status 120
    except OutputError as error:
        tell(f"rankdeck: {error}")
        raise SystemExit(EXIT_DIED) from None
    except run_directory.RunFileError as error:
        # Whatever is in a run directory, it is no reason for a traceback.
        raise SystemExit(refuse(str(error)).exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # it came before any command could see to it
    except BrokenPipeError:
        # The reader of our lines has closed the pipe. The run, if there is one, goes on.
        sys.stderr.close()
        raise SystemExit(0) from None


def _version(wanted: bool) -> None:
    if wanted:
        say(f"rankdeck {rankdeck.__version__}")
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
    view = ViewOptions(theme=theme, ascii=ascii)
    if context.invoked_subcommand is not None:
        before = [f"--theme {theme}"] if theme is not None else []
        before += ["--ascii" if ascii else "--no-ascii"] if ascii is not None else []
        if before:
            raise refuse(*view_problems(view), _belongs_behind(context, context.invoked_subcommand, before))
        return
    problems = view_problems(view)
    if no_screen():
        problems.append("the start screen needs a terminal that it can draw on; see `rankdeck run --help`")
    if problems:
        raise refuse(*problems)
    raise typer.Exit(watch.start_screen(preferred(view)))


def _belongs_behind(context: typer.Context, name: str, flags: list[str]) -> str:
    """Where flags of the start screen that were typed before a command's name belong, if anywhere."""
    commands: dict[str, Any] = getattr(context.command, "commands", {})

    def takes(command: str, flag: str) -> bool:
        options = commands[command].params if command in commands else ()
        return any(flag.partition(" ")[0] in (*param.opts, *param.secondary_opts) for param in options)

    if all(takes(name, flag) for flag in flags):
        return f"options go after the command: rankdeck {name} {' '.join(flags)}"
    drawn = ", ".join(command for command in commands if all(takes(command, flag) for flag in flags))
    return f"{' '.join(flags)}: not for `rankdeck {name}`, only for the start screen and {drawn}"


@app.command(cls=GatheringCommand)
@grouped
def run(
    *,
    context: typer.Context,
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
    seed: Annotated[
        int | None,
        typer.Option(
            help="With --do-sample: the same seed gives a prompt the same answer, whatever the batch size, order and "
            "ranks (static engine, float32). Chosen at random if left out."
        ),
    ] = None,
    ignore_eos: Annotated[
        bool | None, typer.Option("--ignore-eos", help="Fixed length: end-of-sequence is ignored; for measuring.")
    ] = None,
    work: PromptOptions,
    output: Annotated[str | None, typer.Option(help="Where a copy of outputs.jsonl goes when the run ends.")] = None,
    force: Force = False,
    ignore_memory: IgnoreMemory = False,
    run_dir: RunDirectory = None,
    name: Annotated[str | None, typer.Option(help="The run's name.")] = None,
    compare: Annotated[str | None, typer.Option(help="Another run to set it beside at the end.")] = None,
    config: ConfigFile = None,
    tour: Tour = False,
    view: ViewOptions,
) -> None:
    """Answer every prompt of a file, and watch it happen."""
    asked = Settings(locals(), config)
    wrong = mistakes(context)
    launch(asked, view, wrong, run_dir=run_dir, force=force, ignore_memory=ignore_memory, compare=compare, tour=tour)


@app.command(cls=GatheringCommand)
@grouped
def demo(
    *,
    context: typer.Context,
    ranks: Ranks = None,
    batch_size: Annotated[str, typer.Option(help="Prompts per batch and rank, or auto.")] = str(DEMO_BATCH_SIZE),
    max_new_tokens: Annotated[int, typer.Option(help="Output tokens per prompt at most.")] = 50,
    limit: Annotated[
        int | None, typer.Option(help="Only the first so many prompts.  [default: 240 per rank, at least 480]")
    ] = None,
    tour: Tour = False,
    view: ViewOptions,
) -> None:
    """A few minutes of prompts on the embedded model, in small batches at first, on any machine."""
    ranks = checks.default_ranks() if ranks is None else ranks
    limit = max(DEMO_PROMPTS, DEMO_PROMPTS_A_RANK * ranks) if limit is None else limit
    asked = Settings({"prompts": str(demo_prompts()), "model": "demo", **locals()})
    launch(asked, view, mistakes(context), tour=tour)


@app.command(cls=Command)
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
    if problems := view_problems(view):
        raise refuse(*problems)
    preferences = preferred(view)
    directory = find_run(run)
    if not run_directory.supervisor_comes(directory):
        state = read_run(directory)
        if state.status == "running":
            typed = run or directory  # a copy has the name of its original
            raise refuse(f"{typed} has lost its supervisor; `rankdeck resume {typed}` goes on with it")
        raise refuse(
            f"{state.name} has ended ({state.status}); its outputs are {directory / run_directory.OUTPUTS_FILE}"
        )
    raise typer.Exit(watch.watch(directory, json=view.json, preferences=preferences, steerable=not watch_only))


@app.command(cls=Command)
def stop(
    run: Run,
    now: Annotated[bool, typer.Option("--now", help="Abandon the batches in flight.")] = False,
) -> None:
    """Stop a live run after the batches in flight, and wait until it has.

    Of one whose supervisor was killed, end the ranks that are still there.
    """
    directory = find_run(run)
    if not run_directory.supervisor_comes(directory):
        try:
            left = start.end_left_over(directory)
        except run_directory.RunFileError as error:
            raise refuse(str(error)) from None
        if left is not None:
            say(f"{directory.name} is not live; {left}")
            return
        raise refuse(f"{directory.name} is not live; there is nothing to stop")
    raise typer.Exit(watch.stop(directory, now=now))


@app.command(cls=GatheringCommand)
@grouped
def resume(
    *,
    context: typer.Context,
    run: Run,
    ranks: Ranks = None,
    batch_size: BatchSize = None,
    engine: Engine = None,
    device: Device = None,
    dtype: Dtype = None,
    order: Order = None,
    ranks_per_gpu: RanksPerGpu = None,
    gpus_per_rank: GpusPerRank = None,
    gpu_memory_share: GpuMemoryShare = None,
    quantization: Quantization = None,
    max_restarts: Restarts = None,
    patience: Patience = None,
    trust_remote_code: TrustRemoteCode = None,
    ignore_memory: IgnoreMemory = False,
    view: ViewOptions,
) -> None:
    """Go on with a run that was stopped, failed or lost its supervisor: exactly the prompts that have no record yet."""
    wrong = [*mistakes(context), *view_problems(view)]
    directory = find_run(run, wrong)
    changes = given({**locals(), "run": None})
    config, unread = settings.read({**msgspec.to_builtins(read_run(directory).config), **changes})
    if ranks is None and (ranks_per_gpu is not None or gpus_per_rank is not None):
        config = msgspec.structs.replace(config, ranks=default_ranks(config))
    if wrong := [*wrong, *map(str, unread)]:
        known = {problem.setting for problem in unread}
        raise refuse(*wrong, *(str(problem) for problem in settings.check(config) if problem.setting not in known))
    preferences = preferred(view)
    try:
        started = start.resume(
            directory,
            msgspec.structs.asdict(config),
            ignore_memory=ignore_memory,
            trust_remote_code=bool(trust_remote_code),
        )
    except start.InputError as error:
        raise refuse(*map(str, error.problems)) from None
    except run_directory.RunFileError as error:
        raise refuse(str(error)) from None
    if started.doubt is not None:
        tell(f"rankdeck: warning: {started.doubt}")
    raise typer.Exit(watch.watch(started.directory, started.died, json=view.json, preferences=preferences))


@app.command(cls=GatheringCommand)
def hello(context: typer.Context, ranks: Ranks = None, device: Device = None) -> None:
    """Every rank greets; the gathered greetings are printed. The quickest check that a machine works."""
    import asyncio

    asked = Settings(locals())
    config, unread = settings.read(asked.values)
    if ranks is None:
        config = msgspec.structs.replace(config, ranks=default_ranks(config))
    if wrong := [*mistakes(context), *map(str, unread), *map(str, settings.check(config))]:
        raise refuse(*wrong)
    if (uncounted := checks.uncounted_gpus(config.device)) is not None:
        tell(f"rankdeck: warning: {uncounted}")
    try:
        with ended_as_interrupted():  # its ranks end with it
            greetings = asyncio.run(start.hello(config.ranks, config.device))
    except start.InputError as error:
        raise refuse(*map(str, error.problems)) from None
    except start.HelloError as error:
        tell(f"rankdeck: the ranks could not greet: {error}")
        raise typer.Exit(EXIT_DIED) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    for greeting in greetings:
        say(greeting)


app.command(cls=GatheringCommand)(sweep)
app.command("plan", cls=GatheringCommand)(plan_command)
app.command(cls=Command)(report)
app.command(cls=GatheringCommand)(replay)
app.command(cls=Command)(doctor)
app.command(cls=GatheringCommand)(serve)


@app.command("list", cls=Command)
def list_runs(
    json: Annotated[bool, typer.Option("--json", help="A JSON object a line.")] = False,
) -> None:
    """The runs in the usual place, newest first."""
    from rankdeck.tui.sources import runs

    write = say_json if json else say
    for line in runs.json_lines() if json else runs.table_lines():
        write(line)
