"""Tells transformers' Auto classes about pruned models, the moment transformers is imported.

Importing transformers here would cost every command seconds. Instead a finder on sys.meta_path lets
the ordinary machinery load transformers' modules, and registers once the Auto classes are among them
and no import is under way any more: modeling_llama itself imports the Auto classes halfway, and our
classes need it whole.
"""

import sys
import threading
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from surgeon.families import DIALECTS

_CONFIG = "transformers.models.auto.configuration_auto"
_MODELS = "transformers.models.auto.modeling_auto"

_PREFIXES = ("DeciLM", *(f"Surgeon{family.prefix}" for family in DIALECTS.values()))
"""How our classes begin: those of nemotron-nas, then those of each family's own dialect."""

_WATCHED = ("transformers", "surgeon.remote_code.")

_done: set[str] = set()


class _Depth(threading.local):
    """How many of transformers' modules this thread is in the middle of importing."""

    now = 0


_depth = _Depth()


def register_when_imported() -> None:
    """Registers now if transformers' Auto classes are there already, else when they come."""
    _try_to_register()
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _try_to_register() -> None:
    """A version of transformers that this fails with must stay usable for everything else."""
    try:
        _register()
    except Exception as error:
        _done.update((_CONFIG, _MODELS))
        warnings.warn(
            f"surgeon cannot register its models with this transformers ({error}); "
            "load pruned folders with trust_remote_code=True",
            stacklevel=2,
        )


def _register() -> None:
    """Registers what can be and is not yet."""
    if _CONFIG in sys.modules and _CONFIG not in _done:
        _done.add(_CONFIG)
        from transformers import AutoConfig

        for prefix in _PREFIXES:
            config = _class("configuration", f"{prefix}Config")
            AutoConfig.register(config.model_type, config, exist_ok=True)
            # so that save_pretrained puts the .py files into the folder, for users without surgeon
            config.register_for_auto_class("AutoConfig")
    if _MODELS in sys.modules and _MODELS not in _done and find_spec("torch") is not None:
        _done.add(_MODELS)
        from transformers import AutoModel, AutoModelForCausalLM

        for prefix in _PREFIXES:
            config = _class("configuration", f"{prefix}Config")
            for auto, kind in ((AutoModel, "Model"), (AutoModelForCausalLM, "ForCausalLM")):
                model = _class("modeling", f"{prefix}{kind}")
                auto.register(config, model, exist_ok=True)
                model.register_for_auto_class(auto.__name__)


def _class(kind: str, name: str) -> Any:
    """A class of surgeon.remote_code: nemotron-nas has modules of its own."""
    dialect = "surgeon" if name.startswith("DeciLM") else "blocks"
    return getattr(import_module(f"surgeon.remote_code.{kind}_{dialect}"), name)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(_WATCHED) or {_CONFIG, _MODELS} <= _done:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """The ordinary loader; registers after the outermost of nested imports."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        _depth.now += 1
        try:
            self._loader.exec_module(module)
            if _depth.now == 1:
                _try_to_register()  # still counted: what it imports must not come here again
        finally:
            _depth.now -= 1
