"""The view without a screen: the lines of a log.

Knows how to put an event into one line; tui/plain/status.py says where a run stands. Figures come from the same
state as the dashboard's. Text from models, prompts and devices is printed with control characters made visible.
"""

import sys
import time
from collections.abc import Callable, Sequence

from rankdeck.runner import protocol
from rankdeck.runner.advice.bound import bound_at_the_end
from rankdeck.runner.protocol import OutputRecord, Summary
from rankdeck.runner.state import RunState, Snapshot, ToViewer, apply
from rankdeck.runner.state.knobs import SOURCE as KNOBS
from rankdeck.runner.state.knobs import knob_words
from rankdeck.runner.state.loading_time import loading_line
from rankdeck.tui.panels.overview.advice import advice_texts
from rankdeck.tui.panels.overview.header import active_words
from rankdeck.tui.panels.overview.knob_effect import turn_lines
from rankdeck.tui.panels.overview.notice import attempt_words
from rankdeck.tui.panels.overview.settings_table import best_of
from rankdeck.tui.panels.overview.summary import gathered_line, outputs_path
from rankdeck.tui.plain.bar import BottomLine, bar_stream
from rankdeck.tui.plain.status import WIDE, bar_line, finding_lines, progress_line, status_lines, table_lines, unstyled
from rankdeck.tui.plain.sweep import sweep_lines, sweep_start_lines, trial_line
from rankdeck.tui.terminal.inert import tell
from rankdeck.tui.words import text
from rankdeck.tui.words.sweep import how_ended, only_measures
from rankdeck.tui.words.turn import effect_words

PROGRESS_SECONDS = 2.0
STATUS_SECONDS = 10.0
"""How often the ranks and GPUs are printed; less often if there are more than ten ranks."""

CLIP = 60


class PlainView:
    """Turns messages into lines and keeps the state they add up to; a bar, if there is one, stays below the lines."""

    def __init__(self, write: Callable[[str], object] | None = None, bar: BottomLine | None = None) -> None:
        self.state = RunState()
        self._write = write if write is not None else sys.stdout.write
        self._bar = bar
        self._progress_at = 0.0
        self._status_at = 0.0
        self._said: set[str] = set()
        self._pending: list[str] = []

    def show(self, message: ToViewer) -> None:
        """Print the lines of one message."""
        if isinstance(message, Snapshot):
            self.state = message.state
            self._say_run()
            self._end()
        else:
            assert not isinstance(message, protocol.Refused)
            self.state = apply(self.state, message)
            for line in self._lines(message):
                self._line(line)
            if isinstance(message, protocol.RunEnded):
                self._end()
        self._print()

    def add(self, lines: Sequence[str], table: Sequence[str] = ()) -> None:
        """Print lines that come with no message, with the time of the newest one, and a table without times."""
        for line in lines:
            self._line(line)
        self._pending += [f"{text.visible(row)}\n" for row in table]
        self._print()

    def _end(self) -> None:
        for line in closing_lines(self.state):
            self._line(line)
        self._pending += [f"{text.visible(row)}\n" for row in closing_table(self.state)]

    def aside(self, line: str) -> None:
        """Tell the user something that is not part of the log, on stderr."""
        if self._bar is not None:
            self._bar.write_above(sys.stderr, f"{text.visible(line)}\n")
        else:
            tell(line)

    def close(self) -> None:
        """Erase the bar: nothing more will come."""
        if self._bar is not None:
            self._bar.close()

    def _print(self) -> None:
        lines, self._pending = self._pending, []
        bar = self._bar
        if bar is None:
            for line in lines:
                self._write(line)
            return
        if lines:
            bar.write_above(sys.stdout, "".join(lines))
        if self.state.ended is not None:
            bar.close()
        elif bar.due:
            bar.draw(bar_line(self.state, bar.width, *bar.signs))

    def _lines(self, event: protocol.AnyEvent) -> list[str]:
        now = self.state
        match event:
            case protocol.RunStarted():
                self._say_run()
            case protocol.ModelProgress(phase="fetching") if event.total and event.done is not None:
                if self._due(event.at) or event.done >= event.total:
                    return [f"model: fetched {event.done / 1e6:.0f} of {event.total / 1e6:.0f} MB"]
            case protocol.ModelProgress(phase="converting"):
                return self._once("model: converting, once")
            case protocol.ModelProgress(phase="found"):
                return [f"model: {text.visible(now.model_label)}"]
            case protocol.TelemetryStarted():
                return [
                    f"telemetry: {text.some(event.gpus, 'GPU')}"
                    if event.reason is None
                    else f"telemetry: {event.reason}"
                ]
            case protocol.RanksLaunched():
                again = f", {attempt_words(now)}" if event.attempt > 1 else ""
                return [f"starting {text.some(event.world_size, 'rank')}{again}"]
            case protocol.RankPhase():
                return [f"rank {event.rank}: {event.phase}"]
            case protocol.RankReady():
                device = f"{event.device} ({text.visible(event.device_name)})"
                ready = f"{device}, {event.dtype}, {event.engine} engine"
                return [f"rank {event.rank}: ready on {ready}, after {event.seconds:.1f} s"]
            case protocol.Output():
                return [output_line(event.record)]
            case protocol.BatchFailed():
                return [f"rank {event.rank}: batch {event.batch} failed: {text.visible(event.error)}"]
            case protocol.RanksReady():
                return [f"all ranks are ready after {loading_line(now.loading)}"]
            case protocol.ActiveRanksChanged():
                return [turned(active_words(now), now)]
            case protocol.SweepStarted() if now.sweep is not None:
                return sweep_start_lines(now, now.sweep)
            case protocol.TrialFinished() if now.sweep is not None:
                return [trial_line(event.record, len(now.sweep.trials))]
            case protocol.SweepSettled() if now.sweep is not None:
                # If the run ends with its sweep, its last lines say it all.
                return [] if only_measures(now) else sweep_lines(now, now.sweep)
            case protocol.RunTakenUp():
                return [f"taken up again: {now.done:,} of {now.prompts:,} prompts are done"]
            case protocol.RankLost():
                return [f"rank {event.rank}: lost: {text.visible(event.cause)}"]
            case protocol.Tick() if now.phase in ("running", "stopping"):
                return self._status(event.at)
            case protocol.LogLine() if event.source != KNOBS:
                return [f"log of {text.visible(event.source)}: {text.visible(event.text)}"]
            case protocol.GatherChecked():
                return unstyled([gathered_line(now)])
            case protocol.Stopping():
                return ["stopping now" if event.now else "stopping after the batches in flight"]
            case protocol.BatchSizeChanged():
                return [turned(knob_words(event) or "", now)]
            case protocol.TurnRefused() | protocol.RankCapped() | protocol.Paused() | protocol.Resumed():
                # Printed here and not as log lines, as runs recorded by older versions have none.
                return [knob_words(event) or ""]
            case _:
                pass
        return []

    def _say_run(self) -> None:
        config = self.state.config
        if config is None:
            return
        size = f"{self.state.batch_size}" if self.state.periods else f"{config.batch_size or 'auto'}"
        self._line(
            f"run {self.state.name}: {text.some(self.state.prompts, 'prompt')}, model {text.visible(config.model)}, "
            f"{text.some(config.ranks, 'rank')}, batch size {size}, {config.new_tokens} new tokens, "
            f"{config.dispatch}, {config.length_mode}"
        )
        if self.state.paused is not None:
            self._line(f"paused: {text.visible(self.state.paused)}")
        if self.state.ranks and self.state.active_ranks < len(self.state.ranks):
            self._line(active_words(self.state))

    def _once(self, line: str) -> list[str]:
        new = line not in self._said
        self._said.add(line)
        return [line] if new else []

    def _status(self, at: float) -> list[str]:
        lines = [progress_line(self.state)] if self._due(at) and self._bar is None else []
        # With many ranks their lines would drown the rest, so they come less often.
        if at - self._status_at >= max(STATUS_SECONDS, len(self.state.ranks)):
            self._status_at = at
            lines += status_lines(self.state)
            advice = [f"advice: {advised}" for advised in advice_texts(self.state)]
            lines += [line for line in advice if line not in self._said]
            self._said |= set(advice)
        return lines

    def _due(self, at: float) -> bool:
        if at - self._progress_at < PROGRESS_SECONDS:
            return False
        self._progress_at = at
        return True

    def _line(self, line: str) -> None:
        stamp = time.strftime("%H:%M:%S", time.localtime(self.state.now))
        self._pending.append(f"{stamp} {text.visible(line)}\n")


def terminal_view() -> PlainView:
    """Lines to standard output, with a bar where there is a terminal for it."""
    stream = bar_stream()
    return PlainView(bar=BottomLine(stream) if stream is not None else None)


def turned(words: str, now: RunState) -> str:
    """A turn of a knob, and when it takes effect."""
    coming = effect_words(now)
    return f"{words}; {coming}" if coming else words


def output_line(record: OutputRecord) -> str:
    """One answer in one line, shortened."""
    head = f"#{record.index} rank {'?' if record.rank is None else record.rank}:"
    prompt = text.cut(text.visible(record.prompt), CLIP)
    if record.error is not None:
        return f"{head} error: {text.visible(record.error)} | {prompt}"
    answer = text.cut(text.visible(record.text), CLIP)
    return f"{head} {record.output_tokens} tokens, {record.finish_reason} | {prompt} -> {answer}"


def end_lines(now: RunState) -> list[str]:
    """The end of a run, without times: what is said of it, and the table of settings."""
    return [*closing_lines(now), *closing_table(now)]


def closing_table(now: RunState) -> list[str]:
    """The table of settings at the end, if there were several; none for a run that only measured: see its sweep."""
    if now.ended is None or (only_measures(now) and not now.done):
        return []
    table = table_lines(now)
    return table if len(table) > 2 else []


def closing_lines(now: RunState) -> list[str]:
    """How the run ended, its summary, what the timeline shows, where its outputs are."""
    ended = now.ended
    if ended is None:
        return []
    lines = [how_ended(now) + (f": {text.visible(ended.cause)}" if ended.cause else "")]
    lines += sweep_lines(now, now.sweep) if now.sweep is not None else []
    if only_measures(now) and not now.done:
        return lines
    lines += summary_lines(ended.summary)
    best, verdict = best_of(now), bound_at_the_end(now)
    lines += [*unstyled(turn_lines(now, WIDE)), *([best] if best else [])]
    lines += [verdict.text] if verdict is not None else []
    lines += finding_lines(now)
    if now.done:
        lines.append(f"outputs: {text.visible(outputs_path(now))}")
    return lines


def summary_lines(summary: Summary) -> list[str]:
    """The figures of a run, a line for the whole and one per rank."""
    lines = [
        f"{summary.completed:,} of {summary.prompts:,} prompts completed, {summary.failed:,} failed; "
        f"{summary.output_tokens:,} output tokens in {summary.seconds:.1f} s = {summary.tokens_per_second:.1f} tok/s "
        f"({summary.length}); padding waste {text.percent(summary.padding_waste)}"
    ]
    lines += (
        []
        if summary.seconds == 0
        else [
            f"rank {rank.rank} on {rank.device}: {rank.prompts:,} prompts in {rank.batches:,} batches, "
            f"{rank.tokens_per_second:.1f} tok/s, padding waste {text.percent(rank.padding_waste)}, "
            f"idle {rank.idle:.0%}"
            for rank in summary.ranks
        ]
    )
    return lines
