"""How turned knobs, a lost rank and a full disk look: pure functions, tested without an app."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from rankdeck.runner import protocol
from rankdeck.runner.state import HistoryPoint, Mark
from rankdeck.tui.panels.chart import chart, columns
from rankdeck.tui.panels.marks import SIGN, label_rows, mark_column
from rankdeck.tui.panels.overview.advice import advice_lines, all_advice
from rankdeck.tui.panels.overview.header import header_line
from rankdeck.tui.panels.overview.knob_effect import turn_lines
from rankdeck.tui.panels.overview.notice import notice_lines
from rankdeck.tui.panels.overview.progress import progress_facts, progress_lines
from rankdeck.tui.panels.overview.ranks import rank_lines
from rankdeck.tui.panels.overview.throughput import throughput_lines
from rankdeck.tui.words.text import line_width, plain
from tests import scripted, scripted_steering
from tests.scripted_steering import STATES, SteeredScript

ALL = {name: make().state for name, make in STATES.items()}


@pytest.mark.parametrize("width", [58, 76, 116, 196])
@pytest.mark.parametrize("name", ALL)
def test_every_panel_fits_its_room(name: str, width: int) -> None:
    state = ALL[name]
    lines = [
        header_line(state, width),
        *rank_lines(state, width),
        *notice_lines(state, width),
        *advice_lines(state, width),
        *all_advice(state, width),
    ]
    for height in (5, 6, 9, 12, 20):
        chart_lines, facts = throughput_lines(state, width // 2, height), progress_lines(state, width // 2 - 4, height)
        assert len(chart_lines) == height
        assert len(facts) <= height
        lines.extend([*chart_lines, *facts])
    for line in lines:
        assert line_width(line) <= width, plain([line])


# --- marks --------------------------------------------------------------------------------------

MARKS = st.lists(
    st.builds(
        Mark,
        elapsed=st.floats(0, 5000, allow_nan=False),
        kind=st.sampled_from(["batch size", "active ranks", "pause", "memory", "rank lost", "taken up"]),
        text=st.text(st.characters(codec="utf-8"), max_size=30),
    ),
    max_size=12,
)


@given(MARKS, st.floats(0, 4000), st.integers(1, 150), st.integers(2, 25))
@settings(max_examples=300)
def test_marks_never_leave_the_chart(marks: list[Mark], end: float, width: int, height: int) -> None:
    marks = sorted(marks, key=lambda mark: mark.elapsed)
    history = [HistoryPoint(end * share / 9, 100.0 * share) for share in range(10)]
    lines = chart(history, max(10, width), height, marks)
    assert len(lines) == height
    assert {line_width(line) for line in lines} == {max(10, width)}


@given(MARKS, st.integers(2, 150), st.integers(1, 2))
@settings(max_examples=300)
def test_every_mark_has_its_sign_and_no_two_labels_touch(marks: list[Mark], number: int, rows: int) -> None:
    marks = [replace(mark, text="label") for mark in sorted(marks, key=lambda mark: mark.elapsed)]
    shown = plain(label_rows(marks, 5000.0, number, rows)).split("\n")
    found = {column for row in shown for column, cell in enumerate(row) if cell == SIGN}
    assert found <= {mark_column(mark, 5000.0, number) for mark in marks}
    assert all(word == "label" or set(word) <= {SIGN, "│"} for row in shown for word in row.split())
    if marks and number >= 16:
        newest = mark_column(marks[-1], 5000.0, number)
        assert any(f"{SIGN} label" in row[newest:] or row[: newest + 1].endswith(f"label {SIGN}") for row in shown)


def test_the_newest_mark_has_its_label_and_an_older_one_keeps_its_sign() -> None:
    marks = [
        Mark(elapsed=10, kind="batch size", text="batch size 8"),
        Mark(elapsed=12, kind="batch size", text="batch size 16"),
    ]
    assert plain(label_rows(marks, 60, 60)).split() == [SIGN, SIGN, "batch", "size", "16"]
    two_rows = plain(label_rows(marks, 60, 60, 2)).split("\n")
    assert two_rows[0].strip() == f"{SIGN} batch size 8"
    assert two_rows[1] == " " * 10 + f"│ {SIGN} batch size 16"


def test_a_mark_is_above_the_moment_it_was_made() -> None:
    state = ALL["paused"]
    lines = plain(throughput_lines(state, 70, 11)).split("\n")
    labels = next(line for line in lines if SIGN in line)
    column = labels.index(SIGN)
    assert labels[column:].startswith(f"{SIGN} paused")
    crossed = [line for line in lines if len(line) > column and line[column] == "│"]
    assert len(crossed) >= 3
    start = next(line for line in lines if "┤" in line).index("┤") + 1
    assert column - start == int(state.marks[0].elapsed / 30 * (70 - start))


def test_a_time_without_samples_is_a_hole_in_the_chart_not_a_plateau() -> None:
    history = [*((float(at), 100.0) for at in range(10)), (25.0, 90.0)]
    assert columns(history, 30, 30.0) == [100.0] * 10 + [None] * 15 + [90.0] + [None] * 4
    assert columns(history[:10], 60, 30.0)[:20] == [100.0] * 19 + [None]


# --- before and after ---------------------------------------------------------------------------


def test_the_line_of_a_turn_has_before_after_and_gain_of_whole_batches() -> None:
    assert plain(turn_lines(ALL["knob_turned"], 60)) == "batch size 4 → 8  115 → 174 tok/s (+51%)"
    assert plain(turn_lines(ALL["one_of_two_ranks"], 80)) == (
        "active ranks 2 → 1  174 → 89 tok/s (-49%)  memory 1.5 → 1.5 GiB"
    )


def test_until_a_turn_is_measured_its_line_says_when_it_takes_effect_and_then_what_its_steps_show() -> None:
    script = SteeredScript().begun().rounds(3).rounds(1, finish=False).size(8)
    soon = plain(turn_lines(script.state, 80))
    assert soon == "batch size 4 → 8  takes effect when batch #7 ends, in ~4 s"
    script.wait(2)
    for rank, number in enumerate((7, 8)):
        script.finish_batch(rank, number, range(24 + 4 * rank, 28 + 4 * rank))
    numbers = []
    for rank in (0, 1):
        script.begin_batch(rank)
        numbers.append(script.batches)
    assert plain(turn_lines(script.state, 80)).startswith("batch size 4 → 8  batch #9 has begun; was 115 tok/s")
    for step in (5, 12):
        script.wait(1).tick(step, numbers)
    (line,) = turn_lines(script.state, 100)
    assert plain([line]) == "batch size 4 → 8  ~97 tok/s so far, 12 steps; was 115; measured in ~6 s"
    assert [style for text, style in line if "97" in text] == ["dim"], "a measured figure is strong"


def test_a_figure_that_is_not_measured_has_its_sign_at_every_width() -> None:
    for width in range(20, 120):
        (line,) = turn_lines(ALL["knob_just_turned"], width)
        assert line_width(line) <= width
        assert " ~171" in plain([line])
        assert "%" not in plain([line])


def test_a_refused_turn_is_said_first_and_for_ten_seconds() -> None:
    reason = "no prompts left for another batch size: the last 12 are in flight"
    before = ALL["knob_turned"]
    state = replace(before, refusal=protocol.TurnRefused(at=before.now, reason=reason))
    assert plain(turn_lines(state, 80)) == f"refused: {reason}"
    assert plain(turn_lines(state, 60)) == "refused: no prompts left for another batch size"
    assert plain(turn_lines(state, 34)) == "refused: no prompts left for\nanother batch size"
    for width in range(20, 90):
        assert 1 <= len(turn_lines(state, width)) <= 3
        assert all(line_width(line) <= width for line in turn_lines(state, width))
    assert turn_lines(replace(state, now=state.now + 9.9), 80) == turn_lines(state, 80)
    assert turn_lines(replace(state, now=state.now + 10), 80) == turn_lines(before, 80)
    over = scripted_steering.knob_turned().ended(status="stopped").state
    assert turn_lines(replace(over, refusal=state.refusal), 80) == turn_lines(over, 80)


def test_progress_has_the_rows_that_run_if_prompts_run_out_or_the_size_was_just_turned() -> None:
    def batch_size(script: SteeredScript) -> str:
        (fact,) = (fact for fact in progress_facts(script.state) if fact.label == "batch size")
        assert fact.short_value or fact.value in plain(progress_lines(script.state, 116, 2))
        return fact.value

    assert batch_size(SteeredScript(batch_size=8).begun().rounds(1, finish=False)) == "8"
    uneven = SteeredScript(prompts=100, batch_size=50).begun()
    uneven.size(64)
    uneven.batch_size = 50
    uneven.rounds(1, finish=False)
    assert batch_size(uneven) == "64 (batches of 50)"
    assert "batch 50/64" in plain(progress_lines(uneven.state, 116, 2))
    turned = SteeredScript(batch_size=8).begun().rounds(1, finish=False).size(4)
    assert batch_size(turned) == "4 (batches of 8)"
    assert batch_size(turned.ended(status="stopped")) == "4", "nothing runs any more"
    state = SteeredScript(batch_size=16).begun().rounds(1, finish=False).state
    capped = replace(state, ranks=(state.ranks[0], replace(state.ranks[1], cap=8, batch_rows=8)))
    assert "batches of" not in plain(progress_lines(capped, 116, 2)), "what a rank is capped at is said beside it"
    filling = replace(
        state,
        ranks=tuple(replace(one, ready=replace(one.ready, engine="continuous"), rows_at_once=5) for one in state.ranks),
    )
    assert "batches of" not in plain(progress_lines(filling, 116, 2)), "its rows are still being filled"
    assert "batch 5/16" in plain(progress_lines(replace(filling, prompts=filling.done + 32), 116, 2))


def test_a_turn_without_a_figure_at_the_end_is_dropped() -> None:
    over = scripted_steering.knob_just_turned().ended(status="stopped").state
    assert turn_lines(over, 60) == turn_lines(over, 29) == []


def test_a_knob_turned_before_the_first_whole_batch_has_nothing_to_compare_with() -> None:
    early = SteeredScript().begun().rounds(1, finish=False).size(8).rounds(2).state
    said = "turned before a batch was whole: nothing to compare with"
    assert plain(turn_lines(early, 100)) == f"batch size 4 → 8  {said}"
    assert plain(turn_lines(early, 42)) == "batch size 4 → 8  nothing to compare with"
    assert plain(turn_lines(early, 36)) == "batch 4→8  nothing to compare with"
    assert all(line_width(line) <= 20 for line in turn_lines(early, 20))


def test_a_knob_turned_after_first_batches_only_is_not_compared_with_them() -> None:
    early = SteeredScript(gpus=2).begun().rounds(1).size(8).rounds(2).state
    assert early.periods[-1].warm_rate is not None
    said = "turned after first batches only, which are slower: nothing to compare with"
    assert plain(turn_lines(early, 100)) == f"batch size 4 → 8  {said}"
    on_a_cpu = SteeredScript().begun().rounds(1).size(8).rounds(2).state
    assert said not in plain(turn_lines(on_a_cpu, 100))
    later = SteeredScript(gpus=2).begun().rounds(2).size(8).rounds(2).state
    assert plain(turn_lines(later, 100)).startswith("batch size 4 → 8  115 → 174 tok/s (+51%)")


def test_two_knobs_turned_before_either_was_measured_share_one_figure() -> None:
    state = ALL["knob_turned"]
    before, after = state.periods[-2:]
    both = replace(state, periods=(replace(before, active_ranks=1, shares={0: before.shares[0]}), after))
    assert plain(turn_lines(both, 80)).startswith("batch size 4 → 8 and active ranks 1 → 2  ")


def test_the_line_of_a_turn_shrinks_with_its_room() -> None:
    assert plain(turn_lines(ALL["knob_turned"], 39)) == "batch 4 → 8  115 → 174 tok/s (+51%)"
    assert plain(turn_lines(ALL["knob_turned"], 29)) == "batch 4→8 115→174 +51%"
    assert plain(turn_lines(ALL["knob_just_turned"], 29)) == "batch 4→8  ~171, was 115"
    assert plain(turn_lines(ALL["knob_just_turned"], 34)) == "batch 4→8  ~171, was 115, in ~3 s"


def test_without_a_turned_knob_there_is_no_line() -> None:
    assert turn_lines(scripted.running().state, 60) == []
    assert turn_lines(SteeredScript().begun().rounds(2).state, 60) == []


# --- batch size, ranks, header ------------------------------------------------------------------


def test_the_batch_size_shows_that_it_is_being_searched_for_and_why_it_settled() -> None:
    assert "batch 32 trying" in plain(progress_lines(ALL["auto_trying"], 110, 2))
    settled = plain(progress_lines(ALL["auto_settled"], 110, 3))
    assert "32 (auto)" in settled
    assert scripted_steering.SETTLED in " ".join(settled.split())
    assert scripted_steering.SETTLED in " ".join(plain(all_advice(ALL["auto_settled"], 60)).split())
    assert "as asked for" not in plain(progress_lines(ALL["knob_turned"], 110, 3))


def test_a_reason_that_does_not_fit_ends_in_an_ellipsis() -> None:
    assert plain(progress_lines(ALL["auto_settled"], 56, 3)).endswith("…")


def test_a_rank_is_inactive_only_after_it_has_finished_its_batch() -> None:
    script = SteeredScript(batch_size=8).begun().rounds(1, finish=False).activate(1)
    assert "inactive" not in plain(rank_lines(script.state, 76))
    script.finish_batch(1, 2, range(8, 16))
    assert "inactive" in plain(rank_lines(script.state, 76)).split("\n")[2]


@pytest.mark.parametrize("width", [58, 76, 116])
def test_a_rank_that_ran_out_of_memory_shows_its_cap_beside_its_batch(width: int) -> None:
    rows = plain(rank_lines(ALL["out_of_memory"], width)).split("\n")
    assert "≤8" in rows[2]
    assert "≤" not in rows[1]


def test_the_header_shows_active_ranks_a_pause_and_the_attempt() -> None:
    assert "1 of 2 ranks active" in plain([header_line(ALL["one_of_two_ranks"], 116)])
    assert "‖ paused" in plain([header_line(ALL["paused"], 58)])
    assert "attempt 2, 2 restarts left" in plain([header_line(ALL["relaunched"], 116)])
    assert "attempt 2, 2 left" in plain([header_line(ALL["relaunched"], 78)])


# --- what holds the run up ----------------------------------------------------------------------


@pytest.mark.parametrize("width", [58, 78, 118])
def test_a_full_disk_is_explained_in_full(width: int) -> None:
    text = " ".join(plain(notice_lines(ALL["disk_full"], width)).split())
    assert scripted_steering.DISK_FULL in text
    assert "goes on by itself" in text


@pytest.mark.parametrize("width", [58, 78, 118])
def test_a_relaunch_shows_which_rank_was_lost_why_and_how_far_loading_is(width: int) -> None:
    text = " ".join(plain(notice_lines(ALL["relaunching"], width)).split())
    assert text.startswith(f"✗ rank 1 was lost: {scripted_steering.SEGFAULT};")
    assert "attempt 2, 2 restarts left" in text
    assert "loading" in plain(rank_lines(ALL["relaunching"], width))
    assert "ready 0/2" in plain(progress_lines(ALL["relaunching"], 110, 2))
    assert "- tok/s now" in plain(throughput_lines(ALL["relaunching"], 60, 9))
    assert notice_lines(ALL["relaunched"], width) == []


def test_a_resumed_run_does_not_blame_a_rank() -> None:
    script = scripted_steering.relaunched()
    settings = scripted.config(2, 8)
    script.add(protocol.RunTakenUp(config=settings, completed=48, failed=0, prompt_tokens=1, output_tokens=1))
    script.add(protocol.RanksLaunched(attempt=3, world_size=2, restarts_left=3))
    assert "lost" not in plain(notice_lines(script.state, 78))


def test_a_hostile_reason_is_shown_literally() -> None:
    script = SteeredScript().begun().add(protocol.Paused(reason="[red]\x1b[2J\u202e", asked=False))
    assert "[red]␛[2J⟨U+202E⟩" in plain(notice_lines(script.state, 78))


def test_advice_is_one_line_with_the_key_for_the_rest() -> None:
    line = plain(advice_lines(ALL["advice"], 60))
    assert line.startswith("▸ 3 ranks at batch size 16 need 3 rounds")
    assert line.endswith("i all of it")
    assert advice_lines(scripted.loading().state, 60) == []
