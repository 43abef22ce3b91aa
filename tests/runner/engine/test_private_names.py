"""The list of private names is complete, all of them are there, and one that is gone is named."""

import ast
from pathlib import Path

import pytest
import transformers

from rankdeck.runner.engine import private_names
from rankdeck.runner.engine.private_names import COMPILED, CONTINUOUS, NEWEST, OLDEST, STATIC, Name
from rankdeck.runner.machine import doctor
from tests import ROOT

ENGINE = Path(private_names.__file__).parent
PROBED = {"_reorder_linear_weight", "_linear_pointwise"}
"""torch's operators, which `packed_linear` tries out before it uses them."""


def test_this_transformers_has_every_name():
    assert private_names.missing((*STATIC, *COMPILED, *CONTINUOUS)) == []


def test_a_name_that_is_gone_is_said_with_the_release_and_the_cure(monkeypatch):
    monkeypatch.delattr(transformers.cache_utils.Cache, "batch_select_indices")
    monkeypatch.setattr(transformers, "__version__", "5.99.0")
    said = private_names.why_unusable(STATIC, "the static engine")
    assert said.startswith("transformers 5.99.0 has no Cache.batch_select_indices, which the static engine needs")
    assert "pip install" in said
    assert private_names.why_unusable(COMPILED, "--compile") is None


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
    assert f'"transformers>={OLDEST},<6"' in (ROOT / "pyproject.toml").read_text()


def test_every_private_name_that_engine_code_touches_is_listed():
    listed = {name.attribute for name in (*STATIC, *COMPILED, *CONTINUOUS)} | PROBED
    touched = {name for path in ENGINE.glob("*.py") for name in _private_names(ast.parse(path.read_text()))}
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
