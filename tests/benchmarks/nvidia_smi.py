"""What `nvidia-smi` says of one GPU while something runs: a check on rankdeck's own reading of NVML.

Where there is no nvidia-smi, or it says something else than numbers, there are no samples; nothing is raised for it.
"""

import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

QUERY = ("utilization.gpu", "memory.used", "power.draw", "clocks.sm")
NAMES = ("busy_percent", "memory_used_bytes", "power_watts", "sm_clock_mhz")
"""The same figures as rankdeck's DeviceSample has them; nvidia-smi counts memory in MiB."""

EVERY_MS = 500
END_SECONDS = 5.0

Sample = tuple[float, dict[str, float]]
"""Unix seconds, and the figures."""


class NvidiaSmi:
    """Samples twice a second, into a file, for as long as the `with` block."""

    def __init__(self, path: Path, gpu: str = "0") -> None:
        """`gpu` is its UUID or its number in nvidia-smi's order; the samples go into the file `path`."""
        self._path, self._gpu = path, gpu
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "NvidiaSmi":
        if (command := shutil.which("nvidia-smi")) is not None:
            asked = f"--query-gpu=timestamp,{','.join(QUERY)}"
            with self._path.open("wb") as file:
                self._process = subprocess.Popen(
                    [command, "-i", self._gpu, asked, "--format=csv,noheader,nounits", "-lms", str(EVERY_MS)],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.DEVNULL,
                )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:  # it hangs in the driver, where no signal ends it
                self._process.kill()

    def samples(self) -> list[Sample]:
        """All so far."""
        if not self._path.exists():
            return []
        lines = self._path.read_text(errors="replace").splitlines()
        return [sample for line in lines if (sample := parsed(line)) is not None]


def parsed(line: str) -> Sample | None:
    """`2026/11/22 10:20:30.123, 97, 24100, 412.33, 1980` in local time; figures that are no numbers are left out."""
    stamp, *values = (part.strip() for part in line.split(","))
    if len(values) != len(NAMES):
        return None
    whole, _, part = stamp.partition(".")
    try:
        at = time.mktime(time.strptime(whole, "%Y/%m/%d %H:%M:%S")) + float(f"0.{part or 0}")
    except ValueError:
        return None
    figures = {}
    for name, value in zip(NAMES, values, strict=True):
        try:
            figures[name] = float(value) * (2**20 if name == "memory_used_bytes" else 1)
        except ValueError:  # [N/A], [Not Supported]
            continue
    return at, figures


def means(samples: Sequence[Sample], begin: float, end: float) -> dict[str, float]:
    """Mean of each figure between two times."""
    inside = [figures for at, figures in samples if begin <= at <= end]
    found = {}
    for name in NAMES:
        values = [figures[name] for figures in inside if name in figures]
        if values:
            found[name] = round(statistics.fmean(values), 1)
    return found | ({"samples": len(inside)} if inside else {})
