"""What the ranks of `rankdeck hello` say, and which of them prints it."""

import json
import os
from types import SimpleNamespace

import pytest

from rankdeck.runner.protocol import StartRank
from rankdeck.runner.protocol.framing import GREETINGS
from rankdeck.runner.rank import group, hello


@pytest.mark.parametrize("rank", [0, 1])
def test_every_rank_greets_and_rank_0_prints_what_all_said(monkeypatch, capsys, rank):
    joined, said, ended = [], [], []
    accelerator = SimpleNamespace(device="cuda:1", end_training=lambda: ended.append(True))
    monkeypatch.setattr(group, "join", lambda *given: joined.append(given) or accelerator)
    monkeypatch.setattr("accelerate.utils.gather_object", lambda own: said.extend(own) or [*own, "and another"])
    hello.greet(StartRank(rank=rank, world_size=2, store="/store"))
    assert joined == [(rank, 2, "/store")]
    assert said == [f"rank {rank} of 2 on cuda:1 (process {os.getpid()}) says hello"]
    printed = capsys.readouterr().out
    line = f"{GREETINGS}{json.dumps([*said, 'and another'])}"
    assert printed == (f"\n{line}\n" if rank == 0 else ""), "another rank may have written half a line"
    assert ended == [True]


def test_the_ranks_of_hello_are_forked_as_they_are_and_keep_their_name(monkeypatch):
    served = []
    monkeypatch.setattr(hello.forking, "take_channel", lambda: "the channel")
    monkeypatch.setattr(hello.forking, "serve", lambda *given, **named: served.append((given, named)))
    hello.main()
    assert served == [(("the channel", hello.greet), {"named": ("", "")})]
