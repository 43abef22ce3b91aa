"""What a rank is believed: only what only it can know, and only of what it was given."""

import json
import time
from pathlib import Path

import msgspec
import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol import StepsInFlight
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.scheduling.scheduler import Assignment
from rankdeck.runner.supervisor.talk.claims import LONGEST_ERROR, NonsenseError
from tests.runner.supervisor.in_process import STEPS, Launch, outputs_of, ready, result


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    return Launch(tmp_path)


def changed(output: protocol.Output, **changes) -> protocol.Output:
    return protocol.Output(record=msgspec.structs.replace(output.record, **changes))


def refused(launch: Launch, rank, message, why: str = ".") -> None:
    """The message is nonsense, and nothing has come of it."""
    before = launch.state, dict(launch.scheduler.in_flight), launch.scheduler.unsettled
    with pytest.raises(NonsenseError, match=why):
        launch.say(rank, message)
    assert (launch.state, launch.scheduler.in_flight, launch.scheduler.unsettled) == before


def test_honest_ranks_are_believed_to_the_end(launch):
    launch.connect_ready()
    launch.answer_all()
    assert [record.text for record in launch.records()] == [
        f"answer to {f'prompt number {number}'[::-1]}" for number in range(12)
    ]
    assert (launch.state.completed, launch.state.output_tokens) == (12, 12 * STEPS)


def test_a_record_has_id_prompt_and_rank_from_the_run_whatever_the_rank_says(launch):
    zero, _ = launch.connect_ready()
    (work,) = zero.peer.work
    (first, *_) = outputs_of(work, 0)
    launch.say(zero, changed(first, id="another", prompt="another prompt", rank=77))
    (record,) = launch.records()
    assert (record.index, record.id, record.prompt, record.rank) == (0, "0", "prompt number 0", 0)


def test_a_second_record_of_a_prompt_is_dropped_and_counts_for_nothing(launch):
    zero, one = launch.connect_ready()
    (work,) = zero.peer.work
    (first, *_) = outputs_of(work, 0)
    launch.say(zero, first, changed(first, text="another answer"))
    launch.answer(zero, work)
    launch.say(zero, changed(first, text="after its batch"))
    mine = one.peer.work[0].batch
    launch.say(one, changed(first, batch=mine, text="of a prompt that another rank has done"))
    assert [record.text for record in launch.records()].count("answer to 0 rebmun tpmorp") == 1
    assert (launch.state.completed, launch.state.ranks[0].prompts, launch.state.ranks[1].prompts) == (3, 3, 0)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"index": -1}, "no prompt of this number"),
        ({"index": 12}, "no prompt of this number"),
        ({"index": 10**30}, "no prompt of this number"),
        ({"index": 7}, "not in its hand"),
        ({"batch": 2}, "not in its hand"),
        ({"batch": None}, "not in its hand"),
        ({"batch": 10**30}, "not in its hand"),
        ({"prompt_tokens": -1}, "out of range"),
        ({"output_tokens": 11}, "11 tokens of 10"),
        ({"error": "with a reason that is none"}, "by half"),
        ({"finish_reason": "error"}, "by half"),
    ],
)
def test_a_record_of_what_the_rank_was_not_given_or_with_absurd_figures_is_nonsense(launch, changes, why):
    zero, _ = launch.connect_ready()
    (first, *_) = outputs_of(zero.peer.work[0], 0)
    refused(launch, zero, changed(first, **changes), why)


def test_a_batch_is_finished_only_by_its_rank_once_and_with_all_its_records(launch):
    zero, one = launch.connect_ready()
    (work,) = zero.peer.work
    finished = protocol.BatchFinished(rank=0, batch=work.batch, result=result(3))
    refused(launch, zero, finished, "3 of its prompts have no record")
    launch.say(zero, *outputs_of(work, 0)[:2])
    refused(launch, zero, finished, "1 of its prompts have no record")
    refused(launch, one, msgspec.structs.replace(finished, rank=1), "not in its hand")
    refused(launch, one, finished, "another rank")
    launch.say(zero, outputs_of(work, 0)[2], finished)
    refused(launch, zero, finished, "not in its hand")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rows": 4}, "4 rows, and 3"),
        ({"seconds": float("nan")}, "out of range"),
        ({"seconds": float("inf")}, "out of range"),
        ({"seconds": -0.5}, "out of range"),
        ({"seconds": 3600.0}, "3,600 s"),
        ({"prefill_seconds": 3600.0}, "3,600 s"),
        ({"step_seconds": [3600.0]}, "3,600 s"),
        ({"step_seconds": [0.001] * 5}, "more steps than it has"),
        ({"output_tokens": 31, "slots": 100}, "31 tokens of 30"),
        ({"padded_slots": 1000}, "more tokens than slots"),
        ({"slots": -1}, "out of range"),
        ({"slots": 10**4400}, "out of range"),
        ({"peak_memory_bytes": 2**63}, "out of range"),
        ({"slots_read": -1}, "out of range"),
    ],
)
def test_an_account_of_more_than_was_in_hand_or_longer_than_it_was_is_nonsense(launch, changes, why):
    zero, _ = launch.connect_ready()
    (work,) = zero.peer.work
    launch.say(zero, *outputs_of(work, 0))
    account = msgspec.structs.replace(result(3), **changes)
    refused(launch, zero, protocol.BatchFinished(rank=0, batch=work.batch, result=account), why)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": 2},
        {"batch": -1},
        {"batch": 10**30},
        {"rank": 1},
        {"step": 11},
        {"step": -1},
        {"output_tokens": 31},
        {"output_tokens": -1},
        {"rows": 4},
        {"cache_used": 1.5},
        {"cache_used": float("nan")},
    ],
)
def test_progress_of_another_batch_or_beyond_its_rows_is_nonsense(launch, changes):
    zero, _ = launch.connect_ready()
    good = StepsInFlight(rank=0, batch=zero.peer.work[0].batch, step=10, output_tokens=30, rows=3, cache_used=1.0)
    launch.say(zero, protocol.Steps(steps=good))
    steps = launch.pool.steps
    refused(launch, zero, protocol.Steps(steps=msgspec.structs.replace(good, **changes)))
    assert launch.pool.steps == steps


def test_only_a_batch_in_hand_can_fail_and_a_long_error_is_cut(launch):
    zero, one = launch.connect_ready()
    failed = protocol.BatchFailed(rank=0, batch=zero.peer.work[0].batch, kind="error", error="x" * 10**6)
    refused(launch, one, msgspec.structs.replace(failed, rank=1), "not in its hand")
    refused(launch, zero, msgspec.structs.replace(failed, batch=-7), "not in its hand")
    launch.say(zero, failed)
    refused(launch, zero, failed, "not in its hand")
    assert max(len(entry.text) for entry in launch.state.log) < 11_000


def test_long_last_words_of_a_rank_are_cut_and_so_is_a_long_line(launch):
    talk = launch.connect()[0].talk
    failed = talk.believed(protocol.RankFailed(rank=0, error="e" * 10_001, traceback="t" * 200_001), 0.0)
    assert (failed.error, failed.traceback) == ("e" * 10_000 + " …", "t" * 200_000 + " …")
    assert talk.believed(protocol.LogLine(source="s", text="x" * 200_001), 0.0).text == "x" * 200_000 + " …"


def test_getting_ready_goes_forward_and_happens_once(launch):
    zero, _ = launch.connect()
    launch.say(zero, protocol.RankPhase(rank=0, phase="loading"))
    refused(launch, zero, protocol.RankPhase(rank=0, phase="loading"), "second time")
    refused(launch, zero, protocol.RankPhase(rank=0, phase="importing"), "second time")
    refused(launch, zero, protocol.RankPhase(rank=1, phase="warming up"), "another rank")
    refused(launch, zero, ready(0, engine="warp"), "no engine")
    for changes in ({"seconds": -1.0}, {"parameters": 2**63}, {"memory_free_bytes": -1}, {"device": "c" * 100_000}):
        refused(launch, zero, msgspec.structs.replace(ready(0), **changes))
    launch.say(zero, ready(0))
    refused(launch, zero, ready(0), "second time")
    refused(launch, zero, protocol.RankPhase(rank=0, phase="warming up"), "second time")
    refused(launch, zero, protocol.RankHello(rank=0, world_size=2, attempt=1), "out of turn")


def test_nobody_gathers_unless_told_to_nor_more_than_there_is(tmp_path):
    launch = Launch(tmp_path, dispatch="split")
    ranks = launch.connect()
    refused(launch, ranks[0], protocol.Gathered(records=[], last=True), "not told")
    for rank, (start, stop) in zip(ranks, [(0, 6), (6, 12)], strict=True):
        launch.say(rank, protocol.Share(rank=rank.number, start=start, stop=stop), ready(rank.number))
    launch.answer_all()
    for records in ([(-1, "d")], [(12, "d")], [(0, "d" * 65)], [(0, "d")] * 13):
        refused(launch, ranks[0], protocol.Gathered(records=records, last=False))
    assert not launch.pool.gather.ended


def test_nobody_gathers_more_than_there_is_in_several_parts(tmp_path):
    launch = Launch(tmp_path, ranks=1, dispatch="split")
    (rank,) = launch.connect()
    launch.say(rank, protocol.Share(rank=0, start=0, stop=12), ready(0))
    launch.answer_all()
    first, rest = ([(index, "d") for index in indices] for indices in (range(7), range(6, 12)))
    launch.say(rank, protocol.Gathered(records=first, last=False))
    refused(launch, rank, protocol.Gathered(records=rest, last=True), "more records than there are prompts")
    assert not launch.pool.gather.ended


def test_as_many_records_may_be_gathered_as_there_are_prompts(tmp_path):
    launch = Launch(tmp_path, ranks=1, dispatch="split")
    (rank,) = launch.connect()
    launch.say(rank, protocol.Share(rank=0, start=0, stop=12), ready(0))
    launch.answer_all()
    for part, last in ((range(7), False), (range(7, 12), True)):
        launch.say(rank, protocol.Gathered(records=[(index, "d" * 64) for index in part], last=last))
    assert (launch.pool.gather.records, launch.pool.gather.ended) == (12, True)


def test_a_rank_that_is_ready_comes_to_no_meeting_point_any_more(launch):
    zero, _ = launch.connect()
    launch.say(zero, protocol.Arrived(rank=0, at="memory taken"))
    refused(launch, zero, protocol.Arrived(rank=0, at="memory taken"), "'memory taken' already")
    launch.say(zero, ready(0))
    refused(launch, zero, protocol.Arrived(rank=0, at="limits"))


@pytest.mark.parametrize("share", [(-5, 10**9), (0, 13), (-1, 6), (7, 6), (5, 12), (0, 12)])
def test_a_share_out_of_range_or_over_another_is_nonsense_and_hands_nothing_out(tmp_path, share):
    launch = Launch(tmp_path, dispatch="split")
    zero, one = launch.connect()
    launch.say(zero, protocol.Share(rank=0, start=0, stop=6), ready(0))
    refused(launch, one, protocol.Share(rank=1, start=share[0], stop=share[1]))
    assert launch.scheduler.shares == {}


def test_shares_that_leave_prompts_out_are_nonsense_and_the_next_launch_may_share_rightly(tmp_path):
    launch = Launch(tmp_path, dispatch="split")
    zero, one = launch.connect()
    launch.say(zero, protocol.Share(rank=0, start=0, stop=3), ready(0))
    refused(launch, one, protocol.Share(rank=1, start=6, stop=12), "leave out 3")
    launch.pool.close()
    launch.launch_again()
    zero, one = launch.connect()
    refused(launch, zero, ready(0), "without a share")
    for rank, (start, stop) in ((zero, (0, 6)), (one, (6, 12))):
        launch.say(rank, protocol.Share(rank=rank.number, start=start, stop=stop), ready(rank.number))
    launch.answer_all()
    assert len(launch.records()) == 12


def test_a_share_that_was_another_in_the_launch_before_is_nonsense(tmp_path):
    launch = Launch(tmp_path, dispatch="split")
    for rank, (start, stop) in zip(launch.connect(), ((0, 6), (6, 12)), strict=True):
        launch.say(rank, protocol.Share(rank=rank.number, start=start, stop=stop), ready(rank.number))
    launch.pool.close()
    launch.launch_again()
    zero, _ = launch.connect()
    refused(launch, zero, protocol.Share(rank=0, start=0, stop=5), "another in the launch before")
    assert launch.scheduler.shares == {0: (0, 6), 1: (6, 12)}


def test_with_pull_nobody_has_a_share(launch):
    zero, _ = launch.connect()
    refused(launch, zero, protocol.Share(rank=0, start=0, stop=6), "no share")


def test_an_ended_launch_is_heard_no_more_but_for_its_finished_outputs(launch):
    zero, _ = launch.connect_ready()
    (work,) = zero.peer.work
    launch.pool.close()
    launch.failures.ranks_lost(2, 0, "it died")
    heard = len(launch.state.log)
    launch.say(zero, protocol.BatchFailed(rank=0, batch=work.batch, kind="error", error="late"))
    assert launch.scheduler.in_flight == {}
    assert len(launch.state.log) == heard
    launch.say(zero, outputs_of(work, 0)[0])
    assert [record.index for record in launch.records()] == [0]
    refused(launch, zero, changed(outputs_of(work, 0)[1], index=9), "not in its hand")


# --- continuous ranks: rows come and go within one batch ---


@pytest.fixture
def rows(tmp_path: Path) -> Launch:
    return Launch(tmp_path, prompts=12, ranks=1, batch_size=8, engine="continuous")


def account(rows: int, tokens: int) -> protocol.RankAccount:
    figures = msgspec.structs.replace(result(0), rows=rows, output_tokens=tokens, slots=tokens, steps=tokens)
    return protocol.RankAccount(rank=0, result=figures)


def test_a_continuous_rank_is_believed_about_its_rows_alone(rows):
    (zero,) = rows.connect_ready("continuous")
    refused_before = protocol.RankAccount(rank=0, result=result(1))
    (work,) = zero.peer.work
    assert len(work.prompts) == 9
    refused(rows, zero, refused_before, "1 rows, and 0")
    refused(rows, zero, protocol.BatchFinished(rank=0, batch=work.batch, result=result(9)), "ends with an account")
    refused(rows, zero, protocol.BatchFailed(rank=0, batch=work.batch + 1, kind="error", error="e"), "not in its hand")
    good = StepsInFlight(rank=0, batch=work.batch, step=5000, output_tokens=90, rows=9)
    rows.say(zero, protocol.Steps(steps=good))
    refused(rows, zero, protocol.Steps(steps=msgspec.structs.replace(good, rows=10)))
    refused(rows, zero, protocol.Steps(steps=msgspec.structs.replace(good, batch=work.batch + 1)))
    rows.say(zero, *outputs_of(work, 0)[:2])
    refused(rows, zero, account(3, 12), "3 rows, and 2")
    refused(rows, zero, account(2, 121), "121 tokens of 110")
    rows.say(zero, account(2, 12))
    refused(rows, zero, account(2, 12), "2 rows, and 0")


def test_a_continuous_rank_answers_all_and_its_last_account_ends_the_batch(rows):
    (zero,) = rows.connect_ready("continuous")
    for at in range(20):
        if at >= len(zero.peer.work):
            break
        rows.say(zero, *outputs_of(zero.peer.work[at], 0))
    rows.say(zero, account(12, 48))
    assert rows.pool.leaving
    assert [record.index for record in rows.records()] == list(range(12))
    refused(rows, zero, account(0, 0), "nothing in its hand")


def timed(rank, seconds: float) -> protocol.RankAccount:
    figures = msgspec.structs.replace(result(0), rows=0, output_tokens=0, slots=0, seconds=seconds)
    return protocol.RankAccount(rank=rank.number, result=figures)


def test_accounts_made_far_apart_and_heard_together_are_true_if_all_of_them_fit_in_the_time_of_the_stream(rows):
    (zero,) = rows.connect_ready("continuous")
    opened = time.monotonic()
    for seconds in (10.0, 16.0, 14.0):  # the supervisor stood still for 40 s
        zero.talk.believed(timed(zero, seconds), opened + 41)
    with pytest.raises(NonsenseError, match=r"a batch took 52 s of 41 s in hand"):
        zero.talk.believed(timed(zero, 12.0), opened + 41)


def test_accounts_may_not_take_more_than_the_stream_by_a_little_each_time(rows):
    (zero,) = rows.connect_ready("continuous")
    opened = time.monotonic()
    zero.talk.believed(timed(zero, 13.0), opened + 10)
    with pytest.raises(NonsenseError, match=r"26 s of 20 s in hand"):
        zero.talk.believed(timed(zero, 13.0), opened + 20)


def test_the_time_of_a_stream_that_has_ended_is_not_counted_against_the_next(tmp_path):
    launch = Launch(tmp_path, prompts=2, ranks=1, engine="continuous")
    talk = launch.connect()[0].talk
    for number, opened in ((1, 100.0), (2, 1000.0)):
        prompts = launch.outputs._prompts.read([number - 1])
        given = Assignment(batch=number, rank=0, indices=(number - 1,))
        talk.given(given, prompts, opened, stream=number)
        (output,) = outputs_of(protocol.Work(batch=number, prompts=prompts), 0)
        assert talk.believed(output, opened + 60) is not None
        taken = protocol.RankAccount(rank=0, result=msgspec.structs.replace(result(1), seconds=60.0))
        assert talk.believed(taken, opened + 60) == taken


def test_what_the_journal_holds_of_a_believed_rank_is_valid_json(launch, tmp_path):
    zero, _ = launch.connect_ready()
    launch.say(zero, *outputs_of(zero.peer.work[0], 0))
    launch.events.journal.flush()
    assert all(json.loads(line) for line in (tmp_path / "events.jsonl").read_bytes().splitlines())


def test_a_sweep_of_few_prompts_may_have_one_of_them_in_several_rows_of_a_batch(tmp_path):
    launch = Launch(tmp_path, prompts=2)
    talk = launch.connect()[0].talk
    (one,) = launch.outputs._prompts.read([0])
    given = Assignment(batch=7, rank=0, indices=(0, 0, 0), measured=True, kept=False)
    talk.given(given, [one] * 3, now=1.0)
    finished = protocol.BatchFinished(rank=0, batch=7, result=result(rows=3))
    assert talk.believed(finished, now=9.0) == finished


# --- each rule by itself --------------------------------------------------------------------------------


def test_an_engine_is_the_one_that_was_chosen_and_not_the_wish_for_one(launch):
    zero, _ = launch.connect()
    refused(launch, zero, ready(0, "auto"), "no engine of the name")


def test_a_share_is_announced_once_and_may_be_of_no_prompt(tmp_path):
    launch = Launch(tmp_path, dispatch="split", prompts=1)
    zero, one = launch.connect()
    launch.say(zero, protocol.Share(rank=0, start=0, stop=1))
    refused(launch, zero, protocol.Share(rank=0, start=0, stop=1), "no share to announce")
    launch.say(one, protocol.Share(rank=1, start=1, stop=1))
    assert one.talk.share == (1, 1)


def test_a_record_of_a_batch_that_is_for_its_figures_alone_is_nonsense(tmp_path):
    plan = SweepPlan(batch_sizes=[2], ranks=[1], repeats=1, least_rounds=1, least_seconds=0.0)
    launch = Launch(tmp_path, ranks=1, sweep=plan)
    (zero,) = launch.connect_ready()
    refused(launch, zero, outputs_of(zero.peer.work[0], 0)[0], "is for its figures alone")


def test_a_long_error_of_a_record_is_cut(launch):
    zero, _ = launch.connect_ready()
    (first, *_) = outputs_of(zero.peer.work[0], 0)
    launch.say(zero, changed(first, finish_reason="error", error="x" * (LONGEST_ERROR + 5)))
    (record,) = launch.records()
    assert record.error == "x" * LONGEST_ERROR + " …"


def test_a_continuous_rank_speaks_of_the_batches_since_its_stream_began_and_fails_as_a_whole(tmp_path):
    launch = Launch(tmp_path, prompts=60, ranks=1, batch_size=8, engine="continuous")
    (rank,) = launch.connect_ready("continuous")
    first = rank.peer.work[0]
    launch.say(rank, outputs_of(first, 0)[0])
    second = rank.peer.work[1]
    for batch in (first.batch - 1, second.batch + 1):
        steps = StepsInFlight(rank=0, batch=batch, step=1, output_tokens=1)
        refused(launch, rank, protocol.Steps(steps=steps), "is not in its hand")
    failed = protocol.BatchFailed(rank=0, batch=second.batch, kind="error", error="e")
    refused(launch, rank, failed, "the batch that failed is not in its hand")
    launch.say(rank, msgspec.structs.replace(failed, batch=first.batch))
    third = rank.peer.work[2]
    assert rank.talk._batches.keys() == {third.batch}, "what failed is in its hand no more"


def test_a_second_record_is_dropped_though_the_first_was_lost_meanwhile(launch):
    zero, _ = launch.connect_ready()
    (first, *_) = outputs_of(zero.peer.work[0], 0)
    launch.say(zero, first)
    launch.scheduler.reopen([0])
    launch.say(zero, first)
    assert (launch.state.completed, launch.scheduler.is_settled(0)) == (1, False)
