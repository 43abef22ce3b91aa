"""What an engine knows before its first batch is the same on every rank: one of them says it."""

import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.rank.work import RankWork


class Engine:
    def __init__(self):
        self.notes = ["the weights are float32"]

    def take_notes(self):
        taken, self.notes = self.notes, []
        return taken

    def close(self):
        pass


class Link:
    def next_order(self):
        return protocol.Leave(gather=False)


@pytest.mark.parametrize(("rank", "left"), [(0, ["the weights are float32"]), (3, [])])
def test_only_rank_0_keeps_the_notes_that_all_ranks_have(rank, left):
    engine = Engine()
    RankWork(rank, RunConfig(prompts="p"), engine, Link()).run()
    assert engine.notes == left
