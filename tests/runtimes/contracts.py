"""What runtimes that cannot run here read of a folder, written down from their sources.

Each contract is data: which keys of config.json the runtime reads, how it works out widths and KV
heads, which tensors it has a place for. ``problems`` plays the reader: it works with the raw JSON and
the raw headers alone, and lists what the runtime would stop at or get wrong.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints import read_weights

NAS = "DeciLMForCausalLM"

WIDTHS = {"hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size"}


@dataclass(frozen=True)
class Contract:
    """One runtime. ``sources`` are the files that were read, of that ``version``.

    ``whole`` are the classes it has for whole models; all of them have DeciLMForCausalLM. The rest:
    ``numbers`` and ``texts`` are the keys it cannot do without in the nemotron-nas dialect,
    ``attributes``: it asks for the keys of a block as attributes of the config class, so auto_map must
    name one. ``head_dim`` is read, or else is hidden / heads. ``biases`` are the sublayers that get
    biases where the config's flag says so, ``whole_biases`` those in whole models, those of the classes
    ``without_biases`` excepted; a tensor without a place is left out in silence.
    ``starts_with_attention``: block 0 hands its MLP a residual that only an attention makes.
    ``flat_rope``: it reads rope_theta and rope_scaling, not rope_parameters. ``windows`` are classes
    whose sliding windows it passes on to its attention.
    """

    runtime: str
    version: str
    sources: tuple[str, ...]
    whole: frozenset[str]
    numbers: frozenset[str]
    texts: frozenset[str]
    attributes: bool
    head_dim: bool
    biases: frozenset[str]
    whole_biases: frozenset[str]
    starts_with_attention: bool
    flat_rope: bool
    windows: frozenset[str]
    without_biases: frozenset[str] = frozenset()


_ALL = frozenset(
    f"{name}ForCausalLM" for name in ("Llama", "Mistral", "Qwen2", "Qwen3", "Granite", "SmolLM3")
)
_BOTH = frozenset({"attention", "mlp"})

CONTRACTS = (
    Contract(
        runtime="vLLM",
        version="0.33.0",
        sources=(
            "vllm/model_executor/models/nemotron_nas.py",
            "vllm/model_executor/models/llama.py",
            "vllm/model_executor/models/registry.py",
            "vllm/model_executor/layers/layernorm.py",
            "vllm/transformers_utils/model_arch_config_convertor.py",
        ),
        # SmolLM3 through its transformers backend
        whole=_ALL,
        numbers=frozenset({*WIDTHS, "rms_norm_eps"}),
        texts=frozenset({"hidden_act"}),
        attributes=True,
        head_dim=True,
        biases=_BOTH,
        whole_biases=_BOTH,
        # DeciLMDecoderLayer.forward: post_attention_layernorm(hidden_states, None) gives one tensor,
        # which is then taken apart into two
        starts_with_attention=True,
        flat_rope=False,
        # Mistral by the cache's window for all layers, Qwen3 by layer_types; Qwen2 refuses a mixture
        windows=frozenset({"MistralForCausalLM", "Qwen3ForCausalLM"}),
    ),
    Contract(
        runtime="SGLang",
        version="0.5.23",
        sources=(
            "sglang/srt/models/nemotron_nas.py",
            "sglang/srt/models/llama.py",
            "sglang/srt/models/granite.py",
            "sglang/srt/model_loader/utils.py",
            "sglang/srt/configs/model_config.py",
            "sglang/srt/layers/layer_boundary/residual/stream.py",
        ),
        # SmolLM3 through its transformers backend
        whole=_ALL,
        numbers=frozenset({*WIDTHS, "rms_norm_eps"}),
        texts=frozenset({"hidden_act"}),
        attributes=True,
        head_dim=True,
        # LlamaMLP makes both of its linear layers with bias=False
        biases=frozenset({"attention"}),
        whole_biases=frozenset({"attention"}),
        starts_with_attention=False,
        flat_rope=False,
        windows=frozenset(),
        # GraniteAttention and GraniteMLP make all of theirs with bias=False
        without_biases=frozenset({"GraniteForCausalLM"}),
    ),
    Contract(
        runtime="TensorRT-LLM",
        version="0193dbd4189221d0fd5e9f20cdb384d3da8dbc24",
        sources=(
            "tensorrt_llm/_torch/models/modeling_nemotron_nas.py",
            "tensorrt_llm/_torch/models/modeling_llama.py",
            "tensorrt_llm/_torch/models/_arch_index.py",
            "tensorrt_llm/_torch/models/checkpoints/hf/nemotron_nas_weight_mapper.py",
            "tensorrt_llm/_torch/attention_backend/interface.py",
        ),
        whole=_ALL - {"GraniteForCausalLM", "SmolLM3ForCausalLM"},
        numbers=frozenset({*WIDTHS, "rms_norm_eps", "max_position_embeddings"}),
        texts=frozenset({"torch_dtype"}),
        attributes=True,
        head_dim=True,
        biases=frozenset(),
        whole_biases=_BOTH,
        starts_with_attention=False,
        flat_rope=True,
        windows=frozenset(),
    ),
    Contract(
        runtime="exllamav3",
        version="1.6.5",
        sources=(
            "exllamav3/architecture/decilm.py",
            "exllamav3/architecture/architectures.py",
            "exllamav3/model/config.py",
            "exllamav3/modules/linear.py",
        ),
        whole=_ALL - {"GraniteForCausalLM"},
        numbers=frozenset({*WIDTHS, "rms_norm_eps"}),
        texts=frozenset({"hidden_act"}),
        attributes=False,
        head_dim=True,
        # a linear layer takes the bias that is beside its weight
        biases=_BOTH,
        whole_biases=_BOTH,
        starts_with_attention=False,
        flat_rope=False,
        windows=frozenset(),
    ),
)


def problems(contract: Contract, folder: Path) -> list[str]:
    """What the runtime would stop at, or get wrong, in that folder."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors = {name: shape for name, (_, shape, _) in read_weights(folder).items()}
    (architecture,) = config["architectures"]
    if architecture == NAS:
        found = list(_nas(contract, config))
        blocks = config.get("block_configs", [])
    elif architecture in contract.whole:
        found = list(_whole(contract, config, architecture))
        blocks = [None] * config["num_hidden_layers"]
    else:
        return [f"no class {architecture}"]
    if found:
        return found
    wanted = dict(_tensors(contract, config, blocks))
    ignored = {"lm_head.weight"} if config.get("tie_word_embeddings") else set()
    for name, shape in wanted.items():
        if tensors.get(name) != shape:
            found.append(f"{name}: {shape} wanted, {tensors.get(name)} there")
    for name in tensors.keys() - wanted.keys() - ignored:
        found.append(f"{name}: left out")
    return found


def _rope(contract: Contract, config: Mapping[str, Any]) -> Iterator[str]:
    rope = config.get("rope_parameters") or {}
    if contract.flat_rope and "rope_theta" not in config:
        if rope.get("rope_theta", 10000.0) != 10000.0:
            yield "takes a rope_theta of 10000"
        if rope.get("rope_type", "default") != "default":
            yield "takes rope without scaling"


def _whole(contract: Contract, config: Mapping[str, Any], architecture: str) -> Iterator[str]:
    yield from _rope(contract, config)
    sliding = config.get("use_sliding_window", architecture == "MistralForCausalLM")
    if sliding and config.get("sliding_window") and architecture not in contract.windows:
        yield "takes no notice of sliding_window"


def _nas(contract: Contract, config: Mapping[str, Any]) -> Iterator[str]:
    for key in contract.numbers:
        if not isinstance(config.get(key), int | float) or isinstance(config.get(key), bool):
            yield f"{key} is {config.get(key)!r}"
    for key in contract.texts:
        if not isinstance(config.get(key), str):
            yield f"{key} is {config.get(key)!r}"
    if contract.attributes and "AutoConfig" not in config.get("auto_map", {}):
        yield "no config class whose blocks have attributes"
    blocks = config.get("block_configs")
    if not isinstance(blocks, list) or len(blocks) != config["num_hidden_layers"]:
        yield "block_configs is not a list of all blocks"
        return
    yield from _rope(contract, config)
    if contract.starts_with_attention and blocks[0]["attention"]["no_op"]:
        yield "block 0 has no residual"
    if all(block["attention"]["no_op"] for block in blocks):
        yield "no KV heads to be found"
    for number, block in enumerate(blocks):
        attention, ffn = block["attention"], block["ffn"]
        odd = (
            "replace_with_linear",
            "sparsify",
            "num_sink_tokens",
            "unshifted_sink",
            "use_prefill_window_in_sink_attention",
        )
        if any(attention.get(key) or ffn.get(key) for key in odd) or attention.get("window_length"):
            yield f"block {number} has what this runtime refuses or leaves out"
        if attention["no_op"] != (attention["n_heads_in_group"] is None):
            yield f"block {number}: n_heads_in_group and no_op disagree"
        if ffn["no_op"] != (ffn["ffn_mult"] is None):
            yield f"block {number}: ffn_mult and no_op disagree"


def _tensors(
    contract: Contract, config: Mapping[str, Any], blocks: list[Any]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor the runtime has a place for, with its shape; a block of None is a whole one."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    dim = (contract.head_dim and config.get("head_dim")) or hidden // heads
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    if not config.get("tie_word_embeddings"):
        yield "lm_head.weight", (config["vocab_size"], hidden)
    yield "model.norm.weight", (hidden,)
    (architecture,) = config["architectures"]
    qwen2 = architecture == "Qwen2ForCausalLM"
    whole_biases = frozenset() if architecture in contract.without_biases else contract.whole_biases
    for number, block in enumerate(blocks):
        biases = whole_biases if block is None else contract.biases
        prefix = f"model.layers.{number}."
        if block is None or not block["attention"]["no_op"]:
            kv = config.get("num_key_value_heads") or heads
            if block is not None:
                kv = heads // block["attention"]["n_heads_in_group"]
            yield f"{prefix}input_layernorm.weight", (hidden,)
            for name, rows, columns in (
                ("q_proj", heads * dim, hidden),
                ("k_proj", kv * dim, hidden),
                ("v_proj", kv * dim, hidden),
                ("o_proj", hidden, heads * dim),
            ):
                yield f"{prefix}self_attn.{name}.weight", (rows, columns)
                flagged = config.get("attention_bias") and "attention" in biases
                if flagged or (qwen2 and name != "o_proj"):
                    yield f"{prefix}self_attn.{name}.bias", (rows,)
        if block is None or not block["ffn"]["no_op"]:
            width = config["intermediate_size"]
            if block is not None:
                width = int(2 * block["ffn"]["ffn_mult"] * hidden / 3)
                width = -(-width // 256) * 256
            yield f"{prefix}post_attention_layernorm.weight", (hidden,)
            for name, rows, columns in (
                ("gate_proj", width, hidden),
                ("up_proj", width, hidden),
                ("down_proj", hidden, width),
            ):
                yield f"{prefix}mlp.{name}.weight", (rows, columns)
                if config.get("mlp_bias") and "mlp" in biases:
                    yield f"{prefix}mlp.{name}.bias", (rows,)
