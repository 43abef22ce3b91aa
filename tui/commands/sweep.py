"""`rankdeck sweep`: measures every batch size with every number of ranks, loading the model once."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.tui.commands.common import default_ranks, given, launch, read_config, refuse
from rankdeck.tui.commands.options import (
    Force,
    GenerationOptions,
    IgnoreMemory,
    Model,
    NewTokens,
    PromptOptions,
    Prompts,
    ViewOptions,
    grouped,
    number_list,
)
from rankdeck.tui.words.sweep import repeats_warning

DEFAULT_SIZES = "1,2,4,8,16,32"


@grouped
def sweep(
    *,
    prompts: Prompts = None,
    batch_sizes: Annotated[str, typer.Option(help="Batch sizes to measure, as in 1,2,4-8.")] = DEFAULT_SIZES,
    ranks: Annotated[
        str | None, typer.Option(help="Numbers of active ranks to measure, as in 1,2 or 1-8.  [default: 1, 2, 4 … all]")
    ] = None,
    repeats: Annotated[
        int, typer.Option(help="How often each setting is measured, in shuffled order; 3 at least to know the noise.")
    ] = 3,
    rounds: Annotated[int, typer.Option(help="Rounds of a trial at least.")] = 2,
    seconds: Annotated[float, typer.Option(help="Seconds of a trial at least.")] = 5.0,
    fixed_length: Annotated[
        bool | None,
        typer.Option(
            "--fixed-length/--natural",
            help="Ignore end-of-sequence, or let answers end by themselves.  [default: fixed; natural with --outputs]",
        ),
    ] = None,
    outputs: Annotated[
        bool,
        typer.Option("--outputs", help="Keep the answers, and do the prompts that are left at the chosen setting."),
    ] = False,
    trial_tokens: Annotated[
        int | None,
        typer.Option(help="Cut the answers of trials at so many tokens; a quick look.  [default: --max-new-tokens]"),
    ] = None,
    model: Model = None,
    max_new_tokens: NewTokens = None,
    generation: GenerationOptions,
    work: PromptOptions,
    output: Annotated[str | None, typer.Option(help="With --outputs: where a copy of outputs.jsonl goes.")] = None,
    force: Force = False,
    ignore_memory: IgnoreMemory = False,
    run_dir: Annotated[
        Path | None, typer.Option(help="The sweep's directory.  [default: a new one among your runs]")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The sweep's name.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file of settings; flags win.")] = None,
    view: ViewOptions,
) -> None:
    """Measure batch sizes and numbers of ranks on one loading of the model: tokens/s, memory, scaling, the knee."""
    from_file = read_config(config)
    flags = given({name: value for name, value in locals().items() if name not in ("ranks", "config")})
    values = {**from_file, **flags}
    if "prompts" not in values:
        raise refuse("name a file of prompts: rankdeck sweep PROMPTS")
    if values.get("output") is not None and not outputs:
        raise refuse("--output: a sweep keeps its answers only with --outputs; add it")
    problems, lists = [], {}
    for option, text in (("--batch-sizes", batch_sizes), ("--ranks", ranks)):
        if text is not None:
            try:
                lists[option] = number_list(text, option)
            except ValueError as error:
                problems.append(str(error))
    if problems:
        raise refuse("\n".join(problems))
    most = from_file.get("ranks") or default_ranks(values)
    wanted = lists.get("--ranks") or _doubling(most)
    # Answers that are kept should be usable: they end where the model ends them.
    fixed = from_file.get("ignore_eos", not outputs) if fixed_length is None else fixed_length
    values.update(ranks=max(wanted), ignore_eos=fixed, batch_size=None)
    plan = SweepPlan(
        batch_sizes=lists["--batch-sizes"],
        ranks=wanted,
        repeats=repeats,
        least_rounds=rounds,
        least_seconds=seconds,
        outputs=outputs,
        trial_tokens=trial_tokens,
    )
    values["sweep"] = msgspec.to_builtins(plan)
    if warning := repeats_warning(repeats):
        typer.echo(f"rankdeck: --repeats: {warning}", err=True)
    launch(values, view, run_dir=run_dir, force=force, ignore_memory=ignore_memory)


def _doubling(most: int) -> list[int]:
    """1, 2, 4 … and `most`."""
    numbers = [1]
    while numbers[-1] * 2 < most:
        numbers.append(numbers[-1] * 2)
    return sorted({*numbers, most})
