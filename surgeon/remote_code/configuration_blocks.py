"""Configurations of models whose blocks may lack their attention or their MLP, for any family.

Written by surgeon into the folders it prunes. ``block_configs`` lists, for each block, an
``attention`` and an ``ffn`` entry with a ``no_op`` flag. SurgeonQwen3Config is transformers' own
Qwen3Config with that list, and so on: the name says which class is meant, and it is made on demand.
"""

import copy
import re
from importlib import import_module


def family_class(prefix, kind, name):
    """A class of transformers: ("Qwen3", "modeling", "Qwen3Model")."""
    family = prefix.lower()
    return getattr(import_module(f"transformers.models.{family}.{kind}_{family}"), name)


def _make(prefix):
    base = family_class(prefix, "configuration", f"{prefix}Config")

    class Config(base):
        __doc__ = f"A {prefix}Config with ``block_configs``, one entry for each of its blocks."
        model_type = f"surgeon-{prefix.lower()}"

        def __init__(self, block_configs=None, **kwargs):
            super().__init__(**kwargs)
            if block_configs is None:
                whole = {"attention": {"no_op": False}, "ffn": {"no_op": False}}
                block_configs = [whole] * self.num_hidden_layers
            if len(block_configs) != self.num_hidden_layers:
                raise ValueError(
                    f"block_configs has {len(block_configs)} entries "
                    f"for {self.num_hidden_layers} blocks"
                )
            self.block_configs = copy.deepcopy(block_configs)

        def get_text_config(self, decoder=None, encoder=None):
            """For the decoder a config of its attentions alone: what caches are made from.

            The model itself reads ``layer_types`` by block, a cache has one entry an attention.
            """
            types = getattr(self, "layer_types", None)
            blocks = getattr(self, "block_configs", [])  # not there yet when transformers validates
            kept = [i for i, block in enumerate(blocks) if not block["attention"]["no_op"]]
            if not decoder or encoder or not kept or len(kept) == self.num_hidden_layers:
                return self
            view = copy.copy(self)
            view.__dict__["num_hidden_layers"] = len(kept)
            if types is not None:
                view.__dict__["layer_types"] = [types[block] for block in kept]
            return view

    return Config


def config_class(prefix):
    """Surgeon{prefix}Config, always the same one."""
    name = f"Surgeon{prefix}Config"
    if name not in globals():
        made = _make(prefix)
        made.__module__, made.__name__, made.__qualname__ = __name__, name, name
        globals()[name] = made
    return globals()[name]


def __getattr__(name):
    match = re.fullmatch(r"Surgeon(\w+)Config", name)
    if match is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return config_class(match[1])
