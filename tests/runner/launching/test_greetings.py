"""`rankdeck hello` without accelerate and torch: what ranks gather is said, and so is what one died of."""

import sys

import pytest

from rankdeck.runner.launching import greetings
from rankdeck.runner.launching.greetings import HelloError, greetings_of
from rankdeck.runner.protocol.framing import GREETINGS

GREETS = f"""
import json, os, signal, sys, time
from rankdeck.runner.rank import forking

def greet(order):
    {{does}}
    if order.rank == 0:
        print({GREETINGS!r} + json.dumps([str(order.world_size), order.store or "alone", *sorted(order.environment)]))

forking.serve(forking.take_channel(), greet, named=("", ""))
"""


def ranks_that(does: str = "pass"):
    code = GREETS.replace("{does}", does)
    return lambda config_file, module, arguments: [sys.executable, "-c", code]


async def test_what_the_first_rank_gathered_is_what_is_said():
    ranks, store = await greetings_of(3, True, ranks_that())
    assert ranks == "3"
    assert store.endswith("/store")
    assert await greetings_of(1, True, ranks_that()) == ["1", "alone"], "one rank has nobody to gather from"


async def test_each_rank_is_told_which_gpus_nvml_counted(monkeypatch):
    monkeypatch.setattr(greetings.telemetry, "rank_variables", lambda environ: {"RANKDECK_GPUS": "GPU-7"})
    assert (await greetings_of(2, False, ranks_that()))[2:] == ["RANKDECK_GPUS"]
    assert (await greetings_of(2, True, ranks_that()))[2:] == []


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("order.rank and os.kill(os.getpid(), signal.SIGSEGV); time.sleep(99)", "rank 1: killed by SIGSEGV"),
        ("assert not order.rank, 'no such rank'; time.sleep(99)", "rank 1: AssertionError: no such rank"),
        (
            "os.kill(os.getppid(), signal.SIGKILL); os._exit(0)",
            "accelerate launch ended with status -9: it said nothing",
        ),
        ("os._exit(0)", "the ranks left without their greetings"),
    ],
)
async def test_a_rank_that_fails_ends_the_others_and_is_told_of(does, said):
    with pytest.raises(HelloError, match=said):
        await greetings_of(2, True, ranks_that(does))


async def test_a_launcher_that_ends_is_told_with_its_words():
    with pytest.raises(HelloError, match="accelerate launch ended with status 1: ImportError: no torch"):
        await greetings_of(2, True, lambda *_: [sys.executable, "-c", "raise ImportError('no torch')"])


async def test_the_ranks_are_launched_with_a_config_and_an_environment_of_their_own_and_nothing_stays(monkeypatch):
    looks = []
    monkeypatch.setattr(greetings, "usable_cores", lambda: 8)
    monkeypatch.setattr(greetings.telemetry, "rank_variables", lambda environ: {})
    told = "os.environ['OMP_NUM_THREADS'], os.environ['RANKDECK_CORES'], str(order.attempt)"
    says = f"sys.stdout.write({GREETINGS!r} + json.dumps([{told}]) + chr(10))"  # as one write: print makes two
    does = f"order.rank == 0 and {says}; os._exit(0)"

    def launch(config_file, module, arguments):
        looks.append((config_file, "use_cpu: true" in config_file.read_text(), module, list(arguments)))
        return ranks_that(does)(config_file, module, arguments)

    assert await greetings_of(2, True, launch) == ["4", "8", "1"]
    assert await greetings_of(1, False, launch) == ["8", "", "1"]
    assert [look[1:] for look in looks] == [
        (True, "rankdeck.runner.rank.hello", []),
        (False, "rankdeck.runner.rank.hello", []),
    ]
    folders = [config_file.parent for config_file, *_ in looks]
    assert all(folder.name.startswith("rankdeck-hello-") and not folder.exists() for folder in folders)
