"""A rank that has lost its GPU gives up its process: the supervisor launches the ranks again."""

from rankdeck.runner import protocol
from tests.runner.supervisor.test_supervisor import outputs, watch
from tests.standin.rank import GPU_LOST


async def test_prompts_of_a_rank_that_lost_its_gpu_go_back_and_only_one_that_costs_it_twice_is_given_up(launch):
    prompts = [f"prompt number {number}" for number in range(12)]
    started = launch([*prompts[:5], "!lose", *prompts[5:]], ranks=2, batch_size=4)
    state, seen = await watch(started)
    assert started.process.wait(20) == 1
    records = outputs(started.directory)
    assert [(record.index, record.error) for record in records if record.error] == [
        (5, f"its rank died of it twice: {GPU_LOST}")
    ]
    assert (state.completed, state.failed) == (12, 1)
    causes = {event.cause for event in seen if isinstance(event, protocol.RankLost)}
    assert causes == {GPU_LOST}, "in its own words, not those of a process that ended"
    assert not any(isinstance(event, protocol.BatchFailed) for event in seen)
