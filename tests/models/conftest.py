"""Fixtures with models in them: every folder is made once a session, and never changed."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llamas
import pytest

import surgeon

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARED = Path(__file__).parents[2].parent / "shared" / "models"


def quiet() -> None:
    """Torch and transformers, in one thread and without a word; skips where they are not there."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    # before all else of transformers: the orders of imports have a test of their own
    assert transformers.AutoModelForCausalLM
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    quiet()


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a whole Llama, by name."""

    @cache
    def find(name: str) -> Path:
        if name == "sample":
            return Path(surgeon.__file__).parent / "sample"
        if name == "reference":
            return SHARED / name
        folder = tmp_path_factory.mktemp(name)
        llamas.make_source(name, folder)
        return folder

    def checked(name: str) -> Path:
        if not (find(name) / "config.json").is_file():
            pytest.skip(f"the shared model {name} is not here")
        return find(name)

    return checked


@pytest.fixture(scope="session")
def cut(source: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder that one of llamas.CUTS leaves of a source."""

    @cache
    def find(name: str, key: str, portable: bool) -> Path:
        folder = tmp_path_factory.mktemp(f"{name}-{key}") / "out"
        arguments = llamas.CUTS[key](llamas.LAYERS[name]).arguments
        surgeon.prune(source(name), folder, **arguments, portable=portable)
        return folder

    return lambda name, key, portable=False: find(name, key, portable)


@pytest.fixture(scope="session")
def load() -> Callable[..., Any]:
    """A model of its own, in float32 and ready to run; a wrong set of tensors fails."""

    def load(folder: Path, kind: Any = None, **options: Any) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        model, info = (kind or AutoModelForCausalLM).from_pretrained(
            folder, **{"dtype": torch.float32, **options}, output_loading_info=True
        )
        if model.base_model is model:  # AutoModel leaves the head out, and says so
            info["unexpected_keys"] = set(info["unexpected_keys"]) - {"lm_head.weight"}
        assert not any(info.values()), info
        return model.eval()

    return load


@pytest.fixture(scope="session")
def whole(source: Callable[[str], Path], load: Callable[..., Any]) -> Callable[[str], Any]:
    """The model of a source; shared, so only to be changed through llamas.virtual_cut."""
    import transformers

    return cache(lambda name: load(source(name), transformers.LlamaForCausalLM))


@pytest.fixture(scope="session")
def pruned(cut: Callable[..., Path], load: Callable[..., Any]) -> Callable[..., Any]:
    """The model of a cut; shared, so to be left as it is."""
    return cache(lambda name, key, portable=False: load(cut(name, key, portable)))


@pytest.fixture(scope="session")
def ids() -> Any:
    """Two random prompts of 24 tokens."""
    import torch

    return torch.randint(3, 2048, (2, 24), generator=torch.Generator().manual_seed(7))
