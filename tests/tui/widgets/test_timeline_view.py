"""The Timeline view: its lines at every size, its sentences, and every key."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdeck.runner import protocol
from rankdeck.runner.advice.findings import findings
from rankdeck.runner.advice.segments import Segment
from rankdeck.runner.state import RunState
from rankdeck.runner.state.timeline import Span
from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.app.replay import ReplayApp
from rankdeck.tui.panels.timeline.page import timeline_lines
from rankdeck.tui.panels.timeline.window import Look, axis, window
from rankdeck.tui.panels.timeline.words import explained
from rankdeck.tui.sources.journal import SAMPLE, Journal
from rankdeck.tui.sources.replay import ReplaySource
from rankdeck.tui.widgets.lines import Panel
from rankdeck.tui.widgets.timeline import TimelineView
from rankdeck.tui.words.styles import STYLES
from rankdeck.tui.words.text import line_width, plain
from tests import scripted, scripted_steering, scripted_timeline
from tests.dashboards import dashboard, panel, settled, until, whole_screen
from tests.runner.state.test_state import play

STATES: dict[str, RunState] = {
    "nothing": RunState(),
    "starting": scripted.starting().state,
    "loading": scripted.loading(4, 4).state,
    "running": scripted.running().state,
    "one rank": scripted.running(1).state,
    "eight GPUs": scripted.running(8, gpus=8, prompts=1000).state,
    "many": scripted_timeline.many().state,
    "slow rank": scripted_timeline.straggler().state,
    "second round": scripted_timeline.second_round().state,
    "continuous": scripted_timeline.continuous().state,
    "lost": scripted_steering.rank_lost().state,
    "relaunching": scripted_steering.relaunching().state,
    "again": scripted_timeline.lost_and_again().state,
    "paused": scripted_steering.paused().state,
    "inactive": scripted_steering.one_of_two().state,
    "failed": scripted.failed().state,
    "completed": scripted.completed().state,
    "fewer ranks": play(
        protocol.RunTakenUp(
            at=scripted.START + 900,
            config=scripted.config(1),
            completed=30,
            failed=0,
            prompt_tokens=300,
            output_tokens=1200,
        ),
        protocol.RanksLaunched(at=scripted.START + 901, attempt=2, world_size=1),
        state=scripted_timeline.straggler(ended=False).state,
    ),
}


def drawn(state: RunState, width: int = 116, height: int = 34, look: Look | None = None) -> str:
    return plain(timeline_lines(state, findings(state), look or Look(), width, height))


@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from(sorted(STATES)),
    st.integers(24, 210),
    st.integers(6, 60),
    st.builds(
        Look,
        rank=st.integers(0, 63),
        at=st.none() | st.floats(0, 60),
        left=st.none() | st.floats(0, 60),
        zoom=st.integers(0, 6),
        loading=st.booleans(),
    ),
)
def test_every_line_is_as_wide_as_the_panel_and_has_only_known_styles(
    name: str, width: int, height: int, look: Look
) -> None:
    state = STATES[name]
    lines = timeline_lines(state, findings(state), look, width, height)
    assert len(lines) == height
    assert {line_width(line) for line in lines} == {width}
    assert {style for line in lines for _, style in line} <= {"", *STYLES}


@given(st.floats(0, 1e6), st.integers(0, 8), st.integers(10, 180))
def test_the_ticks_of_the_axis_are_round_and_apart(seconds: float, zoom: int, width: int) -> None:
    state = STATES["running"]
    shown = window(state, Look(zoom=zoom))._replace(left=seconds)
    rule = plain([axis(shown, width, None)])
    assert len(rule) <= width
    ticks = [position for position, sign in enumerate(rule) if sign == "┬"]
    assert all(after - before >= 5 for before, after in pairwise(ticks))


# --- what it says -------------------------------------------------------------------------------


def test_a_batch_is_a_bar_that_says_its_number_and_its_prompts() -> None:
    text = drawn(STATES["slow rank"])
    assert "▓" in text
    assert "#3 x16" in text
    assert "8.4 s" in text


def test_a_thin_second_round_is_visible_and_explained() -> None:
    text = drawn(STATES["second round"])
    assert "round 1: 100% full" in text
    assert "round 2: 25% full" in text
    assert "▄▄▄▄" in text  # two rows high, and a quarter of that
    assert "Round 2 of 2 was 25% full" in text


def test_idle_time_at_the_end_is_marked_with_its_seconds() -> None:
    assert "idle 6.4 s" in drawn(STATES["slow rank"])


def test_before_the_first_batch_loading_ranks_have_lanes() -> None:
    text = drawn(STATES["loading"])
    assert "importing" in text
    assert "seconds since the start" in text
    assert "rank 0: loading its model, 3.0 s so far" in text


def test_time_before_the_first_batch_is_left_of_zero() -> None:
    state = STATES["slow rank"]
    assert "w shows 9.7 s of loading" in drawn(state)
    text = drawn(state, look=Look(loading=True))
    assert "┬-5 s" in text
    assert "importing" in text


@pytest.mark.parametrize(
    ("name", "look", "words"),
    [
        ("slow rank", Look(rank=2, at=12.0),
         "#3 on rank 2: 16 prompts, 703 output tokens in 8.4 s (prefill 0.5 s, decode 7.8 s, 50 steps), 84 tok/s, "
         "padding waste 12%; 1.8 x as long as the other ranks' batches of its size"),
        ("slow rank", Look(rank=1), "rank 1 had no batch for 6.4 s: nothing was left for it while ranks 0 and 2"),
        ("slow rank", Look(rank=0), "rank 0 had no batch for 1.7 s: nothing was left for it while rank 2 finished #15"),
        ("running", Look(rank=1), "#6 on rank 1: 16 prompts, in its hand for 4.0 s, step 47 of 50"),
        ("paused", Look(rank=0), "paused, asked for"),
        ("inactive", Look(rank=1), "rank 1 got no batch for"),
        ("lost", Look(rank=1), "rank 1 was lost: killed by SIGSEGV"),
        ("again", Look(rank=0, at=15.0), "went back to the front of the queue"),
        ("again", Look(rank=1, at=20.0), "after it was launched again (attempt 2)"),
        ("continuous", Look(rank=1, at=12.0), "16.0 rows at once on average"),
        ("nothing", Look(), "a lane per rank and a bar per batch, once there are ranks"),
    ],
)  # fmt: skip
def test_what_is_under_the_cursor_is_described(name: str, look: Look, words: str) -> None:
    said = " ".join(drawn(STATES[name], 200, 34, look).split())
    assert words in said


def test_every_one_of_many_ranks_can_be_reached() -> None:
    state = STATES["many"]
    assert "rank 63" not in drawn(state)
    assert "▸rank 63" in drawn(state, look=Look(rank=63))


def test_a_knob_that_was_turned_is_marked_as_in_the_chart() -> None:
    assert "▼ 1 active" in drawn(STATES["inactive"])


# --- keys ---------------------------------------------------------------------------------------


def view(app: RankdeckApp) -> TimelineView:
    return app.screen.query_one(TimelineView)


def said(app: RankdeckApp) -> str:
    """The words below the legend."""
    return " ".join(panel(app, "timeline-panel").split("▸")[-1].split())


async def test_3_opens_the_timeline_and_h_and_l_go_from_batch_to_batch() -> None:
    app = dashboard(scripted_timeline.straggler())
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("3")
        assert said(app).startswith("rank 0 had no batch")
        for key, words in (("h", "#16 on rank 0"), ("left", "#12 on rank 0"), ("l", "#16"), ("right", "rank 0 had no")):
            await pilot.press(key)
            assert said(app).startswith(words)


async def test_j_and_k_go_from_lane_to_lane_at_the_same_moment() -> None:
    app = dashboard(scripted_timeline.straggler())
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("3", "g")
        for key, words in (
            ("j", "#2 on rank 1"),
            ("down", "#3 on rank 2"),
            ("k", "#2"),
            ("up", "#1"),
            ("pagedown", "#4 on rank 3"),
            ("pageup", "#1 on rank 0"),
        ):
            await pilot.press(key)
            assert said(app).startswith(words)


async def test_g_and_G_go_to_the_first_and_the_last_batch_of_a_lane() -> None:
    app = dashboard(scripted_timeline.straggler())
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("3")
        for key, words in (("g", "#1 on"), ("G", "#16 on"), ("home", "#1 on"), ("end", "#16 on")):
            await pilot.press(key)
            assert said(app).startswith(words)


async def test_z_zooms_in_around_the_cursor_and_w_shows_the_whole_again() -> None:
    app = dashboard(scripted_timeline.straggler())
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("3", "g", "l", "z", "z")
        assert str(app.query_one("#timeline-panel").border_title) == "Timeline, 3.9 s to 10.1 s"
        assert "┬5 s" in panel(app, "timeline-panel")
        await pilot.press("Z")
        assert view(app).look.zoom == 1
        await pilot.press("w")
        assert str(app.query_one("#timeline-panel").border_title) == "Timeline"
        await pilot.press("w")
        assert "┬-5 s" in panel(app, "timeline-panel")


async def test_H_and_L_pan_by_half_a_width_and_stop_at_the_ends() -> None:
    app = dashboard(scripted_timeline.straggler())
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("3", "g", "z", "z", "L")
        moved = window(app.followed.state, view(app).look)
        assert moved.left == pytest.approx(moved.first + moved.seconds / 2)
        await pilot.press("L", "L", "L", "L", "L", "L", "L")
        assert window(app.followed.state, view(app).look).right == pytest.approx(moved.first + moved.whole)
        await pilot.press(*["H"] * 12)
        assert window(app.followed.state, view(app).look).left >= 0


async def test_f_follows_the_run_again() -> None:
    script = scripted_timeline.straggler(ended=False)
    app = dashboard(script)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("3", "g", "z")
        assert "following" not in str(app.query_one("#timeline-panel").border_title)
        await pilot.press("f", "w")
        assert view(app).look.at is None
        assert "following the run" in str(app.query_one("#timeline-panel").border_title)
        assert "in its hand for" in said(app)


async def test_n_goes_to_the_rank_that_stands_out() -> None:
    app = dashboard(scripted_timeline.many())
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("3", "n")
        assert view(app).look.rank == 5
        assert "▸rank 5" in panel(app, "timeline-panel")


async def test_n_goes_to_the_slowest_batch_of_a_slow_rank() -> None:
    script = scripted_timeline.PacedScript(2, prompts=200, step=0.08).begun()
    script.pull(until=script.at + 9)
    script.slow = {1: 3.0}
    script.pull(until=script.at + 14)
    script.slow = {}
    app = dashboard(script.pull().ended())
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("3", "n")
        await pilot.pause()
        (slowest,) = [
            span
            for span in app.followed.state.timeline.lanes[1].spans
            if span.work is not None and span.work.decode_seconds > 10
        ]
        assert f"#{slowest.batch} on rank 1: " in whole_screen(app)


async def test_moving_the_cursor_out_of_sight_scrolls_to_its_batch() -> None:
    app = dashboard(scripted_timeline.straggler())
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("3", "g", "z", "z", "z", *["l"] * 4)
        look = view(app).look
        shown = window(app.followed.state, look)
        assert look.at is not None
        assert shown.left <= look.at <= shown.right


async def test_the_timeline_shows_advice_itself_and_the_screen_does_not_repeat_it() -> None:
    app = dashboard(scripted_timeline.second_round(gpus=0))
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        assert whole_screen(app).count("batch size 20 needs 1") == 1
        await pilot.press("3")
        await pilot.pause()
        assert " ".join(whole_screen(app).split()).count("5 ranks at batch size 16") == 1


@pytest.mark.parametrize("size", [(60, 18), (80, 24), (120, 40), (200, 60)])
async def test_nothing_is_cut_off_at_any_size(size: tuple[int, int]) -> None:
    app = dashboard(scripted_timeline.second_round())
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        await pilot.press("3")
        await pilot.pause()
        text = whole_screen(app)
        for words in ("rank 4", "round 2", "tok/s", "decode", "#6 on rank 0"):
            assert words in text


async def test_a_click_on_a_batch_puts_the_cursor_on_it() -> None:
    app = dashboard(scripted_timeline.straggler())
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("3")
        await pilot.pause()
        lines = whole_screen(app).split("\n")
        row = next(number for number, line in enumerate(lines) if "#8 x16" in line)
        await pilot.click(offset=(lines[row].index("#8"), row))
        assert said(app).startswith("#8 on rank 2")
        await pilot.click(offset=(4, row))
        assert said(app).startswith("#8 on rank 2")


async def test_in_a_replay_the_arrows_seek_and_h_and_l_move_the_cursor() -> None:
    source = ReplaySource(Journal(SAMPLE), position=45.0, playing=False)
    app = ReplayApp(source)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: source.caught_up and app.run_is_shown)
        await pilot.press("3", "h")
        await pilot.pause()
        before = app.screen.query_one(TimelineView).look
        assert before.at is not None
        await pilot.press("left")
        assert source.transport.position == 35.0
        assert app.screen.query_one(TimelineView).look == before
        await pilot.press("0")
        assert source.transport.position == 0.0


async def test_every_key_of_the_timeline_is_in_the_help() -> None:
    app = dashboard(scripted_timeline.straggler())
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("3", "question_mark")
        await pilot.pause()
        text = plain(app.screen.query_one("#help-lines", Panel).lines)
        for words in ("The batch or gap before", "Half as many seconds", "The whole run", "To the next rank that"):
            assert words in text


def test_losses_kept_as_one_mark_are_counted() -> None:
    state = scripted_timeline.lost_and_again().state
    lost = Segment("lost", 3, 9, Span("lost", 3, 9, batch=4, rows=48, joined=3))
    assert explained(state, 1, lost) == "rank 1: 3 batches lost, so long ago that they are kept as one: 6.0 s"
