"""The panels of the Sweep view: pure functions from a state to lines, tested without an app."""

import shlex
import subprocess

import pytest
from msgspec.structs import replace

from rankdeck.runner import protocol
from rankdeck.runner.protocol.sweep_plan import SweepState, TrialRecord
from rankdeck.runner.state import RunState
from rankdeck.runner.sweep.verdict import summarise_sweep
from rankdeck.tui.panels.overview.header import header_line
from rankdeck.tui.panels.overview.progress import progress_lines
from rankdeck.tui.panels.overview.summary import summary_lines
from rankdeck.tui.panels.sweep.status import command_lines, empty_lines, status_lines
from rankdeck.tui.panels.sweep.table import table_lines
from rankdeck.tui.words import alerts
from rankdeck.tui.words.sweep import scaling_words, shown_sweep
from rankdeck.tui.words.sweep_command import best_command
from rankdeck.tui.words.text import line_width, plain
from tests import scripted, scripted_sweep
from tests.scripted_sweep import EVIL, STATES, SweepScript, plan

ALL = {name: make().state for name, make in STATES.items()}


def sweep_of(state: RunState) -> SweepState:
    sweep = shown_sweep(state)
    assert sweep is not None
    return sweep


def table(state: RunState, width: int = 116) -> list[str]:
    sweep = sweep_of(state)
    return plain(table_lines(state, sweep, summarise_sweep(sweep), width)).split("\n")


def status(state: RunState, width: int = 116) -> str:
    sweep = sweep_of(state)
    return plain(status_lines(state, sweep, summarise_sweep(sweep), width))


# --- the table --------------------------------------------------------------------------------------


def test_before_the_first_trial_the_table_has_the_planned_settings_with_dots() -> None:
    lines = table(ALL["planned"])
    assert len(lines) == 1 + 5 * 2
    assert [line.split()[1:3] for line in lines[1:3]] == [["1", "1"], ["1", "4"]]
    assert all(set(line.split()[3:]) == {"·"} for line in lines[1:])


def test_the_running_row_is_marked_and_says_what_is_happening() -> None:
    marked = [line for line in table(ALL["running"]) if "▸" in line]
    assert len(marked) == 1
    assert marked[0].endswith("measuring")
    assert "warming up" in next(line for line in table(ALL["begun"]) if "▸" in line)


def test_every_trial_begins_with_a_warm_up_of_its_own() -> None:
    state = SweepScript(scripted_sweep.USUAL).begun().over(1).at_hand(measuring=False).state
    assert "warming up" in next(line for line in table(state) if "▸" in line)


def test_the_best_row_is_marked_with_a_sign_and_a_word() -> None:
    best = [line for line in table(ALL["settled"]) if "★" in line]
    assert len(best) == 1
    assert best[0].split()[2:4] == ["2", "32"]
    assert best[0].endswith("best")


def test_settings_indistinguishable_from_the_best_are_tied_and_the_smaller_is_chosen() -> None:
    notes = {tuple(line.split()[2:4]) if "★" in line else tuple(line.split()[1:3]): line for line in table(ALL["tied"])}
    assert notes["2", "32"].endswith("best")
    assert notes["2", "16"].endswith("chosen")
    text = status(ALL["tied"], 56)
    assert "★ best 2 ranks x batch size 32: 440.6 ± 2.8 tok/s\n  cannot be told apart from batch size 16 (" in text
    assert "--batch-size 16 --ranks 2" in text.replace(" \\\n   ", "")
    noisy = SweepScript(plan((16, 20, 24, 32), (1,), 2), 1).begun().over(8).state
    assert sum(line.endswith("tied") for line in table(noisy)) >= 1


def test_a_running_sweep_says_how_sure_its_best_so_far_is() -> None:
    assert "★ best so far 2 ranks x batch size 32: 440.6 ± 2.8 tok/s, tied with 1 other" in status(ALL["running"])
    assert "tied 2 ranks x 32: 440.6" in plain(progress_lines(ALL["running"], 120, 2))
    assert status(ALL["eight_ranks"]).endswith(" tok/s, measured once")


def test_the_columns_stay_put_while_figures_come_in() -> None:
    script = SweepScript(scripted_sweep.USUAL, gpus=2).begun()
    heads = set()
    for _ in range(30):
        heads.add(table(script.over(1).state, 78)[0])
    assert len(heads) == 1


def test_running_out_of_memory_is_a_wall_and_larger_batches_are_skipped() -> None:
    lines = table(ALL["wall"])
    walls = [line for line in lines if "out of memory" in line]
    assert all("▓▓" in line for line in walls)
    assert any(line.split()[:3] == ["■", "2", "64"] for line in walls)
    assert "skipped: 64 did not fit" in next(line for line in lines if line.split()[:3] == ["■", "2", "128"])


def test_a_failed_trial_shows_its_escaped_reason_in_its_row() -> None:
    script = SweepScript(plan((1, 2), (1,), 1), 1).begun()
    record = TrialRecord(trial=script.trials[0], outcome="failed", reason=EVIL)
    state = script.add(protocol.TrialFinished(record=record)).state
    text = "\n".join(table(state))
    assert "✗ failed: [bold]␛[2J⟨U+202E⟩[/]" in text
    assert "\x1b" not in text


def test_the_most_important_columns_stay_where_there_is_little_room() -> None:
    assert table(ALL["wall"], 56)[0].split() == ["ranks", "batch", "tok/s", "±95%", "ms/step", "waste"]
    narrow = table(ALL["wall"], 76)[0]
    assert "peak GiB" in narrow
    assert "per rank" in narrow
    wide = table(ALL["wall"], 116)[0]
    for title in ("prefill s", "batch s", "idle", "busy", "MBU", "tok/J"):
        assert title in wide
    assert "p99" in table(ALL["wall"], 180)[0]


def test_without_a_gpu_there_are_no_gpu_columns() -> None:
    head = table(ALL["running"], 180)[0]
    assert not any(title in head for title in ("peak GiB", "busy", "MBU", "tok/J"))


def test_a_figure_that_the_gpu_does_not_report_is_n_a_and_not_zero() -> None:
    script = SweepScript(plan((1, 2), (1,), 1), 1, gpus=1).begun()
    result = replace(script._result(script.trials[0]), busy_percent=None, tokens_per_joule=None, mbu=None)
    record = TrialRecord(trial=script.trials[0], outcome="measured", result=result)
    line = next(line for line in table(script.add(protocol.TrialFinished(record=record)).state) if "best" in line)
    assert line.count("n/a") == 3


def test_where_no_trial_can_have_an_mbu_its_column_gives_way() -> None:
    script = SweepScript(plan((1, 2), (1,), 1), 1, gpus=1).begun()
    state = script.state
    assert state.sweep is not None
    assert "MBU" in table(state)[0]
    assert "MBU" not in table(replace(state, sweep=replace(state.sweep, no_mbu="decode steps hold prefills")))[0]


def test_the_noise_is_shown_from_the_second_trial_of_a_setting_on() -> None:
    script = SweepScript(plan((8,), (1,), 2), 1).begun()
    assert "±" not in table(script.over(1).state)[1]
    assert "±" in table(script.over(1).state)[1]


# --- the head ---------------------------------------------------------------------------------------


def test_the_head_shows_the_trial_at_hand_what_is_happening_and_the_time_left() -> None:
    text = status(ALL["running"])
    assert text.startswith("trial 15 of 30: 1 rank x batch size 1   repeat 2 of 3   measuring 00:04")
    assert "ETA 02:11  46%" in text
    assert "★ best so far 2 ranks x batch size 32" in text
    assert "trial 15 of 30: 1 rank x 1" in status(ALL["running"], 40)


def test_a_settled_sweep_gives_the_best_setting_as_a_command() -> None:
    text = status(ALL["settled"])
    assert "✓ settled: all trials are over   30 of 30 trials measured" in text
    command = text[text.index("rankdeck run") :].replace(" \\\n", " ")
    assert shlex.split(command) == [
        *("rankdeck", "run", "sample_prompts/stories.txt", "--model", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        *("--max-new-tokens", "50", "--batch-size", "32", "--ranks", "2"),
    ]


PATHS = ("my prompts.txt", "/home/ada/Documents of many years/prompts for the larger model, 2nd try/it's all.jsonl")


@pytest.mark.parametrize("prompts", PATHS)
@pytest.mark.parametrize("width", [40, 58, 78, 118])
def test_a_command_survives_being_copied_from_a_narrow_terminal(prompts: str, width: int) -> None:
    state = ALL["settled"]
    assert state.config is not None
    state = replace(state, config=replace(state.config, prompts=prompts, temperature=0.7, do_sample=True))
    best = summarise_sweep(sweep_of(state)).best
    assert best is not None
    parts = best_command(state, best)
    lines = command_lines(parts, width)
    assert all(line_width(line) <= width for line in lines)
    copied = plain(lines).strip().replace("rankdeck", r"printf '%s\n'", 1)
    heard = subprocess.run(["sh", "-c", copied], capture_output=True, text=True, check=True).stdout.splitlines()
    assert heard == shlex.split(" ".join(parts))[1:]
    assert prompts in heard


def test_the_command_for_prompts_from_standard_input_names_the_runs_own_copy() -> None:
    state = ALL["settled"]
    assert state.config is not None
    best = summarise_sweep(sweep_of(state)).best
    assert best is not None
    command = best_command(replace(state, config=replace(state.config, prompts="-")), best)
    assert command[1] == f"{scripted.DIRECTORY}/prompts.jsonl"


def test_the_command_trusts_a_models_own_python_only_where_the_sweep_did() -> None:
    state = ALL["settled"]
    assert state.config is not None
    best = summarise_sweep(sweep_of(state)).best
    assert best is not None
    trusting = replace(state, config=replace(state.config, trust_remote_code=True))
    assert "--trust-remote-code" in best_command(trusting, best)
    assert "--trust-remote-code" not in best_command(state, best)


def test_a_stopped_sweep_shows_what_was_measured() -> None:
    state = SweepScript(scripted_sweep.USUAL).begun().over(7).ended(status="stopped").state
    text = status(state)
    assert "■ stopped after 7 of 30 trials" in text
    assert "7 of 30 trials measured" in text
    assert "★ best" in text


def test_a_run_without_a_sweep_says_what_a_sweep_shows_and_which_key_starts_it() -> None:
    text = plain(empty_lines(scripted.running().state, 76))
    assert "goes on at the chosen setting" in " ".join(text.split())
    assert "the fastest, and the chosen one as a command" in text
    assert "\ns  starts one" in text
    assert "rankdeck sweep PROMPTS" in plain(empty_lines(scripted.completed().state, 76))


# --- header and progress ------------------------------------------------------------------------------


def test_header_and_progress_count_trials_during_a_sweep() -> None:
    state = ALL["running"]
    assert "trial 15/30" in plain([header_line(state, 78)])
    text = plain(progress_lines(state, 120, 2))
    for fact in ("trial 15 of 30", "46%", "ETA", "measuring", "1 rank x 1", "2 of 3", "2 ranks x 32: 440.6"):
        assert fact in text, fact
    assert "/ 4,000 prompts" not in text
    assert "(auto)" not in text


def test_a_sweep_that_left_trials_out_is_shown_as_ended_early_everywhere() -> None:
    script = SweepScript(plan((1, 4, 8), (1, 2))).begun().over(6).settled("by hand")
    state = script.ended().state
    assert status(state).startswith("■ ended early: by hand   6 of 18 trials measured")
    assert "■ ended early   6 / 18 trials" in plain(summary_lines(state, None, 60))
    assert plain([header_line(state, 78)]).split()[-3:-1] == ["ended", "early"]
    assert alerts.title(state) == "rankdeck ended early calm-harbour"
    assert alerts.since(STATES["running"]().state, state)[0].startswith("calm-harbour was ended early: ")
    assert "✓ settled: all trials are over" in status(ALL["settled"])


def test_prompts_are_counted_again_once_the_run_continues_after_its_sweep() -> None:
    script = scripted_sweep.typed()
    assert "prompts 0 / 4,000" in plain(progress_lines(script.state, 150, 2))
    script.add(protocol.SweepSettled(reason="by hand"))
    script.add(protocol.BatchSizeChanged(batch_size=16, auto=False, reason="the best of the sweep"))
    state = script.state
    assert "/ 4,000 prompts" in plain(progress_lines(state, 76, 2))
    assert "running" in plain([header_line(state, 78)])
    assert "■ ended early: by hand" in status(state)
    assert "the run goes on at the chosen setting" in status(state)
    script.add(protocol.BatchSizeChanged(batch_size=3, auto=False, reason="as asked for"))
    assert "at the chosen setting" not in status(script.state), "after a resume, or a turn by hand"


def narrow(state: RunState, width: int = 76) -> str:
    """The head of the view on a screen too small for the panels below it."""
    sweep = sweep_of(state)
    return plain(status_lines(state, sweep, summarise_sweep(sweep), width, scaling=True))


def test_on_a_small_screen_the_head_says_how_it_scales_and_whether_it_still_grows() -> None:
    assert "  scaling, 2 ranks over 1: 1.89x at batch size 32, 1.89x at 16, " in narrow(ALL["settled"])
    eight = summarise_sweep(sweep_of(ALL["eight_ranks"]))
    assert scaling_words(eight).startswith("scaling at batch size 24, over 1 rank: 2 ranks 1.84x, 3 ranks ")
    assert "scaling" not in status(ALL["settled"])
    grows = SweepScript(plan((1, 2, 4), (1, 2), 3), 2).begun().over(18).settled("all trials are over").state
    said = "still growing at 4, the largest tried: a larger one may be faster"
    assert said in narrow(grows)
    assert said not in narrow(replace(grows, prompts=8)), "one round has all of the file"
    assert "still growing" not in narrow(ALL["tied"])
