"""A continuous rank, step by step in this process: what it hands in, sends, counts and drops. The rows, the connection
and the clock are stand-ins."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from rankdeck.runner import protocol
from rankdeck.runner.engine.rows import Answer, Cancelled
from rankdeck.runner.protocol import Leave, OutputRecord, Prompt, Work
from rankdeck.runner.protocol.orders import ACCOUNT_SECONDS
from rankdeck.runner.rank import continuous_rank
from rankdeck.runner.rank.continuous_rank import LOOK_SECONDS, ContinuousRank


def work(batch: int, *texts: str) -> Work:
    return Work(
        batch=batch, prompts=[Prompt(index=10 * batch + at, id=text, text=text) for at, text in enumerate(texts)]
    )


class Rows:
    """Rows that end once they have as many tokens as their prompt has characters; `!` ends without an answer."""

    def __init__(self, clock: SimpleNamespace) -> None:
        self.clock, self.steps, self.closed = clock, 7, 0
        self.rows: dict[tuple, int] = {}
        self.waited: list[float] = []
        self.begun: list[int] = []
        self.most = 0
        self.padding_known, self.stepwise, self.shared_tokens, self.held = True, False, 0, 0
        self.stands_still, self.most_rows, self.kept_to = False, None, []
        self.notes: list[str] = []

    @property
    def in_flight(self) -> int:
        return len(self.rows)

    def keep_to(self, rows) -> None:
        self.kept_to.append(rows)

    def prefix_hits(self):
        return None

    def take_notes(self):
        notes, self.notes = self.notes, []
        return notes

    def submit(self, rows) -> None:
        assert rows, "nothing is begun"
        assert all(row.key[2] == len(row.tokens) and row.key[1].index == row.prompt for row in rows)
        self.begun.append(len(rows))
        self.rows.update({row.key: 0 for row in rows})
        self.most = max(self.most, len(self.rows))

    def ended(self, seconds):
        self.waited.append(seconds)
        self.steps += 1
        self.clock.now += 1.0
        self.rows = {key: count + 1 for key, count in self.rows.items()}
        over = [key for key, count in self.rows.items() if count >= len(key[1].text)]
        return [
            (key, "it broke" if key[1].text == "!" else Answer([5] * self.rows.pop(key, 0), "stop"), [])
            for key in over
            if key[1].text != "!" or self.rows.pop(key)
        ]

    def tokens_in_flight(self) -> int:
        return sum(self.rows.values())

    def cache_used(self) -> float:
        return 0.25

    def peak_memory(self) -> int:
        return 11

    def reserved_memory(self) -> int:
        return 22

    def tokenise(self, prompts):
        good = {at: [1] * (len(prompt.text) + 1) for at, prompt in enumerate(prompts) if prompt.text != "?"}
        return good, {at: "does not fit" for at in range(len(prompts)) if at not in good}

    def answered(self, prompt, prompt_tokens, answer) -> OutputRecord:
        return self._record(prompt, prompt_tokens, len(answer.tokens), "stop")

    def refused(self, prompt, error) -> OutputRecord:
        return self._record(prompt, 0, 0, "error", error)

    def close(self) -> None:
        self.closed += 1
        self.rows.clear()

    @staticmethod
    def _record(prompt, prompt_tokens, tokens, reason, error=None) -> OutputRecord:
        return OutputRecord(
            index=prompt.index, id=prompt.id, prompt=prompt.text, text="", prompt_tokens=prompt_tokens,
            output_tokens=tokens, finish_reason=reason, error=error,
        )  # fmt: skip


class Link:
    """Has these orders arrive, one at each look of those numbers (from 1)."""

    def __init__(self, **arrive: object) -> None:
        self.limit: int | None = None
        self.arrive = {int(look.removeprefix("at_")): order for look, order in arrive.items()}
        self.looks = 0
        self.sent: list = []
        self.steps: list[protocol.StepsInFlight] = []

    def next_order_now(self):
        self.looks += 1
        order = self.arrive.get(self.looks)
        if callable(order):
            order = order()
        return order

    def send(self, *messages) -> None:
        self.sent.extend(messages)

    def progress(self, steps) -> None:
        self.steps.append(steps)


@pytest.fixture
def made(monkeypatch):
    clock = SimpleNamespace(now=100.0, slept=[])
    monkeypatch.setattr(continuous_rank.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(continuous_rank.time, "sleep", clock.slept.append)

    def make(link: Link, longest: int = 1000, may_go_on: Callable[[int], bool] = lambda batch: True):
        rows, records = Rows(clock), []
        rank = ContinuousRank(
            3, rows, link, send_records=lambda batch, ended: records.append((batch, ended)), may_go_on=may_go_on,
            longest=longest,
        )  # fmt: skip
        return SimpleNamespace(rank=rank, rows=rows, records=records, clock=clock, link=link)

    return make


def accounts(link: Link) -> list[protocol.BatchResult]:
    assert all(isinstance(one, protocol.RankAccount) and one.rank == 3 for one in link.sent)
    return [one.result for one in link.sent]


def test_each_answer_is_sent_as_its_row_ends_under_the_number_of_the_order_it_came_with(made):
    one = made(Link(at_2=work(2, "dd", "e")))
    assert one.rank.run(work(1, "aaa", "b")) is None
    sent = [(batch, [record.id for record in records]) for batch, records in one.records]
    assert sent == [(1, ["b"]), (2, ["e"]), (1, ["aaa"]), (2, ["dd"])], "a message for each order"
    assert [record.prompt_tokens for _, records in one.records for record in records] == [2, 2, 4, 3]
    assert set(one.rows.waited) == {LOOK_SECONDS}
    assert one.rows.closed == 0
    assert one.clock.slept == []


def test_rows_that_end_at_the_same_step_are_one_message_of_their_order(made):
    one = made(Link())
    one.rank.run(work(1, "ab", "cd"))
    assert [(batch, [record.id for record in records]) for batch, records in one.records] == [(1, ["ab", "cd"])]


@pytest.mark.parametrize(("limit", "begun"), [(None, [5]), (9, [5]), (3, [3, 2]), (2, [2, 2, 1])])
def test_prompts_for_which_rows_are_free_at_the_same_time_are_handed_in_together(made, limit, begun):
    one = made(Link())
    one.link.limit = limit
    one.rank.run(work(1, "ab", "cd", "ef", "gh", "ij"))
    assert one.rows.begun == begun


def test_the_account_of_a_short_work_has_all_of_it(made):
    one = made(Link())
    one.rank.run(work(1, "aaa", "b"))
    (result,) = accounts(one.link)
    assert result == protocol.BatchResult(
        rows=2, prompt_tokens=6, output_tokens=4, slots=10, padded_slots=0, steps=3, row_steps=4, prefill_seconds=0.0,
        decode_seconds=3.0, seconds=3.0, peak_memory_bytes=11, reserved_memory_bytes=22,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("longest", "text", "steps"),
    [(4, "x" * 10, [4, 4, 2]), (1000, "x" * 25, [10, 10, 5]), (5, "x" * 5, [5])],
    ids=["steps of the longest answer", "ten seconds", "nothing is left to account for"],
)
def test_an_account_is_due_after_the_steps_of_an_answer_or_after_ten_seconds_and_none_counts_twice(
    made, longest, text, steps
):
    one = made(Link(), longest=longest)
    one.rank.run(work(1, text))
    found = accounts(one.link)
    assert [result.steps for result in found] == steps
    assert [result.output_tokens for result in found] == steps, "tokens count when they are computed"
    assert [result.seconds for result in found] == [float(count) for count in steps]
    assert [result.prompt_tokens for result in found] == [len(text) + 1] + [0] * (len(steps) - 1)
    assert [result.rows for result in found] == [0] * (len(steps) - 1) + [1]
    assert [result.slots for result in found] == [one.prompt_tokens + one.output_tokens for one in found]
    assert ACCOUNT_SECONDS == 10.0


def test_a_row_that_begins_again_makes_no_account_negative(made):
    one = made(Link(), longest=3)
    tokens = one.rows.tokens_in_flight
    one.rows.tokens_in_flight = lambda: 0 if one.rows.steps >= 12 else tokens()
    one.rank.run(work(1, "x" * 8))
    assert [result.output_tokens for result in accounts(one.link)][:2] == [3, 0]


def test_a_prompt_that_cannot_be_done_is_told_at_once_and_never_handed_in(made):
    one = made(Link())
    one.rank.run(work(4, "?", "ab", "?"))
    assert [(batch, [(record.index, record.error) for record in records]) for batch, records in one.records] == [
        (4, [(40, "does not fit"), (42, "does not fit")]),
        (4, [(41, None)]),
    ]
    (result,) = accounts(one.link)
    assert (result.rows, result.prompt_tokens) == (1, 3)


def test_a_row_that_ends_without_an_answer_is_a_record_too_and_brings_no_tokens(made):
    one = made(Link())
    one.rank.run(work(1, "!", "ab"))
    assert [record.error for _, records in one.records for record in records] == ["it broke", None]
    (result,) = accounts(one.link)
    assert (result.rows, result.output_tokens) == (2, 2)


def test_no_more_rows_are_handed_in_than_the_limit_and_the_others_wait_their_turn(made):
    link = Link()
    link.limit = 2
    one = made(link)
    one.rank.run(work(1, "aa", "b", "cc", "d"))
    assert one.rows.most == 2
    assert [record.id for _, records in one.records for record in records] == ["b", "aa", "cc", "d"]


def test_paused_a_rank_with_nothing_in_flight_sleeps_until_an_order_changes_that(made):
    link = Link()
    link.limit = 0

    def go_on():
        link.limit = None

    link.arrive = {4: go_on}
    one = made(link)
    one.rank.run(work(1, "a"))
    assert one.clock.slept == [LOOK_SECONDS] * 3
    assert len(one.records) == 1


def test_told_to_leave_it_drops_what_is_in_hand_and_gives_the_order_back(made):
    leave = Leave(gather=True)
    one = made(Link(at_3=leave))
    assert one.rank.run(work(1, "a" * 9)) is leave
    assert one.rows.closed == 1
    assert one.records == []


def test_cancelled_it_drops_what_is_in_hand_and_the_newest_order_is_asked_about(made):
    asked = []

    def may_go_on(batch):
        asked.append(batch)
        return len(asked) < 4

    one = made(Link(at_2=work(2, "b" * 9)), may_go_on=may_go_on)
    with pytest.raises(Cancelled):
        one.rank.run(work(1, "a" * 9))
    assert asked == [1, 2, 2, 2]
    assert one.rows.closed == 1
    assert one.records == []


def test_what_a_step_raises_ends_it_with_nothing_in_hand(made):
    one = made(Link())

    def broken(seconds):
        raise RuntimeError("CUDA error")

    one.rows.ended = broken
    with pytest.raises(RuntimeError, match="CUDA error"):
        one.rank.run(work(1, "a"))
    assert one.rows.closed == 1


def test_progress_is_of_the_newest_order_and_told_when_it_is_due(made):
    one = made(Link(at_3=work(2, "bbbb")))
    one.rank.run(work(1, "aaaa"))
    assert one.link.steps[:4] == [
        protocol.StepsInFlight(rank=3, batch=1, step=0, output_tokens=0, rows=1, cache_used=0.25),
        protocol.StepsInFlight(rank=3, batch=1, step=1, output_tokens=1, rows=1, cache_used=0.25),
        protocol.StepsInFlight(rank=3, batch=2, step=2, output_tokens=2, rows=2, cache_used=0.25),
        protocol.StepsInFlight(rank=3, batch=2, step=3, output_tokens=4, rows=2, cache_used=0.25),
    ]
    assert all(steps.rows for steps in one.link.steps), "nothing is told of no rows"


def test_progress_is_told_five_times_a_second_at_most(made, monkeypatch):
    one = made(Link())
    ended = one.rows.ended

    def quick(seconds):
        found = ended(seconds)
        one.clock.now -= 1 - 1 / 16  # that is how long a step takes
        return found

    one.rows.ended = quick
    one.rank.run(work(1, "a" * 13))
    assert [steps.step for steps in one.link.steps] == [0, 4, 8, 12]


def test_progress_is_told_after_the_records_and_accounts_of_its_step_which_would_replace_it(made):
    link, said = Link(), []
    one = made(link, longest=2)
    link.send = lambda *messages: said.extend("account" for _ in messages)
    link.progress = lambda steps: said.append(steps.step)
    one.rank._send_records = lambda batch, ended: said.append(f"{len(ended)} of {batch}")
    one.rank.run(work(1, "aaa", "b"))
    assert said == [0, "1 of 1", 1, "account", 2, "1 of 1", "account"]


def test_orders_that_came_together_are_all_taken_before_the_next_step(made):
    link = Link(at_1=work(2, "bb"), at_2=work(3, "cc"))
    one = made(link)
    one.rank.run(work(1, "aa"))
    assert one.rows.most == 3
    assert [(batch, [record.id for record in records]) for batch, records in one.records] == [
        (1, ["aa"]), (2, ["bb"]), (3, ["cc"])
    ]  # fmt: skip


def test_a_limit_that_is_lowered_lets_rows_in_flight_end_and_one_that_is_raised_fills_up(made):
    link = Link()
    link.limit = 3
    one, counts = made(link), []
    ended = one.rows.ended

    def watched(seconds):
        counts.append(one.rows.in_flight)
        link.limit = {1: 1, 3: 5}.get(len(counts), link.limit)
        return ended(seconds)

    one.rows.ended = watched
    one.rank.run(work(1, "aaa", "bbb", "ccc", "d", "e", "f", "g", "h"))
    assert counts == [3, 3, 3, 5]


def test_paused_with_rows_in_flight_it_goes_on_with_them_without_sleeping(made):
    link = Link()
    one = made(link)
    one.rank._take(work(1, "aa"))
    one.rank._fill()
    link.limit = 0
    one.rank._send_ended()
    assert one.clock.slept == []
    assert one.rows.waited == [LOOK_SECONDS] == [0.01]
    one.rank._send_ended()
    one.rank._send_ended()
    assert one.clock.slept == [LOOK_SECONDS], "nothing is in flight now"


# --- rows that stand still, and are kept back -----------------------------------------------------


def test_the_engine_is_told_at_every_step_how_many_rows_there_may_be(made):
    link = Link()
    link.limit = 2

    def turn():
        link.limit = 3

    link.arrive = {3: turn}
    one = made(link)
    one.rank.run(work(1, "aaaa", "bbbb"))
    assert one.rows.kept_to == [2, 2, 3, 3, 3]


def test_no_more_rows_are_handed_in_than_the_engine_generates_at_once(made):
    one = made(Link())
    one.link.limit, one.rows.most_rows = 4, 2
    one.rank.run(work(1, "aa", "b", "cc", "d"))
    assert one.rows.most == 2
    one = made(Link())
    one.rows.most_rows = 3
    one.rank.run(work(1, "aa", "b", "cc", "d"))
    assert one.rows.most == 3


def test_rows_that_are_kept_back_are_in_hand(made):
    one = made(Link())
    one.rows.held = 1

    def go_on():
        one.rows.held = 0

    one.link.arrive = {6: go_on}
    one.rank.run(work(1, "a"))
    assert one.link.looks == 6


def test_what_the_engine_notes_on_the_way_is_told(made):
    one = made(Link())
    one.rows.notes = ["no more than 256 rows"]
    one.rank.run(work(1, "aaaa"))
    assert one.link.sent[0] == protocol.LogLine(source="rank 3", text="no more than 256 rows")


def test_prompts_found_in_the_cache_took_no_slot_and_padding_may_not_be_known(made):
    one = made(Link())
    one.rows.padding_known, submit = False, one.rows.submit

    def found(rows):
        submit(rows)
        one.rows.shared_tokens += 3

    one.rows.submit = found
    one.rows.prefix_hits = lambda: 0.5
    one.rank.run(work(1, "aaa"))
    (result,) = accounts(one.link)
    assert (result.shared_tokens, result.slots, result.padded_slots) == (3, 4, None)
    assert {steps.prefix_hits for steps in one.link.steps} == {0.5}


def test_hits_of_rows_of_an_earlier_account_make_none_impossible(made):
    one = made(Link(), longest=2)
    ended = one.rows.ended

    def later(seconds):
        one.rows.shared_tokens += 2
        return ended(seconds)

    one.rows.ended = later
    one.rank.run(work(1, "aaaaa"))
    assert all(result.shared_tokens <= result.prompt_tokens for result in accounts(one.link))


def test_while_rows_stand_still_no_account_counts_the_time(made):
    link = Link()
    one = made(link)
    ended = one.rows.ended

    def step(seconds):
        if not one.rows.stands_still:
            return ended(seconds)
        one.clock.now += 50.0
        return []

    one.rows.ended, one.rows.stepwise = step, True
    keep = one.rows.keep_to

    def keep_to(rows):
        keep(rows)
        one.rows.stands_still = rows == 0

    one.rows.keep_to = keep_to

    def pause():
        link.limit = 0

    def go_on():
        link.limit = None

    link.arrive = {4: pause, 7: go_on}
    one.rank.run(work(1, "x" * 8))
    assert [(result.steps, result.seconds) for result in accounts(link)] == [(3, 3.0), (5, 5.0)]


def test_a_turn_begins_another_account_of_rows_that_it_reaches_within_a_step(made):
    for stepwise, steps in ((True, [4, 4]), (False, [8])):
        link = Link()
        link.limit = 4
        one = made(link)
        one.rows.stepwise = stepwise

        def turn(link=link):
            link.limit = 2

        link.arrive = {5: turn}
        one.rank.run(work(1, "x" * 8))
        assert [result.steps for result in accounts(link)] == steps


def test_prompts_that_wait_for_a_pause_to_end_are_in_no_account(made):
    link = Link()
    link.limit = 0
    one = made(link)
    sleep = one.clock.slept.append

    def slept(seconds):
        sleep(seconds)
        one.clock.now += 6.0

    continuous_rank.time.sleep = slept

    def go_on():
        link.limit = None

    link.arrive = {6: go_on}
    one.rank.run(work(1, "aaa"))
    assert [(result.steps, result.seconds) for result in accounts(link)] == [(3, 3.0)]
