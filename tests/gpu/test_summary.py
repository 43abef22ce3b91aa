"""The summary at the end."""

from tests.gpu.summary import COLUMNS, name_of, ordered, summary, table, witnesses

CASE = {
    "case": name_of("7B", "static", 64, 2),
    "step": "two ranks",
    "ranks": 2,
    "batch_size": 64,
    "tokens_per_second": 2468.4,
    "busy_percent": 97.2,
    "mbu": 0.187,
    "tokens_per_joule": 6.1234,
    "peak_memory_bytes": 18 * 2**30,
    "seconds": 10.31,
}


def test_a_case_is_a_row_and_what_was_not_there_is_not_available() -> None:
    head, _, row = table([CASE])
    assert row == "| 7B static, batch size 64, 2 ranks | 2,468 | 97 | n/a | n/a | 19 | 6.12 | 18.0 | n/a | 10.3 |"
    assert head.count("|") == row.count("|") == len(COLUMNS) + 2


ON_A_GPU = {
    "nvml": {"busy_percent": 97.4, "power_watts": 411.5, "memory_used_bytes": 15 * 2**30, "samples": 10},
    "nvidia_smi": {"busy_percent": 98.0, "power_watts": 409.9, "memory_used_bytes": 15 * 2**30, "sm_clock_mhz": 1980},
    "gpm": {"sm_percent": 88.0},
    "unavailable": {"occupancy_percent": "not supported by this GPU"},
}


def test_what_nvml_says_stands_beside_what_nvidia_smi_says_and_a_reason_where_there_is_none() -> None:
    _, _, row = witnesses([CASE | ON_A_GPU])
    assert row.endswith("2 ranks | 97 / 98 | 412 / 410 | 15.0 / 15.0 | n/a / 1,980 | 88 | n/a |")
    told = summary([CASE | ON_A_GPU] * 2)
    assert row in told
    assert told.count("occupancy_percent: not available: not supported by this GPU") == 1


def test_cases_stand_by_size_within_their_step_and_steps_as_they_were_done() -> None:
    lines = [
        {"case": f"{step} {ranks} {rows}", "step": step, "ranks": ranks, "batch_size": rows}
        for step, ranks, rows in (("b", 1, 64), ("b", 2, 1), ("b", 1, 4), ("a", 1, 1))
    ]
    assert [case["case"] for case in ordered(lines)] == ["b 1 4", "b 1 64", "b 2 1", "a 1 1"]


def test_names_say_what_differs() -> None:
    assert name_of("7B", "article", 16, 1) == "7B article's way, batch size 16"
    assert name_of("7B", "static", 64, 1, ", watched") == "7B static, batch size 64, watched"


def test_the_summary_has_machine_tests_cases_watching_and_what_was_left_out() -> None:
    told = summary(
        [
            {"machine": {"date": "2026-12-01", "GPU": "NVIDIA H100", "driver": None}},
            {"tests": {"outcome": "1 failed, 2 passed", "failures": ["FAILED tests/gpu/marked/x.py::test_y"]}},
            CASE,
            {"step": "watching", "took_seconds": 60.0},
            {"watching": {"ratio": 0.9871, "ratios": [0.98, 0.99], "cpu_percent": 3.2}},
            {"step": "1B static", "skipped": "takes some 60 s, and 12 s of the budget are left"},
            {"step": "continuous", "error": "long " * 500 + "cause"},
        ]
    )
    assert told.startswith("date 2026-12-01, GPU NVIDIA H100\ntests marked gpu: 1 failed, 2 passed\n  FAILED ")
    assert (
        "watched over unwatched tok/s: 0.987 (before 0.980, after 0.990); the dashboard takes 3.2 % of a core" in told
    )
    assert "1B static: skipped: takes some 60 s" in told
    assert told.rstrip().endswith("long cause")


def test_the_summary_of_every_step_fits_into_what_comes_back_of_a_command() -> None:
    error = {"step": "a step", "error": "x" * 5000}
    assert len(summary([CASE | ON_A_GPU] * 24 + [error] * 12)) < 12_000
