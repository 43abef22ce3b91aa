"""The environment of ranks: what of the user's stays, how cores are shared out, how torch's allocator is set up."""

import os
import re
import subprocess
import sys
from pathlib import Path

import accelerate.state
import accelerate.utils.environment
import pytest

from rankdeck.runner.launching.allocator import with_expandable_segments
from rankdeck.runner.launching.environment import LOOPBACK, OF_VLLM, rank_environment
from rankdeck.runner.machine import processes

GROWS = "expandable_segments:True"
OLD, NEW = "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"


OTHER_LAUNCHES = [
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "NODE_RANK",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "ROLE_NAME",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_USE_AGENT_STORE",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_ERROR_FILE",
    "PMI_RANK",
    "PMI_SIZE",
    "PMIX_RANK",
    "MPI_LOCALRANKID",
    "MPI_LOCALNRANKS",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MV2_COMM_WORLD_RANK",
    "MV2_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "MV2_COMM_WORLD_LOCAL_SIZE",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NTASKS",
    "FORK_LAUNCHED",
    "ACCELERATE_TORCH_DEVICE",
    "ACCELERATE_MIXED_PRECISION",
    "ACCELERATE_USE_DEEPSPEED",
    "FSDP_VERSION",
    "MEGATRON_LM_TP_DEGREE",
]


def on_cpu(environ=None, ranks=2, cores=8):
    return rank_environment(environ or {}, ranks, True, cores, expandable_segments=False)


def on_gpus(environ=None, ranks=2, cores=8):
    return rank_environment(environ or {}, ranks, False, cores, expandable_segments=False)


@pytest.mark.parametrize("name", OTHER_LAUNCHES)
def test_no_rank_hears_of_another_launch_it_is_part_of(name):
    for environment in (on_cpu({name: "1", "HOME": "/home/me"}), on_gpus({name: "1", "HOME": "/home/me"})):
        assert name not in environment
        assert environment["HOME"] == "/home/me"


def test_every_name_that_accelerate_takes_for_a_place_in_a_group_is_stripped():
    """The list above follows accelerate's source, which may go on."""
    source = Path(accelerate.utils.environment.__file__).read_text() + Path(accelerate.state.__file__).read_text()
    names = set(re.findall(r'"((?:PMI|PMIX|OMPI|MV2|MPI|RANK|WORLD|LOCAL|GROUP|ROLE|MASTER)[A-Z0-9_]*)"', source))
    assert {"PMI_SIZE", "OMPI_COMM_WORLD_RANK", "MPI_LOCALNRANKS", "LOCAL_RANK"} <= names
    assert [name for name in sorted(names) if name in on_cpu(dict.fromkeys(names, "1"))] == []


@pytest.mark.parametrize(("cores", "ranks", "threads"), [(8, 1, "8"), (8, 2, "4"), (8, 3, "2"), (2, 8, "1")])
def test_the_cores_are_shared_out_among_the_ranks_and_none_gets_none(cores, ranks, threads):
    assert on_cpu(ranks=ranks, cores=cores)["OMP_NUM_THREADS"] == threads
    assert on_gpus(ranks=ranks, cores=cores)["OMP_NUM_THREADS"] == threads
    assert on_cpu({"OMP_NUM_THREADS": "64"}, ranks, cores)["OMP_NUM_THREADS"] == threads


def test_ranks_on_a_cpu_know_the_cores_and_use_no_gpu_and_those_on_gpus_share_no_cores():
    assert on_cpu(cores=6)["RANKDECK_CORES"] == "6"
    assert on_gpus(cores=6)["RANKDECK_CORES"] == ""
    assert on_cpu()["ACCELERATE_USE_CPU"] == "true"
    assert "ACCELERATE_USE_CPU" not in on_gpus({"ACCELERATE_USE_CPU": "true"})


def test_threads_that_wait_soon_sleep_on_a_cpu_unless_the_user_has_said_how():
    assert on_cpu()["GOMP_SPINCOUNT"] == "1000"
    assert on_cpu({"GOMP_SPINCOUNT": "7"})["GOMP_SPINCOUNT"] == "7"
    assert "GOMP_SPINCOUNT" not in on_cpu({"OMP_WAIT_POLICY": "active"})
    assert "GOMP_SPINCOUNT" not in on_gpus()


def test_a_folder_called_rankdeck_is_not_imported_and_bars_are_not_drawn():
    environment = on_cpu({"TOKENIZERS_PARALLELISM": "true"})
    assert environment["PYTHONSAFEPATH"] == environment["TQDM_DISABLE"] == environment["PYTHONUNBUFFERED"] == "1"
    assert environment["TOKENIZERS_PARALLELISM"] == "true"
    assert on_cpu()["TOKENIZERS_PARALLELISM"] == "false"


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


def test_ranks_have_these_variables_and_no_others_of_rankdecks():
    """Written out by hand: each changes what a rank does, or what its log is full of."""
    everywhere = {
        "OMP_NUM_THREADS": "4",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",
    }
    assert on_cpu() == {
        **everywhere, "RANKDECK_CORES": "8", "ACCELERATE_USE_CPU": "true", "GOMP_SPINCOUNT": "1000",
    }  # fmt: skip
    assert on_gpus() == {**everywhere, "RANKDECK_CORES": ""}
    assert rank_environment({}, 2, False, 8, expandable_segments=True) == {
        **everywhere, "RANKDECK_CORES": "", OLD: GROWS, NEW: GROWS,
    }  # fmt: skip


def test_what_rankdeck_decides_the_users_own_variables_do_not():
    own = {"HF_HUB_DISABLE_PROGRESS_BARS": "0", "TQDM_DISABLE": "0", "PYTHONUNBUFFERED": "", "PYTHONSAFEPATH": "",
           "RANKDECK_CORES": "99", "MY_RANK": "7", "RANKS": "3"}  # fmt: skip
    for found, cores in ((on_cpu(own), "8"), (on_gpus(own), "")):
        assert {name: found[name] for name in own} == {
            **dict.fromkeys(own, "1"), "RANKDECK_CORES": cores, "MY_RANK": "7", "RANKS": "3",
        }  # fmt: skip


def test_ranks_of_vllm_talk_on_the_loopback_alone_tell_nobody_and_step_when_they_are_asked():
    found = rank_environment({"VLLM_HOST_IP": "10.0.0.1"}, 2, False, 8, expandable_segments=True, engine="vllm")
    assert {name: found[name] for name in OF_VLLM} == OF_VLLM
    assert OF_VLLM["VLLM_HOST_IP"] == "127.0.0.1"
    assert OF_VLLM["GLOO_SOCKET_IFNAME"] == OF_VLLM["NCCL_SOCKET_IFNAME"] == LOOPBACK
    assert {OF_VLLM[name] for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK")} == {"1"}
    assert OF_VLLM["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert found["VLLM_LOGGING_LEVEL"] == "ERROR"
    loud = rank_environment({"VLLM_LOGGING_LEVEL": "INFO"}, 2, False, 8, expandable_segments=False, engine="vllm")
    assert loud["VLLM_LOGGING_LEVEL"] == "INFO"
    assert not set(OF_VLLM) & set(on_gpus())
    assert found["OMP_NUM_THREADS"] == "1"
    assert rank_environment({}, 2, True, 8, expandable_segments=False, engine="vllm")["OMP_NUM_THREADS"] == "4"


def test_the_allocator_of_vllm_is_left_as_it_is():
    assert {OLD, NEW}.isdisjoint(rank_environment({}, 2, False, 8, expandable_segments=True, engine="vllm"))
    own = rank_environment({NEW: "max_split_size_mb:64"}, 2, False, 8, expandable_segments=True, engine="vllm")
    assert own[NEW] == "max_split_size_mb:64"
