"""The environment of ranks: what of the user's stays, and how torch's allocator is set up on GPUs."""

import os
import subprocess
import sys

import pytest
from rankdeck.runner.supervisor.accelerate import rank_environment, with_expandable_segments

from rankdeck.runner.machine import processes

GROWS = "expandable_segments:True"
OLD, NEW = "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"


@pytest.mark.parametrize(
    ("set_by_the_user", "added"),
    [
        ({}, {OLD: GROWS, NEW: GROWS}),
        ({OLD: "roundup_power2_divisions:[256:1,512:2]"}, {OLD: f"roundup_power2_divisions:[256:1,512:2],{GROWS}"}),
        ({NEW: "garbage_collection_threshold:0.8"}, {NEW: f"garbage_collection_threshold:0.8,{GROWS}"}),
        (
            {OLD: "garbage_collection_threshold:0.8", NEW: "pinned_use_background_threads:True"},
            {OLD: f"garbage_collection_threshold:0.8,{GROWS}", NEW: f"pinned_use_background_threads:True,{GROWS}"},
        ),
        ({OLD: ""}, {OLD: GROWS}),
        ({OLD: " garbage_collection_threshold : 0.8 , "}, {OLD: f"garbage_collection_threshold : 0.8,{GROWS}"}),
        ({OLD: "expandable_segments:False"}, {}),
        ({NEW: "max_split_size_mb:512"}, {}),
        ({OLD: "backend:cudaMallocAsync"}, {}),
        ({OLD: "backend:native"}, {OLD: f"backend:native,{GROWS}"}),
        ({OLD: "backend:cudaMallocAsync", NEW: "backend:native"}, {NEW: f"backend:native,{GROWS}"}),
    ],
)
def test_segments_that_grow_are_added_to_what_the_user_has_set_unless_that_decides_it(set_by_the_user, added):
    assert with_expandable_segments({"HOME": "/home/me", **set_by_the_user}) == added


def test_only_ranks_on_gpus_get_expandable_segments_and_an_engine_can_do_without():
    on_gpus = rank_environment({NEW: "garbage_collection_threshold:0.8"}, 2, False, 8, expandable_segments=True)
    assert on_gpus[NEW] == f"garbage_collection_threshold:0.8,{GROWS}"
    assert {OLD, NEW}.isdisjoint(rank_environment({}, 2, True, 8, expandable_segments=True))
    assert {OLD, NEW}.isdisjoint(rank_environment({}, 2, False, 8, expandable_segments=False))


@pytest.mark.parametrize(
    "set_by_the_user", [{}, {OLD: "garbage_collection_threshold:0.8", NEW: "max_split_size_mb:99"}, {OLD: "", NEW: ""}]
)
def test_torch_reads_the_settings_as_amended(set_by_the_user):
    code = "import sys, torch; sys.stdout.write(torch._C._accelerator_getAllocatorSettings())"
    clean = {name: value for name, value in os.environ.items() if name not in (OLD, NEW)} | set_by_the_user
    environment = clean | with_expandable_segments(clean)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == environment[OLD]
    assert done.stdout.endswith(GROWS)


@pytest.mark.parametrize(
    ("release", "wsl"), [("6.6.87.2-microsoft-standard-WSL2\n", True), ("6.8.0-45-generic\n", False), (None, False)]
)
def test_linux_on_windows_is_known_by_its_kernel(tmp_path, release, wsl):
    path = tmp_path / "osrelease"
    if release is not None:
        path.write_text(release)
    assert processes.under_wsl(path) is wsl
