"""How the packages for flash attention, and its kernels in the hub's cache, are found."""

import importlib.util
from importlib import metadata

import pytest
from huggingface_hub import constants
from transformers.utils import import_utils

from rankdeck.runner.inputs import flash_packages
from rankdeck.runner.inputs.flash_attention import FlashFound
from rankdeck.runner.inputs.flash_packages import fits, look, wanted_of


@pytest.fixture(autouse=True)
def requirements(monkeypatch, tmp_path):
    """What transformers requires, as its metadata says it; the hub's cache is an empty folder."""
    lines = ["numpy>=1.17", 'kernels<0.19,>=0.18.2; extra == "kernels"', 'kernels<0.19,>=0.18.2; extra == "all"']
    monkeypatch.setattr(flash_packages.metadata, "requires", lambda name: lines if name == "transformers" else None)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("KERNELS_CACHE", raising=False)
    return lines


def with_packages(**versions: str) -> FlashFound:
    return look(lambda package: versions.get(package.module))


def test_what_is_installed_has_its_version_and_a_module_of_another_distribution_does_not_count():
    assert with_packages() == FlashFound(kernels_wanted=">=0.18.2,<0.19")
    found = with_packages(flash_attn="2.8.3", flash_attn_interface="3.0")
    assert (found.flash_attn, found.flash_attn_3, found.kernels) == ("2.8.3", "3.0", None)
    assert with_packages(flash_attn="?").flash_attn is None, "version 4 installs this module, too"


@pytest.mark.parametrize(("version", "fit"), [("0.18.2", True), ("0.18.1", False), ("0.18.9", True), ("0.19.0", False)])
def test_only_the_releases_of_kernels_that_transformers_names_fit(version, fit):
    found = with_packages(kernels=version)
    assert (found.kernels, found.kernels_fit) == (version, fit)


def test_the_range_is_read_from_what_transformers_requires(requirements):
    assert wanted_of(requirements) == ">=0.18.2,<0.19"
    assert wanted_of(["kernels <0.17, >=0.16.0 ; extra == 'kernels'"]) == ">=0.16.0,<0.17"
    assert wanted_of(["kernels-data>=1", "numpy"]) == ""
    assert fits("0.1", "")


def test_without_transformers_nothing_is_known_of_the_range(monkeypatch):
    def gone(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(flash_packages.metadata, "requires", gone)
    assert with_packages().kernels_wanted == ""


@pytest.mark.parametrize("kind", ["kernels", "models"])
@pytest.mark.parametrize("own_cache", [True, False])
def test_a_kernel_is_in_the_cache_if_a_release_of_it_is(monkeypatch, tmp_path, kind, own_cache):
    if own_cache:
        monkeypatch.setenv("KERNELS_CACHE", str(tmp_path / "own"))
    folder = (tmp_path / "own" if own_cache else tmp_path) / f"{kind}--kernels-community--flash-attn2" / "refs"
    folder.mkdir(parents=True)
    assert with_packages(kernels="0.18.2").cached == ()
    (folder / "v4").write_text("a commit")
    assert with_packages(kernels="0.18.2").cached == ("flash_attention_2",)


def test_offline_is_what_the_hub_s_own_library_makes_of_the_environment(monkeypatch):
    assert with_packages(kernels="0.18.2").offline is False
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert with_packages(kernels="0.18.2").offline is True


def test_this_transformers_names_the_range_that_it_checks(monkeypatch):
    monkeypatch.undo()
    least, below = import_utils.KERNELS_MIN_VERSION, import_utils.KERNELS_MAX_VERSION
    wanted = look().kernels_wanted
    assert fits(least, wanted)
    assert not fits(below, wanted)
    assert (look().kernels is None) == (importlib.util.find_spec("kernels") is None)
