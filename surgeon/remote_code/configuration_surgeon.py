"""Configuration of a Llama whose blocks may lack their attention or their MLP.

Written by surgeon into the folders it prunes. ``block_configs`` lists, for each block, an
``attention`` and an ``ffn`` entry with a ``no_op`` flag: the nemotron-nas dialect.
"""

import copy

from transformers.models.llama.configuration_llama import LlamaConfig


class Entry(dict):
    """A JSON object whose values read as attributes too; some runtimes want the one, some the other."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __deepcopy__(self, memo):
        return Entry({key: copy.deepcopy(value, memo) for key, value in self.items()})


def _entries(value):
    if isinstance(value, dict):
        return Entry({key: _entries(item) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return [_entries(item) for item in value]
    return value


class DeciLMConfig(LlamaConfig):
    """A LlamaConfig with ``block_configs``, one entry for each of the ``num_hidden_layers`` blocks."""

    model_type = "nemotron-nas"

    def __init__(self, block_configs=None, **kwargs):
        super().__init__(**kwargs)
        if block_configs is None:
            whole = {
                "attention": {
                    "no_op": False,
                    "n_heads_in_group": self.num_attention_heads // self.num_key_value_heads,
                },
                "ffn": {
                    "no_op": False,
                    "ffn_mult": 1.5 * self.intermediate_size / self.hidden_size,
                },
            }
            block_configs = [whole] * self.num_hidden_layers
        if len(block_configs) != self.num_hidden_layers:
            raise ValueError(
                f"block_configs has {len(block_configs)} entries for {self.num_hidden_layers} blocks"
            )
        self.block_configs = _entries(copy.deepcopy(block_configs))

    def mlp_width(self, block):
        """The MLP width of a block: intermediate_size, unless its entry states another."""
        mult = self.block_configs[block].ffn.ffn_mult
        if mult == 1.5 * self.intermediate_size / self.hidden_size:
            return self.intermediate_size
        return -(-int(2 * mult * self.hidden_size / 3) // 256) * 256

    def to_dict(self):
        """As JSON, with flat rope fields: the other readers of this dialect know no others."""
        data = super().to_dict()
        rope = data.pop("rope_parameters", None)
        if isinstance(rope, dict):
            scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
            plain = scaling.get("rope_type") in (None, "default")
            data["rope_theta"] = rope.get("rope_theta", data.get("rope_theta", 10000.0))
            data["rope_scaling"] = None if plain else scaling
        return data
