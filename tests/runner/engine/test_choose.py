"""Which engine a run has, and what is said of it. Both engines are stand-ins."""

from types import SimpleNamespace

import pytest
import torch

from rankdeck.runner.engine import choose
from rankdeck.runner.engine.continuous import Unsupported
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.engines import EngineHint


@pytest.fixture
def chosen(monkeypatch):
    """Chooses an engine; returns what was said of it and what was done, in order."""

    def go(
        asked: str,
        kind: str = "cpu",
        unsupported: Exception | None = None,
        stay: str | None = None,
        hint: EngineHint | None = None,
    ):
        done: list = []
        loaded = SimpleNamespace(
            model="model",
            tokenizer="tokenizer",
            device=torch.device(kind),
            notes=("a line on loading",),
            findings="what is known",
        )
        config = RunConfig(prompts="p", engine=asked)

        def engine(name: str):
            def make(*given):
                more = (42,) if name == "continuous" else ()
                assert given == ("model", "tokenizer", config, loaded.device, *more)

                def warm_up():
                    done.append(f"{name} warmed up")
                    if name == "static":
                        assert made.findings == "what is known"
                    if name == "continuous" and unsupported is not None:
                        raise unsupported

                done.append(name)
                made = SimpleNamespace(
                    name=name, why_rows_stay=stay, warm_up=warm_up, add_notes=lambda notes: done.append((name, notes))
                )
                return made

            return make

        monkeypatch.setattr(choose, "StaticEngine", engine("static"))
        monkeypatch.setattr(choose, "ContinuousEngine", engine("continuous"))
        monkeypatch.setattr(choose, "free_memory", lambda device: done.append(("freed", device)))
        found, why = choose.choose(config, loaded, 42, hint)
        return found.name, why, done

    return go


STATIC = ["static", ("static", ("a line on loading",)), "static warmed up"]
CONTINUOUS = ["continuous", ("continuous", ("a line on loading",)), "continuous warmed up"]
NOT_MEASURED = (
    "no engine was measured on this kind of device yet; run jobs like this with each, and auto will take the fastest"
)


@pytest.mark.parametrize(
    ("asked", "kind", "name", "why"),
    [
        ("static", "cuda", "static", ""),
        ("continuous", "cuda", "continuous", ""),
        ("auto", "cuda", "static", NOT_MEASURED),
        ("auto", "cpu", "static", choose.AUTO["cpu"]),
    ],
)
def test_the_engine_is_the_one_asked_for_or_the_one_that_was_measured(chosen, asked, kind, name, why):
    assert chosen(asked, kind) == (name, why, STATIC if name == "static" else CONTINUOUS)


def test_where_the_continuous_one_does_not_go_the_static_one_has_its_memory_and_says_why(chosen):
    name, why, done = chosen("continuous", "cuda", Unsupported("a state"))
    assert (name, why) == ("static", "continuous batching cannot be used here: a state")
    assert done == [*CONTINUOUS, ("freed", torch.device("cuda")), *STATIC]


def test_any_other_error_of_the_warm_up_is_one(chosen):
    with pytest.raises(ValueError, match="lost"):
        chosen("continuous", unsupported=ValueError("lost"))


def test_why_rows_stay_is_said_beside_why_the_engine_is_this_one(chosen):
    stays = "rows that have ended stay in their batch: no rows"
    assert chosen("static", stay="no rows")[1] == stays
    assert chosen("auto", "cuda", stay="no rows")[1] == f"{NOT_MEASURED}; {stays}"
    _, why, _ = chosen("continuous", unsupported=Unsupported("a state"), stay="no rows")
    assert why == f"continuous batching cannot be used here: a state; {stays}"


# --- what earlier runs say ------------------------------------------------------------------------

SAID = "1.31 times static's tok/s in earlier runs"


def test_auto_takes_the_engine_that_earlier_runs_measured_faster_and_says_so(chosen):
    assert chosen("auto", hint=EngineHint(engine="continuous", why=SAID)) == ("continuous", SAID, CONTINUOUS)
    assert chosen("auto", hint=EngineHint(engine="static", why=SAID)) == ("static", SAID, STATIC)


def test_where_earlier_runs_say_nothing_auto_goes_by_the_kind_of_device(chosen):
    assert chosen("auto", hint=EngineHint()) == chosen("auto") == ("static", choose.AUTO["cpu"], STATIC)


@pytest.mark.parametrize("asked", ["static", "continuous"])
def test_whoever_asks_for_an_engine_gets_it_whatever_was_faster(chosen, asked):
    other = "static" if asked == "continuous" else "continuous"
    assert chosen(asked, hint=EngineHint(engine=other, why=SAID))[:2] == (asked, "")


def test_where_the_faster_one_does_not_go_the_static_one_gives_both_reasons(chosen):
    name, why, done = chosen(
        "auto", "cuda", Unsupported("a state"), hint=EngineHint(engine="continuous", why=SAID), stay="no rows"
    )
    assert name == "static"
    assert why == (
        f"continuous batching cannot be used here: a state; tried because it had {SAID}; "
        "rows that have ended stay in their batch: no rows"
    )
    assert done == [*CONTINUOUS, ("freed", torch.device("cuda")), *STATIC]
