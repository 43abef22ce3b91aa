"""The lock: taken by one at a time, waited for while somebody only looks, and looked at without leaving a trace."""

import fcntl
import os
from pathlib import Path
from types import SimpleNamespace

import msgspec
import psutil
import pytest

from rankdeck.runner import run_directory
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory import lock
from rankdeck.runner.run_directory.run_file import RunFile, RunFileError


class Clock:
    """Time that passes only while somebody sleeps; then `meanwhile` happens."""

    now = 1000.0
    slept = 0

    def time(self) -> float:
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 0.5, "who waits looks often"
        self.now += seconds
        self.slept += 1
        self.meanwhile()

    def meanwhile(self) -> None: ...


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lock, "time", clock)
    return clock


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_lock_that_is_held_for_an_instant_is_waited_for(tmp_path, clock):
    other = run_directory.hold_lock(tmp_path)

    def let_go() -> None:
        if clock.slept == 3:
            os.close(other)

    clock.meanwhile = let_go  # type: ignore[method-assign]
    os.close(run_directory.hold_lock(tmp_path))
    assert clock.slept == 3


def test_a_lock_that_stays_held_is_waited_for_a_second_and_nothing_stays_open(tmp_path, clock):
    other = run_directory.hold_lock(tmp_path)
    before = descriptors()
    with pytest.raises(RunFileError, match=f"{tmp_path} already has a live supervisor"):
        run_directory.hold_lock(tmp_path)
    assert clock.now == pytest.approx(1000 + lock.LOCK_SECONDS, abs=0.1)
    assert descriptors() == before
    os.close(other)


def test_a_lock_that_is_free_is_taken_at_once(tmp_path, clock):
    os.close(run_directory.hold_lock(tmp_path))
    assert clock.slept == 0


def test_a_lock_is_not_inherited_by_what_the_supervisor_starts(tmp_path):
    descriptor = run_directory.hold_lock(tmp_path)
    assert fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    os.close(descriptor)


@pytest.mark.parametrize("held", [True, False])
def test_looking_at_a_lock_takes_and_leaves_nothing(tmp_path, held):
    descriptor = run_directory.hold_lock(tmp_path)
    if not held:
        os.close(descriptor)
    before = descriptors()
    assert [run_directory.supervisor_alive(tmp_path) for _ in range(3)] == [held] * 3
    assert descriptors() == before
    if held:
        os.close(descriptor)


def test_a_run_without_a_lock_has_no_supervisor_and_gets_no_lock_by_being_looked_at(tmp_path):
    assert not run_directory.supervisor_alive(tmp_path)
    assert not run_directory.supervisor_alive(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def test_a_link_or_pipe_in_the_place_of_the_lock_is_none(tmp_path):
    (tmp_path / "other").mkdir()
    descriptor = run_directory.hold_lock(tmp_path / "other")
    (tmp_path / lock.LOCK_FILE).symlink_to(tmp_path / "other" / lock.LOCK_FILE)
    assert not run_directory.supervisor_alive(tmp_path), "that is another run's"
    os.close(descriptor)
    (tmp_path / lock.LOCK_FILE).unlink()
    os.mkfifo(tmp_path / lock.LOCK_FILE)
    assert not run_directory.supervisor_alive(tmp_path)


# --- a hold ---------------------------------------------------------------------------------------


def test_a_lock_that_is_taken_again_replaces_the_first_and_one_that_is_there_is_kept(tmp_path):
    hold = run_directory.Hold(tmp_path)
    before, first = descriptors(), hold._lock
    hold.renew()
    assert hold._lock == first
    (tmp_path / lock.LOCK_FILE).unlink()
    hold.renew()
    assert descriptors() == before
    assert os.fstat(hold._lock).st_ino == (tmp_path / lock.LOCK_FILE).stat().st_ino
    (tmp_path / lock.LOCK_FILE).rename(tmp_path / "away")
    (tmp_path / lock.LOCK_FILE).touch()
    hold.renew()
    assert run_directory.supervisor_alive(tmp_path), "somebody has put another file in its place"


def test_a_lock_that_cannot_be_taken_again_for_now_is_no_reason_to_end(tmp_path, monkeypatch):
    hold = run_directory.Hold(tmp_path)
    (tmp_path / lock.LOCK_FILE).unlink()

    def full(_: Path) -> int:
        raise OSError(28, "No space left on device")

    take = lock.hold_lock
    monkeypatch.setattr(lock, "hold_lock", full)
    hold.renew()
    monkeypatch.setattr(lock, "hold_lock", take)
    hold.renew()
    assert run_directory.supervisor_alive(tmp_path)


def test_a_directory_that_cannot_be_reached_for_now_is_neither_lost_nor_locked_again(tmp_path, monkeypatch):
    hold = run_directory.Hold(tmp_path)

    def away(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as file_system:
        file_system.setattr(Path, "stat", away)
        file_system.setattr(lock, "hold_lock", lambda _: pytest.fail("taken again"))
        hold.renew()
        assert hold.lost() is None
        assert hold.now_at() is None
    assert hold.now_at() == tmp_path


def test_a_directory_whose_parent_is_a_file_now_is_lost(tmp_path):
    (tmp_path / "a" / "run").mkdir(parents=True)
    hold = run_directory.Hold(tmp_path / "a" / "run")
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "a").touch()
    assert f"was moved to {tmp_path / 'b' / 'run'} while" in (hold.lost() or "")


def test_where_a_lock_was_replaced_in_a_moved_directory_nobody_can_tell_where_it_is(tmp_path):
    (tmp_path / "run").mkdir()
    hold = run_directory.Hold(tmp_path / "run")
    (tmp_path / "run" / lock.LOCK_FILE).unlink()
    (tmp_path / "run" / lock.LOCK_FILE).touch()
    assert hold.now_at() is None


# --- a supervisor that comes ----------------------------------------------------------------------


@pytest.fixture
def begun(tmp_path: Path, clock: Clock) -> Path:
    """A run whose run.json was written at the clock's time."""
    run = RunFile(name="r", started_at=0, config=RunConfig(prompts="p"), prompts=1)
    run_directory.write_run_file(tmp_path, run)
    os.utime(tmp_path / run_directory.RUN_FILE, (clock.now, clock.now))
    return tmp_path


def test_a_supervisor_that_does_not_come_is_waited_for_some_seconds_after_the_run_was_written(begun, clock):
    assert not run_directory.supervisor_comes(begun)
    assert clock.now - 1000 == pytest.approx(lock.STARTING_SECONDS, abs=0.1)
    slept = clock.slept
    assert not run_directory.supervisor_comes(begun)
    assert clock.slept == slept, "by now it would be there"


@pytest.fixture
def start_of(monkeypatch):
    """Has a process with this command line among those that there are; a look at them takes no time."""

    def there(*arguments: str) -> None:
        gone = SimpleNamespace(cmdline=lambda: _raise(psutil.NoSuchProcess(1)))
        one = SimpleNamespace(cmdline=lambda: list(arguments))
        monkeypatch.setattr(psutil, "process_iter", lambda: iter([gone, SimpleNamespace(cmdline=list), one]))

    return there


def _raise(error: Exception) -> None:
    raise error


def test_a_supervisor_whose_process_is_there_is_waited_for_however_long_its_start_takes(begun, clock, start_of):
    start_of("python", "-P", "-m", "rankdeck.runner", str(begun))
    clock.now += 100
    assert run_directory.supervisor_starts(begun)
    assert not run_directory.supervisor_comes(begun)
    assert clock.now - 1000 == pytest.approx(lock.LONGEST_START_SECONDS, abs=1)
    assert not run_directory.supervisor_starts(begun), "such a process is no start any more"


@pytest.mark.parametrize(
    "arguments",
    [
        ("python", "-m", "rankdeck", "attach", "{run}"),
        ("rankdeck", "resume", "{run}"),
        ("python", "-m", "rankdeck.runner", "{run}-2"),
        ("python", "-m", "rankdeck.runner.rank.parent", "--run-dir", "{run}", "--socket", "s"),
    ],
)
def test_other_processes_that_name_the_run_are_no_start_of_it(begun, clock, start_of, arguments):
    start_of(*(word.format(run=begun) for word in arguments))
    assert not run_directory.supervisor_starts(begun)
    clock.now += lock.STARTING_SECONDS
    assert not run_directory.supervisor_comes(begun)
    assert clock.slept == 0


@pytest.mark.parametrize("status", ["completed", "failed", "stopped"])
def test_nobody_waits_for_the_supervisor_of_a_run_that_is_over(begun, clock, status):
    run = run_directory.read_run_file(begun)
    run_directory.write_run_file(begun, msgspec.structs.replace(run, status=status))
    os.utime(begun / run_directory.RUN_FILE, (clock.now, clock.now))
    assert not run_directory.supervisor_comes(begun)
    assert clock.slept == 0


def test_nobody_waits_where_there_is_no_run(tmp_path, clock):
    assert not run_directory.supervisor_comes(tmp_path)
    assert clock.slept == 0


def test_a_supervisor_that_is_there_has_come_whatever_run_json_says(tmp_path, clock):
    descriptor = run_directory.hold_lock(tmp_path)
    assert run_directory.supervisor_comes(tmp_path)
    assert clock.slept == 0
    os.close(descriptor)
