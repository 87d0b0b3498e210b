"""The config.json of a pruned model, in one of three dialects.

The family's own: every block is whole, its class reads it. nemotron-nas: blocks of a Llama may lack a
sublayer; the name and the ``block_configs`` keys are those that vLLM, SGLang, TensorRT-LLM, MLX-LM,
exllamav3 and llama.cpp's converter read. surgeon-FAMILY: the same for what that dialect has no words
for, as sliding windows; only the classes that go along with the folder read it.
"""

from collections.abc import Iterator
from typing import Any

from surgeon.families import LLAMA, NAS_ARCHITECTURE, NAS_MODEL_TYPE, Family, family_of
from surgeon.layer_names import renumber
from surgeon.patterns import cut_patterns
from surgeon.plan import Plan, Sublayer
from surgeon.structure import QUANTIZATION_KEYS, Structure, ffn_mult

AUTO_MAP = {
    "AutoConfig": "configuration_surgeon.DeciLMConfig",
    "AutoModel": "modeling_surgeon.DeciLMModel",
    "AutoModelForCausalLM": "modeling_surgeon.DeciLMForCausalLM",
}

_FOREIGN = {
    "layer_types",
    "max_window_layers",
    "no_rope_layer_interval",
    "no_rope_layers",
    "sliding_window",
    "use_sliding_window",
}
"""Fields of other families that a Llama has no use for; readers might take them at their word."""


def pruned_config(
    config: dict[str, Any], plan: Plan, structure: Structure, where: str
) -> dict[str, Any]:
    """The config.json of the outcome of ``plan``, from that of the source.

    Fields that surgery does not touch stay as they are. The rope fields of transformers 5 are joined
    by those of transformers 4, which other runtimes read as well; the nemotron-nas dialect takes only
    these. Where transformers has a default and MLX-LM another, the field is written out. Raises
    SurgeonError, naming ``where``, for layer patterns that cannot follow the plan.
    """
    family = family_of(config, where)
    new = config | cut_patterns(config, family, plan, where)
    new["num_hidden_layers"] = structure.num_layers
    new["intermediate_size"] = structure.dims.intermediate_size
    for key in QUANTIZATION_KEYS:
        if key in config:
            new[key] = renumber(config[key], plan, structure, where)
    if rope_is_only_new_style(new):
        flat = _flat_rope(family.filled(new))
        new |= {key: value for key, value in flat.items() if value is not None}
    new.setdefault("rope_theta", family.rope_theta)
    new.setdefault("tie_word_embeddings", structure.tied)
    if family is not LLAMA and _reader(structure) is LLAMA:
        new = _as_llama(family.filled(new), structure)
    if not structure.plain or structure.family is not family:
        new.setdefault("tokenizer_class", family.tokenizer)
    if structure.dialect == NAS_MODEL_TYPE:
        return _to_nas(new, structure)
    return _to_plain(new, structure, family) if structure.plain else _to_own(new, structure)


def _reader(structure: Structure) -> Family:
    """The family whose fields a config's dialect has."""
    return LLAMA if structure.dialect == NAS_MODEL_TYPE else structure.family


def _as_llama(config: dict[str, Any], structure: Structure) -> dict[str, Any]:
    """The config of a family that computes what a Llama does, in the words of a Llama."""
    new = {key: value for key, value in config.items() if key not in _FOREIGN}
    if structure.biases & LLAMA.attention.shapes.keys():
        new["attention_bias"] = True
    return new


def rope_is_only_new_style(config: dict[str, Any]) -> bool:
    """Whether only transformers 5 finds all the rope fields of a config.json.

    Transformers 4, MLX-LM and TensorRT-LLM take their default theta or no scaling then, without a word.
    """
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict):
        return False
    scaled = rope.get("rope_type", "default") != "default"
    return "rope_theta" not in config or (scaled and not config.get("rope_scaling"))


def _flat_rope(config: dict[str, Any]) -> dict[str, Any]:
    """rope_theta and rope_scaling, for a config that has rope_parameters."""
    rope = config["rope_parameters"]
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    return {
        "rope_theta": rope.get("rope_theta", config.get("rope_theta", 10000.0)),
        "rope_scaling": None if scaling.get("rope_type") in (None, "default") else scaling,
    }


def _to_plain(config: dict[str, Any], structure: Structure, before: Family) -> dict[str, Any]:
    if config["model_type"] == structure.family.model_type:
        return config
    for key in ("auto_map", "block_configs"):
        config.pop(key, None)
    if structure.family is before and config.get("tokenizer_class") == before.tokenizer:
        del config["tokenizer_class"]
    config["model_type"] = structure.family.model_type
    config["architectures"] = [structure.family.architecture]
    return config


def _to_own(config: dict[str, Any], structure: Structure) -> dict[str, Any]:
    """The family's own config, with a flag for each sublayer."""
    name = f"Surgeon{structure.family.prefix}"
    head = {
        "architectures": [f"{name}ForCausalLM"],
        "model_type": structure.dialect,
        "auto_map": {
            "AutoConfig": f"configuration_blocks.{name}Config",
            "AutoModel": f"modeling_blocks.{name}Model",
            "AutoModelForCausalLM": f"modeling_blocks.{name}ForCausalLM",
        },
    }
    new = head | {key: value for key, value in config.items() if key not in head}
    new["block_configs"] = [
        {
            "attention": {"no_op": not structure.has(layer, Sublayer.ATTENTION)},
            "ffn": {"no_op": not structure.has(layer, Sublayer.MLP)},
        }
        for layer in range(structure.num_layers)
    ]
    return new


def _to_nas(config: dict[str, Any], structure: Structure) -> dict[str, Any]:
    head = {
        "architectures": [NAS_ARCHITECTURE],
        "model_type": NAS_MODEL_TYPE,
        "auto_map": AUTO_MAP,
    }
    new = head | {key: value for key, value in config.items() if key not in head}
    # transformers 5 folds the rope fields into one; other readers of this dialect, MLX-LM among
    # them, would then silently take their default theta
    if isinstance(new.get("rope_parameters"), dict):
        new |= _flat_rope(new)
    new.pop("rope_parameters", None)
    if "dtype" in new:
        new["torch_dtype"] = new.pop("dtype")
    new["num_key_value_heads"] = structure.dims.num_key_value_heads
    new["head_dim"] = structure.dims.head_dim
    new["block_configs"] = list(_blocks(structure))
    return new


def _blocks(structure: Structure) -> Iterator[dict[str, dict[str, Any]]]:
    """One entry a block, with exactly the keys that all readers of the dialect accept."""
    dims = structure.dims
    for layer, width in enumerate(structure.mlp_widths):
        attention = structure.has(layer, Sublayer.ATTENTION)
        mlp = structure.has(layer, Sublayer.MLP)
        yield {
            "attention": {
                "no_op": not attention,
                "replace_with_linear": False,
                "sparsify": None,
                "n_heads_in_group": dims.num_attention_heads // dims.num_key_value_heads
                if attention
                else None,
                "window_length": None,
                "num_sink_tokens": None,
                "use_prefill_window_in_sink_attention": False,
                "unshifted_sink": False,
            },
            "ffn": {
                "no_op": not mlp,
                "replace_with_linear": False,
                "sparsify": None,
                "ffn_mult": ffn_mult(width, dims.hidden_size) if mlp else None,
            },
        }
