"""The panels: pure functions from a state to lines, tested without an app."""

import pytest
from msgspec.structs import replace

from rankdeck.runner import protocol
from rankdeck.runner.advice.advice import advise
from rankdeck.runner.protocol import ProcessSample
from rankdeck.runner.state import RunState, apply
from rankdeck.tui.panels.bars import bar, bar_with_begun
from rankdeck.tui.panels.log.log_listing import LogPage
from rankdeck.tui.panels.outputs.answer_lines import GUTTER, SHOWN_CHARACTERS, answer_page, answer_row
from rankdeck.tui.panels.outputs.query import Query
from rankdeck.tui.panels.overview.advice import all_advice
from rankdeck.tui.panels.overview.devices import device_lines, devices_title
from rankdeck.tui.panels.overview.gpu_ranks import gpu_rank_lines
from rankdeck.tui.panels.overview.header import header_line
from rankdeck.tui.panels.overview.notice import notice_lines
from rankdeck.tui.panels.overview.progress import progress_lines
from rankdeck.tui.panels.overview.ranks import rank_lines
from rankdeck.tui.panels.overview.summary import summary_lines
from rankdeck.tui.panels.overview.tail import tail_lines
from rankdeck.tui.panels.overview.throughput import throughput_lines
from rankdeck.tui.words.text import (
    line_width,
    plain,
)
from tests import scripted, scripted_sweep

SIZES = (58, 76, 116, 196)
STATES = {
    "before the first event": RunState(),
    "starting": scripted.starting().state,
    "fetching": scripted.fetching().state,
    "loading": scripted.loading().state,
    "running on a cpu": scripted.running().state,
    "running on 2 GPUs": scripted.running(2, gpus=2).state,
    "running on 8 GPUs": scripted.running(8, gpus=8, prompts=1000).state,
    "completed": scripted.completed().state,
    "failed": scripted.failed().state,
}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("width", SIZES)
def test_every_panel_fits_its_width(name: str, width: int) -> None:
    state = STATES[name]
    lines = [
        header_line(state, width),
        *throughput_lines(state, width // 2, 8),
        *progress_lines(state, width // 2 - 4, 8),
        *device_lines(state, width),
        *rank_lines(state, width),
        *summary_lines(state, None, width),
        *tail_lines(state, [scripted.record(3)], width, 5),
    ]
    for line in lines:
        assert line_width(line) <= width, plain([line])


def test_the_header_shows_run_and_phase() -> None:
    assert plain([header_line(STATES["running on a cpu"], 120)]).split() == [
        *("rankdeck", "SmolLM2-135M-Instruct", "float32", "2", "ranks", "pull", "static", "engine"),
        *("natural", "length", "running", "00:15"),
    ]
    narrow = plain([header_line(STATES["running on a cpu"], 58)])
    assert "2 ranks" in narrow
    assert narrow.endswith("running 00:15")


def test_loading_shows_each_phase_and_its_seconds() -> None:
    text = plain(rank_lines(STATES["loading"], 76))
    assert "0  00:03  ✓ importing  ✓ joining  ▸ loading" in text
    assert "1  00:03  ✓ importing  ▸ joining" in text


def test_fetching_a_model_shows_how_much_has_arrived() -> None:
    text = plain(progress_lines(STATES["fetching"], 56, 2))
    assert "fetching the model" in text
    assert "44%" in text
    assert "41.0 MiB / 93.0 MiB" in text


def test_progress_shows_as_many_facts_as_fit_and_what_failed_always() -> None:
    state = replace(STATES["running on a cpu"], failed=3)
    text = plain(progress_lines(state, 116, 2))
    for fact in ("67 / 100 prompts", "+32 in flight", "failed 3 prompts", "ETA", "tokens", "batch 16", "waste 12%"):
        assert fact in text, fact
    assert "failed 3 prompts" in plain(progress_lines(state, 76, 1))


@pytest.mark.parametrize("height", [1, 2, 3])
@pytest.mark.parametrize("width", [56, 76, 116])
def test_progress_has_a_bar_and_its_share_in_any_room(width: int, height: int) -> None:
    lines = plain(progress_lines(STATES["running on a cpu"], width, height)).split("\n")
    assert "█" in lines[-1]
    assert "▓" in lines[-1], "batches in flight"
    assert lines[0].endswith("64%"), "of the prompts, as the figures beside it say"
    assert len(lines) == min(height, 2)


def test_a_bar_has_what_is_done_and_fainter_what_has_begun() -> None:
    assert bar_with_begun(0.5, 0.75, 8) == (("████", "bar"), ("▓▓", "busy"), ("░░", "track"))
    assert plain([bar_with_begun(0.0, 0.01, 8)]) == "▓░░░░░░░", "what has begun shows"
    assert plain([bar_with_begun(0.98, 0.99, 8)]) == "███████░", "not full before all is done"
    assert bar_with_begun(0.5, 0.5, 8) == bar(0.5, 8)


def test_without_nvml_the_reason_is_above_the_processes_until_work_begins() -> None:
    why = "no GPU figures: no NVIDIA driver library (libnvidia-ml.so.1) on this machine"
    loading = STATES["loading"]
    assert plain(device_lines(loading, 76)).split("\n")[0] == why
    assert devices_title(loading) == "Processes"
    state = STATES["running on a cpu"]
    lines = plain(device_lines(state, 76)).split("\n")
    assert lines[0].split() == ["rank", "device", "CPU", "last", "minute", "threads", "memory"]
    assert "96%" in lines[1]
    assert lines[1].endswith("1.3 GiB")
    assert len(lines) == 3
    assert devices_title(state) == "Processes  no GPU figures"
    assert plain(all_advice(state, 100)).endswith(why), "in full"
    assert [line.text for line in state.log].count(why) == 1
    assert plain(device_lines(replace(state, processes=()), 76)).startswith(why), "nothing else to show"


def test_with_gpus_there_is_nothing_to_explain() -> None:
    state = STATES["running on 2 GPUs"]
    assert devices_title(state).startswith("GPUs")
    assert "no GPU figures" not in plain(all_advice(state, 100))
    assert not any("no GPU figures" in line.text for line in state.log)


@pytest.mark.parametrize("width", [58, 76, 116])
def test_a_missing_figure_of_a_gpu_is_not_available_and_never_zero(width: int) -> None:
    state = STATES["running on 2 GPUs"]
    device = state.devices[0]
    bare = protocol.DeviceSample(index=0, uuid="GPU-0", name="NVIDIA T4")
    text = plain(device_lines(replace(state, devices=(replace(device, sample=bare),)), width))
    assert text.count("n/a") >= 4
    assert " 0%" not in text
    assert "0.0" not in text


def test_a_lost_gpu_is_marked_and_the_others_go_on() -> None:
    state = STATES["running on 8 GPUs"]
    lost = replace(state.devices[2], sample=replace(state.devices[2].sample, lost=True))
    lines = plain(device_lines(replace(state, devices=(*state.devices[:2], lost, *state.devices[3:])), 116)).split("\n")
    assert "✗ lost" in lines[4]
    assert "%" in lines[6]


def test_a_gpu_shows_its_ranks_and_what_slows_it_down() -> None:
    lines = plain(device_lines(STATES["running on 8 GPUs"], 116)).split("\n")
    assert lines[6].endswith("rank 3")
    assert lines[7].endswith("throttle power cap")
    shared = plain(device_lines(scripted.running(4, gpus=1).state, 116)).split("\n")
    assert shared[0].endswith("rank 0,1,2,3")


def test_the_row_of_a_lost_rank_says_why() -> None:
    state = scripted.running().add(protocol.RankLost(rank=1, cause="Segmentation fault (signal 11)")).state
    assert "✗ lost" in plain(rank_lines(state, 76))
    assert "Segmentation fault (signal 11)" in plain(rank_lines(state, 76))


def test_a_continuous_rank_shows_its_rows_and_how_full_its_cache_is() -> None:
    state = scripted.running().state
    ranks = [
        replace(
            rank, ready=replace(rank.ready, engine="continuous"), batch=1, rows=18, rows_at_once=16, cache_used=0.34
        )
        for rank in state.ranks
        if rank.ready is not None
    ]
    lines = plain(rank_lines(replace(state, ranks=(ranks[0], replace(ranks[1], cap=16))), 76)).split("\n")
    assert lines[0].split()[3:5] == ["rows", "cache"]
    assert lines[1].split()[3:5] == ["16", "34%"]
    assert lines[2].split()[3:6] == ["16", "≤16", "34%"]
    assert "continuous engine" in plain([header_line(replace(state, ranks=tuple(ranks)), 130)])
    # A static engine would need two rounds for these prompts, ranks and rows.
    job = replace(state, ranks=tuple(ranks), prompts=40, batch_size=16, active_ranks=2)
    assert not any(advice.kind == "rounds" for advice in advise(job))
    static = replace(state, prompts=40, batch_size=16, active_ranks=2)
    assert any(advice.kind == "rounds" for advice in advise(static))


def by_vllm(state: RunState, **more: object) -> RunState:
    """The state as if vLLM were the engine, with rows in flight."""
    now = {"batch": 1, "rows": 18, "rows_at_once": 16, "cache_used": 0.34, "prefix_hits": 0.42, "slots": 0}
    ranks = [
        replace(rank, ready=replace(rank.ready, engine="vllm", **more), **now)
        for rank in state.ranks
        if rank.ready is not None
    ]
    return replace(state, ranks=tuple(ranks), slots=0, padded_slots=0)


def test_of_vllm_its_rows_cache_and_prefix_hits_are_shown_and_no_padding() -> None:
    state = by_vllm(scripted.running().state)
    lines = plain(rank_lines(state, 76)).split("\n")
    assert lines[0].split()[3:8] == ["rows", "cache", "tok/s", "prompts", "hits"]
    assert lines[1].split()[3:5] == ["16", "34%"]
    assert "42%" in lines[1]
    assert "hits 42%" in plain(progress_lines(state, 150, 2))
    assert "waste" not in plain(progress_lines(state, 150, 2))
    unknown = replace(state, ranks=tuple(replace(rank, prefix_hits=None) for rank in state.ranks))
    assert "waste n/a" in plain(progress_lines(unknown, 150, 2))


def test_beside_their_gpus_continuous_ranks_show_rows_and_how_full_the_cache_is() -> None:
    state = by_vllm(scripted.running(2, gpus=2).state)
    lines = plain(gpu_rank_lines(state, 116)).split("\n")
    assert "waste" not in lines[0]
    assert {"rows", "cache"} <= set(lines[0].split())
    assert "34%" in lines[1]


def test_the_header_says_which_engine_and_how_far_it_was_ahead() -> None:
    state = by_vllm(scripted.running().state)
    assert "vllm engine   " in plain([header_line(state, 130)])
    chosen = by_vllm(scripted.running().state, engine_lead=1.618, engine_over="static")
    assert "vllm engine (1.62x static)" in plain([header_line(chosen, 130)])
    narrow = plain([header_line(state, 80)])
    assert "vllm engine" in narrow
    assert "pull" not in narrow
    assert "pull" in plain([header_line(scripted.running().state, 80)])


def test_paused_rows_of_vllm_stand_still_and_those_of_others_are_finished() -> None:
    state = replace(by_vllm(scripted.running().state), paused="asked for")
    assert "paused: rows wait where they are; space goes on" in plain(notice_lines(state, 78))
    assert plain(rank_lines(state, 76)).split("\n")[1].split()[2] == "paused"
    other = replace(scripted.running().state, paused="asked for")
    assert "paused after the batches in flight" in plain(notice_lines(other, 78))
    assert "paused" not in plain(rank_lines(other, 76))


def test_in_a_sweep_a_paused_batch_of_vllm_is_finished_as_any_other() -> None:
    sweep = scripted_sweep.running().state.sweep
    state = replace(by_vllm(scripted.running().state), paused="asked for", sweep=sweep)
    assert state.sweeping
    assert "paused after the batches in flight" in plain(notice_lines(state, 78))
    assert "paused" not in plain(rank_lines(state, 76))


def test_compiling_is_shown_among_the_phases_only_where_a_rank_compiles() -> None:
    state = STATES["loading"]
    assert "compiling" not in plain(rank_lines(state, 90))
    compiling = replace(state, ranks=(replace(state.ranks[0], phase="compiling"), *state.ranks[1:]))
    text = plain(rank_lines(compiling, 90))
    assert "✓ loading  ▸ compiling  · warming up" in text
    assert "✓ importing  ▸ joining  · loading  · compiling" in text


@pytest.mark.parametrize("width", SIZES)
def test_tokens_per_second_are_shown_now_on_the_mean_and_at_their_peak(width: int) -> None:
    state = replace(STATES["running on a cpu"], rate_now=111.0, rate_peak=2345.0)
    figures = plain(throughput_lines(state, width, 11)[:2])
    assert "111 tok/s now" in figures
    assert f"{state.rate_mean:,.0f} mean" in figures
    assert "2,345 peak" in figures
    assert "- peak" in plain(throughput_lines(replace(state, rate_peak=0.0), width, 11)[:2]), "none is known yet"
    ended = plain(throughput_lines(replace(STATES["completed"], rate_peak=2345.0), width, 11)[:2])
    assert "tok/s over the run" in ended
    assert "2,345 peak" in ended
    assert "now" not in ended


@pytest.mark.parametrize("width", [58, 76, 116, 196])
def test_a_tall_panel_has_tokens_per_second_in_large_digits_and_the_load_beside_them(width: int) -> None:
    state = replace(STATES["running on 8 GPUs"], rate_now=6852.0, rate_peak=2345.0)
    head = plain(throughput_lines(state, width, 12)[:3])
    assert [line[:17].rstrip() for line in head.split("\n")] == [
        "█▀▀   █▀█ █▀▀ ▀▀█",
        "█▀█   █▀█ ▀▀█ █▀▀",
        "▀▀▀ ▜ ▀▀▀ ▀▀▀ ▀▀▀",
    ]
    for fact in ("tok/s now", "mean", "busy 9", "DRAM 2", "tensor "):
        assert fact in head, fact


def test_the_summary_has_the_figures_and_the_path_of_the_outputs() -> None:
    text = plain(summary_lines(STATES["completed"], None, 116))
    for fact in ("✓ completed", "100 / 100 prompts", "tok/s", "padding waste 12%", "natural length"):
        assert fact in text
    assert f"{scripted.DIRECTORY}/outputs.jsonl" in text


def test_the_cause_of_a_failure_is_wrapped_and_not_cut() -> None:
    text = plain(summary_lines(STATES["failed"], None, 58))
    assert " ".join(scripted.CAUSE.split()) in " ".join(text.split())
    assert "runner.log" in text


def test_a_run_that_can_no_longer_be_watched_says_so() -> None:
    assert "the supervisor is gone" in plain(summary_lines(STATES["running on a cpu"], "the supervisor is gone", 58))
    assert summary_lines(STATES["running on a cpu"], None, 58) == []


def test_every_panel_shows_names_from_outside_literally() -> None:
    evil = "[bold]\x1b[2J\u202e"
    state = scripted.running(1, gpus=1).state
    device = replace(state.devices[0], sample=replace(state.devices[0].sample, name=evil))
    state = replace(state, devices=(device,))
    state = apply(state, protocol.LogLine(source=evil, text=evil))
    state = apply(state, protocol.RankLost(rank=0, cause=evil))
    log = LogPage(Query(), 80)
    log.take_in(state.log)
    logged = [log.line(y, None) for y in range(log.height)]
    lines = [*device_lines(state, 116), *rank_lines(state, 116), *logged]
    text = plain([*lines, *answer_page(scripted.record(0, text=evil), 80).lines])
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[bold]␛[2J⟨U+202E⟩" in text


def test_an_answer_of_a_megabyte_is_cut_with_a_note() -> None:
    lines = answer_page(scripted.record(0, text="long " * 200_000), 100).lines
    assert sum(line_width(line) for line in lines) < SHOWN_CHARACTERS + GUTTER * len(lines) + 500
    assert "outputs.jsonl has all of it" in plain(lines)


def test_the_row_of_an_answer_is_exactly_as_wide_as_its_columns() -> None:
    row = answer_row(scripted.record(7, text="日本語\nと\x1b"), (8, 4, 6, 6, 20, 20), 2)
    assert line_width(row) == 8 + 4 + 6 + 6 + 20 + 20 + 10


def test_a_rank_that_is_left_alone_is_shown_with_the_cores_of_all() -> None:
    state = STATES["running on a cpu"]
    alone = replace(state.ranks[0], batch=8)
    state = replace(state, active_ranks=1, ranks=(alone, replace(state.ranks[1], batch=None)))
    state = replace(state, processes=(ProcessSample(rank=0, cpu_percent=120.0, rss_bytes=1),), cpu_history=((120.0,),))
    cells = plain(device_lines(state, 76)).split("\n")[1].split()
    assert cells[-5:] == ["120%", "▅", "2", "0", "KiB"], "of 2 threads 60%"
    assert plain(gpu_rank_lines(state, 100)).split("\n")[1].split()[2:4] == ["60%", "▅"]


def test_a_process_without_figures_is_not_available() -> None:
    state = replace(STATES["running on a cpu"], processes=(ProcessSample(rank=0, cpu_percent=None, rss_bytes=None),))
    assert plain(device_lines(state, 76)).count("n/a") == 2
