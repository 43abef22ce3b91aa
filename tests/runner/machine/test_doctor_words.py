"""What `rankdeck doctor` says, word for word, on both sides of every bound: what was found, its status, its cure."""

import msgspec
import pytest

from rankdeck.runner.inputs.flash_attention import FlashFound
from rankdeck.runner.machine.check import OF_THE_WHOLE_GPU, Check, counted, gib, size, version_numbers
from rankdeck.runner.machine.doctor import findings, worst
from rankdeck.runner.machine.facts import Facts, Machine, TorchFound, WritablePlace
from rankdeck.runner.machine.gpu_checks import gpu_checks
from rankdeck.runner.protocol import DeviceSample
from tests.dashboards import GIB, TWO_GPUS
from tests.runner.machine.test_doctor import HEALTHY, machine, seen, terminal

MIB = 2**20
TORCH = TorchFound(available=True, cuda="12.8", devices=("H100", "H100"), uuids=("0", "1"))


def said(name: str, **changes: object) -> tuple[str, str, str | None]:
    check = seen(name, **changes)
    return check.status, check.found, check.cure


def test_a_healthy_machine_is_told_line_by_line() -> None:
    lines = [(check.group, check.name, check.found) for check in findings(HEALTHY)]
    assert lines == [
        ("Software", "python", "3.12.1"),
        ("Software", "torch", "2.13.0+cu130"),
        ("Software", "transformers", "5.20.0"),
        ("Software", "accelerate", "1.12.0"),
        ("Software", "nvidia-ml-py", "13.0"),
        ("Software", "textual", "8.2"),
        (
            "Software",
            "optional",
            "no bitsandbytes (for --quantization bnb-8bit and bnb-4bit); no torchao (for --quantization int8); "
            "no pyarrow (for prompts from .parquet files); no vllm (for --engine vllm)",
        ),
        ("GPUs", "driver", "NVML answers, driver 570.86, for CUDA up to 12.8"),
        ("GPUs", "GPU 0", "NVIDIA H100 80GB HBM3, 78.0 of 80.0 GiB free"),
        ("GPUs", "GPU 1", "NVIDIA H100 80GB HBM3, 78.0 of 80.0 GiB free"),
        ("GPUs", "torch", "built for CUDA 12.8; sees 2 GPUs"),
        ("GPUs", "mapping", "by UUID: cuda:0 is GPU 0, cuda:1 is GPU 1"),
        ("Memory", "memory", "480.0 of 504.0 GiB free, 64 cores"),
        ("Memory", "shared memory", "/dev/shm has 1.0 GiB free"),
        ("Memory", "open files", "65,536 files may be open"),
        ("Files", "runs", "/home/me/runs, 100.0 GiB free"),
        ("Files", "cache", "/home/me/cache, 100.0 GiB free"),
        ("Files", "demo model", "is in the cache"),
        ("Files", "sockets", "/tmp/rankdeck-1, for you alone"),
        ("Terminal", "characters", "UTF-8"),
        ("Terminal", "size", "120x40"),
        ("Terminal", "colours", "TERM=xterm-256color, 256 colours"),
    ]


def test_a_machine_is_as_bad_as_its_worst_finding() -> None:
    checks = {
        status: Check(group="g", name="n", status=status, found="")  # type: ignore[arg-type]
        for status in ("ok", "warn", "bad")
    }
    assert worst([]) == worst([checks["ok"]]) == "ok"
    assert worst([checks["ok"], checks["warn"], checks["ok"]]) == "warn"
    assert worst([checks["bad"], checks["warn"]]) == worst([checks["warn"], checks["bad"]]) == "bad"


def test_numbers_have_their_units_and_versions_their_numbers() -> None:
    assert (gib(3 * GIB // 2), size(GIB), size(GIB - MIB), size(64 * MIB), size(3 * GIB // 2)) == (
        "1.5", "1.0 GiB", "1023 MiB", "64 MiB", "1.5 GiB",
    )  # fmt: skip
    assert (counted(0, "core"), counted(1, "core"), counted(2, "core")) == ("0 cores", "1 core", "2 cores")
    versions = ("2.6.0+cu124", "5", "12.575.51", "5.17.0.dev0", "dev", "")
    assert [version_numbers(version) for version in versions] == [(2, 6, 0), (5,), (12, 575, 51), (5, 17, 0), (), ()]


# --- software ---


@pytest.mark.parametrize(
    ("name", "version", "found"),
    [
        ("accelerate", "1.9.9", ("bad", "1.9.9, and rankdeck was made for >=1.10,<2")),
        ("accelerate", "1.10", ("ok", "1.10")),
        ("accelerate", "1.99.1", ("ok", "1.99.1")),
        ("accelerate", "2.0", ("bad", "2.0, and rankdeck was made for >=1.10,<2")),
        ("torch", "2.7.1", ("bad", "2.7.1, and rankdeck was made for >=2.8")),
        ("torch", "2.8.0", ("ok", "2.8.0; tested with 2.13")),
        ("torch", "3.0", ("ok", "3.0; tested with 2.13")),
        ("transformers", "5.17.0", ("ok", "5.17.0")),
        ("transformers", "5.25.0", ("ok", "5.25.0; tested with 5.17 to 5.24")),
        ("transformers", "6.0", ("bad", "6.0, and rankdeck was made for >=5.17,<6")),
        ("nvidia-ml-py", "12.574.9", ("bad", "12.574.9, and rankdeck was made for >=12.575")),
        ("textual", "unknown", ("bad", "unknown, and rankdeck was made for >=8,<9")),
    ],
)
def test_a_version_is_judged_by_both_ends_of_its_range(name: str, version: str, found: tuple[str, str]) -> None:
    checks = findings(msgspec.structs.replace(HEALTHY, packages={**HEALTHY.packages, name: version}))
    (check,) = (check for check in checks if check.name == name and check.group == "Software")
    assert (check.status, check.found) == found
    assert (check.cure is not None) == (check.status == "bad")


def test_a_package_that_is_missing_has_the_line_that_installs_it() -> None:
    packages = {name: version for name, version in HEALTHY.packages.items() if name not in ("torch", "textual")}
    checks = findings(msgspec.structs.replace(HEALTHY, packages=packages))
    assert [(check.name, check.found, check.cure) for check in checks if check.status == "bad"] == [
        ("torch", "is not installed", "pip install 'torch>=2.8'"),
        ("textual", "is not installed", "pip install 'textual>=8,<9'"),
    ]


def test_packages_that_can_be_done_without_are_named_with_what_they_are_for() -> None:
    some = {**HEALTHY.packages, "torchao": "0.14"}
    assert said("optional", packages=some) == (
        "ok",
        "torchao 0.14; no bitsandbytes (for --quantization bnb-8bit and bnb-4bit); "
        "no pyarrow (for prompts from .parquet files); no vllm (for --engine vllm)",
        None,
    )
    every = {**some, "bitsandbytes": "0.48", "pyarrow": "21.0"}
    assert said("optional", packages=every) == (
        "ok",
        "bitsandbytes 0.48; torchao 0.14; pyarrow 21.0; no vllm (for --engine vllm)",
        None,
    )


def test_a_config_of_the_users_own_is_said_not_to_be_read() -> None:
    assert said("own config", accelerate_config="/home/me/default_config.yaml") == (
        "ok",
        "/home/me/default_config.yaml, yours, is not read: a run brings its own",
        None,
    )


# --- memory, disk, files ---


@pytest.mark.parametrize(
    ("name", "changes", "status", "cure"),
    [
        ("memory", {"machine": machine(memory_free_bytes=2 * GIB)}, "ok", None),
        (
            "memory",
            {"machine": machine(memory_free_bytes=2 * GIB - 1)},
            "warn",
            "end something, or run fewer ranks: one of the demo model takes about 1.4 GiB",
        ),
        ("shared memory", {"shared_memory_bytes": 64 * MIB}, "ok", None),
        (
            "shared memory",
            {"shared_memory_bytes": 64 * MIB - 1},
            "warn",
            "start the container with --shm-size=1g, in case a library of the model wants it",
        ),
        ("open files", {"open_files": 1024}, "ok", None),
        (
            "open files",
            {"open_files": 1023},
            "warn",
            "raise the hard limit (ulimit -Hn) to 1024: many ranks and viewers need a socket each",
        ),
        ("runs", {"runs": WritablePlace(path="/r", free_bytes=GIB)}, "ok", None),
        (
            "runs",
            {"runs": WritablePlace(path="/r", free_bytes=GIB - 1)},
            "warn",
            "set XDG_STATE_HOME to a directory with room that you may write to",
        ),
        (
            "cache",
            {"cache": WritablePlace(path="/c", free_bytes=GIB - 1)},
            "warn",
            "set XDG_CACHE_HOME to a directory with room that you may write to",
        ),
    ],
)
def test_room_is_judged_just_at_its_bound(name: str, changes: dict[str, object], status: str, cure: str | None) -> None:
    check = seen(name, **changes)
    assert (check.status, check.cure) == (status, cure)


def test_what_was_not_found_out_is_not_judged() -> None:
    names = [check.name for check in findings(msgspec.structs.replace(
        HEALTHY, machine=machine(memory_free_bytes=None), shared_memory_bytes=None, open_files=None
    ))]  # fmt: skip
    assert not {"memory", "shared memory", "open files"} & set(names)
    unlimited = findings(msgspec.structs.replace(HEALTHY, open_files=-1, machine=machine(memory_total_bytes=None)))
    assert not {"memory", "open files"} & {check.name for check in unlimited}
    assert said("runs", runs=WritablePlace(path="/r")) == ("ok", "/r", None)


def test_a_place_that_cannot_be_written_to_is_named_with_why() -> None:
    nowhere = WritablePlace(path="/x", error="you cannot write to /")
    found = "/x: you cannot write to /"
    assert said("runs", runs=nowhere) == (
        "bad", found, "set XDG_STATE_HOME to a directory with room that you may write to"
    )  # fmt: skip
    assert said("cache", cache=nowhere) == (
        "bad", found, "set XDG_CACHE_HOME to a directory with room that you may write to"
    )  # fmt: skip
    assert said("sockets", runtime=nowhere) == ("bad", found, "remove it: rm -r /x")


@pytest.mark.parametrize(
    ("length", "found"),
    [
        (107, ("ok", "/tmp/rankdeck-1, for you alone", None)),
        (108, ("bad", "a socket's path has 108 bytes, and 107 are possible", "choose a shorter TMPDIR")),
    ],
)
def test_the_path_of_a_socket_may_be_as_long_as_the_system_takes_it(
    length: int, found: tuple[str, str, str | None]
) -> None:
    assert said("sockets", socket_bytes=length) == found


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, ("ok", "is fetched with pip when it is first wanted, 93 MB", None)),
        ({"pip": False}, ("warn", "is not here, and cannot be fetched: pip is missing", "python -m ensurepip")),
        (
            {"cache": WritablePlace(path="/c", free_bytes=799_999_999)},
            ("warn", "is not here, and there is no room for it: 0.8 GB", "free some room in the cache"),
        ),
        (
            {"cache": WritablePlace(path="/c", free_bytes=800_000_000)},
            ("ok", "is fetched with pip when it is first wanted, 93 MB", None),
        ),
        ({"cache": WritablePlace(path="/c")}, ("ok", "is fetched with pip when it is first wanted, 93 MB", None)),
        ({"demo_cached": True, "pip": False}, ("ok", "is in the cache", None)),
    ],
)
def test_a_demo_model_that_is_not_there_is_fetched_if_it_can_be(
    changes: dict[str, object], found: tuple[str, str, str | None]
) -> None:
    assert said("demo model", **{"demo_cached": False, **changes}) == found


@pytest.mark.parametrize("value", ["", "0", "false", "No", "OFF"])
def test_a_hub_that_is_not_switched_off_is_no_finding(value: str) -> None:
    facts = msgspec.structs.replace(HEALTHY, environ={"HF_HUB_OFFLINE": value})
    assert "hub" not in [check.name for check in findings(facts)]


@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_a_hub_that_is_switched_off_is_said_to_be(value: str) -> None:
    found = "HF_HUB_OFFLINE is set: of the hub, only models in the cache can be had"
    assert said("hub", environ={"HF_HUB_OFFLINE": value}) == ("ok", found, None)


# --- terminal ---


@pytest.mark.parametrize(
    ("name", "changes", "found"),
    [
        ("characters", {"encoding": "utf8"}, ("ok", "UTF-8", None)),
        (
            "characters",
            {"encoding": ""},
            ("warn", "unknown: bars and frames may not show", "export LC_ALL=C.UTF-8"),
        ),
        (
            "characters",
            {"encoding": "ISO-8859-1"},
            ("warn", "ISO-8859-1: bars and frames may not show", "export LC_ALL=C.UTF-8"),
        ),
        ("size", {"size": (60, 18)}, ("ok", "60x18", None)),
        ("size", {"size": (59, 40)}, ("bad", "59x40; the dashboard needs 60x18", "make the window larger")),
        ("size", {"size": (120, 17)}, ("bad", "120x17; the dashboard needs 60x18", "make the window larger")),
        ("size", {"size": None}, ("ok", "no terminal here: runs are shown as plain lines", None)),
        *(
            (
                "colours",
                {"term": term},
                (
                    "bad",
                    f"TERM is {term!r}: no dashboard can be drawn, runs are shown with --plain",
                    "export TERM=xterm-256color",
                ),
            )
            for term in ("", "dumb", "unknown")
        ),
        (
            "colours",
            {"term": "xterm", "colours": "16 colours"},
            (
                "warn",
                "TERM=xterm, 16 colours",
                "export TERM=xterm-256color, or COLORTERM=truecolor, if your terminal can",
            ),
        ),
        (
            "colours",
            {"term": "xterm", "colours": "16 colours", "no_colour": True},
            ("ok", "TERM=xterm, none wanted: NO_COLOR is set", None),
        ),
        (
            "ssh",
            {"over_ssh": True},
            (
                "ok",
                "the run is a process of its own and survives a dropped line: `rankdeck attach` comes back",
                None,
            ),
        ),
        *(
            (
                "tmux",
                {"tmux_clipboard": value},
                (
                    "warn",
                    f"set-clipboard is {value}; copying does not reach your clipboard",
                    "tmux set -g set-clipboard on",
                ),
            )
            for value in ("off", "external")
        ),
        ("tmux", {"tmux_clipboard": "on"}, ("ok", "set-clipboard is on", None)),
        ("tmux", {"tmux_clipboard": "unknown"}, ("ok", "set-clipboard is unknown", None)),
    ],
)
def test_of_a_terminal_is_said_what_does_not_show_in_it(
    name: str, changes: dict[str, object], found: tuple[str, str, str | None]
) -> None:
    assert said(name, terminal=terminal(**changes)) == found


def test_nothing_is_said_of_colours_or_copying_where_there_is_no_terminal() -> None:
    nowhere = terminal(size=None, over_ssh=True, tmux_clipboard="off")
    checks = findings(msgspec.structs.replace(HEALTHY, terminal=nowhere, environ={"STY": "1"}))
    assert [check.name for check in checks if check.group == "Terminal"] == ["characters", "size"]


def test_gnu_screen_is_said_not_to_copy() -> None:
    assert said("screen", environ={"STY": "1.pts-0"}) == (
        "warn",
        "GNU screen passes no copying on to your clipboard",
        "use tmux, or copy with the mouse",
    )


# --- GPUs ---


def gpu(**changes: object) -> Machine:
    return machine(gpus=(msgspec.structs.replace(TWO_GPUS.gpus[0], **changes), TWO_GPUS.gpus[1]))


RESET = "reset it (nvidia-smi --gpu-reset) or reboot"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (
            {"lost": True, "unavailable": {"uuid": "Unknown Error"}},
            ("bad", "NVIDIA H100 80GB HBM3 is lost: it fell off the bus or stopped answering", RESET),
        ),
        (
            {"lost": True, "name": ""},
            ("bad", "a GPU is lost: it fell off the bus or stopped answering", RESET),
        ),
        (
            {"unavailable": {"uuid": "Unknown Error"}},
            ("bad", "NVIDIA H100 80GB HBM3 cannot be used (Unknown Error): no rank is planned for it", RESET),
        ),
        ({"memory_free_bytes": 8 * GIB}, ("ok", "NVIDIA H100 80GB HBM3, 8.0 of 80.0 GiB free", None)),
        (
            {"memory_free_bytes": 8 * GIB - 1},
            ("warn", "NVIDIA H100 80GB HBM3, 8.0 of 80.0 GiB free", "see who holds it: nvidia-smi"),
        ),
        ({"memory_free_bytes": None}, ("ok", "NVIDIA H100 80GB HBM3, memory n/a", None)),
        ({"memory_total_bytes": None}, ("ok", "NVIDIA H100 80GB HBM3, memory n/a", None)),
        (
            {"unavailable": {"tensor_percent": "x", "power_watts": "x", "dram_percent": "x"}},
            ("ok", "NVIDIA H100 80GB HBM3, 78.0 of 80.0 GiB free; n/a: dram, power watts, tensor", None),
        ),
        (
            {"uuid": "MIG-1", "unavailable": {"power_watts": OF_THE_WHOLE_GPU, "dram_percent": "x"}},
            (
                "ok",
                "NVIDIA H100 80GB HBM3, 78.0 of 80.0 GiB free; n/a: dram; "
                "n/a, as only the whole GPU has them: busy, power, energy",
                None,
            ),
        ),
    ],
)
def test_of_each_gpu_is_said_what_it_lacks(changes: dict[str, object], found: tuple[str, str, str | None]) -> None:
    assert said("GPU 0", machine=gpu(**changes), torch=None) == found
    assert said("GPU 1", machine=gpu(**changes), torch=None)[0] == "ok"


def test_a_driver_is_told_with_what_is_known_of_it() -> None:
    assert said("driver", machine=machine(driver=None))[1] == (
        "NVML answers, driver of unknown version, for CUDA up to 12.8"
    )
    assert said("driver", machine=machine(cuda=None))[1] == "NVML answers, driver 570.86"
    assert said("driver", machine=machine(cuda=(13, 1)))[1].endswith(", for CUDA up to 13.1")


@pytest.mark.parametrize(
    ("no_gpu", "uncounted", "environ", "found"),
    [
        (
            "no NVIDIA driver: libnvidia-ml.so.1 cannot be loaded",
            False,
            {},
            ("ok", "no NVIDIA GPU, runs on the CPU; no NVIDIA driver: libnvidia-ml.so.1 cannot be loaded", None),
        ),
        ("no permission: check the rights", False, {}, ("bad", "no permission; runs on the CPU", "check the rights")),
        ("it is broken", False, {"CUDA_VISIBLE_DEVICES": "0"}, ("bad", "it is broken; runs on the CPU", None)),
        (
            "NVML is missing: bring it in",
            True,
            {},
            ("warn", "NVML is missing; runs on the CPU, unless --device cuda is asked for", "bring it in"),
        ),
    ],
)
def test_where_there_is_no_gpu_is_said_why(
    no_gpu: str, uncounted: bool, environ: dict[str, str], found: tuple[str, str, str | None]
) -> None:
    alone = Machine(no_gpu=no_gpu, uncounted=uncounted)
    (check,) = gpu_checks(Facts(machine=alone, environ=environ))
    assert (check.name, check.status, check.found, check.cure) == ("driver", *found)


def test_gpus_that_the_variable_hides_are_told_with_it() -> None:
    why = "CUDA_VISIBLE_DEVICES='9' names no GPU of this machine"
    (check,) = gpu_checks(Facts(machine=Machine(no_gpu=why), environ={"CUDA_VISIBLE_DEVICES": "9"}))
    assert (check.name, check.status, check.found) == ("visible", "bad", why)
    assert check.cure == "unset CUDA_VISIBLE_DEVICES, or name GPUs as nvidia-smi -L does"


@pytest.mark.parametrize(("devices", "found"), [(1, "1 GPU, NVML is missing: --device cuda uses it"),
                                                (3, "3 GPUs, NVML is missing: --device cuda uses them")])  # fmt: skip
def test_gpus_that_only_torch_sees_are_counted(devices: int, found: str) -> None:
    alone = Machine(no_gpu="NVML is missing: bring it in", uncounted=True)
    torch = TorchFound(available=True, cuda="12.6", devices=("Orin",) * devices)
    (check,) = gpu_checks(Facts(machine=alone, torch=torch))
    assert (check.name, check.status, check.cure) == ("torch", "warn", "bring it in")
    assert check.found == f"torch sees {found}, without figures"
    counts = Machine(no_gpu="no permission: x")
    assert next(one.name for one in gpu_checks(Facts(machine=counts, torch=torch))) == "driver", "NVML is there"


def test_gpus_that_a_run_does_not_get_are_counted() -> None:
    assert said("others", machine=machine(not_ours=1)) == (
        "ok", "the driver lists 1 more GPU, which this process may not open: not counted", None
    )  # fmt: skip
    assert said("left out", machine=machine(left_out=2)) == (
        "warn",
        "2 whole GPUs left out: CUDA gives a process a MIG device or whole GPUs, not both",
        "to use whole GPUs, name only those in CUDA_VISIBLE_DEVICES",
    )
    assert not {"others", "left out", "visible"} & {check.name for check in findings(HEALTHY)}


def test_what_the_variable_lets_a_run_see_is_counted() -> None:
    one = machine(seen=(1,))
    assert said("visible", machine=one, torch=None, environ={"CUDA_VISIBLE_DEVICES": "1"}) == (
        "ok", "CUDA_VISIBLE_DEVICES=1: a run sees 1", None
    )  # fmt: skip
    mixed = msgspec.structs.replace(one, gpus=(TWO_GPUS.gpus[0], DeviceSample(index=1, uuid="GPU-1", name="L4")))
    assert said("visible", machine=mixed, torch=None, environ={"CUDA_VISIBLE_DEVICES": "1"}) == (
        "warn",
        "CUDA_VISIBLE_DEVICES=1: a run sees 1; CUDA counts the fastest first, not as nvidia-smi does",
        "set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name the GPUs by UUID, to have nvidia-smi's numbers",
    )
    slice_beside = (TWO_GPUS.gpus[0], DeviceSample(index=1, uuid="MIG-1", name="L4 MIG"))
    sliced = msgspec.structs.replace(one, gpus=slice_beside)
    assert said("visible", machine=sliced, torch=None, environ={"CUDA_VISIBLE_DEVICES": "1"})[0] == "ok"


def of_torch(torch: TorchFound, **changes: object) -> list[tuple[str, str, str, str | None]]:
    """The findings about torch and whatever comes after."""
    checks = gpu_checks(Facts(machine=machine(**changes), torch=torch))
    names = [check.name for check in checks]
    return [(check.name, check.status, check.found, check.cure) for check in checks[names.index("torch") :]]


def test_what_torch_says_is_set_beside_what_the_driver_says() -> None:
    assert of_torch(TorchFound(error="ImportError: no libcudart")) == [
        ("torch", "bad", "cannot be imported: ImportError: no libcudart", "see what `python -c 'import torch'` says")
    ]
    assert of_torch(TorchFound()) == [
        ("torch", "bad", "built for the CPU alone, and there are GPUs", "install a CUDA build: see pytorch.org")
    ]
    nothing = {"gpus": (), "seen": (), "no_gpu": "no NVIDIA driver: x"}
    assert of_torch(TorchFound(), **nothing) == [("torch", "ok", "built for the CPU alone; sees no GPU", None)]
    assert of_torch(TorchFound(cuda="12.8"), **nothing) == [("torch", "ok", "built for CUDA 12.8; sees no GPU", None)]
    assert of_torch(TorchFound(cuda="13.0")) == [
        (
            "torch",
            "bad",
            "built for CUDA 13.0, and the driver runs CUDA 12.8 at most",
            "update the driver, or install a torch for an older CUDA",
        )
    ]
    for cuda in ("12.9", "11.8"):
        assert of_torch(TorchFound(cuda=cuda)) == [
            (
                "torch",
                "bad",
                f"built for CUDA {cuda}, and cannot use the GPUs",
                "reinstall torch, or reload the driver",
            )
        ]
    assert of_torch(TorchFound(cuda="13.0"), cuda=None)[0][2] == "built for CUDA 13.0, and cannot use the GPUs"


def test_fewer_gpus_than_the_driver_shows_are_told_with_how_many_ranks_can_be_started() -> None:
    one = TorchFound(available=True, cuda="12.8", devices=("H100",), uuids=("1",))
    assert of_torch(one) == [
        (
            "torch",
            "warn",
            "built for CUDA 12.8; sees 1 GPU, but the driver shows 2 to a run",
            "name the ones that torch can use in CUDA_VISIBLE_DEVICES, or start 1 rank",
        ),
        ("mapping", "ok", "by UUID: cuda:0 is GPU 1", None),
    ]
    none = TorchFound(available=True, cuda="12.8")
    assert of_torch(none)[0][3] == "name the ones that torch can use in CUDA_VISIBLE_DEVICES, or start 0 ranks"
    assert len(of_torch(none)) == 1, "there is nothing to map"


def test_each_of_torchs_devices_is_looked_for_among_nvmls() -> None:
    lost = msgspec.structs.replace(TORCH, uuids=("x", "0"))
    assert of_torch(lost)[1] == (
        "mapping",
        "warn",
        "cuda:0 cannot be found among NVML's GPUs: load and memory of those ranks are n/a",
        "check that NVML and CUDA see the same GPUs: nvidia-smi -L",
    )
    both = msgspec.structs.replace(TORCH, uuids=("x", "y"))
    assert of_torch(both)[1][2].startswith("cuda:0, cuda:1 cannot be found ")
    turned = msgspec.structs.replace(TORCH, uuids=("1", "0"))
    assert of_torch(turned)[1][2] == "by UUID: cuda:0 is GPU 1, cuda:1 is GPU 0"
    renumbered = tuple(msgspec.structs.replace(one, index=one.index + 4) for one in TWO_GPUS.gpus)
    assert of_torch(TORCH, gpus=renumbered)[1][2] == "by UUID: cuda:0 is GPU 4, cuda:1 is GPU 5"


def test_of_mig_devices_a_process_sees_one_and_that_is_as_it_should_be() -> None:
    slices = tuple(DeviceSample(index=0, uuid=f"MIG-{number}", name="H100 MIG") for number in (0, 1))
    one = TorchFound(available=True, cuda="12.8", devices=("H100 MIG",), uuids=("of the whole GPU",))
    assert of_torch(one, gpus=slices) == [
        (
            "torch",
            "ok",
            "built for CUDA 12.8; sees 1 GPU: a process has one MIG device, so each rank is given its own",
            None,
        )
    ]


# --- flash attention ---

KERNELS = FlashFound(kernels="0.18.2", kernels_wanted=">=0.18.2,<0.19", kernels_fit=True)


def flash(found: FlashFound, *capabilities: tuple[int, int]) -> list[tuple[str, str, str | None]]:
    torch = msgspec.structs.replace(TORCH, capabilities=capabilities)
    checks = gpu_checks(msgspec.structs.replace(HEALTHY, torch=torch, flash=found))
    return [(check.status, check.found, check.cure) for check in checks if check.name == "flash attention"]


def test_where_a_gpu_could_compute_flash_attention_it_is_said_whether_it_is_there_and_what_that_costs() -> None:
    engine = "the continuous engine has flash_attention_"
    fetched = "its kernel is fetched from the hub when it is first wanted"
    assert flash(KERNELS, (8, 0)) == [("ok", f"{engine}2 by kernels 0.18.2, {fetched}", None)]
    assert flash(KERNELS, (7, 5), (9, 0)) == [("ok", f"{engine}3 by kernels 0.18.2, {fetched}", None)]
    assert flash(FlashFound(flash_attn="2.8.3"), (9, 0)) == [("ok", f"{engine}2 by flash-attn 2.8.3", None)]
    cost = "without flash attention transformers' continuous batching needs a mask, and runs without CUDA graphs"
    nothing = f"flash-attn and kernels are not installed: {cost}"
    assert flash(FlashFound(), (8, 0)) == [("warn", nothing, "pip install 'rankdeck[gpu]'")]
    old = FlashFound(kernels="0.17.2", kernels_wanted=">=0.18.2,<0.19")
    ((status, words, cure),) = flash(old, (8, 0))
    assert (status, cure) == ("warn", "pip install 'kernels>=0.18.2,<0.19'")
    assert words == f"kernels 0.17.2 is installed, and this transformers takes >=0.18.2,<0.19: {cost}"
    ((status, words, cure),) = flash(msgspec.structs.replace(KERNELS, offline=True), (8, 0))
    assert words == f"its kernel is not in the hub's cache, and HF_HUB_OFFLINE is set: {cost}"


def test_of_flash_attention_nothing_is_said_where_no_gpu_computes_it_or_torch_was_not_asked() -> None:
    assert flash(FlashFound()) == flash(FlashFound(), (7, 5)) == []
    names = [check.name for check in gpu_checks(msgspec.structs.replace(HEALTHY, torch=None))]
    assert "flash attention" not in names


def test_gpus_that_only_torch_sees_have_it_too() -> None:
    torch = msgspec.structs.replace(TORCH, capabilities=((8, 0), (8, 0)))
    unseen = Machine(no_gpu="no NVML: install it", uncounted=True)
    names = [check.name for check in gpu_checks(msgspec.structs.replace(HEALTHY, machine=unseen, torch=torch))]
    assert names == ["torch", "flash attention"]
