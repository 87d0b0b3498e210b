"""Fixtures with graphs in them: folders and sessions are made once a run, and never changed."""

import os
import shutil
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

MODELS = Path(__file__).parents[1] / "models"


def _fixtures_of_models() -> Any:
    """tests/models/conftest.py, under a name of its own: the folders and the models come from there."""
    sys.path.append(str(MODELS))
    spec = spec_from_file_location("models_fixtures", MODELS / "conftest.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_models = _fixtures_of_models()
source, cut, load, whole, pruned = (
    getattr(_models, name) for name in ("source", "cut", "load", "whole", "pruned")
)


@pytest.fixture(autouse=True)
def _needs_onnx(request: pytest.FixtureRequest) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    if request.node.get_closest_marker("models"):
        request.getfixturevalue("_quiet_torch")


@pytest.fixture(scope="session")
def _quiet_torch() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    # before all else of transformers: the orders of imports are tested elsewhere
    assert transformers.AutoModelForCausalLM
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def folder(source: Callable[[str], Path], cut: Callable[..., Path]) -> Callable[..., Path]:
    """A whole model, or one of llamas.CUTS of it."""
    return lambda name, key=None, portable=False: cut(name, key, portable) if key else source(name)


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


@pytest.fixture(scope="session")
def network(whole: Callable[[str], Any], pruned: Callable[..., Any]) -> Callable[..., Any]:
    """transformers' model of the same, in float32."""
    return lambda name, key=None, portable=False: pruned(name, key, portable) if key else whole(name)


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
