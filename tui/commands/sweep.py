"""`rankdeck sweep`: measures every batch size with every number of ranks, loading the model once."""

from typing import Annotated

import typer

from rankdeck.runner.protocol.config import MAX_RANKS, Problem, read
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.tui.commands.common import Settings, default_ranks, launch
from rankdeck.tui.commands.options import (
    ConfigFile,
    Force,
    GenerationOptions,
    IgnoreMemory,
    Model,
    NewTokens,
    PromptOptions,
    Prompts,
    RunDirectory,
    ViewOptions,
    grouped,
    number_list,
)
from rankdeck.tui.commands.parsing import mistakes
from rankdeck.tui.terminal.inert import tell
from rankdeck.tui.words.sweep import repeats_warning

DEFAULT_SIZES = "1,2,4,8,16,32"


@grouped
def sweep(
    *,
    context: typer.Context,
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
    run_dir: RunDirectory = None,
    name: Annotated[str | None, typer.Option(help="The sweep's name.")] = None,
    config: ConfigFile = None,
    view: ViewOptions,
) -> None:
    """Measure batch sizes and numbers of ranks on one loading of the model: tokens/s, memory, scaling, the knee."""
    asked = Settings({name: value for name, value in locals().items() if name not in ("ranks", "config")}, config)
    wrong = mistakes(context)
    if asked.values.get("output") is not None and not outputs:
        wrong.append("--output: a sweep keeps its answers only with --outputs; add it")
    lists: dict[str, list[int]] = {}
    for option, text in (("--batch-sizes", batch_sizes), ("--ranks", ranks)):
        if text is not None:
            try:
                lists[option] = number_list(text, option)
            except ValueError as error:
                wrong.append(str(error))
    most = asked.in_file.get("ranks")
    if not (isinstance(most, int) and not isinstance(most, bool) and 1 <= most <= MAX_RANKS):
        if most is not None and ranks is None:
            wrong.append(asked.said(Problem("ranks", f"must be a whole number from 1 to {MAX_RANKS}, not {most!r}")))
        most = default_ranks(read({**asked.values, "ranks": 1})[0])
    sizes, wanted = lists.get("--batch-sizes", [1]), lists.get("--ranks") or _doubling(most)
    # Answers that are kept should be usable: they end where the model ends them.
    fixed = asked.in_file.get("ignore_eos", not outputs) if fixed_length is None else fixed_length
    plan = SweepPlan(
        batch_sizes=sizes,
        ranks=wanted,
        repeats=repeats,
        least_rounds=rounds,
        least_seconds=seconds,
        outputs=outputs,
        trial_tokens=trial_tokens,
    )
    asked.values.update(ranks=max(wanted), ignore_eos=fixed, batch_size=None, sweep=plan)
    if warning := repeats_warning(repeats):
        tell(f"rankdeck: --repeats: {warning}")
    launch(asked, view, wrong, run_dir=run_dir, force=force, ignore_memory=ignore_memory)


def _doubling(most: int) -> list[int]:
    """1, 2, 4 … and `most`."""
    numbers = [1]
    while numbers[-1] * 2 < most:
        numbers.append(numbers[-1] * 2)
    return sorted({*numbers, most})
