"""The fixtures of tests/models/conftest.py, for other folders of tests that need models as well.

Importing it also puts the module ``llamas`` where it can be imported.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

MODELS = Path(__file__).parent / "models"


def _conftest() -> Any:
    """Under a name of its own: there is more than one conftest."""
    sys.path.append(str(MODELS))
    spec = spec_from_file_location("conftest_of_models", MODELS / "conftest.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_models = _conftest()
source, cut, load, whole, pruned = (
    getattr(_models, name) for name in ("source", "cut", "load", "whole", "pruned")
)


@pytest.fixture(scope="session")
def quiet_torch() -> None:
    """Torch and transformers, in one thread and without a word; skips where they are not there."""
    _models.quiet()


@pytest.fixture(scope="session")
def folder(source: Any, cut: Any) -> Any:
    """A whole model, or one of llamas.CUTS of it."""
    return lambda name, key=None, portable=False: cut(name, key, portable) if key else source(name)


@pytest.fixture(scope="session")
def network(whole: Any, pruned: Any) -> Any:
    """transformers' model of the same, in float32."""
    return lambda name, key=None, portable=False: pruned(name, key, portable) if key else whole(name)


FIXTURES = cut, folder, load, network, pruned, quiet_torch, source, whole
"""In the order of their names."""
