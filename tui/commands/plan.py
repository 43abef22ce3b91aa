"""`rankdeck plan`: what a job will take with other ranks and batch sizes, from a run's figures or from given ones.

Reads only run.json, and prints what `runner.forecast.plan` predicts, as lines or as one JSON object.
"""

from collections.abc import Iterator
from typing import Annotated, Any, get_args

import msgspec
import typer

from rankdeck.runner import run_directory
from rankdeck.runner.forecast import cost_model, plan
from rankdeck.runner.forecast.answer_lengths import Answers, answers
from rankdeck.runner.forecast.cost_model import CostModel
from rankdeck.runner.protocol import config as settings
from rankdeck.runner.protocol.choices import not_one_of
from rankdeck.runner.run_directory.run_file import RunFile
from rankdeck.tui.commands.common import find_run, read_run
from rankdeck.tui.commands.options import number_list
from rankdeck.tui.commands.parsing import mistakes, refuse
from rankdeck.tui.terminal.inert import say, say_json
from rankdeck.tui.words import text

MAX_ROWS = 500
NO_RESIDUAL = 1e-6
MAX_SECONDS = 1e9
DEFAULT_RANKS = "1-8"
DEFAULT_NEW_TOKENS = 100

Seconds = Annotated[float | None, typer.Option(help="What the whole job takes on one rank at --batch-size.")]
BatchSeconds = Annotated[float | None, typer.Option(help="What a batch of --batch-size prompts takes.")]
PredictedSizes = Annotated[str | None, typer.Option(help="Batch sizes to predict, as in 1,2,4-16.")]
PredictedRanks = Annotated[
    str | None, typer.Option(help="Numbers of ranks to predict, as in 1-8 or 1,2,4.  [default: the run's, else 1-8]")
]


class _Source(msgspec.Struct):
    """What the prediction is made from, and the defaults for what to predict."""

    model: CostModel
    answers: Answers
    prompts: int
    ranks: list[int]
    batch_sizes: list[int]
    dispatch: settings.Dispatch
    basis: str


def plan_command(
    context: typer.Context,
    run: Annotated[str | None, typer.Argument(help="The name or directory of a run or sweep that measured.")] = None,
    prompts: Annotated[int | None, typer.Option(help="Prompts of the job.  [default: the run's]")] = None,
    ranks: PredictedRanks = None,
    batch_size: Annotated[int | None, typer.Option(help="The one batch size, of given seconds too.")] = None,
    batch_sizes: PredictedSizes = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Output tokens per prompt at most.  [default: the run's, else 100]")
    ] = None,
    dispatch: Annotated[str | None, typer.Option(help="pull or split.  [default: the run's, else pull]")] = None,
    batch_seconds: BatchSeconds = None,
    seconds: Seconds = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Predict seconds, tokens/s, speedup and idle for other ranks and batch sizes, from a measured or a given cost."""
    given = dict(locals())
    problems = [*mistakes(context), *_problems(given)]
    lists: dict[str, list[int]] = {}
    for name, most in (("ranks", settings.MAX_RANKS), ("batch_sizes", settings.MAX_BATCH_SIZE)):
        option = f"--{name.replace('_', '-')}"
        if given[name] is not None:
            try:
                lists[name] = number_list(given[name], option)
            except ValueError as error:
                problems.append(str(error))
            else:
                if max(lists[name]) > most:
                    problems.append(f"{option}: at most {most:,} are possible, not {max(lists[name]):,}")
    if problems:
        raise refuse(*problems)
    source = _from_run(run, max_new_tokens) if run is not None else _by_hand(given)
    sizes = lists.get("batch_sizes") or ([batch_size] if batch_size is not None else source.batch_sizes)
    numbers = lists.get("ranks") or source.ranks
    if len(sizes) * len(numbers) > MAX_ROWS:
        some = f"{len(numbers):,} numbers of ranks and {len(sizes):,} batch sizes"
        raise refuse(f"--ranks, --batch-sizes: {some} make more than {MAX_ROWS} rows; name fewer")
    found = plan.predict(
        source.model,
        source.answers,
        prompts=prompts or source.prompts,
        ranks=numbers,
        batch_sizes=sizes,
        dispatch=msgspec.convert(dispatch, settings.Dispatch) if dispatch is not None else source.dispatch,
        basis=source.basis,
    )
    if json:
        say_json(msgspec.json.encode(found).decode())
        return
    for line in lines(found, source.answers):
        say(line)


def _problems(given: dict[str, Any]) -> Iterator[str]:
    """Everything that is wrong with the options, except for the lists of numbers."""
    most = {"batch_size": settings.MAX_BATCH_SIZE}
    for name in ("prompts", "batch_size", "max_new_tokens"):
        number = given[name]
        if number is not None and (said := settings.out_of_bounds(number, 1, most.get(name, settings.MAX_COUNT))):
            yield f"--{name.replace('_', '-')}: {said}"
    for name in ("batch_seconds", "seconds"):
        if given[name] is not None and not 0 < given[name] <= MAX_SECONDS:
            yield f"--{name.replace('_', '-')}: must be above 0 and at most {MAX_SECONDS:g}, not {given[name]}"
    if given["dispatch"] not in (None, *get_args(settings.Dispatch)):
        yield f"--dispatch: {not_one_of(given['dispatch'], get_args(settings.Dispatch))}"
    by_hand = [f"--{name.replace('_', '-')}" for name in ("batch_seconds", "seconds") if given[name] is not None]
    if given["run"] is not None:
        for option in by_hand:
            yield f"{option}: a run's measured batches and a cost given by hand exclude each other; leave one out"
        if given["batch_size"] is not None and given["batch_sizes"] is not None:
            yield "--batch-size and --batch-sizes exclude each other"
    elif not by_hand:
        yield "name a run or sweep that measured, or give what a batch takes: --batch-seconds 2.74 --batch-size 16"
    else:
        if len(by_hand) > 1:
            yield "--batch-seconds and --seconds exclude each other"
        for name, what in (("prompts", "how many prompts the job has"), ("batch_size", "of which batches they are")):
            if given[name] is None:
                yield f"{by_hand[0]} needs --{name.replace('_', '-')}: {what}"


def _by_hand(given: dict[str, Any]) -> _Source:
    prompts, size = int(given["prompts"]), int(given["batch_size"])
    if given["seconds"] is not None:
        rounds = -(-prompts // size)
        each = given["seconds"] / rounds
        model = cost_model.given(each, size, active_ranks=1)
        so = f"given: {given['seconds']:g} s on 1 rank in {rounds:,} batches of up to {size}, {each:.3g} s each"
    else:
        model = cost_model.given(given["batch_seconds"], size)
        so = f"given: {given['batch_seconds']:g} s for a batch of up to {size}"
    return _Source(
        model=model,
        answers=Answers(max_new_tokens=given["max_new_tokens"] or DEFAULT_NEW_TOKENS),
        prompts=prompts,
        ranks=number_list(DEFAULT_RANKS, "--ranks"),
        batch_sizes=[size],
        dispatch="pull",
        basis=f"{so}; a batch is taken to cost that whatever its rows, and on any number of ranks",
    )


def _from_run(name: str, max_new_tokens: int | None) -> _Source:
    directory = find_run(name)
    run = read_run(directory)
    model = cost_model.fit(run.costs)
    if model is None:
        raise refuse(
            f"{run.name} has no measured batches in its {run_directory.RUN_FILE}"
            f"{' yet' if run.status == 'running' else ''}; plan from a finished run or from a sweep "
            "(`rankdeck sweep PROMPTS`), or give what a batch takes (--batch-seconds, --batch-size)"
        )
    try:
        length = answers(
            run.costs,
            run.lengths,
            measured_tokens=run.config.new_tokens,
            fixed=run.config.ignore_eos,
            max_new_tokens=run.config.max_new_tokens if max_new_tokens is None else max_new_tokens,
        )
    except ValueError as error:
        raise refuse(f"{directory / run_directory.RUN_FILE}: {error}") from None
    low, high = model.measured_rows
    span = f"{low}" if low == high else f"{low} to {high}"
    numbers = ", ".join(str(number) for number in model.measured_ranks)
    cold = "; they are each rank's first, which are slower than later ones" if model.cold else ""
    return _Source(
        model=model,
        answers=length,
        prompts=max(1, run.prompts),
        ranks=list(range(1, max(run.config.ranks, *model.measured_ranks) + 1)),
        batch_sizes=_sizes(run, high),
        dispatch=run.config.dispatch,
        basis=f"fitted to {model.batches:,} batches of {text.visible(run.name)} "
        f"(active ranks: {numbers}; rows: {span}; {run.config.length_mode}){cold}",
    )


def _sizes(run: RunFile, largest: int) -> list[int]:
    """The batch sizes to predict by default: those that a sweep has measured, or the run's own."""
    if run.config.sweep is not None:
        measured = {point.rows for point in run.costs}
        return sorted(measured & set(run.config.sweep.batch_sizes)) or [largest]
    return [run.config.batch_size or largest]


# --- lines --------------------------------------------------------------------------------------

COLUMNS = ("", "ranks", "batch size", "rounds", "seconds", "tok/s", "speedup", "efficiency", "idle")


def lines(found: plan.Plan, length: Answers) -> Iterator[str]:
    """The plan as text: a table, the best setting and why, and what the prediction is based on."""
    mode = "fixed length" if length.fixed else "natural length"
    tokens = f"{found.tokens_per_prompt:,.0f} output tokens each, {mode}"
    yield f"{_prompts(found.prompts)}, {tokens}, {found.dispatch} dispatch"
    yield ""
    cells = [COLUMNS, *(_cells(row) for row in found.rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(COLUMNS))]
    for place, row in enumerate(cells):
        line = "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        yield f"{line}  best" if place and found.rows[place - 1] == found.best else line
    unmeasured = list(dict.fromkeys(row.why for row in found.rows if row.why))
    if unmeasured:
        yield ""
        yield "~ predicted beyond what was measured:"
        yield from (f"  {why}" for why in unmeasured[:4])
        if len(unmeasured) > 4:
            yield f"  and {len(unmeasured) - 4} more like these"
    yield ""
    best = found.best
    yield (
        f"best: {'1 rank' if best.ranks == 1 else f'{best.ranks} ranks'} at batch size {best.batch_size}: "
        f"{_prompts(found.prompts)} in {_seconds(best.seconds)} s, {_rate(best.tokens_per_second)} tok/s"
        f"{', predicted beyond what was measured' if best.extrapolated else ''}"
    )
    yield from found.reasons
    yield ""
    yield found.basis
    if found.residual is not None and found.residual < NO_RESIDUAL:
        yield "how well the model fits is not known: it has as many parameters as there are settings measured"
    elif found.residual is not None:
        yield f"the model reproduces the measured batches within {_percent(found.residual)} (root mean square)"


def _cells(row: plan.PlanRow) -> tuple[str, ...]:
    return (
        "~" if row.extrapolated else "",
        str(row.ranks),
        str(row.batch_size),
        f"{row.rounds:,}",
        _seconds(row.seconds),
        _rate(row.tokens_per_second),
        f"{row.speedup:.2f}",
        f"{row.efficiency:.0%}",
        f"{row.idle:.0%}",
    )


def _prompts(count: int) -> str:
    return "1 prompt" if count == 1 else f"{count:,} prompts"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.1f}" if seconds >= 1 else f"{seconds:.3g}"


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.3g}"


def _percent(share: float) -> str:
    return f"{share:.1%}" if share < 0.01 else f"{share:.0%}"
