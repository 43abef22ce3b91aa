"""What the continuous engine asks of transformers' manager, and what it makes of what the manager says. The
manager is a stand-in without a thread."""

import contextlib
import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rankdeck.runner.engine import continuous, memory, private_names
from rankdeck.runner.engine.continuous import NO_ROOM, ContinuousEngine, Unsupported, UnusableLogitsError
from rankdeck.runner.engine.generation import long_texts
from rankdeck.runner.engine.paged.attempts import Attempt, Attempts
from rankdeck.runner.engine.rows import Answer, Cancelled, Progress, Row
from rankdeck.runner.engine.trials import told
from rankdeck.runner.engine.trials.likeness import Likeness
from tests.runner.engine.tiny import EOS, make, prompts

CPU = torch.device("cpu")
STOPPED = 3


def output(name: str, tokens=(), error=None, times=None, logprobs=None):
    return SimpleNamespace(
        request_id=name, error=error, generated_tokens=list(tokens), timestamps=times,
        logprobs=[-0.5] * len(tokens) if logprobs is None else logprobs,
    )  # fmt: skip


class Manager:
    """Puts out what is in `results`; `done` has what it was asked for."""

    def __init__(self, **settings) -> None:
        self.settings, self.done, self.requests, self.waits = settings, [], [], []
        self.results: deque = deque()
        self.running = False
        self.background_thread_status = SimpleNamespace(fatal_error=None, local_status=0, DONT_STOP=0)
        self.current_batch = 0
        self.calls: list[int] = []
        self.batch_processor = SimpleNamespace(
            scheduler=SimpleNamespace(active_requests={}),
            cache=SimpleNamespace(
                compute_free_capacity=lambda: 0.33333, evict_cached_blocks=lambda: self.done.append("forgot")
            ),
        )

    def warmup(self):
        self.done.append("warmup")

    def start(self):
        self.done.append("start")
        self.running = True

    def is_running(self):
        return self.running

    def stop(self, **how):
        self.done.append(("stop", how))
        self.running = False

    def add_requests(self, inputs, **how):
        names = [str(len(self.requests) + place) for place in range(len(inputs))]
        self.calls.append(len(inputs))
        self.requests += [(ids, how) for ids in inputs]
        return names

    @contextlib.contextmanager
    def pause(self):
        self.done.append("paused")
        yield
        self.done.append("goes on")

    def get_result(self, timeout):
        self.waits.append(timeout)
        assert self.results or len(self.waits) < 50, "nothing comes any more, and it is still waited for"
        return self.results.popleft() if self.results else None

    def dies(self, error):
        self.running = False
        self.background_thread_status.fatal_error = error
        self.background_thread_status.local_status = STOPPED


@pytest.fixture
def managers(model, monkeypatch):
    """The managers that an engine on the model makes, one after the other."""
    found: list[Manager] = []

    def init(**settings):
        found.append(Manager(**settings, attention=model.config._attn_implementation))
        found[-1].processors = list(model._get_logits_processor())
        return found[-1]

    monkeypatch.setattr(model, "init_continuous_batching", init)
    freed = []
    monkeypatch.setattr(continuous, "free_memory", freed.append)
    return SimpleNamespace(all=found, freed=freed)


def begun(model, managers, *keys, **settings):
    """An engine with rows of these keys in flight, and its manager."""
    one = make(model, kind=ContinuousEngine, **settings)
    if keys:
        one.submit([Row(key, [5, 6]) for key in keys])
    return one, managers.all[-1] if managers.all else None


def test_rows_are_handed_in_with_what_ends_them_to_a_manager_that_is_started_once(model, managers):
    one = make(model, {"eos_token_id": [9, 4]}, ContinuousEngine, max_new_tokens=7)
    assert one.in_flight == 0
    one.submit([Row("a", (5, 6)), Row("b", [8])])
    one.submit([Row("c", [7])], max_new_tokens=3)
    (manager,) = managers.all
    assert manager.settings["generation_config"].eos_token_id == [4, 9]
    assert manager.calls == [2, 1], "those that begin together are handed in together"
    assert manager.requests == [
        ([5, 6], {"max_new_tokens": 7, "record_timestamps": True}),
        ([8], {"max_new_tokens": 7, "record_timestamps": True}),
        ([7], {"max_new_tokens": 3, "record_timestamps": True}),
    ]
    assert manager.done == ["start"]
    assert one.in_flight == 3


def test_where_nothing_ends_a_row_it_is_told_so_by_a_token_that_there_is_not(model, managers):
    _, manager = begun(model, managers, "a", ignore_eos=True)
    assert manager.settings["generation_config"].eos_token_id == -1
    _, manager = begun(model, managers, "a")
    assert manager.settings["generation_config"].eos_token_id == [EOS]


def test_the_manager_is_made_for_the_run_its_device_and_its_model(model, managers, monkeypatch):
    asked = []

    def batching_config(*given, **named):
        asked.append((given, named))
        return "settings"

    monkeypatch.setattr(continuous, "batching_config", batching_config)
    monkeypatch.setattr(continuous, "paged_attention", lambda *given: asked.append(given))
    one = make(model, kind=lambda *given: ContinuousEngine(*given, 42))
    one.submit([Row("a", [5])])
    (manager,) = managers.all
    own = model.config._attn_implementation
    assert asked == [
        (CPU, own),
        ((one._config, CPU, 128, one.kv_bytes_per_token()), {"prompts": 42, "compiled": False}),
    ]
    assert manager.settings["continuous_batching_config"] == "settings"
    assert manager.settings["attention"] == own


@pytest.mark.parametrize("sampled", [False, True])
def test_unusable_rows_are_made_drawable_last_of_all_and_only_where_tokens_are_drawn(model, managers, sampled):
    one, manager = begun(model, managers, "a", do_sample=sampled, **({"top_k": 5, "top_p": 0.5} if sampled else {}))
    names = [type(processor).__name__ for processor in manager.processors]
    assert names == (["TopKLogitsWarper", "TopPLogitsWarper", "DrawableLogits"] if sampled else [])
    assert sampled is False or manager.processors[-1] is one._drawable
    assert "_get_logits_processor" not in vars(model), "the model has its own again"


def test_the_model_has_its_own_way_to_prepare_logits_again_after_a_manager_that_could_not_be_made(model, monkeypatch):
    def fail(**_):
        raise ValueError("no memory")

    monkeypatch.setattr(model, "init_continuous_batching", fail)
    with pytest.raises(ValueError, match="no memory"):
        make(model, kind=ContinuousEngine).submit([Row("a", [5])])
    assert "_get_logits_processor" not in vars(model)


def test_rows_come_out_under_their_keys_cut_after_their_end_with_the_times_of_their_tokens(model, managers):
    one, manager = begun(model, managers, "a", "b", "c")
    manager.results += [output("1", [8, EOS, 7], times=[1.0, 2.0]), output("nobody's", [8]), output("0", [8, 9])]
    assert one.ended(0.25) == [("b", Answer([8, EOS], "stop"), [1.0, 2.0]), ("a", Answer([8, 9], "length"), [])]
    assert manager.waits == [0.25, 0, 0, 0], "for the first it waits, the others are there or are not"
    assert one.in_flight == 1
    assert one.ended(0.5) == []
    assert manager.waits[-1] == 0.5


def test_the_error_of_one_row_is_that_rows_alone_and_not_waited_for(model, managers, monkeypatch):
    one, manager = begun(model, managers, "a", "b")
    monkeypatch.setattr(continuous.time, "sleep", lambda seconds: pytest.fail("the manager is not on its way out"))
    manager.results += [output("0", error=ValueError("no such word")), output("nobody's", error="x"), output("1", [8])]
    assert one.ended(0.0) == [("a", "no such word", []), ("b", Answer([8], "length"), [])]
    assert one.in_flight == 0


def test_rows_that_ended_well_are_given_before_what_ended_all_the_others_is_raised(model, managers):
    one, manager = begun(model, managers, "a", "b")
    error = MemoryError("all of it")
    manager.results += [output("0", [8]), output("1", error="all of it")]
    manager.dies(error)
    one._keys["2"] = "c"
    assert one.ended(0.0) == [("a", Answer([8], "length"), [])]
    with pytest.raises(MemoryError) as raised:
        one.ended(0.0)
    assert raised.value is error
    assert one.in_flight == 0


@pytest.mark.parametrize("said", [True, False], ids=["as rows fail", "in silence"])
def test_what_ended_all_rows_is_raised_and_nothing_is_in_flight(model, managers, said):
    one, manager = begun(model, managers, "a")
    if said:
        manager.results.append(output("0", error="it"))
    error = ValueError("a step failed")
    manager.dies(error)
    with pytest.raises(ValueError, match="a step failed"):
        one.ended(0.0)
    assert one.in_flight == 0
    assert managers.freed == [CPU]


def test_a_row_too_long_for_the_whole_cache_is_said_so_with_the_engine_that_takes_it(model, managers):
    one, manager = begun(model, managers, "a")
    manager.dies(RuntimeError("No requests can be scheduled and no requests can be offloaded."))
    with pytest.raises(RuntimeError, match=r"^a prompt and its answer do not fit in the cache .*; --engine static"):
        one.ended(0.0)


def test_the_words_for_a_row_too_long_are_those_of_this_transformers():
    from transformers.generation.continuous_batching import continuous_api

    assert NO_ROOM in Path(continuous_api.__file__).read_text()


def test_a_manager_that_ends_without_a_reason_is_an_error_too(model, managers):
    one, manager = begun(model, managers, "a")
    manager.running = False
    with pytest.raises(RuntimeError, match=r"^continuous batching ended by itself$"):
        one.ended(0.0)
    one, manager = begun(model, managers, "a")
    manager.running = False
    with pytest.raises(RuntimeError, match=r"^continuous batching ended by itself$"):
        one.submit([Row("b", [5])])
    assert len(manager.requests) == 1


def test_with_nothing_in_flight_a_manager_that_has_ended_is_no_error(model, managers):
    one, manager = begun(model, managers, "a")
    manager.results.append(output("0", [8]))
    one.ended(0.0)
    manager.running = False
    assert one.ended(0.0) == []


@pytest.mark.parametrize("recorded", [True, False])
def test_the_reason_is_waited_for_while_the_manager_is_on_its_way_out_but_not_for_ever(
    model, managers, monkeypatch, recorded
):
    one, manager = begun(model, managers, "a")
    manager.results.append(output("0", error="it"))
    status, now = manager.background_thread_status, [50.0]
    status.local_status = STOPPED

    def sleep(seconds):
        now[0] += 0.5
        if recorded:
            manager.dies(KeyError("the reason"))

    monkeypatch.setattr(continuous, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: now[0]))
    if recorded:
        with pytest.raises(KeyError, match="the reason"):
            one.ended(0.0)
    else:
        assert one.ended(0.0) == [("a", "it", [])], "it runs on: it was this row's own"
        assert now[0] == 50.0 + continuous.FATAL_SECONDS == 52.0


def test_of_a_row_whose_logits_are_no_numbers_the_next_call_tells_and_the_rows_before_it_have_their_answers(
    model, managers
):
    one, manager = begun(model, managers, "a", "b", "c")
    manager.results += [output("0", [8, 9]), output("1", [8, 9], logprobs=[-0.5, float("nan")]), output("2", [7])]
    assert [key for key, *_ in one.ended(0.0)] == ["a", "c"]
    assert one.in_flight == 1, "it is not over"
    with pytest.raises(UnusableLogitsError) as raised:
        one.ended(0.0)
    assert str(raised.value).startswith("the model's logits are NaN at new token 2, in float32: ")
    assert one.in_flight == 0
    one.submit([Row("d", [5])])
    assert len(managers.all) == 2, "with a cache that has nothing of it"
    assert one.ended(0.0) == [], "told once"


def test_its_figures_are_the_managers_and_none_where_there_is_none(model, managers):
    one = make(model, kind=ContinuousEngine)
    assert (one.steps, one.tokens_in_flight(), one.longest_in_flight(), one.cache_used()) == (0, 0, 0, None)
    one.submit([Row("a", [5])])
    (manager,) = managers.all
    manager.current_batch = 11
    active = manager.batch_processor.scheduler.active_requests
    assert (one.steps, one.tokens_in_flight(), one.longest_in_flight()) == (11, 0, 0)
    active.update(
        {name: SimpleNamespace(generated_len=lambda length=length: length) for name, length in (("x", 3), ("y", 8))}
    )
    assert (one.tokens_in_flight(), one.longest_in_flight()) == (11, 8)
    assert one.cache_used() == 0.6667
    manager.batch_processor.cache = SimpleNamespace(get_num_free_blocks=lambda: 3, num_blocks=8)
    assert one.cache_used() == 0.625, "as transformers 5.17 tells it"
    manager.batch_processor.cache = SimpleNamespace(get_num_free_blocks=lambda: 0, num_blocks=0)
    assert one.cache_used() is None

    def changes():
        raise RuntimeError("dictionary changed size during iteration")

    manager.batch_processor.scheduler = SimpleNamespace(active_requests=SimpleNamespace(values=changes))
    assert (one.tokens_in_flight(), one.longest_in_flight()) == (0, 0)
    manager.current_batch = None
    assert one.steps == 0


@pytest.mark.parametrize("runs", [True, False])
def test_closed_it_stops_what_runs_and_frees_its_cache_and_a_new_row_begins_anew(model, managers, runs):
    own = model.config._attn_implementation
    one, manager = begun(model, managers, "a")
    one._drawable.seen.fill_(True)
    error = ValueError("held")
    try:
        raise error
    except ValueError:
        manager.background_thread_status.fatal_error = error
    manager.running = runs
    model.config._attn_implementation = "paged|eager"
    given_back = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(model, "set_attn_implementation", given_back.append)
        one.close()
    model.config._attn_implementation = own
    stopped = ("stop", {"block": True, "timeout": 5.0, "hard_stop": True})
    assert manager.done == (["start", stopped] if runs else ["start"])
    assert manager.batch_processor is None
    assert error.__traceback__ is None, "its frames hold the cache"
    assert managers.freed == [CPU]
    assert given_back == [own]
    assert not one._drawable.seen
    assert (one.in_flight, one.steps) == (0, 0)
    one.close()
    assert managers.freed == [CPU], "there is nothing more to close"
    one.submit([Row("b", [5])])
    assert managers.all[-1].done == ["start"]


# --- a closed batch ---


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(time, "perf_counter", made)
    return made


def answering(one, managers, clock, *looks):
    """Has the manager put out these outputs, one look after the other; each look takes 0.125 s."""
    waiting = deque(looks)
    submit = one.submit

    def submitting(rows, **more):
        submit(rows, **more)
        manager = managers.all[-1]

        def get_result(timeout):
            if timeout:
                clock.now += 0.125
                manager.results += waiting.popleft() if waiting else []
            return manager.results.popleft() if manager.results else None

        manager.get_result = get_result

    one.submit = submitting


def test_the_account_of_a_closed_batch_has_its_rows_and_the_times_of_its_tokens(model, managers, clock, monkeypatch):
    one = make(model, kind=ContinuousEngine, max_new_tokens=12)
    reset = []
    monkeypatch.setattr(one, "_reset_peak_memory", lambda: reset.append("reset"))
    monkeypatch.setattr(one, "_synchronise", lambda: reset.append("waited"))
    monkeypatch.setattr(one, "peak_memory", lambda: 11)
    monkeypatch.setattr(one, "reserved_memory", lambda: 22)
    answering(
        one, managers, clock, [],
        [output("1", [8, EOS], times=[101.0, 101.5])],
        [output("0", [8, 9, 7], times=[101.25, 101.75, 103.0]), output("2", error="no room")],
        [output("3", [8], times=[100.75])],
    )  # fmt: skip
    told_of: list = []
    batch = prompts("ab", "c", "x" * 300, "d", "e")
    tokenise = one.tokenise

    def tokenising(given):
        clock.now += 0.25  # which is not the device's time
        return tokenise(given)

    one.tokenise = tokenising
    done = one.generate(batch, on_records=told_of.append, measure=True, max_new_tokens=5)
    assert [how["max_new_tokens"] for _, how in managers.all[0].requests] == [5] * 4
    assert [(record.index, record.finish_reason, record.output_tokens) for record in done.records] == [
        (0, "length", 3), (1, "stop", 2), (2, "error", 0), (3, "error", 0), (4, "length", 1),
    ]  # fmt: skip
    assert [[record.index for record in records] for records in told_of] == [[2], [1], [0, 3], [4]]
    assert done.records[3].error == "no room"
    result = done.result
    assert (result.rows, result.prompt_tokens, result.output_tokens) == (4, 3 + 2 + 2 + 2, 6)
    assert (result.slots, result.padded_slots, result.steps, result.row_steps) == (15, 0, 3, 6)
    assert (result.prefill_seconds, result.decode_seconds, result.seconds) == (0.5, 2.25, 0.75)
    assert (result.peak_memory_bytes, result.reserved_memory_bytes) == (11, 22)
    assert result.step_seconds == [0.5, 1.25]
    assert reset == ["reset", "waited"]


def test_a_batch_that_is_not_measured_has_no_times_of_steps_and_one_without_answers_none_at_all(model, managers, clock):
    one = make(model, kind=ContinuousEngine)
    answering(one, managers, clock, [output("0", [8, 9], times=[1.0, 2.0])])
    assert one.generate(prompts("a")).result.step_seconds is None
    assert managers.all[0].requests[0][1]["max_new_tokens"] == 12, "as the run has it"
    result = one.generate(prompts("x" * 300)).result
    assert (result.rows, result.steps, result.prefill_seconds, result.decode_seconds) == (0, 0, 0.0, 0.0)


def test_progress_of_a_closed_batch_is_the_longest_row_and_all_tokens_five_times_a_second_at_most(
    model, managers, clock
):
    one, seen = make(model, kind=ContinuousEngine), []
    answering(one, managers, clock, [], [], [], [output("0", [8], times=[1.0])])
    one.longest_in_flight, one.tokens_in_flight = (lambda: 4), (lambda: 9)
    one.generate(prompts("a"), on_step=lambda progress: seen.append((clock.now, progress)))
    assert seen == [(100.125, Progress(4, 9)), (100.375, Progress(4, 9))], "and none of no row"


@pytest.mark.parametrize(("measure", "forgets"), [(True, True), (True, False), (False, True)])
def test_before_a_batch_is_measured_what_other_rows_left_to_share_is_forgotten(
    model, managers, clock, monkeypatch, measure, forgets
):
    monkeypatch.setattr(continuous, "can_share_blocks", lambda: forgets)
    one = make(model, kind=ContinuousEngine)
    answering(one, managers, clock, [output("0", [8, 9], times=[1.0, 2.0])], [output("1", [8, 9], times=[1.0, 2.0])])
    for _ in range(2):
        one.generate(prompts("a"), measure=measure)
    (manager,) = managers.all
    # Between its steps: its thread may still be putting blocks away. Before the first batch there are none.
    assert manager.done == ["start", *(["paused", "forgot", "goes on"] if measure and forgets else [])]


def test_a_closed_batch_that_is_abandoned_leaves_no_row_to_the_next(model, managers, clock):
    one, asked = make(model, kind=ContinuousEngine), []
    answering(one, managers, clock)
    with pytest.raises(Cancelled):
        one.generate(prompts("a"), cancelled=lambda: asked.append(True) or len(asked) == 3)
    assert one.in_flight == 0
    assert managers.all[0].done[-1][0] == "stop"


# --- the warm-up ---


def unsupported(one) -> str:
    with pytest.raises(Unsupported) as raised:
        one.warm_up()
    return str(raised.value)


def test_what_does_not_go_with_paged_attention_is_said_before_anything_is_allocated(model, managers, monkeypatch):
    one = make(model, kind=ContinuousEngine)
    with monkeypatch.context() as patched:
        patched.setattr(one, "devices", [CPU, CPU])
        assert unsupported(one) == "the model is spread over several GPUs"
    with monkeypatch.context() as patched:
        patched.setattr(
            private_names, "why_unusable", lambda names, what: f"{what}: {names is private_names.CONTINUOUS}"
        )
        assert unsupported(one) == "the continuous engine: True"
    with monkeypatch.context() as patched:
        patched.setattr(model, "_is_stateful", True, raising=False)
        assert unsupported(one) == "this model keeps a state, which paged attention cannot hold"
    with monkeypatch.context() as patched:
        patched.setattr(long_texts, "padded_up_to", lambda config, context: 64 if context == 128 else None)
        assert unsupported(one) == "this model computes a long text in another way, and all rows in flight with it"
    stops = "its generation config has stop_strings, which it does not support"
    assert unsupported(make(model, {"stop_strings": ["x"]}, ContinuousEngine)) == stops
    object.__setattr__(one._prepared, "criteria", ["another"])
    assert unsupported(one) == stops
    wants = "its generation config wants RepetitionPenaltyLogitsProcessor, which it does not support"
    assert unsupported(make(model, {"repetition_penalty": 1.5}, ContinuousEngine)) == wants
    assert managers.all == []


@pytest.mark.parametrize("lost", [False, True])
def test_what_goes_wrong_in_the_warm_up_closes_it_and_is_the_reason_unless_the_gpu_is_lost(
    model, managers, monkeypatch, lost
):
    one = make(model, kind=ContinuousEngine)
    asked = []
    monkeypatch.setattr(memory, "is_lost", lambda error, devices: asked.append((str(error), devices)) or lost)

    def fail(manager):
        raise ValueError("no graph")

    monkeypatch.setattr(Manager, "warmup", fail)
    if lost:
        with pytest.raises(ValueError, match="no graph"):
            one.warm_up()
    else:
        assert unsupported(one) == "ValueError: no graph"
    assert asked == [("no graph", one.devices)]
    assert managers.freed == [CPU], "its cache is free for the engine that takes its place"


@pytest.mark.parametrize("failing", ["attention", "warmup", "answers"])
def test_what_makes_it_faster_is_left_out_in_turn_where_it_fails_and_that_is_said(
    model, managers, monkeypatch, failing
):
    one = make(model, kind=lambda *given: ContinuousEngine(*given, 42))
    own, asked, opened, fails = model.config._attn_implementation, [], [], [True, True, False]
    each = (Attempt("flash_attention_3", compiled=True), Attempt("flash_attention_2"), Attempt())
    monkeypatch.setattr(continuous, "attempts", lambda *given: asked.append(given) or Attempts(each, "a line"))
    monkeypatch.setattr(continuous, "batching_config", lambda *_, compiled, **__: opened.append(compiled))

    def attention(name):
        model.config._attn_implementation = name
        if failing == "attention" and name != own and fails.pop(0):
            raise ImportError("no kernel\nand why")

    def warmup(manager):
        if failing == "warmup" and fails.pop(0):
            raise ImportError("no kernel\nand why")

    monkeypatch.setattr(model, "set_attn_implementation", attention)
    monkeypatch.setattr(Manager, "warmup", warmup)
    monkeypatch.setattr(one, "_same_as_alone", lambda *_: failing != "answers" or not fails.pop(0))
    one.warm_up()
    assert asked == [(one._config, CPU, model, 42)]
    said = "a few tokens had other probabilities than in each prompt alone"
    said = said if failing == "answers" else "ImportError: no kernel"
    assert one.take_notes() == [
        "a line",
        f"the continuous engine does without flash_attention_3 and compiled decode steps: {said}",
        f"the continuous engine does without flash_attention_2: {said}",
    ]
    assert opened == ([False] if failing == "attention" else [True, False, False])
    assert managers.all[-1].settings["attention"] == own
    assert len(managers.freed) == (0 if failing == "attention" else 2), "each has its room for the next"
    one.close()


@pytest.mark.parametrize("same", [True, False])
def test_a_warm_up_is_over_when_the_rows_together_are_those_alone(model, managers, monkeypatch, same):
    one, order = make(model, kind=ContinuousEngine), []
    alone = [
        SimpleNamespace(prompt=[5] * length, logits=[0] * steps, number=length)
        for length, steps in ((2, 4), (3, 6), (4, 4))
    ]
    asked, likeness = [], Likeness(0.01, every=True)

    def agrees(number):
        def compare(tokens, logprobs, processors, likeness):
            asked.append((number, tokens, logprobs, processors is one._prepared.processors, likeness))
            return number != 3 or same

        return compare

    for row in alone:
        row.agrees = agrees(row.number)
    monkeypatch.setattr(told, "alone", lambda *given: order.append(given) or (alone, likeness))
    monkeypatch.setattr(one, "_synchronise", lambda: order.append("waited"))
    add_requests = Manager.add_requests

    def adding(manager, inputs, **how):
        names = add_requests(manager, inputs, **how)
        if len(manager.requests) == len(alone):
            manager.results += [
                output("1", [8], logprobs=[-2.0]),
                output("2", error="no"),
                output("0", [9], logprobs=[-1]),
            ]
        return names

    monkeypatch.setattr(Manager, "add_requests", adding)
    if same:
        one.warm_up()
    else:
        assert unsupported(one) == "a few tokens had other probabilities than in each prompt alone"
        assert managers.freed == [CPU]
    assert order == [(model, one.tokenizer, 0, CPU), *(["waited"] if same else [])]
    (manager,) = managers.all
    assert manager.done[:2] == ["warmup", "start"]
    assert [(len(ids), how["max_new_tokens"]) for ids, how in manager.requests] == [(2, 4), (3, 6), (4, 4)]
    assert manager.waits == [continuous.TAKE_SECONDS, 0, 0, 0] == [0.05, 0, 0, 0]
    assert asked == [(2, [9], [-1], True, likeness), (3, [8], [-2.0], True, likeness)]
    assert one.in_flight == 0


def test_on_a_cpu_its_thread_uses_as_many_threads_as_it_is_told_from_the_next_step_on(model, managers, monkeypatch):
    set_to, now = [], [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: (set_to.append(count), now.__setitem__(0, count)))
    one = make(model, kind=ContinuousEngine)
    one._before_step()
    one.use_threads(2)
    assert set_to == [], "not in the thread that says it"
    one._before_step()
    one._before_step()
    assert set_to == [2]


def test_on_a_cpu_alone_each_step_looks_for_its_number_of_threads(model):
    hooks = len(model._forward_pre_hooks)
    make(model, kind=ContinuousEngine)
    assert len(model._forward_pre_hooks) == hooks + 1
