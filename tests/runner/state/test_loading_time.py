"""The seconds before the first batch: each phase from the times of events, all together the whole."""

import time

import psutil
import pytest

from rankdeck.runner import protocol, start
from rankdeck.runner.inputs import read_ahead
from rankdeck.runner.protocol import AnyEvent
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.state import RunState, apply, loading_time
from rankdeck.runner.state.loading_time import LoadingTime, loading_line
from tests.runner.state.test_state import ready


def started(at: float, asked_at: float = 0.0) -> protocol.RunStarted:
    config = RunConfig(prompts="p.txt", ranks=2)
    return protocol.RunStarted(at=at, name="n", directory="/d", config=config, prompts=8, asked_at=asked_at)


def launched(at: float, attempt: int = 1) -> protocol.RanksLaunched:
    return protocol.RanksLaunched(at=at, attempt=attempt, world_size=2)


def phase(rank: int, name: protocol.RankPhaseName, at: float) -> protocol.RankPhase:
    return protocol.RankPhase(rank=rank, phase=name, at=at)


def ready_at(rank: int, at: float) -> protocol.RankReady:
    return ready(rank, at=at)


LAUNCH: tuple[AnyEvent, ...] = (
    launched(102.0),
    phase(0, "importing", 104.0),
    phase(1, "importing", 105.0),
    phase(0, "joining", 108.0),
    phase(0, "loading", 109.0),
    phase(1, "joining", 110.0),
    phase(1, "loading", 110.5),
    phase(0, "warming up", 111.0),
    ready_at(0, 112.0),
    phase(1, "warming up", 113.0),
    ready_at(1, 114.0),
    protocol.RanksReady(at=114.0),
    protocol.BatchStarted(at=114.25, rank=0, batch=1, rows=2),
)


def follow(*events: AnyEvent) -> LoadingTime:
    loading = LoadingTime()
    for event in events:
        loading = loading_time.after(loading, event)
    return loading


def test_a_phase_of_the_ranks_begins_when_the_last_rank_enters_it() -> None:
    assert follow(started(101.0, asked_at=100.5), *LAUNCH).phases == {
        "starting": 0.5,
        "model": 1.0,
        "launching": 3.0,
        "importing": 5.0,
        "joining": 0.5,
        "loading": 2.5,
        "warming up": 1.0,
        "first batch": 0.25,
    }


def test_the_phases_add_up_to_the_time_from_the_command_to_the_first_batch() -> None:
    assert follow(started(101.0, asked_at=100.5), *LAUNCH).seconds == 114.25 - 100.5


def test_the_first_ready_rank_waited_for_the_last() -> None:
    assert follow(started(101.0), *LAUNCH).waited_seconds == 2.0


def test_without_the_time_of_the_command_it_begins_with_the_supervisor() -> None:
    assert follow(started(101.0), *LAUNCH).seconds == 114.25 - 101.0


def test_an_earlier_launch_is_a_separate_phase() -> None:
    lost = (launched(102.0), phase(0, "importing", 104.0), phase(1, "importing", 105.0))
    again = (launched(120.0, 2), phase(0, "importing", 123.0), protocol.RanksReady(at=130.0))
    assert follow(started(101.0), *lost, *again).phases == {
        "model": 1.0, "lost launches": 18.0, "launching": 3.0, "importing": 7.0, "first batch": 0.0
    }  # fmt: skip


def test_only_the_ranks_of_the_last_launch_have_waited() -> None:
    lost = (launched(102.0), phase(0, "importing", 104.0), ready_at(0, 110.0))
    again = (launched(120.0, 2), phase(0, "importing", 123.0), ready_at(1, 130.0), ready_at(0, 134.5))
    loading = follow(started(101.0), *lost, *again, protocol.RanksReady(at=134.5))
    assert (loading.first_ready_at, loading.waited_seconds) == (130.0, 4.5)
    third = follow(started(101.0), *lost, *again, launched(140.0, 3), protocol.RanksReady(at=150.0))
    assert third.phases == {"model": 1.0, "lost launches": 38.0, "launching": 10.0, "first batch": 0.0}
    assert third.waited_seconds == 0.0


def test_before_anything_is_over_no_phase_is_told() -> None:
    assert (LoadingTime().phases, LoadingTime().seconds, LoadingTime().waited_seconds) == ({}, 0, 0.0)
    assert loading_line(LoadingTime()) == "0.0 s"
    assert follow(started(101.0, asked_at=100.5)).phases == {"starting": 0.5}
    assert follow(started(101.0), launched(100.0)).phases == {"model": 0.0}, "clocks that were set back"


def test_phases_too_short_to_see_are_left_out_of_the_line_alone() -> None:
    moments = {"starting": 10.0, "model": 10.05, "launching": 10.09}
    loading = LoadingTime(began=moments, first_ready_at=10.45, ready_at=10.5, batch_at=11.0)
    assert loading_line(loading) == "1.0 s: starting 0.1, launching 0.9; the first rank waited 0.1 s"
    assert LoadingTime(began=moments, ready_at=10.5).phases["launching"] == 0.41, "until there is a batch"


def test_ranks_that_are_relaunched_after_the_first_batch_change_nothing() -> None:
    first = follow(started(101.0), *LAUNCH)
    assert follow(started(101.0), *LAUNCH, launched(200.0, 2), protocol.RanksReady(at=210.0)) == first


def test_a_resumed_run_starts_afresh() -> None:
    taken_up = protocol.RunTakenUp(
        at=500.0, config=RunConfig(prompts="p.txt"), completed=1, failed=0, prompt_tokens=1, output_tokens=1
    )
    again = follow(started(101.0), *LAUNCH, taken_up, launched(501.0), protocol.RanksReady(at=509.0))
    assert again.phases == {"model": 1.0, "launching": 8.0, "first batch": 0.0}


def test_the_line_leaves_out_phases_that_took_no_time() -> None:
    loading = follow(started(102.0, asked_at=101.5), *LAUNCH[:-1])
    assert loading_line(loading) == (
        "12.5 s: starting 0.5, launching 3.0, importing 5.0, joining 0.5, loading 2.5, warming up 1.0; "
        "the first rank waited 2.0 s"
    )


def test_the_state_of_a_run_holds_its_loading_time() -> None:
    state = RunState()
    for event in (started(101.0, asked_at=100.5), *LAUNCH):
        state = apply(state, event)
    assert state.loading == follow(started(101.0, asked_at=100.5), *LAUNCH)


def test_a_command_was_given_when_its_process_began() -> None:
    # The boot time that psutil adds is in whole seconds.
    assert start.process_started_at() == pytest.approx(psutil.Process().create_time(), abs=2)
    assert start.process_started_at() <= time.time()


def test_all_weights_of_a_folder_are_read_ahead(tmp_path) -> None:
    (tmp_path / "model-1.safetensors").write_bytes(bytes(300_000))
    (tmp_path / "model-2.safetensors").write_bytes(bytes(5))
    (tmp_path / "config.json").write_text("{}")
    assert read_ahead.read_ahead(tmp_path) == 300_005


def test_weights_that_do_not_fit_into_memory_are_not_read_ahead(tmp_path, monkeypatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(5))
    monkeypatch.setattr(read_ahead, "ROOM", 0.0)
    assert read_ahead.read_ahead(tmp_path) == 0


def test_of_a_hub_model_without_safetensors_the_bin_files_are_fetched(tmp_path, monkeypatch) -> None:
    import huggingface_hub

    from rankdeck.runner.rank import model_files

    asked: list[bool] = []

    def snapshot_download(model: str, *, allow_patterns: list[str], revision: str | None = None) -> str:
        asked.append("*.bin" in allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert model_files._hub_folder("org/name") == str(tmp_path)
    assert asked == [False, True]
    (tmp_path / "model.safetensors").touch()
    model_files._hub_folder("org/name")
    assert asked == [False, True, False]
