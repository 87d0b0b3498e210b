"""Fixtures with graphs in them: folders and sessions are made once a run, and never changed."""

import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import models_fixtures
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

cut, folder, load, network, pruned, quiet_torch, source, whole = models_fixtures.FIXTURES


@pytest.fixture(autouse=True)
def _needs_onnx(request: pytest.FixtureRequest) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    if request.node.get_closest_marker("models"):
        request.getfixturevalue("quiet_torch")


@pytest.fixture(scope="session")
def exported(
    folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """The same models with a graph, each in a folder that nothing else uses."""

    @cache
    def make(name: str, key: str | None, portable: bool, options: tuple[tuple[str, Any], ...]) -> Path:
        from surgeon.onnx.export import export_onnx

        out = copy(folder(name, key, portable), tmp_path_factory.mktemp("graph") / f"{name}-{key}")
        export_onnx(out, **dict(options))
        return out

    def find(name: str, key: str | None = None, portable: bool = False, **options: Any) -> Path:
        return make(name, key, portable, tuple(sorted({"dtype": "fp32", **options}.items())))

    return find


@pytest.fixture(scope="session")
def opened(exported: Callable[..., Path]) -> Callable[..., Any]:
    """Sessions on the CPU over those."""

    @cache
    def make(folder: Path) -> Any:
        from surgeon.runtime.session import load

        return load(folder, "cpu", threads=1)

    return lambda *args, **options: make(exported(*args, **options))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A small float32 checkpoint that needs no torch, with the sample's tokenizer."""
    import llama_numbers

    return llama_numbers.make(tmp_path / "plain")


def copy(source: Path, target: Path) -> Path:
    """Files of their own, which can be written: a shared model may be read-only."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file():
            shutil.copyfile(path, target / path.name)
    return target
