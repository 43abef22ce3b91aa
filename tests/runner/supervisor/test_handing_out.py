"""The orders that ranks are sent, one by one: batches, more rows, row limits, how many share the cores."""

from pathlib import Path

import msgspec
import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol import BatchResult, Work
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.supervisor.door.peers import NoMessageError
from rankdeck.runner.supervisor.handing_out import ConnectedRank
from tests.runner.supervisor.in_process import Launch, outputs_of, ready, result


def sent(rank: ConnectedRank, kind: type) -> list:
    return [order for order in rank.peer.sent if isinstance(order, kind)]


def indices(work: Work) -> list[int]:
    return [prompt.index for prompt in work.prompts]


def started(launch: Launch) -> list[protocol.BatchStarted]:
    """What the views were told of batches, from the journal."""
    launch.events.journal.flush()
    lines = (launch.outputs._directory / "events.jsonl").read_bytes().splitlines()
    events = [msgspec.json.decode(line, type=protocol.AnyEvent) for line in lines]
    kinds = protocol.BatchStarted | protocol.RowsAdded
    return [msgspec.structs.replace(event, at=0.0) for event in events if isinstance(event, kinds)]


def account(rows: int) -> BatchResult:
    return msgspec.structs.replace(result(rows), step_seconds=None)


def test_a_batch_is_ordered_whole_kept_and_without_a_limit_of_its_own(tmp_path: Path):
    launch = Launch(tmp_path)
    assert [rank.idle for rank in launch.connect()] == [False, False]
    ranks = list(launch.pool.work.ranks.values())
    launch.say(ranks[0], ready(0))
    assert ranks[0].idle
    assert sent(ranks[0], Work) == [], "not before all are ready"
    launch.say(ranks[1], ready(1))
    (first,), (second,) = (sent(rank, Work) for rank in ranks)
    assert (indices(first), indices(second)) == ([0, 1, 2], [3, 4, 5])
    assert [prompt.text for prompt in first.prompts] == ["prompt number 0", "prompt number 1", "prompt number 2"]
    assert first == Work(batch=1, prompts=first.prompts, measure=False, keep=True, max_new_tokens=None, stream=None)
    assert [rank.idle for rank in ranks] == [False, False]
    assert [rank.in_hand for rank in ranks] == [None, None]
    assert started(launch) == [protocol.BatchStarted(rank=rank, batch=rank + 1, rows=3) for rank in (0, 1)]
    assert [sent(rank, protocol.Limit) for rank in ranks] == [[], []], "a closed batch has all its rows at once"


def test_the_orders_of_a_trial_say_what_is_measured_and_that_nothing_is_kept(tmp_path: Path):
    plan = SweepPlan(batch_sizes=[2], ranks=[1], repeats=1, least_rounds=1, least_seconds=0.0)
    launch = Launch(tmp_path, ranks=1, sweep=plan, max_new_tokens=40)
    (rank,) = launch.connect_ready()
    warm_up = rank.peer.work[0]
    assert (warm_up.measure, warm_up.keep, warm_up.max_new_tokens, warm_up.stream) == (False, False, 10, None)
    launch.say(rank, protocol.BatchFinished(rank=0, batch=warm_up.batch, result=account(2)))
    measured = rank.peer.work[1]
    assert (measured.measure, measured.keep, measured.max_new_tokens, measured.stream) == (True, False, None, None)
    assert [(one.warm_up, one.kept) for one in started(launch)] == [(True, False), (False, False)]
    launch.say(rank, protocol.BatchFinished(rank=0, batch=measured.batch, result=account(2)))
    assert sent(rank, protocol.Leave) == [protocol.Leave(gather=False)]


def test_a_continuous_rank_does_the_batches_of_a_trial_closed_and_only_those(tmp_path: Path):
    plan = SweepPlan(batch_sizes=[2], ranks=[1], repeats=1, least_rounds=1, least_seconds=0.0, outputs=True)
    launch = Launch(tmp_path, ranks=1, sweep=plan, engine="continuous")
    (rank,) = launch.connect_ready("continuous")
    launch.say(rank, protocol.BatchFinished(rank=0, batch=rank.peer.work[0].batch, result=account(2)))
    measured = rank.peer.work[1]
    assert (measured.stream, measured.keep, rank.in_hand) == (None, True, None)
    launch.answer(rank, measured)
    rest = rank.peer.work[2]
    assert rest.stream == rest.batch == rank.in_hand.batch


@pytest.fixture
def rows(tmp_path: Path) -> Launch:
    return Launch(tmp_path, prompts=60, ranks=1, batch_size=8, engine="continuous")


def test_a_continuous_rank_is_told_its_limit_once_and_then_has_its_rows_and_a_few_more(rows):
    (rank,) = rows.connect_ready("continuous")
    assert [type(order).__name__ for order in rank.peer.sent] == ["Limit", "Work"]
    assert sent(rank, protocol.Limit) == [protocol.Limit(rows=8)]
    (first,) = rank.peer.work
    assert (first.stream, len(first.prompts), rank.in_hand.rows) == (first.batch, 9, 9)
    rows.say(rank, outputs_of(first, 0)[0])
    second = rank.peer.work[1]
    assert (second.stream, second.keep, second.measure, indices(second)) == (first.batch, True, False, [9])
    assert rank.in_hand.left == {first.batch: 8, second.batch: 1}
    assert started(rows) == [
        protocol.BatchStarted(rank=0, batch=first.batch, rows=9),
        protocol.RowsAdded(rank=0, batch=first.batch, rows=1),
    ]
    assert len(sent(rank, protocol.Limit)) == 1


def test_another_batch_size_is_another_limit_and_more_rows_at_once(rows):
    (rank,) = rows.connect_ready("continuous")
    rows.controls.obey(protocol.SetBatchSize(batch_size=16))
    rows.pool.hand_out()
    assert [order.rows for order in sent(rank, protocol.Limit)] == [8, 16]
    assert [type(order).__name__ for order in rank.peer.sent][-2:] == ["Limit", "Work"], "the limit first"
    assert rank.in_hand.rows == 18


def test_a_pause_holds_rows_and_its_end_lets_them_go_on(rows):
    (rank,) = rows.connect_ready("continuous")
    assert rows.pool.work.stage(rank) == "at work"
    rows.controls.obey(protocol.Pause())
    rows.pool.hand_out()
    rows.pool.hand_out()
    assert [order.rows for order in sent(rank, protocol.Limit)] == [8, 0]
    assert rows.pool.work.stage(rank) == "waiting"
    rows.say(rank, outputs_of(rank.peer.work[0], 0)[0])
    assert len(rank.peer.work) == 1, "nothing is added"
    rows.controls.obey(protocol.Resume())
    rows.pool.hand_out()
    assert [order.rows for order in sent(rank, protocol.Limit)] == [8, 0, 8]
    assert (len(rank.peer.work), rank.in_hand.rows) == (2, 9)
    assert rows.pool.work.stage(rank) == "at work"


@pytest.mark.parametrize("why", ["stopping", "over"])
def test_nothing_is_added_to_the_rows_of_a_run_that_ends(rows, why):
    (rank,) = rows.connect_ready("continuous")
    setattr(rows.pool.work, why, True)
    rows.say(rank, outputs_of(rank.peer.work[0], 0)[0])
    assert len(rank.peer.work) == 1


def test_no_idle_rank_is_given_a_batch_while_paused_or_stopping(tmp_path: Path):
    launch = Launch(tmp_path)
    zero, one = launch.connect_ready()
    launch.controls.obey(protocol.Pause())
    launch.answer(zero, zero.peer.work[0])
    assert (len(zero.peer.work), zero.idle) == (1, True)
    assert launch.pool.work.stage(zero) == "waiting"
    assert launch.pool.work.stage(one) == "at work"
    launch.controls.obey(protocol.Resume())
    launch.pool.hand_out()
    assert len(zero.peer.work) == 2
    launch.pool.stop()
    launch.answer(zero, zero.peer.work[1])
    assert len(zero.peer.work) == 2
    assert sent(zero, protocol.Leave) == [], "rank 1 is at work"
    launch.answer(one, one.peer.work[0])
    assert [sent(rank, protocol.Leave) for rank in (zero, one)] == [[protocol.Leave(gather=False)]] * 2


def test_a_rank_is_loading_until_it_is_ready(tmp_path: Path):
    launch = Launch(tmp_path)
    zero, _ = launch.connect()
    assert launch.pool.work.stage(zero) == "loading"
    launch.say(zero, ready(0))
    assert launch.pool.work.stage(zero) == "waiting"


def test_a_rank_at_a_meeting_point_waits_until_the_last_has_come_and_then_goes_on_loading(tmp_path: Path):
    launch = Launch(tmp_path)
    zero, one = launch.connect()
    launch.say(zero, protocol.Arrived(rank=0, at="limits"))
    assert [launch.pool.work.stage(rank) for rank in (zero, one)] == ["waiting", "loading"]
    launch.say(one, protocol.Arrived(rank=1, at="limits"))
    assert [launch.pool.work.stage(rank) for rank in (zero, one)] == ["loading", "loading"]


def test_the_ranks_are_told_how_many_share_the_cores_when_that_has_changed(tmp_path: Path):
    launch = Launch(tmp_path, prompts=60)
    zero, one = launch.connect_ready()
    assert sent(zero, protocol.ShareCores) == [], "as many as were launched"
    launch.controls.obey(protocol.SetActiveRanks(active_ranks=1))
    launch.pool.hand_out()
    assert sent(zero, protocol.ShareCores) == [], "rank 1 has its last batch in hand"
    launch.answer(one, one.peer.work[0])
    for rank in (zero, one):
        assert sent(rank, protocol.ShareCores) == [protocol.ShareCores(ranks=1)]
    launch.answer(zero, zero.peer.work[0])
    assert len(sent(zero, protocol.ShareCores)) == 1
    launch.controls.obey(protocol.SetActiveRanks(active_ranks=2))
    launch.pool.hand_out()
    for rank in (zero, one):
        assert [order.ranks for order in sent(rank, protocol.ShareCores)] == [1, 2]


def test_the_work_of_a_batch_is_its_rows_times_its_longest_prompt(tmp_path: Path):
    launch = Launch(tmp_path, prompts=12, ranks=1, batch_size=12)
    (rank,) = launch.connect_ready()
    lengths = launch.outputs._prompts.lengths
    assert rank.pulse._work == 12 * max(lengths) > 12


def test_ranks_are_given_their_batches_in_the_order_of_their_numbers(tmp_path: Path):
    launch = Launch(tmp_path, ranks=3)
    ranks = [launch.pool.let_in(launch.peer(number)) for number in (2, 0, 1)]
    for rank in ranks:
        launch.say(rank, ready(rank.number))
    assert {rank.number: rank.peer.work[0].batch for rank in ranks} == {0: 1, 1: 2, 2: 3}
    assert [rank.number for rank in launch.pool.work.idle] == []


def test_the_end_of_work_is_told_to_every_rank_once_and_with_split_they_gather(tmp_path: Path):
    launch = Launch(tmp_path, dispatch="split")
    for rank, share in zip(launch.connect(), ((0, 6), (6, 12)), strict=True):
        launch.say(rank, protocol.Share(rank=rank.number, start=share[0], stop=share[1]), ready(rank.number))
    launch.answer_all()
    for rank in launch.pool.work.ranks.values():
        assert sent(rank, protocol.Leave) == [protocol.Leave(gather=True)]
        assert rank.talk.gathers
    launch.pool.hand_out()
    assert len(sent(rank, protocol.Leave)) == 1
    assert launch.pool.gather._sent.keys() == set(range(12))


def test_a_stop_now_cancels_every_batch_in_hand_and_has_all_leave_without_a_gather(tmp_path: Path):
    launch = Launch(tmp_path, dispatch="split")
    for rank, share in zip(launch.connect(), ((0, 6), (6, 12)), strict=True):
        launch.say(rank, protocol.Share(rank=rank.number, start=share[0], stop=share[1]), ready(rank.number))
    launch.pool.abandon()
    for rank in launch.pool.work.ranks.values():
        assert rank.peer.sent[-2:] == [protocol.Cancel(batch=rank.peer.work[0].batch), protocol.Leave(gather=False)]
        assert not rank.talk.gathers
    assert (launch.pool.stopping, launch.pool.leaving) == (True, True)


# --- what is known of how far a rank is -----------------------------------------------------------


def steps(rank: int, batch: int, **figures) -> protocol.Steps:
    values = {"step": 2, "output_tokens": 6, "rows": 3, **figures}
    return protocol.Steps(steps=protocol.StepsInFlight(rank=rank, batch=batch, **values))


def test_progress_loses_what_has_its_record_and_all_of_it_when_the_batch_is_over(tmp_path: Path):
    launch = Launch(tmp_path)
    zero, one = launch.connect_ready()
    (work,) = zero.peer.work
    launch.say(zero, steps(0, work.batch, output_tokens=9))
    assert launch.pool.steps == [zero.steps]
    launch.say(zero, outputs_of(work, 0)[0])
    assert (zero.steps.output_tokens, zero.steps.rows) == (5, 2)
    launch.say(zero, *outputs_of(work, 0)[1:])
    assert (zero.steps.output_tokens, zero.steps.rows) == (0, 0), "never less than nothing"
    launch.say(zero, protocol.BatchFinished(rank=0, batch=work.batch, result=result(3)))
    assert launch.pool.steps == []
    assert one.steps is None


def test_progress_of_a_continuous_rank_is_that_of_the_batch_that_views_know(rows):
    (rank,) = rows.connect_ready("continuous")
    (first,) = rank.peer.work
    rows.say(rank, outputs_of(first, 0)[0])
    rows.say(rank, steps(0, rank.peer.work[1].batch, rows=None))
    assert (rank.steps.batch, rank.steps.rows) == (first.batch, None)
    rows.say(rank, outputs_of(first, 0)[1])
    assert (rank.steps.output_tokens, rank.steps.rows) == (2, None)


# --- accounts -------------------------------------------------------------------------------------


def test_an_account_with_rows_in_flight_closes_nothing_and_the_last_one_ends_the_batch(tmp_path: Path):
    launch = Launch(tmp_path, prompts=4, ranks=1, batch_size=2, engine="continuous")
    (rank,) = launch.connect_ready("continuous")
    launch.say(rank, outputs_of(rank.peer.work[0], 0)[0])
    first = rank.in_hand.batch
    launch.say(rank, protocol.RankAccount(rank=0, result=account(1)))
    assert rank.in_hand is not None
    assert rank.pulse.pace_known
    assert not rank.idle
    for at in range(10):
        if at < len(rank.peer.work):
            launch.say(rank, *outputs_of(rank.peer.work[at], 0))
    assert not launch.pool.leaving, "its account is to come"
    launch.say(rank, protocol.RankAccount(rank=0, result=account(3)))
    assert (rank.in_hand, rank.idle, launch.pool.leaving) == (None, True, True)
    launch.events.journal.flush()
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    events = [msgspec.json.decode(line, type=protocol.AnyEvent) for line in lines]
    kinds = protocol.AccountClosed | protocol.BatchFinished
    assert [(type(one).__name__, one.rank, one.batch, one.result.rows) for one in events if isinstance(one, kinds)] == [
        ("AccountClosed", 0, first, 1),
        ("BatchFinished", 0, first, 3),
    ]


def test_the_pace_of_a_rank_is_known_from_its_first_batch_on(tmp_path: Path):
    launch = Launch(tmp_path)
    zero, one = launch.connect_ready()
    assert not zero.pulse.pace_known
    launch.answer(zero, zero.peer.work[0])
    assert zero.pulse.pace_known
    assert not one.pulse.pace_known


# --- who is there ---------------------------------------------------------------------------------


async def test_a_rank_that_says_what_cannot_be_counts_as_lost_and_one_that_leaves_as_told_does_not(tmp_path: Path):
    launch = Launch(tmp_path)

    async def of(peer, *messages):
        async def said():
            for message in messages:
                yield message

        peer.messages = said
        return await launch.pool.serve(peer)

    zero, one = launch.peer(0), launch.peer(1)
    assert await of(zero, protocol.RankPhase(rank=1, phase="loading"))
    assert launch.pool.given_up == {0: "it sent an impossible message: it speaks for another rank"}
    assert "rank 0 counts as lost: it sent an impossible message" in launch.state.log[-1].text
    assert launch.pool.connected == set()
    assert launch.pool.to_come == [1]
    launch.pool.told_to_leave.set()
    assert not await of(one)
    assert launch.pool.to_come == []
    assert list(launch.pool.given_up) == [0]


async def test_a_rank_whose_line_is_no_message_counts_as_lost_as_well(tmp_path: Path):
    launch = Launch(tmp_path)
    peer = launch.peer(1)

    async def said():
        yield protocol.RankPhase(rank=1, phase="loading")
        raise NoMessageError("a line of more than 10 bytes")

    peer.messages = said
    peer.pid = 77
    assert await launch.pool.serve(peer)
    assert launch.pool.given_up == {1: "it sent an impossible message: a line of more than 10 bytes"}
    assert (launch.pool.pids, launch.pool.connected, launch.pool.to_come) == ({1: 77}, set(), [0])


def test_a_rank_that_was_given_up_is_hung_up_on_and_heard_no_more(tmp_path: Path):
    launch = Launch(tmp_path)
    zero, _ = launch.connect_ready()
    launch.pool.give_up(0, "it hangs")
    launch.pool.give_up(7, "it never came")
    assert launch.pool.given_up == {0: "it hangs", 7: "it never came"}
    assert zero.peer.hung_up
    launch.say(zero, *outputs_of(zero.peer.work[0], 0))
    assert launch.records() == []


def test_an_ended_launch_is_hung_up_on_by_all_and_hands_out_nothing(tmp_path: Path):
    launch = Launch(tmp_path)
    ranks = launch.connect_ready()
    launch.pool.close()
    assert all(rank.peer.hung_up for rank in ranks)
    assert launch.pool.work.over
    before = [len(rank.peer.sent) for rank in ranks]
    launch.scheduler.lose(0)
    ranks[0].idle = True
    launch.pool.hand_out()
    assert [len(rank.peer.sent) for rank in ranks] == before
    assert launch.pool.why_refused(protocol.RankHello(rank=0, world_size=2, attempt=1)) == (
        "launch 1 of the ranks is not under way"
    )


def test_what_a_rank_says_as_it_gives_up_is_kept_and_its_traceback_logged(tmp_path: Path):
    launch = Launch(tmp_path)
    zero, one = launch.connect()
    launch.say(one, protocol.RankFailed(rank=1, error="OSError: no file", traceback="Traceback\n  line"))
    assert launch.pool.errors == {1: "OSError: no file"}
    assert [(line.source, line.text) for line in launch.state.log[-2:]] == [
        ("rank 1", "Traceback"),
        ("rank 1", "  line"),
    ]
    launch.say(zero, protocol.LogLine(source="supervisor", text="hello"))
    assert (launch.state.log[-1].source, launch.state.log[-1].text) == ("rank 0", "hello")


def test_what_a_rank_reports_as_it_gets_ready_is_in_the_state(tmp_path: Path):
    launch = Launch(tmp_path)
    zero, one = launch.connect()
    launch.say(zero, protocol.RankPhase(rank=0, phase="loading"))
    assert launch.state.ranks[0].phase == "loading"
    launch.say(zero, msgspec.structs.replace(ready(0, "continuous"), device="cuda:0"))
    assert (zero.continuous, zero.on_cpu) == (True, False)
    launch.say(one, ready(1))
    assert (one.continuous, one.on_cpu) == (False, True)
    assert launch.pool.ready
    assert [rank.ready.engine for rank in launch.state.ranks] == ["continuous", "static"]


# --- limits that change in the middle -----------------------------------------------------------------


def limits(rank: ConnectedRank) -> list[int]:
    return [order.rows for order in sent(rank, protocol.Limit)]


def test_a_sweep_that_ends_as_batches_are_handed_out_leaves_the_limit_of_what_comes_after_it(tmp_path: Path):
    plan = SweepPlan(batch_sizes=[4], ranks=[1], repeats=2, least_rounds=1, least_seconds=0.0, outputs=True)
    launch = Launch(tmp_path, prompts=40, ranks=1, batch_size=8, sweep=plan, engine="continuous")
    (rank,) = launch.connect_ready("continuous")
    (warm_up,) = rank.peer.work
    launch.say(rank, protocol.BatchFailed(rank=0, batch=warm_up.batch, kind="out_of_memory", error="no room"))
    assert [record.outcome for record in launch.state.sweep.records] == ["out_of_memory", "skipped"]
    assert limits(rank)[-1] == launch.scheduler.batch_size == 8
    assert rank.peer.work[1].stream == rank.peer.work[1].batch


def test_a_size_that_an_account_leads_to_is_the_limit_before_more_rows_come(rows, monkeypatch):
    (rank,) = rows.connect_ready("continuous")
    monkeypatch.setattr(rows.controls, "batch_finished", lambda _: setattr(rows.scheduler, "batch_size", 16))
    rows.say(rank, outputs_of(rank.peer.work[0], 0)[0], protocol.RankAccount(rank=0, result=account(1)))
    assert limits(rank) == [8, 16]
    assert [type(order).__name__ for order in rank.peer.sent][-2:] == ["Limit", "Work"]
    assert rank.in_hand.rows == 18


def test_another_limit_is_no_word_of_a_rank_that_is_silent(tmp_path: Path):
    launch = Launch(tmp_path, prompts=9, ranks=1, batch_size=8, engine="continuous")
    (rank,) = launch.connect_ready("continuous")
    rank.pulse.passed(5.0)
    launch.scheduler.batch_size = 16  # a person's turn is refused once no prompt is left
    launch.pool.hand_out()
    assert (limits(rank), rank.pulse.silent) == ([8, 16], 5.0)
    launch.controls.obey(protocol.Pause())
    launch.pool.hand_out()
    assert (limits(rank), rank.pulse.silent) == ([8, 16, 0], 0.0), "while it is held its silence says nothing"


def test_a_closed_batch_of_a_continuous_rank_goes_on_in_a_pause(tmp_path: Path):
    plan = SweepPlan(batch_sizes=[2], ranks=[1], repeats=1, least_rounds=1, least_seconds=0.0)
    launch = Launch(tmp_path, ranks=1, sweep=plan, engine="continuous")
    (rank,) = launch.connect_ready("continuous")
    launch.controls.obey(protocol.Pause())
    launch.pool.hand_out()
    assert (limits(rank)[-1], launch.pool.work.stage(rank)) == (0, "at work")


def test_an_active_rank_that_waits_for_work_still_has_its_part_of_the_cores(tmp_path: Path):
    launch = Launch(tmp_path, prompts=4, batch_size=2)
    zero, one = launch.connect_ready()
    launch.answer(one, one.peer.work[0])
    assert (one.idle, sent(zero, protocol.ShareCores), launch.pool.leaving) == (True, [], False)


def test_a_warm_up_is_short_unless_a_gpus_memory_has_to_grow_for_it(tmp_path: Path):
    plan = SweepPlan(batch_sizes=[2], ranks=[1], repeats=2, least_rounds=1, least_seconds=0.0)
    launch = Launch(tmp_path, ranks=1, sweep=plan, max_new_tokens=40)
    (rank,) = launch.connect()
    launch.say(rank, msgspec.structs.replace(ready(0), device="cuda:0"))
    for _ in range(3):
        launch.say(rank, protocol.BatchFinished(rank=0, batch=rank.peer.work[-1].batch, result=account(2)))
    assert [(work.measure, work.max_new_tokens) for work in rank.peer.work] == [
        (False, None),
        (True, None),
        (False, 10),
        (True, None),
    ]


def test_the_first_batches_have_the_size_that_was_chosen_once_all_are_ready(tmp_path: Path):
    launch = Launch(tmp_path, batch_size=None)
    assert [len(rank.peer.work[0].prompts) for rank in launch.connect_ready()] == [6, 6]


def test_a_continuous_rank_stays_until_its_last_account_is_there(tmp_path: Path):
    launch = Launch(tmp_path, prompts=2, ranks=1, batch_size=2, engine="continuous")
    (rank,) = launch.connect_ready("continuous")
    launch.say(rank, *outputs_of(rank.peer.work[0], 0))
    launch.pool.hand_out()
    assert (launch.scheduler.in_flight, launch.pool.leaving) == ({}, False)


def test_ranks_that_are_stopped_after_their_batches_gather_nothing(tmp_path: Path):
    launch = Launch(tmp_path, dispatch="split")
    for rank, share in zip(launch.connect(), ((0, 6), (6, 12)), strict=True):
        launch.say(rank, protocol.Share(rank=rank.number, start=share[0], stop=share[1]), ready(rank.number))
    launch.pool.stop()
    for rank in launch.pool.work.ranks.values():
        launch.answer(rank, rank.peer.work[0])
    assert [sent(rank, protocol.Leave) for rank in launch.pool.work.ranks.values()] == [
        [protocol.Leave(gather=False)]
    ] * 2


def test_a_rank_that_is_given_up_is_not_waited_for_to_read(tmp_path: Path):
    launch = Launch(tmp_path)
    zero, _ = launch.connect()
    ended: list[str] = []
    zero.peer.abort, zero.peer.close = (lambda: ended.append("now")), (lambda: ended.append("once it has read"))
    launch.pool.give_up(0, "it hangs")
    assert ended == ["now"]
