"""What a report says of MBU: whose bandwidth it is of, how high it can be, and why there is none."""

from msgspec.structs import replace

from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.sweep.verdict import summarise_sweep
from tests.reports import Page, reported, summary, sweep_state, write_run


def said(directory, *, gpus_per_rank: int = 1, **changes: object) -> str:
    state = replace(sweep_state(), **changes)
    config = RunConfig(prompts="p.txt", ranks=2, gpus_per_rank=gpus_per_rank, sweep=state.plan)
    write_run(directory, config=config, sweep=summarise_sweep(state), summary=summary(completed=0, failed=0))
    assert reported(directory).exit_code == 0
    return Page(directory / "report.html").text


def test_a_rank_with_one_gpu_is_held_against_its_bandwidth(tmp_path):
    assert "The bandwidth used here is 3,350 GB/s (table of known GPUs)." in said(tmp_path / "s")


def test_a_rank_with_several_gpus_uses_them_one_after_the_other(tmp_path):
    words = "on each of a rank's 4 GPUs, which work one after the other: 25% at most."
    assert f"(table of known GPUs); {words}" in said(tmp_path / "s", gpus_per_rank=4)


def test_where_there_is_no_mbu_the_report_says_why(tmp_path):
    assert "Here it is n/a: decode steps hold prefills." in said(tmp_path / "s", no_mbu="decode steps hold prefills")
