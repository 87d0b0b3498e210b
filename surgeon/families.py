"""One row a model family: its tensors' names and shapes, and in what it is not a Llama.

A new Llama-like family is a new row. Names, shapes and defaults are those of its transformers class.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.plan import Sublayer

Shape = tuple[str, ...]
"""Dimensions by name; each is an attribute of ``structure.Dims``, "mlp_width" excepted, which a
layer may have of its own."""


@dataclass(frozen=True)
class Part:
    """One sublayer: its norm, and its matrices in the order of computation.

    ``groups`` are matrices that read the same input and so must lie side by side in the file (and
    in one shard): a graph can then read q, k, v as one matrix. ``bias`` names the config field that
    says whether its matrices have biases, if there is one; those of ``biased`` always have.
    ``head_norms`` are RMSNorms over each head of q and of k, before rope.
    """

    norm: str
    module: str
    groups: tuple[tuple[str, ...], ...]
    shapes: dict[str, Shape]
    bias: str | None
    biased: tuple[str, ...] = ()
    head_norms: tuple[str, ...] = ()

    @property
    def prefixes(self) -> tuple[str, str]:
        """Everything in a layer under these names belongs to the sublayer, whatever it is."""
        return f"{self.norm}.", f"{self.module}."

    def names(self) -> Iterator[str]:
        """Its matrices, as named inside a layer: "self_attn.q_proj", ..."""
        for group in self.groups:
            for name in group:
                yield f"{self.module}.{name}"


class Windows(StrEnum):
    """Which layers look no further back than ``sliding_window`` tokens, themselves included."""

    NONE = "none"
    ALL = "all"
    """Every layer, unless sliding_window is null."""
    LAST = "last"
    """With use_sliding_window: as layer_types says, else those from max_window_layers on."""
    NOPE = "nope"
    """With use_sliding_window: as layer_types says, else those without rope."""


@dataclass(frozen=True)
class Multipliers:
    """Config fields of numbers that a family multiplies with: embeddings, what each sublayer adds to
    the stream, and q times k (in place of 1 / sqrt(head_dim)); it divides logits by the last."""

    embedding: str = "embedding_multiplier"
    residual: str = "residual_multiplier"
    attention: str = "attention_multiplier"
    logits: str = "logits_scaling"


@dataclass(frozen=True)
class Family:
    """The row. ``architecture`` is the plain class.

    ``nope``: no_rope_layers says which layers have no rope. ``defaults`` are those of its config class
    where Llama's has others: a config.json may leave out such fields. ``tokenizer`` is the class for a
    tokenizer_config.json that names none; by model_type, transformers finds it in no other dialect.
    """

    model_type: str
    architecture: str
    attention: Part
    mlp: Part
    embedding: str = "model.embed_tokens"
    layers: str = "model.layers"
    norm: str = "model.norm"
    head: str = "lm_head"
    windows: Windows = Windows.NONE
    nope: bool = False
    multipliers: Multipliers | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: str = "PreTrainedTokenizerFast"

    @property
    def dialect(self) -> str:
        """The model_type of its models with incomplete blocks that only its own classes can run."""
        return f"surgeon-{self.model_type}"

    @property
    def prefix(self) -> str:
        """How its transformers classes begin: "Qwen3" for Qwen3ForCausalLM."""
        return self.architecture.removesuffix("ForCausalLM")

    @property
    def rope_theta(self) -> float:
        """The base of rope where a config.json names none."""
        return float(self.defaults.get("rope_theta", 10000.0))

    def filled(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A config.json with the fields that it leaves to the defaults of the family's class."""
        return {**self.defaults, **config}

    def part(self, sublayer: Sublayer) -> Part:
        """The tensor names of one kind of sublayer."""
        return self.attention if sublayer is Sublayer.ATTENTION else self.mlp


LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    attention=Part(
        norm="input_layernorm",
        module="self_attn",
        groups=(("q_proj", "k_proj", "v_proj"), ("o_proj",)),
        shapes={
            "q_proj": ("attention_width", "hidden_size"),
            "k_proj": ("kv_width", "hidden_size"),
            "v_proj": ("kv_width", "hidden_size"),
            "o_proj": ("hidden_size", "attention_width"),
        },
        bias="attention_bias",
    ),
    mlp=Part(
        norm="post_attention_layernorm",
        module="mlp",
        groups=(("gate_proj", "up_proj"), ("down_proj",)),
        shapes={
            "gate_proj": ("mlp_width", "hidden_size"),
            "up_proj": ("mlp_width", "hidden_size"),
            "down_proj": ("hidden_size", "mlp_width"),
        },
        bias="mlp_bias",
    ),
)

MISTRAL = replace(
    LLAMA,
    model_type="mistral",
    architecture="MistralForCausalLM",
    attention=replace(LLAMA.attention, bias=None),
    mlp=replace(LLAMA.mlp, bias=None),
    windows=Windows.ALL,
    defaults={
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
)

_QWEN = {
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "bos_token_id": None,
    "eos_token_id": None,
}

QWEN2 = replace(
    LLAMA,
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    attention=replace(LLAMA.attention, bias=None, biased=("q_proj", "k_proj", "v_proj")),
    mlp=replace(LLAMA.mlp, bias=None),
    windows=Windows.LAST,
    defaults=_QWEN,
    tokenizer="Qwen2Tokenizer",
)

QWEN3 = replace(
    LLAMA,
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    attention=replace(LLAMA.attention, head_norms=("q_norm", "k_norm")),
    mlp=replace(LLAMA.mlp, bias=None),
    windows=Windows.LAST,
    defaults={"head_dim": 128, **_QWEN},
    tokenizer="Qwen2Tokenizer",
)

GRANITE = replace(
    LLAMA,
    model_type="granite",
    architecture="GraniteForCausalLM",
    multipliers=Multipliers(),
)

SMOLLM3 = replace(
    LLAMA,
    model_type="smollm3",
    architecture="SmolLM3ForCausalLM",
    windows=Windows.NOPE,
    nope=True,
    defaults={
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rope_theta": 2000000.0,
        "no_rope_layer_interval": 4,
        "tie_word_embeddings": True,
        "pad_token_id": 128004,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    },
)

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3, GRANITE, SMOLLM3)
}

NAS_MODEL_TYPE = "nemotron-nas"
NAS_ARCHITECTURE = "DeciLMForCausalLM"


DIALECTS: dict[str, Family] = {
    family.dialect: family for family in FAMILIES.values() if family is not LLAMA
}
"""The families' own dialects, by model_type; nemotron-nas is Llama's."""


def family_of(config: dict[str, object], where: str) -> Family:
    """The row for a config.json, of a whole model or in one of the dialects of cut ones.

    nemotron-nas is a Llama's. Raises SurgeonError, naming the family, when there is no row for it.
    """
    model_type = config.get("model_type")
    architectures = config.get("architectures") or [None]
    if not isinstance(architectures, list):
        raise SurgeonError(f"{where}: architectures is not a list; is this a transformers config?")
    if model_type == NAS_MODEL_TYPE:
        family, expected = LLAMA, NAS_ARCHITECTURE
    elif isinstance(model_type, str) and model_type in DIALECTS:
        family = DIALECTS[model_type]
        expected = f"Surgeon{family.architecture}"
    elif isinstance(model_type, str) and model_type in FAMILIES:
        family = FAMILIES[model_type]
        expected = family.architecture
    else:
        raise SurgeonError(
            f"{where}: model family {model_type!r} is not known; "
            f"known are {', '.join(sorted(FAMILIES))} and models that surgeon pruned"
        )
    if architectures[0] not in (None, expected):
        raise SurgeonError(
            f"{where}: architecture {architectures[0]!r} of family {model_type!r} is not known; "
            f"only {expected} can be cut"
        )
    return family
