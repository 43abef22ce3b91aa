"""Where a run stands, as lines of a log: what the Overview shows, without a screen. Pure.

Figures come from the same state as the dashboard's. Texts of devices and ranks are data: shown, not sent.
"""

from collections import Counter

from rankdeck.runner.advice.advice import advise
from rankdeck.runner.forecast.forecast import WhatIf, eta_seconds, what_if
from rankdeck.runner.protocol import DeviceSample
from rankdeck.runner.state import RankState, RunState
from rankdeck.tui.panels.overview.header import phase_words
from rankdeck.tui.plain.knobs import knob_lines
from rankdeck.tui.words import text
from rankdeck.tui.words.status import shown_phase
from rankdeck.tui.words.sweep import sweep_progress_line


def progress_line(now: RunState) -> str:
    """How far, how fast, how long, in one line; of a sweep by its trials."""
    if now.sweep is not None and now.sweeping:
        return sweep_progress_line(now, now.sweep)
    eta = f", ETA {text.clock(eta)}" if (eta := eta_seconds(now)) is not None else ""
    failed = f", {now.failed} failed" if now.failed else ""
    phases = Counter(shown_phase(now, rank) for rank in now.ranks)
    ranks = ", ".join(f"{text.some(number, 'rank')} {phase}" for phase, number in phases.items())
    return (
        f"{now.done:,} / {now.prompts:,} prompts{failed}, {now.output_tokens + now.in_flight_tokens:,} output tokens, "
        f"{now.rate_now:.0f} tok/s now, {now.rate_mean:.0f} mean, {now.rate_peak:.0f} peak, "
        f"padding waste {now.padding_waste:.0%}{eta} ({ranks})"
    )


def status_lines(now: RunState) -> list[str]:
    """Each rank, each GPU or process, and what turning a knob brought and would bring."""
    return [*rank_lines(now), *device_lines(now), *knob_lines(now), *what_if_lines(now)]


def advice_lines(now: RunState) -> list[str]:
    """All that the figures suggest; it is worth a line when it changes."""
    return [f"advice: {text.visible(advice.text)}" for advice in advise(now)]


def rank_lines(now: RunState) -> list[str]:
    return [_rank_line(now, rank) for rank in now.ranks]


def _rank_line(now: RunState, rank: RankState) -> str:
    phase = shown_phase(now, rank)
    if phase == "lost":
        return f"rank {rank.rank}: lost: {text.visible(rank.cause or 'no cause is known; see its log')}"
    cap = f", at most {rank.cap} prompts per batch" if rank.cap is not None else ""
    waste = text.percent(rank.padding_waste) if rank.slots else text.UNKNOWN
    return (
        f"rank {rank.rank} on {text.visible(rank.device)}: {phase}{_in_hand(now, rank)}, "
        f"{text.rate(now.rank_rate(rank))} tok/s, {text.some(rank.prompts, 'prompt')}, padding waste {waste}, "
        f"idle {text.percent(now.idle(rank))}{cap}"
    )


def _in_hand(now: RunState, rank: RankState) -> str:
    if rank.batch is None:
        return ""
    if rank.rows_at_once is not None:
        cache = "" if rank.cache_used is None else f", KV cache {rank.cache_used:.0%}"
        return f" {text.some(rank.rows_at_once, 'row')}{cache}"
    most = f"/{now.config.new_tokens}" if now.config is not None else ""
    return f" batch {rank.batch} of {text.some(rank.rows, 'prompt')}, step {rank.step}{most}"


def device_lines(now: RunState) -> list[str]:
    """A line per GPU, or one for the ranks' processes where there is none."""
    lines = []
    for device in now.devices:
        ranks = ", ".join(f"rank {rank}" for rank in device.ranks) or "unmapped"
        lines.append(f"GPU {device.sample.index} {text.visible(device.sample.name)}: {_gpu(device.sample)} ({ranks})")
    processes = [process for process in now.processes if process.rss_bytes is not None]
    if not lines and processes:
        lines.append(
            ", ".join(
                f"rank {process.rank} CPU {_number(process.cpu_percent, '%')} memory {_gib(process.rss_bytes)}"
                for process in processes
            )
        )
    return lines


def _gpu(sample: DeviceSample) -> str:
    if sample.lost:
        return f"lost: {text.visible(sample.unavailable.get('lost', 'it no longer answers; the others go on'))}"
    limit = f" of {sample.power_limit_watts:.0f}" if sample.power_limit_watts is not None else ""
    fastest = f" of {sample.sm_clock_max_mhz}" if sample.sm_clock_max_mhz else ""
    throttle = text.UNKNOWN
    if sample.throttle_reasons is not None:
        throttle = text.visible(", ".join(sample.throttle_reasons)) or "none"
    return (
        f"busy {_number(sample.busy_percent, '%')}, "
        f"memory {_gib(sample.memory_used_bytes)} of {_gib(sample.memory_total_bytes)}, "
        f"power {_number(sample.power_watts, limit + ' W')}, {_number(sample.temperature_celsius, ' °C')}, "
        f"SM clock {_number(sample.sm_clock_mhz, fastest + ' MHz')}, throttle {throttle}"
    )


def what_if_lines(now: RunState) -> list[str]:
    """What a knob turned would bring, as the screen says it beside the progress."""
    if now.phase != "running" or now.paused is not None:
        return []
    return [_what_if(now, one) for one in what_if(now)]


def _what_if(now: RunState, one: WhatIf) -> str:
    turned = f"batch size {one.batch_size:,}"
    if one.active_ranks != now.active_ranks:
        turned = text.some(one.active_ranks, "rank")
    return f"with {turned}: {'about ' if one.extrapolated else ''}{one.change_percent:+.0f}% tok/s"


def bar_line(now: RunState, width: int, full: str = "█", empty: str = "░") -> str:
    """Share, bar, prompts, tokens/s, ETA and ranks in `width` cells at most; empty before there is a run."""
    if now.config is None:
        return ""
    share, facts = now.progress, [phase_words(now)]
    if now.ended is None and now.first_batch_at is None and now.ranks:
        ready = sum(rank.ready is not None for rank in now.ranks)
        share, facts = ready / len(now.ranks), [phase_words(now), f"{ready}/{len(now.ranks)} ranks ready"]
    elif now.first_batch_at is not None:
        facts = [f"{now.done:,}/{now.prompts:,} prompts", f"{text.rate(now.rate_now)} tok/s"]
        facts += [f"ETA {text.clock(eta_seconds(now))}", f"{now.active_ranks}/{len(now.ranks)} ranks"]
        if now.phase != "running" or now.paused is not None or now.sweeping:
            facts.insert(0, phase_words(now))
    # What fits, fits: the last facts go first, the bar has what is left.
    while facts and len(said := "  ".join(facts)) + 5 > width:
        facts.pop()
    if not facts:
        return text.whole_percent(share)[:width]
    room = min(30, width - len(said) - 8)
    done = round(share * room)
    drawn = f"{full * done}{empty * (room - done)}  " if room >= 5 else ""
    return f"{text.whole_percent(share):>4} {drawn}{said}"[:width]


def _number(value: float | None, unit: str) -> str:
    return text.UNKNOWN if value is None else f"{value:.0f}{unit}"


def _gib(value: int | None) -> str:
    return text.UNKNOWN if value is None else f"{text.gib(value)} GiB"
