"""The lines of --plain: each event has its line, in words that say all of it."""

import io
import re
import time
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from rankdeck.runner import protocol
from rankdeck.runner.protocol import AnyEvent, OutputRecord
from rankdeck.runner.state import apply
from rankdeck.runner.state.loading_time import loading_line
from rankdeck.tui.panels.overview.header import active_words
from rankdeck.tui.plain import view as views
from rankdeck.tui.plain.bar import ERASE, BottomLine
from rankdeck.tui.plain.status import bar_line, progress_line, status_lines
from rankdeck.tui.plain.sweep import aligned
from rankdeck.tui.plain.view import PlainView, end_lines, output_line, summary_lines
from tests import scripted, scripted_steering
from tests.reports import record, summary
from tests.scripted import Script


def untimed(line: str) -> str:
    """A line without the time before it and the end of line after it."""
    found = re.fullmatch(r"\d\d:\d\d:\d\d (.*)\n", line)
    assert found is not None, line
    return found[1]


def view_after(script: Script) -> tuple[PlainView, list[str]]:
    lines: list[str] = []
    view = PlainView(lines.append)
    for event in script.events:
        view.show(event)
    lines.clear()
    return view, lines


AT = scripted.START + 30


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (
            protocol.ModelProgress(at=AT, phase="fetching", done=41_600_000, total=93_000_000),
            "model: fetched 42 of 93 MB",
        ),
        (protocol.ModelProgress(at=AT, phase="fetching", done=5, total=None), ""),
        (protocol.ModelProgress(at=AT, phase="fetching", done=None, total=9), ""),
        (protocol.ModelProgress(at=AT, phase="converting"), "model: converting, once"),
        (protocol.TelemetryStarted(at=AT, gpus=1), "telemetry: 1 GPU"),
        (protocol.TelemetryStarted(at=AT, gpus=4), "telemetry: 4 GPUs"),
        (protocol.TelemetryStarted(at=AT, gpus=0, reason="no driver"), "telemetry: no driver"),
        (protocol.RanksLaunched(at=AT, attempt=1, world_size=2), "starting 2 ranks"),
        (protocol.RankPhase(at=AT, rank=1, phase="joining"), "rank 1: joining"),
        (protocol.BatchFailed(at=AT, rank=1, batch=6, kind="error", error="bad\x1b"), "rank 1: batch 6 failed: bad␛"),
        (protocol.RankLost(at=AT, rank=1, cause="killed\x1b"), "rank 1: lost: killed␛"),
        (protocol.LogLine(at=AT, source="rank 1", text="hot\x1b"), "log of rank 1: hot␛"),
        (protocol.Stopping(at=AT, now=False), "stopping after the batches in flight"),
        (protocol.Stopping(at=AT, now=True), "stopping now"),
        (
            protocol.RunTakenUp(
                at=AT, config=scripted.config(), completed=60, failed=2, prompt_tokens=1, output_tokens=1
            ),
            "taken up again: 62 of 100 prompts are done",
        ),
        (protocol.Output(at=AT, record=record(95)), "#95 rank ?: 7 tokens, stop | prompt 95 -> yes"),
        (protocol.ModelProgress(at=AT, phase="found"), "model: HuggingFaceTB/SmolLM2-135M-Instruct"),
        (
            replace(scripted.ready(1, 0), at=AT, device_name="a CPU\x1b", seconds=7.14),
            "rank 1: ready on cpu (a CPU␛), float32, static engine, after 7.1 s",
        ),
        (
            protocol.BatchSizeChanged(at=AT, batch_size=8, auto=False, reason="why\x1b"),
            "batch size 8: why␛; takes effect when batch #5 ends, in ~1 s",
        ),
        (protocol.TurnRefused(at=AT, reason="no prompt is left"), "refused: no prompt is left"),
        (
            protocol.ActiveRanksChanged(at=AT, active_ranks=1),
            "1 of 2 ranks active; takes effect when batch #6 ends, in ~1 s",
        ),
        (protocol.RankCapped(at=AT, rank=1, batch_size=4), "rank 1: at most 4 prompts per batch from now on"),
        (protocol.Paused(at=AT, reason="no room\x1b", asked=False), "paused: no room␛"),
        (protocol.Resumed(at=AT), "resumed"),
        (protocol.LogLine(at=AT, source=views.KNOBS, text="batch size 8"), ""),
        (
            protocol.GatherChecked(at=AT, records=64, differing=[]),
            "gather_object brought 64 records: all as they came over the socket",
        ),
        (
            protocol.GatherChecked(at=AT, records=1, differing=[3]),
            "gather_object brought 1 record: 1 differ from what came over the socket",
        ),
        (protocol.BatchStarted(at=AT, rank=0, batch=9, rows=1), ""),
    ],
)
def test_an_event_is_a_line(event: AnyEvent, said: str) -> None:
    view, lines = view_after(scripted.running())
    view.show(event)
    assert list(map(untimed, lines)) == ([said] if said else [])


def test_once_all_ranks_are_ready_it_is_said_how_long_that_took() -> None:
    view, lines = view_after(Script().started().launched().loading())
    view.show(replace(scripted.ready(0, 0), at=AT))
    view.show(replace(scripted.ready(1, 0), at=AT))
    lines.clear()
    view.show(protocol.RanksReady(at=AT + 1))
    assert untimed(lines[0]) == f"all ranks are ready after {loading_line(view.state.loading)}"


def ticks(view: PlainView, first: float, number: int) -> None:
    for beat in range(number):
        view.show(protocol.Tick(at=first + beat))


def test_progress_is_told_every_two_seconds_and_the_whole_status_every_ten_and_only_while_the_run_works() -> None:
    view, lines = view_after(scripted.running())
    said: list[float] = []
    whole: list[float] = []
    for beat in range(24):
        at = AT + beat
        lines.clear()
        view.show(protocol.Tick(at=at))
        told = list(map(untimed, lines))
        said += [beat] if told and told[0] == progress_line(view.state) else []
        whole += [beat] if status_lines(view.state)[0] in told else []
    assert [later - earlier for earlier, later in pairwise(said)] == [2] * (len(said) - 1)
    assert len(said) >= 11
    assert [later - earlier for earlier, later in pairwise(whole)] == [10] * (len(whole) - 1)
    assert len(whole) >= 2
    loading, lines = view_after(scripted.loading())
    ticks(loading, AT, 30)
    assert lines == [], "what there is to say of loading is said by its events"
    stopping, lines = view_after(scripted.running())
    stopping.show(protocol.Stopping(at=AT, now=False))
    lines.clear()
    ticks(stopping, AT, 3)
    assert untimed(lines[0]).startswith("64 / 100 prompts")


@pytest.mark.parametrize(("ranks", "seconds"), [(10, 10), (11, 11)])
def test_of_many_ranks_the_status_comes_a_second_later_for_each(ranks: int, seconds: int) -> None:
    view, lines = view_after(scripted.running(ranks, prompts=5000))
    beats: list[int] = []
    for beat in range(2 * seconds + 12):
        lines.clear()
        view.show(protocol.Tick(at=AT + 100 + beat))
        beats += [beat] if len(lines) > 2 else []
    assert beats[:3] == [0, seconds, 2 * seconds]


def test_the_end_says_first_how_then_how_much_then_where() -> None:
    state = scripted.failed().state
    assert state.ended is not None
    lines = end_lines(state)
    assert lines[0] == f"failed: {scripted.CAUSE}"
    assert lines[1] == summary_lines(state.ended.summary)[0]
    assert lines[2].startswith("rank 0 on cpu: ")
    assert lines[-1] == f"outputs: {scripted.DIRECTORY}/outputs.jsonl"


def test_before_the_first_batch_the_bar_counts_ranks_that_are_ready() -> None:
    script = Script(4).started().launched().loading()
    script.add(scripted.ready(2, 0))
    assert re.fullmatch(r" 25% #+\.+  \S+  1/4 ranks ready", bar_line(script.state, 79, "#", ".")), script.state.phase
    starting = bar_line(scripted.starting().state, 79, "#", ".")
    assert starting.startswith("  0% ....")
    assert "ready" not in starting
    over = bar_line(scripted.completed().state, 79, "#", ".")
    assert re.match(r"100% #+  completed  100/100 prompts  ", over)


def test_a_line_begins_with_the_local_time_of_its_event() -> None:
    view, lines = view_after(scripted.running())
    view.show(protocol.Stopping(at=AT, now=True))
    assert lines == [f"{time.strftime('%H:%M:%S', time.localtime(AT))} stopping now\n"]


def test_ranks_that_start_again_say_for_which_time() -> None:
    view, lines = view_after(scripted.running())
    view.show(protocol.RanksLaunched(at=AT, attempt=2, world_size=1))
    (line,) = map(untimed, lines)
    assert line.startswith("starting 1 rank, ")
    assert "2" in line


def test_fetching_is_told_every_two_seconds_and_at_its_end() -> None:
    lines: list[str] = []
    view = PlainView(lines.append)
    for at, done in ((10.0, 10), (11.0, 20), (11.9, 30), (12.0, 40), (12.5, 90), (12.6, 93)):
        view.show(protocol.ModelProgress(at=at, phase="fetching", done=done * 10**6, total=93 * 10**6))
    assert [untimed(line).split()[2] for line in lines] == ["10", "40", "93"]


def test_converting_is_told_once() -> None:
    view, lines = view_after(Script().started())
    for _ in range(3):
        view.show(protocol.ModelProgress(at=AT, phase="converting"))
    assert list(map(untimed, lines)) == ["model: converting, once"]


def test_a_run_is_introduced_with_its_settings_also_to_those_who_come_later() -> None:
    script = scripted.running()
    lines: list[str] = []
    PlainView(lines.append).show(script.snapshot())
    model = "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert list(map(untimed, lines)) == [
        f"run calm-harbour: 100 prompts, model {model}, 2 ranks, batch size 16, 50 new tokens, pull, natural length"
    ]
    first: list[str] = []
    view = PlainView(first.append)
    view.show(script.events[0])
    assert list(map(untimed, first)) == list(map(untimed, lines))
    lines.clear()
    state = replace(script.state, paused="the disk is full\x1b", active_ranks=1)
    PlainView(lines.append).show(replace(script.snapshot(), state=state))
    assert untimed(lines[1]) == "paused: the disk is full␛"
    assert len(lines) == 3
    assert untimed(lines[2]) == active_words(state)


def test_a_batch_size_that_was_turned_is_the_one_that_is_told() -> None:
    lines: list[str] = []
    PlainView(lines.append).show(scripted_steering.SteeredScript(batch_size=4).begun().size(32).snapshot())
    assert ", batch size 32, " in lines[0]
    lines.clear()
    script = Script().started()
    searched = replace(script.state, config=replace(scripted.config(), batch_size=None))
    PlainView(lines.append).show(replace(script.snapshot(), state=searched))
    assert ", batch size auto, " in lines[0]


def test_a_run_that_has_ended_is_shown_with_its_end_to_those_who_come_later() -> None:
    lines: list[str] = []
    script = scripted.completed()
    PlainView(lines.append).show(script.snapshot())
    assert list(map(untimed, lines[1:])) == end_lines(script.state)
    assert untimed(lines[1]) == "completed"
    assert untimed(lines[-1]).startswith("outputs: ")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "#3 rank ?: 7 tokens, stop | prompt 3 -> yes"),
        ({"rank": 0}, "#3 rank 0: 7 tokens, stop | prompt 3 -> yes"),
        ({"error": "bad\x1b"}, "#3 rank ?: error: bad␛ | prompt 3"),
    ],
)
def test_an_answer_is_one_line(changes: dict[str, Any], said: str) -> None:
    assert output_line(record(3, **changes)) == said


def test_a_long_answer_and_a_long_prompt_are_cut() -> None:
    long: OutputRecord = record(3, "y" * 500, prompt="x" * 500)
    _, _, told = output_line(long).partition(" | ")
    prompt, answer = told.split(" -> ")
    assert len(prompt) == len(answer) == views.CLIP
    assert set(prompt[:-1]) == {"x"}
    assert set(answer[:-1]) == {"y"}


def test_the_summary_has_a_line_for_the_whole_and_one_per_rank() -> None:
    whole, *ranks = summary_lines(summary())
    assert whole == (
        "9 of 10 prompts completed, 1 failed; 1,235 output tokens in 10.0 s = 123.5 tok/s (natural length); "
        "padding waste 12%"
    )
    assert ranks == [
        f"rank {rank} on cpu: 5 prompts in 2 batches, {rate} tok/s, padding waste 12%, idle 6%"
        for rank, rate in ((0, "61.7"), (1, "60.7"))
    ]
    assert len(summary_lines(summary(seconds=0))) == 1, "ranks that never worked have no figures"


@pytest.mark.parametrize(
    ("status", "done", "output", "named"),
    [("stopped", 1, None, True), ("stopped", 0, None, False), ("stopped", 0, "o", False), ("failed", 1, "o", True)],
)
def test_the_outputs_are_named_where_there_are_some(status: Any, done: int, output: str | None, named: bool) -> None:
    script = scripted.completed()
    ended = script.state.ended
    assert ended is not None
    assert script.state.config is not None
    state = replace(
        script.state, completed=done, failed=0, ended=replace(ended, status=status, cause="why\x1b"),
        config=replace(script.state.config, output=output),
    )  # fmt: skip
    first, *_, last = end_lines(state)
    assert first == f"{status}: why␛"
    assert last.startswith("outputs: ") is named
    assert end_lines(replace(state, ended=None)) == []


class Terminal(io.StringIO):
    """A terminal that shows its whole text."""


def test_with_a_bar_lines_scroll_above_it_and_the_end_erases_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(views.sys, "stdout", terminal)
    monkeypatch.setattr(views.sys, "stderr", terminal)
    now = [0.0]
    view = PlainView(bar=BottomLine(terminal, clock=lambda: now[0]))
    script = scripted.running()
    for event in script.events:
        now[0] += 1
        view.show(event)
    drawn = bar_line(script.state, 79, "#", ".")
    assert terminal.getvalue().endswith(f"{ERASE}{drawn}")
    assert progress_line(script.state) not in terminal.getvalue(), "the bar says it"
    view.aside("it is silent\x1b")
    assert terminal.getvalue().endswith(f"{ERASE}it is silent␛\n{drawn}")
    view.close()
    assert terminal.getvalue().endswith(f"{drawn}{ERASE}")


def test_the_end_of_the_run_is_the_end_of_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(views.sys, "stdout", terminal)
    now = [0.0]
    view = PlainView(bar=BottomLine(terminal, clock=lambda: now[0]))
    script = scripted.completed()
    for event in script.events:
        now[0] += 1
        view.show(event)
    *_, last = terminal.getvalue().rpartition("outputs: ")
    before, _, after = last.partition("\n")
    assert before.endswith("outputs.jsonl")
    assert after.endswith(ERASE), "nothing is left below the last line, and no bar comes back"


def test_an_aside_is_one_line_whichever_stream_the_bar_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, other = Terminal(), Terminal()
    monkeypatch.setattr(views.sys, "stdout", terminal)
    monkeypatch.setattr(views.sys, "stderr", other)
    for view in (PlainView(bar=BottomLine(terminal)), PlainView(bar=BottomLine(other))):
        view.show(scripted.running().snapshot())
        view.aside("it is\nsilent\x1b")
    assert other.getvalue().count("it is↵silent␛\n") == 2
    assert "silent" not in terminal.getvalue()


def test_an_aside_without_a_bar_is_a_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    PlainView(lambda _: pytest.fail("it is not part of the log")).aside("it is silent\x1b")
    assert capsys.readouterr() == ("", "it is silent␛\n")


def test_the_bar_drops_its_last_facts_first_and_has_no_bar_without_room_for_five_cells() -> None:
    state = scripted.running().state
    whole = bar_line(state, 200, "#", ".")
    assert whole.count("#") + whole.count(".") == 30, "never longer"
    said = whole.rpartition(".  ")[2]
    facts = said.split("  ")
    assert len(facts) == 4
    assert facts[0] == "64/100 prompts"
    assert facts[-1] == "2/2 ranks"
    assert bar_line(state, len(said) + 5, "#", ".").endswith(f" {said}")
    shorter = bar_line(state, len(said) + 4, "#", ".")
    assert shorter.endswith(facts[-2])
    for room, cells in ((4, 0), (5, 5)):
        line = bar_line(state, len(said) + 8 + room, "#", ".")
        assert line.count("#") + line.count(".") == cells
        assert line.endswith(said)


def test_a_paused_run_says_so_on_the_bar_and_one_that_is_unknown_has_none() -> None:
    state = scripted.running().state
    assert "paused" in bar_line(replace(state, paused="by hand"), 120).lower()
    assert "paused" not in bar_line(state, 120).lower()
    assert bar_line(replace(state, config=None), 120) == ""


def test_columns_are_right_aligned_and_a_short_row_ends_in_words() -> None:
    rows = [("ranks", "size", "tok/s"), ("1", "16", "3"), ("2", "a reason that runs on"), ("12345678", "1", "12.5")]
    assert aligned(rows) == [
        "   ranks  size  tok/s",
        "       1    16      3",
        "       2  a reason that runs on",
        "12345678     1   12.5",
    ]


def test_events_that_are_shown_are_those_that_are_applied() -> None:
    script = scripted.completed()
    view, _ = view_after(script)
    state = PlainView(lambda _: None).state
    for event in script.events:
        state = apply(state, event)
    assert view.state == state
