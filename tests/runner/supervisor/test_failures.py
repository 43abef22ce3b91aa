"""What becomes of prompts whose batch failed. In this process, without ranks."""

from rankdeck.runner import protocol
from tests.runner.supervisor.in_process import Launch, outputs_of


def test_rows_that_ran_out_of_memory_together_are_the_next_ones_again_in_their_order(tmp_path):
    launch = Launch(tmp_path, prompts=60, engine="continuous")
    rank, _ = launch.connect_ready("continuous")
    (first,) = rank.peer.work
    assert [prompt.index for prompt in first.prompts] == [0, 1, 2, 3]
    launch.say(rank, outputs_of(first, 0)[0])
    assert [prompt.index for prompt in rank.peer.work[1].prompts] == [8]
    launch.say(rank, protocol.BatchFailed(rank=0, batch=first.batch, kind="out_of_memory", error="no room"))
    assert [prompt.index for prompt in rank.peer.work[2].prompts] == [1, 2]


def test_a_prompt_that_does_not_fit_even_alone_is_given_up_and_its_rank_goes_on(tmp_path):
    launch = Launch(tmp_path, prompts=4, ranks=1, engine="continuous")
    (rank,) = launch.connect_ready("continuous")
    (first,) = rank.peer.work
    launch.say(rank, protocol.BatchFailed(rank=0, batch=first.batch, kind="error", error="one of them"))
    alone = rank.peer.work[1]
    assert [prompt.index for prompt in alone.prompts] == [0]
    launch.say(rank, protocol.BatchFailed(rank=0, batch=alone.batch, kind="out_of_memory", error="no room"))
    assert [(record.index, record.error) for record in launch.records()] == [(0, "no room")]
    assert [prompt.index for prompt in rank.peer.work[2].prompts] == [1]
