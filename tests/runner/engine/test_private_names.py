"""The list of private names is complete, all of them are there, and one that is gone is named."""

import ast
from pathlib import Path

import pytest
import torch
import transformers

from rankdeck.runner.engine import choose, loading, private_names
from rankdeck.runner.engine.private_names import CONTINUOUS, NEWEST, OLDEST, STATIC, Name
from rankdeck.runner.machine import doctor
from rankdeck.runner.protocol.config import RunConfig
from tests import ROOT
from tests.runner.engine.tiny import ByteTokenizer

ENGINE = Path(private_names.__file__).parent
OF_CONTINUOUS = {ENGINE / "continuous.py", *(ENGINE / "paged").glob("*.py")}
OF_TORCH = {"_reorder_linear_weight", "_linear_pointwise", "_set_allocator_settings", "_version"}
"""torch's: operators that `packed_linear` tries out before it uses them, a way out where memory does not work, and the
count of a tensor's changes, which its autograd is made of."""


def test_this_transformers_has_every_name():
    assert private_names.missing((*STATIC, *CONTINUOUS)) == []


def test_a_name_that_is_gone_is_said_with_the_release_and_the_cure(monkeypatch):
    monkeypatch.delattr(transformers.cache_utils.CacheLayerMixin, "reorder_cache")
    monkeypatch.setattr(private_names.transformers, "__version__", "5.99.0")
    said = private_names.why_unusable(STATIC, "the static engine")
    assert said.startswith("transformers 5.99.0 has no DynamicLayer.reorder_cache, which the static engine needs")
    assert "pip install" in said
    with pytest.raises(RuntimeError, match=r"DynamicLayer\.reorder_cache"):
        private_names.require_static()


def test_only_what_a_run_uses_has_to_be_there(model, monkeypatch):
    gone = Name("transformers.cache_utils", "Cache", "no_such_attribute")
    monkeypatch.setattr(private_names, "CONTINUOUS", (gone,))
    private_names.require_static()
    config = RunConfig(prompts="p", engine="continuous", max_new_tokens=4)
    engine, why = choose.choose(config, loading.Loaded(model, ByteTokenizer(), torch.device("cpu")))
    assert engine.name == "static"
    assert "Cache.no_such_attribute, which the continuous engine needs" in why


@pytest.mark.parametrize(
    "name",
    [
        Name("transformers.no_such_module", "Cache", "layers"),
        Name("transformers.cache_utils", "NoSuchClass", "layers"),
        Name("transformers.cache_utils", "Cache", "no_such_attribute"),
    ],
)
def test_a_module_or_class_that_is_gone_counts_as_a_missing_name(name):
    assert private_names.missing([name]) == [name]


def test_an_attribute_that_only_the_constructor_sets_is_found(monkeypatch):
    manager = transformers.generation.continuous_batching.continuous_api.ContinuousBatchingManager
    assert not hasattr(manager, "background_thread_status")
    name = Name(manager.__module__, "ContinuousBatchingManager", "background_thread_status")
    assert private_names.missing([name]) == []


def test_the_doctor_and_the_package_name_the_same_releases():
    oldest, newest = ([int(part) for part in release.split(".")] for release in (OLDEST, NEWEST))
    assert doctor.TESTED["transformers"] == (tuple(oldest), tuple(newest))
    package = (ROOT / "pyproject.toml").read_text()
    assert f'"transformers>={OLDEST},<6"' in package
    assert f'gpu = ["transformers[kernels]>={OLDEST},<6"]' in package


def test_every_private_name_that_engine_code_touches_is_listed():
    of_any = set(ENGINE.rglob("*.py")) - OF_CONTINUOUS
    for paths, names in ((of_any, STATIC), (OF_CONTINUOUS, (*STATIC, *CONTINUOUS))):
        listed = {name.attribute for name in names} | OF_TORCH
        touched = {name for path in paths for name in _private_names(ast.parse(path.read_text()))}
        assert touched
        assert touched <= listed, f"add to private_names: {sorted(touched - listed)}"


def _private_names(tree):
    """Underscored attributes of other objects, also those that getattr and hasattr ask for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not (
            isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        ):
            name = node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            name = getattr(node.args[1], "value", "")
        else:
            continue
        if isinstance(name, str) and name.startswith("_") and not name.startswith("__"):
            yield name


def test_all_names_that_are_gone_are_said_with_the_releases_that_are_tested_and_one_to_install(monkeypatch):
    monkeypatch.setattr(private_names.transformers, "__version__", "5.99.0")
    gone = [Name("transformers.cache_utils", "Cache", name) for name in ("one", "layers", "two")]
    assert private_names.why_unusable(gone, "it") == (
        f"transformers 5.99.0 has no Cache.one, Cache.two, which it needs: rankdeck is tested with transformers "
        f"{OLDEST} to {NEWEST}; install one of these, for example with pip install 'transformers=={NEWEST}.*'"
    )
    assert private_names.why_unusable(gone[1:2], "it") is None


def test_the_field_of_a_data_class_is_found_though_only_its_objects_have_it():
    field = Name("transformers.generation.continuous_batching.requests", "GenerationOutput", "timestamps")
    assert private_names.missing([field]) == []
    assert private_names.missing([field._replace(attribute="no_such_field")]) != []
