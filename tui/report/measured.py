"""The report's section on how it was measured: what each word means, for this run. Pure."""

from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.state.loading_time import loading_line
from rankdeck.tui.report.document import Column as Col
from rankdeck.tui.report.document import Section, Table, words
from rankdeck.tui.report.source import ReportSource
from rankdeck.tui.words.sweep import bandwidth_words, repeats_measured, repeats_words, spread_words
from rankdeck.tui.words.text import some


def measured(source: ReportSource) -> Section:
    """A definition for each word: what is counted, over which time, and what is left out."""
    config = source.run.config
    rows = [
        ("tokens", "Real tokens. Output tokens are those of the answer up to and including the end-of-sequence token; "
         "padding is never counted, neither before a prompt nor after an answer."),
        ("seconds", "From the first batch handed out with all ranks ready to the last result in. Finding and loading "
         "the model and each rank's warm-up come before, and are not in them." + _loading(source)),
        ("tokens/s", "Output tokens over those seconds. A rank's tokens/s is its output tokens over the same seconds, "
         "so that the ranks add up to the run."),
        ("length", _length(config)),
        ("batch size", "Prompts per batch and rank."),
        ("padding waste", "The share of token slots a batch computed that held no real token: left padding of the "
         "prompts, and the slots of rows that had already ended. 0 % is perfect."),
        ("idle", "The share of a rank's time, since all ranks were ready, without a batch in hand."),
    ]  # fmt: skip
    rows += _sweep(config.sweep, source) if config.sweep is not None or source.sweep is not None else _run()
    return Section(
        "measured",
        "How it was measured",
        [
            Table(
                title="What each word means here",
                columns=[Col("word", number=False), Col("meaning", number=False)],
                rows=[[words(word), words(meaning)] for word, meaning in rows],
            )
        ],
    )


def _run() -> list[tuple[str, str]]:
    return [
        ("throughput over time", "The mean of the last five seconds, tokens of batches in flight included."),
        ("speedup", "tokens/s over those of one active rank at the same batch size, measured over whole batches that "
         "began and ended while the knobs stood as they say. Scaling efficiency is speedup over ranks."),
    ]  # fmt: skip


def _sweep(plan: SweepPlan | None, source: ReportSource) -> list[tuple[str, str]]:
    rows = []
    plan = plan or (source.state.sweep.plan if source.state is not None and source.state.sweep is not None else None)
    if plan is not None:
        repeats = repeats_words(plan, *repeats_measured(source.sweep.cells if source.sweep is not None else ()))
        rows.append(
            ("trial", "One setting measured once, on ranks that keep their model loaded: a warm-up batch per rank, "
             f"which is discarded, then whole rounds (a batch per active rank), at least {plan.least_rounds:,} of "
             f"them and {plan.least_seconds:g} s. {repeats} of each setting, in shuffled order, "
             "so that a drift of the machine falls on all alike." + _cut(source.run.config))
        )  # fmt: skip
    rows += [
        ("±", "The half-width of the 95 % t-interval of the mean over a setting's trials. With one trial there is "
         "none."),
        ("knee", "The smallest batch size after which no larger one brings 5 % more tokens/s."),
        ("decode step", "One token for every row of a batch; p50, p90 and p99 are percentiles over the steps. Prefill "
         "is the pass over the prompts, which yields the first token."),
        ("with prompts", "Tokens/s of prompt and output tokens together."),
        ("busy", "NVML's utilization.gpu: the share of time in which some kernel was running, no more."),
        ("speedup", "tokens/s over those of one rank at the same batch size; where one rank was not measured, over "
         "those of the fewest, taken to scale perfectly. Scaling efficiency is speedup over ranks."),
        ("MBU", _bandwidth(source)),
    ]  # fmt: skip
    return rows


def _cut(config: RunConfig) -> str:
    if config.new_tokens == config.max_new_tokens:
        return ""
    return (
        f" Answers were cut at {some(config.new_tokens, 'token')}; those of a run may have {config.max_new_tokens:,}."
    )


def _bandwidth(source: ReportSource) -> str:
    says = (
        "Bytes a decode step must read (parameters, and the keys and values of the rows in it) / its time / the "
        "device's peak memory bandwidth. "
    )
    sweep = source.sweep
    if sweep is not None and sweep.no_mbu is not None:
        return f"{says}Here it is n/a: {sweep.no_mbu}."
    if sweep is None or sweep.bandwidth_bytes_per_second is None:
        return says + "The bandwidth of this device is not known, so there is no MBU."
    used = bandwidth_words(sweep.bandwidth_bytes_per_second, sweep.bandwidth_source)
    return f"{says}The bandwidth used here is {'; '.join([used, *spread_words(source.run.config)])}."


def _length(config: RunConfig) -> str:
    if config.ignore_eos:
        return (
            f"Fixed length: end-of-sequence was ignored, so that every answer has {config.new_tokens:,} tokens. "
            "Right for measuring; not to be compared with natural length."
        )
    return (
        "Natural length: an answer ends with its end-of-sequence token, "
        f"or after {config.new_tokens:,} tokens. Not to be compared with fixed length."
    )


def _loading(source: ReportSource) -> str:
    state = source.state
    if state is None or state.loading.batch_at is None or state.seconds_before > 0:
        return ""
    return f" Here the first batch began after {loading_line(state.loading)}."
