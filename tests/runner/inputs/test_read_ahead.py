"""Weights are asked of the disk before a rank wants them: all of them, piece by piece, if they fit into memory."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from rankdeck.runner.inputs import read_ahead as module
from rankdeck.runner.inputs.read_ahead import read_ahead

Asked = list[tuple[str, int, int, int]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What was asked of the kernel: file, start, length, advice."""
    got: Asked = []

    def advise(descriptor: int, start: int, length: int, advice: int) -> None:
        got.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")).name, start, length, advice))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    return got


def has(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: SimpleNamespace(available=free, total=10**15))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b.safetensors").write_bytes(bytes(10))
    (tmp_path / "a.safetensors").write_bytes(bytes(2 * module.PIECE + 1))
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(10))
    return tmp_path


def test_every_piece_of_every_file_of_weights_is_asked_for_in_order(folder: Path, asked: Asked) -> None:
    assert read_ahead(folder) == 2 * module.PIECE + 11
    will, piece = os.POSIX_FADV_WILLNEED, 128 * 1024
    starts = [("a.safetensors", 0), ("a.safetensors", piece), ("a.safetensors", 2 * piece), ("b.safetensors", 0)]
    assert asked == [(name, start, piece, will) for name, start in starts]


def test_weights_may_take_half_of_what_is_free_and_no_byte_more(
    folder: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 2 * module.PIECE + 11
    has(monkeypatch, 2 * size - 1)
    assert read_ahead(folder) == 0
    assert asked == []
    has(monkeypatch, 2 * size)
    assert read_ahead(folder) == size


def test_a_file_that_is_gone_or_a_system_that_cannot_is_left_to_the_ranks(
    folder: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "c.safetensors").symlink_to("nowhere")
    assert read_ahead(folder) == 0
    (folder / "c.safetensors").unlink()
    monkeypatch.delattr(os, "posix_fadvise")
    assert read_ahead(folder) == 0
    assert read_ahead(folder / "nowhere") == 0
