"""Tells transformers' Auto classes about pruned models, the moment transformers is imported.

Importing transformers here would cost every command seconds. Instead a finder on sys.meta_path waits
for the two modules with the Auto classes, lets the ordinary machinery load them, and registers then.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType

_CONFIG = "transformers.models.auto.configuration_auto"
_MODELS = "transformers.models.auto.modeling_auto"


def register_when_imported() -> None:
    """Registers now if transformers' Auto classes are there already, else when they come."""
    for name in (_CONFIG, _MODELS):
        if name in sys.modules:
            _register(name)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _register(loaded: str) -> None:
    """Registers what can be, now that the module ``loaded`` is complete."""
    if loaded == _CONFIG and _MODELS in sys.modules:
        return  # in the middle of loading the other one, whose completion comes here again
    from transformers import AutoConfig

    from surgeon.remote_code.configuration_surgeon import DeciLMConfig

    AutoConfig.register(DeciLMConfig.model_type, DeciLMConfig, exist_ok=True)
    # so that save_pretrained puts the .py files into the folder, for users without surgeon
    DeciLMConfig.register_for_auto_class("AutoConfig")
    if loaded == _CONFIG or find_spec("torch") is None:
        return
    from transformers import AutoModel, AutoModelForCausalLM

    from surgeon.remote_code.modeling_surgeon import DeciLMForCausalLM, DeciLMModel

    for auto, model in ((AutoModel, DeciLMModel), (AutoModelForCausalLM, DeciLMForCausalLM)):
        auto.register(DeciLMConfig, model, exist_ok=True)
        model.register_for_auto_class(auto.__name__)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in (_CONFIG, _MODELS):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """The ordinary loader, with a registration after it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _register(module.__name__)
