"""The Overview's tables: their form in a given room, the last minute of each GPU, the order of the ranks."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from textual.widgets import Input

from rankdeck.runner.state import RunState
from rankdeck.tui.panels.bars import MINUTE_SECONDS, minute
from rankdeck.tui.panels.frame import Frame
from rankdeck.tui.panels.overview.devices import device_lines, devices_title
from rankdeck.tui.panels.overview.gpu_ranks import gpu_rank_lines, one_to_one
from rankdeck.tui.panels.overview.plan import plan_overview
from rankdeck.tui.panels.overview.rank_order import Arrangement, RankView, arranged, ranks_title
from rankdeck.tui.panels.overview.ranks import batch_words, rank_lines
from rankdeck.tui.widgets.lines import Panel
from rankdeck.tui.widgets.overview import Overview
from rankdeck.tui.words.text import line_width, plain
from tests import scripted, scripted_timeline
from tests.dashboards import dashboard, settled

PERCENT = st.one_of(st.none(), st.floats(0, 100))
EIGHT = scripted.running(8, gpus=8, prompts=1000).state
MANY = scripted.running(64, gpus=8, prompts=8000).state


# --- the last minute ------------------------------------------------------------------------------


def test_the_last_minute_has_a_scale_of_0_to_100_and_blanks_for_missing_samples() -> None:
    assert minute([0.0, 50.0, None, 100.0], 4, 60) == "▁▅ █".rjust(60)


def test_a_cell_is_the_mean_of_its_seconds() -> None:
    assert minute([0.0, 0.0, 0.0, 100.0, 100.0, 100.0], 6, 20)[-2:] == "▁█"


@given(st.lists(PERCENT, max_size=MINUTE_SECONDS), st.integers(0, 10_000), st.integers(1, 200))
def test_the_last_minute_fills_its_width_exactly(history: list[float | None], before: int, width: int) -> None:
    assert len(minute(history, before + len(history), width)) == width


@given(st.lists(st.floats(0, 100), min_size=200, max_size=200), st.integers(1, 60))
def test_a_complete_bar_never_changes_its_height(values: list[float], width: int) -> None:
    per_cell = -(-MINUTE_SECONDS // width)
    cells = MINUTE_SECONDS // per_cell
    shown = [minute(values[max(0, seen - MINUTE_SECONDS) : seen], seen, width)[-cells:] for seen in range(130, 200)]
    for before, after in zip(shown, shown[per_cell:], strict=False):
        # After the seconds of one cell, the same bars have moved by one cell.
        assert after[1:-2] == before[2:-1]


# --- forms of the GPUs ----------------------------------------------------------------------------


FORMS = [(form, width) for form in ("cells", "rows", "tiny") for width in (58, 76, 116, 196)]


@pytest.mark.parametrize(("form", "width"), [*FORMS, ("grid", 116), ("grid", 196)])
@pytest.mark.parametrize("state", [EIGHT, MANY, scripted.lost_gpu(8).state], ids=["eight", "sixty-four", "lost"])
def test_every_form_fits_its_width_and_shows_every_gpu(state: RunState, width: int, form: str) -> None:
    lines = device_lines(state, width, form)  # type: ignore[arg-type]
    assert max(map(line_width, lines)) <= width
    text = plain(lines)
    for device in state.devices:
        sample = device.sample
        assert "✗ lost" in text if sample.lost else f"{sample.busy_percent:.0f}%" in text


def test_a_name_common_to_all_gpus_is_in_the_title_and_others_beside_the_number() -> None:
    assert devices_title(EIGHT) == "GPUs  8 x H100 80GB HBM3"
    mixed = replace(EIGHT.devices[0], sample=replace(EIGHT.devices[0].sample, name="NVIDIA GeForce RTX 3090"))
    state = replace(EIGHT, devices=(mixed, *EIGHT.devices[1:]))
    assert devices_title(state) == "GPUs"
    for form in ("cells", "rows"):
        assert "RTX 3090" in plain(device_lines(state, 116, form))  # type: ignore[arg-type]


def test_every_form_with_words_says_what_lowers_the_clocks() -> None:
    assert "▾ power" in plain(device_lines(EIGHT, 116, "grid"))
    assert "power cap" in plain(device_lines(EIGHT, 116, "rows"))
    assert "throttle power cap" in plain(device_lines(EIGHT, 116, "cells"))


def test_a_wide_terminal_shows_saturation_if_the_gpu_reports_it() -> None:
    sample = replace(EIGHT.devices[0].sample, sm_percent=88.0, tensor_percent=41.0, dram_percent=62.0)
    state = replace(EIGHT, devices=(replace(EIGHT.devices[0], sample=sample), *EIGHT.devices[1:]))
    assert "SM  88%   tensor  41%   DRAM  62%" in plain(device_lines(state, 196))
    assert "tensor" not in plain(device_lines(state, 76))


def test_a_rank_and_its_gpu_share_a_row_only_if_all_pair_off() -> None:
    assert one_to_one(EIGHT)
    assert not one_to_one(MANY)
    assert one_to_one(scripted.running(2).state), "without GPU figures every rank has its process"
    lines = plain(gpu_rank_lines(EIGHT, 76)).split("\n")
    assert lines[4].split() == [
        "3",
        "▾3",
        "94%",
        "██",
        "31%",
        "424",
        "61",
        "49/50",
        "#20",
        "x16",
        "155",
        "32",
        "12%",
        "3%",
    ]
    assert max(map(len, lines)) <= 76


# --- room -----------------------------------------------------------------------------------------


def plan(state: RunState, width: int, height: int) -> tuple[str | None, str, bool, bool]:
    found = plan_overview(state, width - 4, height - 3, border=2, spare=False, taken=0)
    return found.devices, found.ranks, found.merged, found.tail


def test_the_plan_is_the_fullest_that_leaves_room_for_the_charts() -> None:
    assert plan(scripted.running(2, gpus=2).state, 120, 40) == ("cells", "table", False, True)
    assert plan(scripted.running(2, gpus=2).state, 80, 24) == ("rows", "table", False, False)
    assert plan(EIGHT, 120, 40) == ("grid", "table", False, False)
    assert plan(EIGHT, 120, 30) == (None, "table", True, False)
    assert plan(EIGHT, 80, 24) == (None, "table", True, False)
    assert plan(MANY, 120, 40) == ("tiny", "grid", False, False)
    assert plan(MANY, 80, 24) == ("tiny", "small grid", False, False)


@pytest.mark.parametrize(("ranks", "size"), [(8, (120, 40)), (8, (80, 24)), (64, (120, 40)), (64, (200, 60))])
async def test_with_eight_gpus_nothing_scrolls(ranks: int, size: tuple[int, int]) -> None:
    app = dashboard(scripted.running(ranks, gpus=8, prompts=100 * ranks))
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        await pilot.pause(0.1)
        overview = app.screen.query_one(Overview)
        assert overview.max_scroll_y == 0
        assert overview.query_one("#charts").size.height >= 8


# --- the order of the ranks -----------------------------------------------------------------------


def test_worst_first_begins_with_lost_then_capped_then_slow_ranks() -> None:
    ranks = list(MANY.ranks)
    ranks[40] = replace(ranks[40], phase="lost", cause="killed")
    ranks[7] = replace(ranks[7], cap=4)
    state = replace(MANY, ranks=tuple(ranks))
    assert arranged(state, RankView("worst first"))[:2] == [40, 7]


def test_ranks_are_found_by_number_range_state_and_device() -> None:
    assert arranged(MANY, RankView(filter="3")) == [3]
    assert arranged(MANY, RankView(filter="8-11")) == [8, 9, 10, 11]
    assert arranged(MANY, RankView(filter="cuda:2 0-20")) == [2, 10, 18]
    assert arranged(MANY, RankView(filter="lost")) == []
    assert len(arranged(MANY, RankView(filter="DECODING"))) == 64


def test_rows_keep_their_places_for_a_while_but_move_at_once_in_trouble() -> None:
    kept, view = Arrangement(), RankView("prompts")
    first = kept.of(MANY, view)
    busier = replace(MANY.ranks[50], prompts=1_000_000)
    later = replace(MANY, ranks=(*MANY.ranks[:50], busier, *MANY.ranks[51:]), now=MANY.now + 1)
    assert kept.of(later, view) == first
    assert kept.of(replace(later, now=MANY.now + 4), view)[0] == 50
    lost = replace(busier, phase="lost")
    gone = replace(later, ranks=(*MANY.ranks[:50], lost, *MANY.ranks[51:]), now=MANY.now + 4.5)
    assert kept.of(gone, RankView("worst first"))[0] == 50


def test_the_title_shows_the_filter_and_the_order() -> None:
    assert ranks_title(MANY, RankView(), 64) == "Ranks  64"
    assert ranks_title(MANY, RankView("worst first", "cuda:1"), 8) == "Ranks  8 of 64: cuda:1  worst first"
    assert ranks_title(MANY, RankView("tok/s"), 64) == "Ranks  64  by tok/s"


def test_a_slow_rank_is_marked_in_every_form() -> None:
    state = scripted_timeline.many(8).state
    assert arranged(state, RankView("worst first"))[0] == 5
    assert arranged(state, RankView(filter="slow")) == [5]
    for form in ("table", "grid", "small grid"):
        text = plain(rank_lines(state, 116, form))  # type: ignore[arg-type]
        assert text.count("!") == 1


async def test_ranks_are_sorted_and_filtered_by_keys_and_escape_shows_all() -> None:
    app = dashboard(scripted.running(64, gpus=8, prompts=8000))
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        ranks = app.screen.query_one("#ranks", Panel)

        def title() -> str:
            return str(ranks.border_title)

        await pilot.press("w")
        assert title() == "Ranks  64  worst first"
        await pilot.press("w", "o")
        assert title() == "Ranks  64  worst first"
        await pilot.press("o")
        assert title() == "Ranks  64  by tok/s"
        await pilot.press("slash", *"8-11")
        assert title() == "Ranks  4 of 64: 8-11  by tok/s"
        await pilot.press("enter")
        assert not isinstance(app.focused, Input)
        assert "11" in plain(ranks.lines)
        await pilot.press("slash", "x", "y", "enter")
        assert "no rank is like that" in plain(ranks.lines)
        await pilot.press("escape")
        assert title() == "Ranks  64"


def test_samples_are_counted_and_every_rank_has_a_minute_of_cpu() -> None:
    state = scripted.running(2).state
    assert len(state.cpu_history) == 2
    assert state.samples >= len(state.cpu_history[0]) > 0
    assert set(state.cpu_history[0]) == {96.0}
    assert "last minute" in plain(device_lines(state, 76))


# --- corner cases -----------------------------------------------------------------------------------


def test_which_rank_is_on_which_gpu_may_not_be_known_yet() -> None:
    unknown = replace(EIGHT, devices=tuple(replace(device, ranks=()) for device in EIGHT.devices))
    assert plain(gpu_rank_lines(unknown, 80)).count("n/a") == 8 * 6


async def test_the_plan_is_remade_when_ranks_are_matched_to_gpus() -> None:
    app = dashboard(scripted.running(8, gpus=8, prompts=1000))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        overview = app.screen.query_one(Overview)
        known = app.followed.state
        unknown = replace(known, devices=tuple(replace(device, ranks=()) for device in known.devices))
        for state, titled in ((known, True), (unknown, False), (known, True)):
            overview.show(Frame(state, app.followed.book, None, steers=True))
            assert str(overview.query_one("#ranks", Panel).border_title).startswith("Ranks and GPUs") is titled


def test_large_figures_are_never_cut() -> None:
    eight = scripted_timeline.many(8).state
    big = [
        replace(device, sample=replace(device.sample, power_watts=1008.0, power_limit_watts=1200.0))
        for device in eight.devices
    ]
    fast = [replace(rank, prompts=1_250_000, output_tokens=200_000, step=1024) for rank in eight.ranks]
    assert eight.config is not None
    config = replace(eight.config, max_new_tokens=4096)
    state = replace(eight, devices=tuple(big), ranks=tuple(fast), rank_rates=(11_700.0,) * 8, config=config)
    for width in (76, 116):
        for form in ("cells", "rows"):
            assert "1008/1200 W" in plain(device_lines(state, width, form))  # type: ignore[arg-type]
        for lines in (rank_lines(state, width), gpu_rank_lines(state, width)):
            assert "1.25M" in plain(lines)
            assert re.search(r"!1\d\.\dk", plain(lines))
            assert "…" not in plain(lines)
    assert "25%" in plain(rank_lines(state, 76))
    assert "1024/4096" in plain(rank_lines(state, 116))
    assert " 1008 " in plain(gpu_rank_lines(state, 76))


def test_a_filter_for_one_device_does_not_match_another_with_the_same_first_digits() -> None:
    rank = replace(EIGHT.ranks[0], ready=replace(scripted.ready(0, 16), device="cuda:10"))
    state = replace(EIGHT, ranks=(rank, *EIGHT.ranks[1:]))
    assert arranged(state, RankView(filter="cuda:1")) == [1]
    assert arranged(state, RankView(filter="cuda:10")) == [0]


def test_a_batch_has_as_many_prompts_as_it_began_with_whatever_has_left_it() -> None:
    (rank, *_) = scripted.running().state.ranks
    assert (rank.batch, rank.batch_rows) == (5, 16)
    assert plain([batch_words(replace(rank, rows=3), 20)]) == "#5 x16"
