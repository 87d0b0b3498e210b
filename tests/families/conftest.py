"""Fixtures with a model of each family: every folder is made once a session, and never changed."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from family_rows import CUTS, LAYERS, make_source
from models_fixtures import load, quiet_torch

import surgeon

__all__ = ["load", "quiet_torch"]


@pytest.fixture(scope="session", autouse=True)
def _quiet(quiet_torch: None) -> None:
    pass


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a row's whole model."""

    @cache
    def find(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        make_source(name, folder)
        return folder

    return find


@pytest.fixture(scope="session")
def cut(source: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder that one of CUTS leaves of it."""

    @cache
    def find(name: str, key: str) -> Path:
        folder = tmp_path_factory.mktemp(f"{name}-{key}") / "out"
        surgeon.prune(source(name), folder, surgeon.Plan(LAYERS, CUTS[key]))
        return folder

    return find


@pytest.fixture(scope="session")
def whole(source: Callable[[str], Path], load: Callable[..., Any]) -> Callable[[str], Any]:
    """The whole model; shared, so only to be changed through llamas.virtual_cut."""
    return cache(lambda name: load(source(name)))


@pytest.fixture(scope="session")
def pruned(cut: Callable[..., Path], load: Callable[..., Any]) -> Callable[..., Any]:
    """The model of a cut; shared, so to be left as it is."""
    return cache(lambda name, key: load(cut(name, key)))


@pytest.fixture(scope="session")
def ids() -> Any:
    """Two random prompts of 24 tokens, three windows and more."""
    import torch

    return torch.randint(3, 2048, (2, 24), generator=torch.Generator().manual_seed(7))
