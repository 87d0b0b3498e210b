"""Models of any family whose blocks may lack their attention or MLP, for transformers 4.57 to 5.x.

Written by surgeon into the folders it prunes. SurgeonQwen3ForCausalLM is transformers' own
Qwen3ForCausalLM but for the construction of its layers, and so on: the name says which class is
meant, and it is made on demand. The forward pass, generation, caches and training are inherited. A
missing sublayer has no module at all, its norm included. Attentions are numbered without holes, since
caches, left padding and static shapes look at number 0.
"""

import inspect
import re
from contextlib import contextmanager

from torch import nn

from .configuration_blocks import config_class, family_class


def _layer_class(base):
    # some layers of transformers 4 return a tuple, the others what is in it
    in_tuple = "output_attentions" in inspect.signature(base.forward).parameters

    class DecoderLayer(base):
        __doc__ = f"A {base.__name__} with one or both sublayers."

        def __init__(self, config, block, attention):
            super().__init__(config, block)
            entry = config.block_configs[block]
            self.has_attention = not entry["attention"]["no_op"]
            self.has_mlp = not entry["ffn"]["no_op"]
            if self.has_attention:
                # window and rope are the block's, the cache is the attention's
                self.self_attn.layer_idx = attention
            else:
                del self.self_attn, self.input_layernorm
            if not self.has_mlp:
                del self.mlp, self.post_attention_layernorm

        def forward(self, hidden_states, **kwargs):
            """Adds what each sublayer makes of ``hidden_states`` [batch, length, hidden]."""
            weights = None
            if self.has_attention:
                states = self.input_layernorm(hidden_states)
                states, weights = self.self_attn(hidden_states=states, **kwargs)
                hidden_states = hidden_states + self._scaled(states)
            if self.has_mlp:
                states = self.post_attention_layernorm(hidden_states)
                hidden_states = hidden_states + self._scaled(self.mlp(states))
            return (hidden_states, weights) if in_tuple else hidden_states

        def _scaled(self, states):
            scale = getattr(self, "residual_multiplier", None)
            return states if scale is None else states * scale

    return DecoderLayer


@contextmanager
def _without_layers(config):
    """The family's own constructor makes all but the layers then."""
    count, config.num_hidden_layers = config.num_hidden_layers, 0
    try:
        yield
    finally:
        config.num_hidden_layers = count


def _make(prefix):
    def parent(name):
        return family_class(prefix, "modeling", f"{prefix}{name}")

    config_type = config_class(prefix)
    base_layer, base_model, base_causal = map(parent, ("DecoderLayer", "Model", "ForCausalLM"))
    layer_type = _named(f"Surgeon{prefix}DecoderLayer", _layer_class(base_layer))
    outputs = {**base_model._can_record_outputs, "hidden_states": layer_type}

    class Model(base_model):
        __doc__ = f"The stack of blocks; {base_model.__name__} but for its layers."
        config_class = config_type
        _no_split_modules = [layer_type.__name__]
        _can_record_outputs = outputs

        def __init__(self, config):
            with _without_layers(config):
                super().__init__(config)
            layers, attentions = [], 0
            for block in range(config.num_hidden_layers):
                layers.append(layer_type(config, block, attentions))
                attentions += layers[-1].has_attention
            self.layers = nn.ModuleList(layers)
            self.post_init()

    model_type = _named(f"Surgeon{prefix}Model", Model)

    class ForCausalLM(base_causal):
        __doc__ = f"The language model; {base_causal.__name__} over {model_type.__name__}."
        config_class = config_type
        _no_split_modules = [layer_type.__name__]
        _can_record_outputs = outputs

        def __init__(self, config):
            with _without_layers(config):
                super().__init__(config)
            self.model = model_type(config)
            self.post_init()

    _named(f"Surgeon{prefix}ForCausalLM", ForCausalLM)


def _named(name, made):
    made.__module__, made.__name__, made.__qualname__ = __name__, name, name
    globals()[name] = made
    return made


def __getattr__(name):
    match = re.fullmatch(r"Surgeon(\w+?)(DecoderLayer|Model|ForCausalLM)", name)
    if match is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _make(match[1])
    return globals()[name]
